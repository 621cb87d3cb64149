"""The command `jobs --watch`: a live table on a terminal, and in a pipe a line for each transition.

In a pipe every transition is there once, in the order of the commits, also when the coordinator was away meanwhile:
what resumes the stream is the number of the last one that was printed.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any

from hostler.cli.beside import beside
from hostler.cli.connect import cluster
from hostler.cli.failures import OK, Failure
from hostler.cli.follow import PATIENCE_S
from hostler.cli.options import Place
from hostler.cli.pressed_keys import QUIT, pressed, run_until_left
from hostler.cli.render import jobs_table, moment_text, print_json, print_line
from hostler.client import Client, Cluster
from hostler.errors import DeadlineExceeded, Unavailable
from hostler.jobs import Job, JobEvent, JobQuery
from hostler.patience import PASSING, PAUSE_S_MAX, Absence
from hostler.selectors import quoted
from hostler.shape import event_shape

GATHERED_MAX = 40  # events of which it is asked together whether a filter finds their jobs
REFRESH_S_MIN = 0.3  # between two looks at the jobs, however much happens
REFRESH_S_MAX = 2.0  # ... however little: ages go on


def watch_jobs(place: Place, query: JobQuery, *, after: int | None) -> int:
    """Show what happens to the jobs that *query* finds until somebody has seen enough.

    Begins after the event number *after*; None: now.
    """
    is_live = sys.stdout.isatty() and not place.as_json and after is None

    async def act() -> int:
        async with cluster(place) as client:
            if is_live:
                return await _show_live(client, query)
            number = (await client.describe()).event if after is None else after
            async with aclosing(transitions(client, filter_of(query), number)) as events:
                async for event in events:
                    if place.as_json:
                        print_json(event_shape(event))
                    else:
                        print_line(_line(event))
        return OK

    return run_until_left(act()) if is_live else asyncio.run(act())


def filter_of(query: JobQuery) -> str:
    """The conditions of a list as one filter."""
    parts = [f"state in ({', '.join(state.word for state in query.states)})"] if query.states else []
    parts += [f"name = {quoted(query.name)}"] if query.name else []
    parts += [f"({query.filter})"] if query.filter else []
    return " and ".join(parts)


async def transitions(client: Client, chosen: str, after: int) -> AsyncGenerator[JobEvent]:
    """Yield every transition after a number of jobs that *chosen* finds when it is looked at; without end.

    Raises:
        Failure: the coordinator stayed away for `PATIENCE_S`.
    """
    absence = Absence(PATIENCE_S)
    while True:
        try:
            async with aclosing(_gathered(client, after)) as groups:
                async for events in groups:
                    absence.heard()
                    wanted = await _found(client, chosen, {event.job for event in events}) if chosen else None
                    for event in events:
                        if wanted is None or event.job in wanted:
                            yield event
                        after = event.number
            reason = "the stream of events ended"
        except PASSING as error:
            reason = error.message
        if not await absence.bears():
            hint = f"go on with: hostler jobs --watch --after {after}"
            raise Failure(f"lost the coordinator: {reason}", hint=hint)


async def _gathered(client: Client, after: int) -> AsyncGenerator[Sequence[JobEvent]]:
    """Yield transitions in groups, as they have come while the last group was worked on."""
    events = client.watch(after=after)
    step: asyncio.Task[JobEvent] | None = None
    try:
        while True:
            step = step or asyncio.create_task(_next(events))
            group = [await step]
            step = None
            while len(group) < GATHERED_MAX:
                step = asyncio.create_task(_next(events))
                done, _ = await asyncio.wait({step}, timeout=0.01)
                if not done or step.exception() is not None:
                    break
                group.append(step.result())
                step = None
            yield group
    finally:
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        await events.aclose()


async def _next(events: AsyncGenerator[JobEvent]) -> JobEvent:
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise Unavailable("the stream of events ended") from None


async def _found(client: Client, chosen: str, jobs: set[str]) -> set[str]:
    """Which of some jobs a filter finds now."""
    named = f"id in ({', '.join(sorted(jobs))}) and ({chosen})"
    found = [job.id async for page in client.find_brief(JobQuery(filter=named)) for job in page]
    return set(found)


def _line(event: JobEvent) -> str:
    parts = [moment_text(event.at_us), event.job, event.kind]
    parts += [f"attempt {event.attempt}"] if event.attempt else []
    parts += [f"on {event.worker}"] if event.worker else []
    parts += [f"({event.detail})"] if event.detail else []
    return "  ".join(parts)


class _Screen:
    """What is on the terminal."""

    def __init__(self, live: Any) -> None:
        self._live = live
        self.jobs: Sequence[Job] = ()
        self.cluster: Cluster | None = None
        self.away_since: float | None = None

    @property
    def rows(self) -> int:
        """So many jobs fit."""
        height: int = self._live.console.size.height
        return max(1, height - 4)

    def draw(self) -> None:
        from rich.console import Group
        from rich.text import Text

        table = jobs_table(self.jobs, now_us=time.time_ns() // 1000, width=self._live.console.width)
        self._live.update(Group(Text(self._head(), overflow="ellipsis", no_wrap=True), Text(), table), refresh=True)

    def _head(self) -> str:
        clock = time.strftime("%H:%M:%S")
        if self.away_since is not None:
            return f"{clock}  no word from the coordinator for {time.monotonic() - self.away_since:.0f} s  q ends this"
        known = self.cluster
        if known is None:
            return clock
        return f"{clock}  {known.queued:,} waiting  {known.running:,} running  {known.workers:,} workers  q ends this"


async def _show_live(client: Client, query: JobQuery) -> int:
    from rich.live import Live

    changed, ended = asyncio.Event(), asyncio.Event()
    with Live(screen=True, auto_refresh=False) as live, pressed(dict.fromkeys(QUIT, ended.set)):
        screen = _Screen(live)
        async with (
            beside(_look(client, query, screen, changed)) as looking,
            beside(_heed(client, changed)),
            beside(ended.wait()) as leaving,
        ):
            await asyncio.wait({looking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                looking.result()  # it ends only by what went wrong
    return OK


async def _look(client: Client, query: JobQuery, screen: _Screen, changed: asyncio.Event) -> None:
    """Look at the jobs whenever something has happened, not too often, and draw them."""
    while True:
        changed.clear()
        try:
            screen.jobs = await _newest(client, query, screen.rows)
            screen.cluster = await client.describe()
            screen.away_since = None
        except (Unavailable, DeadlineExceeded):
            screen.away_since = screen.away_since or time.monotonic()
        screen.draw()
        await asyncio.sleep(REFRESH_S_MIN)
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S_MAX - REFRESH_S_MIN):
                await changed.wait()


async def _newest(client: Client, query: JobQuery, limit: int) -> list[Job]:
    """The newest jobs that a query finds, oldest first."""
    from dataclasses import replace

    found: list[Job] = []
    query = replace(query, limit=limit, newest_first=True)
    while len(found) < limit:
        page = await client.find(query)
        found += page.jobs
        if not page.next:
            break
        query = replace(query, after=page.next)
    return found[:limit][::-1]


async def _heed(client: Client, changed: asyncio.Event) -> None:
    """Note that something has happened; what it was is looked up."""
    after = None
    while True:
        with suppress(Unavailable, DeadlineExceeded):
            after = after if after is not None else (await client.describe()).event
            async for event in client.watch(after=after):
                after = event.number
                changed.set()
        await asyncio.sleep(PAUSE_S_MAX)
