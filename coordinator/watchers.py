"""Who waits for what: told after the commit that makes it true.

Nothing here decides; the engine calls it. A waiter that goes away takes its entries along.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from hostler.errors import HostlerError
from hostler.jobs import Progress
from hostler.lifecycle import State


class Waiter:
    """Waits for jobs to come as far as something; holds at most one `Progress` for each job it asked for."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.absent: asyncio.Future[list[str]] = loop.create_future()  # the ids that are not live
        self.numbers: set[int] = set()
        self._ready: list[Progress] = []
        self._error: HostlerError | None = None
        self._event = asyncio.Event()

    def tell(self, progress: Progress) -> None:
        """Deliver where a job has come to."""
        if not self._ready:
            self._event.set()
        self._ready.append(progress)

    def fail(self, error: HostlerError) -> None:
        """End the wait with an error."""
        self._error = error
        if not self.absent.done():
            self.absent.set_exception(error)
            self.absent.exception()  # retrieved: nobody may be awaiting it
        self._event.set()

    def settle(self, value: list[str] | HostlerError | None) -> None:
        """Take the engine's answer: which ids are not live, or an error."""
        if isinstance(value, HostlerError):
            self.fail(value)
        elif not self.absent.done():
            self.absent.set_result(value or [])

    async def ready(self, timeout_s: float | None) -> list[Progress]:
        """Return what has gathered, waiting for the first; empty when *timeout_s* passed first.

        Raises:
            HostlerError: the wait was ended by `fail`.
        """
        if not self._ready and self._error is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._event.wait()
            except TimeoutError:
                return []
        if self._error is not None:
            raise self._error
        self._event.clear()
        found, self._ready = self._ready, []
        return found


class Watchers:
    """Every waiter of this coordinator."""

    def __init__(self) -> None:
        self._waiters: dict[int, list[tuple[Waiter, State]]] = {}
        self._logs: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._events: set[asyncio.Event] = set()

    def add(self, waiter: Waiter, number: int, until: State) -> None:
        """Have *waiter* told about a job."""
        self._waiters.setdefault(number, []).append((waiter, until))
        waiter.numbers.add(number)

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter."""
        for number in waiter.numbers:
            left = [entry for entry in self._waiters.pop(number, ()) if entry[0] is not waiter]
            if left:
                self._waiters[number] = left
        waiter.numbers.clear()

    def waited_for(self, number: int) -> bool:
        """Whether anybody waits for this job."""
        return number in self._waiters

    def started(self, number: int, progress: Progress) -> None:
        """Tell whoever waits for the start of a job."""
        entries = self._waiters.get(number, [])
        for waiter, until in entries:
            if until is not State.FINISHED:
                waiter.tell(progress)
                waiter.numbers.discard(number)
        left = [entry for entry in entries if entry[1] is State.FINISHED]
        if left:
            self._waiters[number] = left
        else:
            self._waiters.pop(number, None)

    def ended(self, number: int, progress: Progress) -> None:
        """Tell whoever waits for a job at all."""
        for waiter, _ in self._waiters.pop(number, ()):
            waiter.tell(progress)
            waiter.numbers.discard(number)

    def log_changed(self, job_id: str) -> None:
        """Wake the readers of a job's log."""
        for event in self._logs.get(job_id, ()):
            event.set()

    def anything_changed(self) -> None:
        """Wake the watchers of transitions."""
        for event in self._events:
            event.set()

    @contextmanager
    def log_reader(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the log of a job has changed."""
        event = asyncio.Event()
        self._logs[job_id].add(event)
        try:
            yield event
        finally:
            self._logs[job_id].discard(event)
            if not self._logs[job_id]:
                del self._logs[job_id]

    @contextmanager
    def watcher(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever a transition was committed."""
        event = asyncio.Event()
        self._events.add(event)
        try:
            yield event
        finally:
            self._events.discard(event)
