"""Submissions that come one by one leave together.

Whatever gathers while a call to the coordinator is on its way goes with the next one. Nothing waits
on a timer: a lone submission leaves at once, and under load calls grow to their bound, so that one
commit serves hundreds of jobs.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from types import TracebackType
from typing import Protocol, Self

from hostler import logs
from hostler.errors import HostlerError, InternalError, Overloaded
from hostler.jobs import JobSpec
from http_gateway.callers import OWN

CALL_ITEMS_MAX = 500
CALL_BYTES_MAX = 1024 * 1024
CALLS_MAX = 4  # at once; a second one starts only when it would be full
WAITING_ITEMS_MAX = 40_000  # above it submissions are refused
WAITING_BYTES_MAX = 64 * 1024 * 1024
ITEM_BYTES = 128  # an item's share besides its texts
PART_BYTES = 16  # that of each of its files, stages, variables, secrets and labels

Answer = str | HostlerError

_principal = attrgetter("principal")
_texts = attrgetter(
    *("params", "name", "owner", "key", "family", "worker", "workload", "principal", "on_lost", "where"),
    *("work.cwd", "work.stdin_path", "work.loss_policy", "work.start_path"),
)
_mappings = attrgetter("work.env", "labels", "tags", "secrets")


class Submits(Protocol):
    """The part of `hostler.client.Client` that is used here."""

    async def submit(self, specs: Iterable[JobSpec], *, principal: str | None = None) -> list[Answer]:
        """Submit jobs; each is answered in its place. An empty *principal*: the jobs say who asks."""
        ...


@dataclass(slots=True, eq=False)
class _Part:
    """Jobs of one submission that leave in one call."""

    specs: list[JobSpec]
    size: int
    answer: asyncio.Future[list[Answer]]


class Submitter:
    """Coalesces submissions. Use it as an async context manager; leaving it ends what is on its way."""

    def __init__(self, client: Submits) -> None:
        self._client = client
        self._waiting: deque[_Part] = deque()
        self._items = 0
        self._bytes = 0
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._waiting:
            part.answer.cancel()
        self._waiting.clear()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def submit(self, specs: Sequence[JobSpec]) -> list[Answer]:
        """Submit jobs, which say who asks, and return, in order, the id of each or what is wrong with it.

        A submission whose caller is cancelled before its call has left is dropped.

        Raises:
            Overloaded: too much waits already; nothing was submitted.
        """
        if not all(map(_principal, specs)):
            # Jobs of many callers leave in one call: one that does not say whose it is would be the gateway's own.
            raise InternalError("a job does not say who asks for it")
        parts = _split(specs)
        size = sum(part.size for part in parts)
        if self._items + len(specs) > WAITING_ITEMS_MAX or self._bytes + size > WAITING_BYTES_MAX:
            raise Overloaded("too many submissions wait already; try again in a second", retry_after_s=1.0)
        self._waiting.extend(parts)
        self._items += len(specs)
        self._bytes += size
        self._start_calls()
        answers: list[Answer] = []
        try:
            for part in parts:
                answers += await part.answer
        finally:
            for part in parts:
                part.answer.cancel()  # no effect on those that are answered
        return answers

    async def submit_one(self, spec: JobSpec) -> str:
        """Submit one job and return its id, or raise what is wrong with it."""
        (answer,) = await self.submit((spec,))
        if isinstance(answer, HostlerError):
            raise answer
        return answer

    def _start_calls(self) -> None:
        while self._waiting and (not self._calls or (len(self._calls) < CALLS_MAX and self._full())):
            if parts := self._take():
                call = asyncio.get_running_loop().create_task(self._call(parts))
                self._calls.add(call)
                call.add_done_callback(self._call_ended)

    def _call_ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            self._start_calls()

    def _full(self) -> bool:
        return self._items >= CALL_ITEMS_MAX or self._bytes >= CALL_BYTES_MAX

    def _take(self) -> list[_Part]:
        """Take what fits into one call, at least one part, without those whose caller has gone."""
        taken: list[_Part] = []
        items = size = 0
        while self._waiting:
            part = self._waiting[0]
            if taken and (items + len(part.specs) > CALL_ITEMS_MAX or size + part.size > CALL_BYTES_MAX):
                break
            self._waiting.popleft()
            self._items -= len(part.specs)
            self._bytes -= part.size
            if not part.answer.done():
                taken.append(part)
                items += len(part.specs)
                size += part.size
        return taken

    async def _call(self, parts: list[_Part]) -> None:
        specs = [spec for part in parts for spec in part.specs]
        try:
            answers = await self._client.submit(specs, principal=OWN)
        except HostlerError as error:
            answers = [error] * len(specs)
        except asyncio.CancelledError:
            for part in parts:
                part.answer.cancel()
            raise
        # The owner of the call: whatever it was, its submitters are told and the next call goes on.
        except Exception:
            logs.get().exception("request.failed", call="submit", items=len(specs))
            answers = [InternalError("a fault of hostler's own; the gateway's log has the details")] * len(specs)
        start = 0
        for part in parts:
            end = start + len(part.specs)
            if not part.answer.done():
                part.answer.set_result(answers[start:end])
            start = end


def _split(specs: Sequence[JobSpec]) -> list[_Part]:
    loop = asyncio.get_running_loop()
    parts: list[_Part] = []
    for spec in specs:
        size = _size(spec)
        last = parts[-1] if parts else None
        if last is None or len(last.specs) >= CALL_ITEMS_MAX or last.size + size > CALL_BYTES_MAX:
            parts.append(_Part([spec], size, loop.create_future()))
        else:
            last.specs.append(spec)
            last.size += size
    return parts


def _size(spec: JobSpec) -> int:
    """About how many bytes a job takes in a call: its texts, and a share for each of its parts."""
    work = spec.work
    size = ITEM_BYTES + sum(map(len, chain(work.argv, spec.retry_on, _texts(spec))))
    for mapping in filter(None, _mappings(spec)):
        size += sum(PART_BYTES + len(name) + len(value) for name, value in mapping.items())
    for stage in spec.stages:
        size += PART_BYTES + len(stage.workload)
    for file in work.files:
        size += PART_BYTES + len(file.path) + len(file.content) + len(file.digest)
    if work.python is not None:
        size += len(work.python.path) + len(work.python.entrypoint) + len(work.python.interpreter)
    return size
