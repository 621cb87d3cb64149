"""The command `wait`: for one job or for thousands, also while the coordinator restarts."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Container, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from hostler.cli.connect import choose_jobs, cluster
from hostler.cli.failures import JOB_FAILED, OK, Failure
from hostler.cli.follow import PATIENCE_S
from hostler.cli.options import Place
from hostler.cli.render import print_json, print_line, say
from hostler.cli.stopping import jobs_named
from hostler.client import Client
from hostler.errors import ErrorCode, HostlerError
from hostler.jobs import Progress
from hostler.lifecycle import Outcome
from hostler.patience import PASSING, Absence, patiently
from hostler.shape import job_shape
from hostler.state_text import state_text

BATCH_JOBS = 2000  # of one call
HELD_MAX = 1000  # ends that were heard and not yet printed
LINES_MAX = 20  # of more jobs a terminal shows only those that did not succeed, and the count


def wait(place: Place, texts: Sequence[str], *, chosen: str, timeout_s: float, any_one: bool) -> int:
    """Wait until jobs have ended and print each as it does; 0 only when all that were waited for succeeded.

    Waits for the jobs that are named, or that the filter *chosen* finds now; with *any_one* for the first end only.
    """

    async def act() -> int:
        ended: dict[str, Progress] = {}
        async with cluster(place) as client:
            ids = await patiently(lambda: choose_jobs(client, texts, chosen), PATIENCE_S)
            if not ids and not place.as_json:
                say("no job matches")
            deadline = time.monotonic() + timeout_s if timeout_s else None
            with Bar(len(ids), shown=not place.as_json and sys.stderr.isatty()) as bar:
                async with aclosing(ends_of(client, ids, deadline=deadline)) as ends:
                    async for job in ends:
                        ended[job.id] = job
                        listed = not place.as_json and (bar.lists or job.outcome is not Outcome.SUCCEEDED)
                        bar.note(job, at_once=listed)
                        if listed:
                            print_line(f"{job.id} {state_text(job)}")
                        if any_one:
                            break
            if place.as_json:
                found = await jobs_named(client, [job for job in ids if job in ended])
                print_json({"jobs": [job_shape(job) for job in found], "open": still_open(ids, ended)})
        if not (bar.lists or place.as_json):
            say(f"{len(ended)} of {len(ids)} jobs have ended: {counts_text(bar.counts)}")
        if len(ended) < len(ids) and not (any_one and ended):
            left = still_open(ids, ended)
            raise Failure(
                f"{len(left)} of {len(ids)} jobs had not ended after {timeout_s:g} s",
                hint=f"wait again, or see what becomes of one with: hostler explain {left[0]}",
                code=ErrorCode.NOT_FINISHED.value,
            )
        return OK if all(job.outcome is Outcome.SUCCEEDED for job in ended.values()) else JOB_FAILED

    return asyncio.run(act())


def still_open(ids: Sequence[str], ended: Container[str]) -> list[str]:
    """Those that are waited for and have not ended, in order."""
    return [job for job in ids if job not in ended]


class Bar:
    """How many jobs have ended, and how; on standard error while it is shown."""

    def __init__(self, total: int, *, shown: bool) -> None:
        """Prepare for *total* jobs; what is not *shown* only counts."""
        self.counts: Counter[Outcome] = Counter()
        self.lists = total <= LINES_MAX or not sys.stdout.isatty()  # whether each job has its line
        self._total = total
        self._shown = shown
        self._bars: Any = None
        self._bar: Any = None

    def __enter__(self) -> Self:
        if not self._shown or self._total < 2:
            return self
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        # What goes to a file or a pipe is no business of the bar's.
        self._bars = Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
        self._bar = self._bars.add_task("", total=self._total)
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def note(self, job: Progress, *, at_once: bool) -> None:
        """Count an end; *at_once* before a line about it, which the bar below must not contradict."""
        self.counts[job.outcome] += 1
        if self._bars is not None:
            self._bars.update(self._bar, advance=1, description=counts_text(self.counts), refresh=at_once)


def counts_text(counts: Counter[Outcome]) -> str:
    """How many ended how, the most frequent first."""
    return ", ".join(f"{count:,} {outcome.word.replace('_', ' ')}" for outcome, count in counts.most_common()) or "none"


async def ends_of(client: Client, ids: Sequence[str], *, deadline: float | None) -> AsyncGenerator[Progress]:
    """Yield the end of each job once, as it comes; *deadline* is of the monotonic clock, None: wait for ever.

    Raises:
        JobNotFound: one of them does not exist.
        Unavailable: the coordinator stayed away for `PATIENCE_S`.
    """
    heard: asyncio.Queue[Progress | HostlerError | None] = asyncio.Queue(HELD_MAX)
    batches = [ids[start : start + BATCH_JOBS] for start in range(0, len(ids), BATCH_JOBS)]
    tasks = [asyncio.create_task(_wait_for(client, batch, deadline, heard)) for batch in batches]
    try:
        left = len(tasks)
        while left:
            found = await heard.get()
            if isinstance(found, HostlerError):
                raise found
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_for(
    client: Client, ids: Sequence[str], deadline: float | None, heard: "asyncio.Queue[Progress | HostlerError | None]"
) -> None:
    """Tell the ends of some jobs, and then that there are no more, or what went wrong."""
    left = dict.fromkeys(ids)
    absence = Absence(PATIENCE_S)
    while left:
        left_s = 0.0 if deadline is None else deadline - time.monotonic()
        if deadline is not None and left_s <= 0:
            break
        try:
            async for job in client.wait(list(left), timeout_s=left_s):
                absence.heard()
                del left[job.id]
                await heard.put(job)
        except HostlerError as error:
            # Waiting changes nothing, so it is simply asked again while the coordinator restarts.
            if not (isinstance(error, PASSING) and await absence.bears()):
                await heard.put(error)
                return
    await heard.put(None)
