"""The command `top`: workers, jobs that run and the newest ends, kept fresh on a terminal, or printed once.

It asks only for what it shows: never for jobs that wait. How often it asks depends on how long the answers take.
"""

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from hostler.cli import top_screen
from hostler.cli.beside import beside
from hostler.cli.connect import cluster
from hostler.cli.failures import OK, usage_failure
from hostler.cli.load import SORTINGS, Differences, Load, arranged, ends_in, worker_loads
from hostler.cli.options import Place
from hostler.cli.pressed_keys import QUIT, pressed, run_until_left
from hostler.cli.render import PIPE_WIDTH, print_json, terminal_console, work_text
from hostler.errors import DeadlineExceeded, PermissionDenied, Unavailable
from hostler.jobs import Job, JobQuery
from hostler.lifecycle import State
from hostler.selectors import quoted
from hostler.settings import terminal_kind
from hostler.shape import time_shape
from hostler.workers import Worker

if TYPE_CHECKING:
    from hostler.client import Client

T = TypeVar("T")

REFRESH_S = 1.0
SHARE_MAX = 0.1  # of the time, at most so much is spent with asking
RUNNING_MAX = 1000
ENDED_MAX = 20
AWAY_S = 3.0  # without an answer for so long, that is said
ON_WORKERS = (State.ASSIGNED, State.RUNNING, State.STOPPING)


def top(place: Place, *, once: bool, sort: str) -> int:
    """Show what the cluster does until somebody has seen enough; once when it is no terminal, or with *once*."""
    if sort not in SORTINGS:
        raise usage_failure(f"{sort!r} is no sorting", hint=f"the sortings are {', '.join(SORTINGS)}")
    is_live = sys.stdout.isatty() and not (once or place.as_json) and terminal_kind() not in ("", "dumb")

    async def act() -> int:
        async with cluster(place) as client:
            looks = Looks(client)
            if is_live:
                return await _show_live(looks, sort)
            load = await looks.look()
            print_json(load_shape(load, sort)) if place.as_json else _print(load, sort)
            return OK

    return run_until_left(act()) if is_live else asyncio.run(act())


class Looks:
    """Asks a cluster how it fares, again and again."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._differences = Differences()
        self._before: frozenset[str] = frozenset()  # what ran at the last look
        self._ended: dict[str, Job] = {}

    async def look(self) -> Load:
        """How the cluster fares now.

        Raises:
            HostlerError: the coordinator does not answer, or does not let us look at jobs.
        """
        client = self._client
        known = await client.describe()
        workers = await _if_allowed(client.workers(), list[Worker]())
        page = await client.find(JobQuery(states=ON_WORKERS, limit=RUNNING_MAX, newest_first=True))
        ended = await self._newest_ends(page.jobs)
        metrics = await _if_allowed(client.metrics(), b"")
        now_us = time.time_ns() // 1000
        jobs = self._differences.loads(page.jobs, now_us)
        return Load(
            at_us=now_us,
            version=known.version,
            started_at_us=known.started_at_us,
            queued=known.queued,
            running=known.running,
            ended_a_minute=self._differences.ended_a_minute(ends_in(metrics), now_us, known.started_at_us),
            workers=worker_loads(workers, jobs),
            jobs=jobs,
            ended=ended,
        )

    async def _newest_ends(self, running: Sequence[Job]) -> tuple[Job, ...]:
        """The jobs that ended last: among the newest ones, and among those that ran a moment ago."""
        ids = frozenset(job.id for job in running)
        gone = list(self._before - ids - self._ended.keys())[:ENDED_MAX]
        self._before = ids
        found = await self._finished(JobQuery(limit=ENDED_MAX))
        if gone:
            found += await self._finished(JobQuery(limit=ENDED_MAX, filter=f"id in ({', '.join(map(quoted, gone))})"))
        self._ended |= {job.id: job for job in found}
        newest = sorted(self._ended.values(), key=lambda job: (-job.finished_at_us, job.id))[:ENDED_MAX]
        self._ended = {job.id: job for job in newest}
        return tuple(newest)

    async def _finished(self, query: JobQuery) -> list[Job]:
        page = await self._client.find(replace(query, states=(State.FINISHED,), newest_first=True))
        return list(page.jobs)


async def _if_allowed(asked: Any, otherwise: T) -> T:
    """What was asked for, or *otherwise* when that is not for us to know."""
    try:
        answer: T = await asked
    except PermissionDenied:
        return otherwise
    return answer


def load_shape(load: Load, sort: str) -> dict[str, Any]:
    """What is shown as an object for JSON; docs/cli.md lists the keys."""
    return {
        "cluster": {
            "version": load.version,
            "started": time_shape(load.started_at_us),
            "queued": load.queued,
            "running": load.running,
            "slots": load.slots,
            "slots_used": load.slots_used,
            "jobs_per_minute": _rounded(load.ended_a_minute),
        },
        "workers": [
            {
                "id": one.worker.id,
                "name": one.worker.name,
                "state": one.worker.state.value,
                "slots": one.worker.slots,
                "running": one.worker.running,
                "cpu_percent": _rounded(one.cpu_percent),
                "memory_bytes": one.memory_bytes,
            }
            for one in load.workers
        ],
        "jobs": [
            {
                **_job_shape(one.job),
                "worker": one.job.worker or None,
                "started": time_shape(one.job.started_at_us),
                "cpu_percent": _rounded(one.cpu_percent),
                "memory_bytes": one.memory_bytes,
                "percent": one.job.advance.percent,
            }
            for one in arranged(load.jobs, sort)
        ],
        "ended": [
            {**_job_shape(job), "outcome": job.outcome.word, "finished": time_shape(job.finished_at_us)}
            for job in load.ended
        ],
    }


def _job_shape(job: Job) -> dict[str, Any]:
    return {"id": job.id, "name": job.spec.name, "command": work_text(job.spec), "state": job.state.word}


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 2)


def _print(load: Load, sort: str) -> None:
    """Print it once: on a terminal as wide as that is, elsewhere uncut."""
    console, narrow = terminal_console()
    width = console.width if narrow else PIPE_WIDTH
    jobs = arranged(load.jobs, sort)
    for line in top_screen.snapshot(load, jobs, width=width, cut=narrow):
        console.print(line, soft_wrap=True)


class _Shown:
    """What is on the terminal, and what is known for it."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self.load: Load | None = None
        self.answered_at = time.monotonic()
        self.asked = asyncio.Event()  # to be drawn at once

    def sort_next(self) -> None:
        """Take the next sorting."""
        self.sort = SORTINGS[(SORTINGS.index(self.sort) + 1) % len(SORTINGS)]
        self.asked.set()

    def lines(self, width: int, height: int) -> Iterable[Any]:
        """What is drawn."""
        away_s = time.monotonic() - self.answered_at
        away = f"no word from the coordinator for {away_s:.0f} s" if away_s >= AWAY_S else ""
        load = self.load or Load(at_us=0)
        foot = f"q quits  s sorts: {self.sort}"
        return top_screen.screen(load, arranged(load.jobs, self.sort), width=width, height=height, foot=foot, away=away)


async def _show_live(looks: Looks, sort: str) -> int:
    from rich.live import Live

    ended, shown = asyncio.Event(), _Shown(sort)
    shown.load = await looks.look()  # what is wrong from the beginning is said without a screen
    keys = dict.fromkeys(sorted(QUIT), ended.set) | dict.fromkeys("sS", shown.sort_next)
    console, _ = terminal_console()
    with Live(screen=True, auto_refresh=False, console=console) as live, pressed(keys):
        async with (
            beside(_keep_looking(looks, shown)) as looking,
            beside(_keep_drawing(live, shown)) as drawing,
            beside(ended.wait()) as leaving,
        ):
            await asyncio.wait({looking, drawing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            for one in (looking, drawing):
                if one.done():
                    one.result()  # they end only by what went wrong
    return OK


async def _keep_looking(looks: Looks, shown: _Shown) -> None:
    while True:
        began = time.monotonic()
        with suppress(Unavailable, DeadlineExceeded):
            shown.load = await looks.look()
            shown.answered_at = time.monotonic()
            shown.asked.set()
        took_s = time.monotonic() - began
        await asyncio.sleep(max(REFRESH_S - took_s, took_s / SHARE_MAX - took_s, 0.1))


async def _keep_drawing(live: Any, shown: _Shown) -> None:
    from rich.console import Group

    while True:
        shown.asked.clear()
        size = live.console.size
        if shown.load is not None:
            # Ages go on between two answers.
            shown.load = replace(shown.load, at_us=time.time_ns() // 1000)
        live.update(Group(*shown.lines(size.width, size.height)), refresh=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S):
                await shown.asked.wait()
