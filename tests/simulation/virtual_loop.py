"""An event loop whose time is a number, and the simulated processes that its callbacks belong to.

Every callback runs in a context, and a context names the simulated process it belongs to. So one loop runs the
coordinator, the agents and the shims of several hosts, and still a process can be killed (none of its callbacks
ever runs again, no `finally` of it either) or paused (they wait until it goes on), as SIGKILL and SIGSTOP do it.
Threads do not exist: what is given to an executor is executed at a later virtual moment, and its outcome is
delivered at a later one still, so a process can die before, between and after.
"""

import asyncio
import contextvars
import math
import random
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from heapq import heapify, heappop, heappush
from typing import Any

EPOCH_US = 1_700_000_000_000_000
CANCELLED_TIMERS_MAX = 500


class Deadlock(Exception):
    """Nothing will ever happen again."""


class SimulatedProcess:
    """What a kill or a pause takes hold of. Made by the simulation, never by the code under test."""

    def __init__(self, name: str, owner: Any = None, *, wall_offset_us: int = 0) -> None:
        self.name = name
        self.owner = owner  # the node it is a process of
        self.wall_offset_us = wall_offset_us
        self.alive = True
        self.unordered = False  # what waited for the end of a pause is seen in any order
        self.paused = False
        self.resumed_at = -math.inf
        self.parked: list[Call] = []  # callbacks that were due while it was paused
        self.kept: list[Any] = []  # its tasks: a dead one's must not be collected while the simulation goes on
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)


PROCESS: "contextvars.ContextVar[SimulatedProcess | None]" = contextvars.ContextVar("simulated_process", default=None)


class NumberedRun(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address."""

    made = 0

    def __init__(self, coroutine: Coroutine[Any, Any, Any], **options: Any) -> None:
        NumberedRun.made += 1
        self._number = NumberedRun.made
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class Call:
    """What `asyncio.Handle` and `asyncio.TimerHandle` are to other loops; a life makes tens of thousands."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_loop", "_waits", "_when")

    def __init__(self, loop: "VirtualLoop", when: float, callback: Any, args: Any, context: Any) -> None:
        self._loop, self._when, self._callback, self._args, self._context = loop, when, callback, args, context
        self._cancelled = False
        self._waits = False  # among the timers

    def cancel(self) -> None:
        """Do not call it."""
        if not self._cancelled:
            self._cancelled = True
            self._callback = self._args = None
            if self._waits:
                self._loop.cancelled_timers += 1

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def when(self) -> float:
        """When it is due."""
        return self._when


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready; when nothing is, time jumps to the next timer."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.now = 1000.0
        self.chance = chance
        self.handled = 0
        self.errors: list[str] = []  # what callbacks of living processes raised
        self.connect_local: Callable[..., Any] | None = None  # unix sockets, see `host`
        self._timers: list[tuple[float, int, Call]] = []
        self._serial = 0
        self.cancelled_timers = 0
        self._thread_free: dict[int, float] = {}  # when the one thread of an executor is free again
        self.set_exception_handler(self._note_error)
        self.set_task_factory(self._make)

    def time(self) -> float:
        """Seconds of virtual time."""
        return self.now

    # What asyncio asks of a loop that has files

    def _write_to_self(self) -> None:
        return

    def _process_events(self, event_list: Any) -> None:
        return

    def _make(self, loop: Any, coroutine: Any, *, context: contextvars.Context | None = None) -> Any:
        task = NumberedRun(coroutine, loop=loop, context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.kept.append(task)
        return task

    def _note_error(self, loop: Any, details: dict[str, Any]) -> None:
        error = details.get("exception")
        process = PROCESS.get()
        if error is not None and "never retrieved" not in details["message"] and (process is None or process.alive):
            lines = traceback.format_exception(error)
            self.errors.append(f"{details['message']}: {''.join((*lines[:8], '...', *lines[-8:]))}")

    async def create_unix_connection(  # type: ignore[override]
        self, factory: Any, path: Any = None, **options: Any
    ) -> Any:
        """Connect to a simulated local socket."""
        assert self.connect_local is not None
        return await self.connect_local(factory, str(path))

    async def subprocess_exec(  # type: ignore[override]
        self, factory: Any, program: Any, *arguments: Any, **options: Any
    ) -> Any:
        """There are no other programs on a simulated host."""
        raise FileNotFoundError(2, "No such file or directory", str(program))

    def run_in_executor(self, executor: Any, function: Any, *arguments: Any) -> Any:  # type: ignore[override]
        """Execute *function* a little later, and tell its outcome a little later again."""
        chance = self.chance
        done: asyncio.Future[Any] = self.create_future()
        begin = self.now + chance.random() * 0.002
        if executor is not None:
            begin = max(begin, self._thread_free.get(id(executor), 0.0))
        took_s = 0.0001 + chance.random() * (0.05 if chance.random() < 0.02 else 0.002)
        if executor is not None:
            self._thread_free[id(executor)] = begin + took_s

        def execute() -> None:
            error: BaseException | None = None
            outcome: Any = None
            try:
                outcome = function(*arguments)
            except BaseException as raised:
                error = raised
            self.call_later(took_s, settle, outcome, error)

        def settle(outcome: Any, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(outcome)
            else:
                done.set_exception(error)

        self.call_at(begin, execute)
        return done

    # The loop itself

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """Call in the next round."""
        call = Call(self, 0.0, callback, args, copy_context() if context is None else context)
        self._ready.append(call)  # type: ignore[attr-defined]
        return call

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """There are no threads."""
        return self.call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """Call at a time; what is due at the same time is called in the order in which it was asked for."""
        call = Call(self, when, callback, args, copy_context() if context is None else context)
        call._waits = True
        self._serial += 1
        heappush(self._timers, (when, self._serial, call))
        return call

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """Call in *delay* seconds."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """All rounds there are: `run_forever` comes here once."""
        ready: deque[Call] = self._ready  # type: ignore[attr-defined]
        timers = self._timers
        while not self._stopping:  # type: ignore[attr-defined]
            if self.cancelled_timers > CANCELLED_TIMERS_MAX:
                timers[:] = [entry for entry in timers if not entry[2]._cancelled]
                heapify(timers)
                self.cancelled_timers = 0
            if not ready:
                while timers and timers[0][2]._cancelled:
                    heappop(timers)
                if not timers:
                    raise Deadlock
                self.now = max(self.now, timers[0][0])
            now = self.now
            while timers and timers[0][0] <= now:
                call = heappop(timers)[2]
                call._waits = False
                ready.append(call)
            self._round(ready)

    def _round(self, ready: "deque[Call]") -> None:
        """What is ready now; what comes of it is ready in the next round."""
        for _ in range(len(ready)):
            call = ready.popleft()
            if call._cancelled:
                continue
            context = call._context
            process = context.get(PROCESS)
            if process is not None:
                if not process.alive:
                    continue
                if process.paused:
                    process.parked.append(call)
                    continue
            self.handled += 1
            try:
                context.run(call._callback, *call._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                details = {"message": f"Exception in callback {call._callback}", "exception": error}
                self.call_exception_handler(details)

    # What happens to processes

    def pause(self, process: SimulatedProcess) -> None:
        """As SIGSTOP does."""
        process.paused = True

    def resume(self, process: SimulatedProcess) -> None:
        """As SIGCONT does: what became due meanwhile runs now, in its order."""
        process.paused, process.resumed_at = False, self.now
        parked, process.parked = process.parked, []
        if process.unordered:
            self.chance.shuffle(parked)
        if process.alive:
            self._ready.extend(parked)  # type: ignore[attr-defined]

    def kill(self, process: SimulatedProcess) -> None:
        """As SIGKILL does."""
        process.alive = False
        process.parked.clear()

    def spawn(self, process: SimulatedProcess, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Begin a coroutine as a part of a process."""
        return self.create_task(work, context=process.context.copy())

    def call_as(self, process: SimulatedProcess | None, delay_s: float, function: Any, *arguments: Any) -> Any:
        """Call something later as a part of a process; None: as a part of the world, which never dies."""
        context = process.context if process is not None else WORLD
        return self.call_at(self.now + delay_s, function, *arguments, context=context)


WORLD = contextvars.Context()  # the kernel, the network, the clients' users: no process
