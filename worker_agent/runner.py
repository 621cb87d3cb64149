"""Starts, feeds, stops and watches attempts through warm shims: the process half of the agent.

Role: owns the launcher, one connection per shim, and the knowledge of which segment holds which
attempt. It decides nothing about jobs: slots, policy, journal and reports are the caller's.
Limits: asyncio, one event loop, never grpc. Events are handed to a plain callback in that loop;
the callback must not block and must not raise.
"""

import asyncio
import base64
import contextlib
import os
import signal as signals
import time
from collections import deque
from collections.abc import Collection, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hostler.jobs import EndedProcess, Usage
from worker_agent.attempt_events import Event, Fed, OnEvent, Output, Returned, Started, Unkillable
from worker_agent.attempts import Cause, Ended, Exited, Order, never_started
from worker_agent.cgroups import Containment
from worker_agent.ledger import last_shim
from worker_agent.ledger_files import LedgerFiles
from worker_agent.order_queues import Attempt, OrderQueues
from worker_agent.orphans import end_of_dead
from worker_agent.process_tree import is_alive
from worker_agent.sampling import sample_trees
from worker_agent.shim_link import LauncherLink, LinkLost, Message, ShimLink, ended_within, keep_thawed
from worker_agent.slot_users import FREELY, Confining

SHIMS_PER_GENERATION: Final = 1_000_000  # shim numbers are unique in a data directory
CONNECT_S: Final = 5.0
FORKS_AT_ONCE: Final = 4
SAMPLE_AFTER_S: Final = 1.0
CLOSE_GRACE_S: Final = 10.0
CLOSE_S: Final = 90.0  # grace, kill, and the 60 s after which a tree is called unkillable
_HOUSEKEEPING_S: Final = 5.0
_RECONNECT_PAUSE_S: Final = 0.2
NO_PROCESS: Final = "no process could be made for it"  # nothing of the attempt is in any segment
_TRIES: Final = 3  # to make a shim, and to give an order to shims that die of it


class ProcessCapReached(Exception):
    """`start` was refused: as many attempts run as the worker's process cap allows."""


class Runner:
    """The attempts of one worker.

    Use as an async context manager: leaving calls `close(stop_jobs=False)`, so attempts run on.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        runtime_dir: Path,
        generation: int,
        boot_id: str,
        slots: int,
        on_event: OnEvent,
        process_cap: int = 512,
        idle_surplus_s: float = 60.0,
        containment: Containment = Containment.AUTO,
        start_path: str = "warm",
        confining: Confining = FREELY,
    ) -> None:
        """*slots* idle shims are kept warm; *generation* only grows; *start_path* is for orders that name none."""
        self.generation, self.boot_id = generation, boot_id
        self.segments_dir, self.sockets_dir = data_dir / "segments", runtime_dir
        self.ledgers = LedgerFiles(self.segments_dir)
        self._slots, self._process_cap, self._idle_surplus_s = slots, confining.shims_max or process_cap, idle_surplus_s
        self.tell, self._start_path, self.confining = on_event, start_path, confining  # told by recovery too
        log, places = data_dir / "launcher.log", {"segments": self.segments_dir, "sockets": runtime_dir}
        self._launcher = LauncherLink(**places, log=log, containment=containment, confining=confining)
        self._attempts: dict[str, Attempt] = {}
        self._waiting: deque[str] = deque()  # keys without a shim; at most process_cap
        self._links: dict[int, ShimLink] = {}
        self._idle: list[ShimLink] = []  # the last one is the warmest
        self.queues = OrderQueues()
        self._last_shim = generation * SHIMS_PER_GENERATION
        self._owned: set[asyncio.Task[None]] = set()
        self._forks: set[asyncio.Task[None]] = set()  # those of the owned that make shims
        self._closing = False
        self._emptied = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Make the directories (0700) and begin housekeeping; processes are started when needed."""
        for directory in (self.segments_dir, self.sockets_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Should a lost journal have taken the generation back, numbers must still not meet.
            self._last_shim = max(self._last_shim, last_shim(directory))
        self.own(self._keep_house())
        self.own(keep_thawed(self._links))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave; attempts run on."""
        await self.close(stop_jobs=False)

    # -- the caller's verbs

    def start(self, order: Order, *, leads: bool = False) -> None:
        """Hand *order* to a free warm shim or to a new one; `Started`, `Ended` or `Exited` follows.

        *leads*: others may be queued behind it by `start_behind`.

        Raises:
            ProcessCapReached: nothing was started.
            ValueError: an attempt of this key is known already.
        """
        if order.key not in self._attempts and len(self._attempts) - self.queues.queued >= self._process_cap:
            raise ProcessCapReached(f"{self._process_cap} attempts run")
        attempt = self._note(order, leads)
        if self._idle:
            self._run(self._idle.pop(), attempt)
        else:
            self._waiting.append(order.key)
            self._fork_more()

    def start_behind(self, order: Order) -> bool:
        """Queue *order* in the busy shim with the shortest queue; False when none has room, and nothing was done.

        It starts when those before it have ended, or comes back as `Returned`.

        Raises:
            ValueError: an attempt of this key is known already.
        """
        link = self.queues.shortest()
        if link is not None:
            self._run(link, self._note(order, leads=True))
        return link is not None

    def _note(self, order: Order, leads: bool) -> Attempt:
        if order.key in self._attempts or self.ledgers.knows(order.key):
            raise ValueError(f"attempt {order.key} is known already")
        if not order.start_path and self._start_path != "warm":
            order = order._replace(start_path=self._start_path)
        attempt = self._attempts[order.key] = Attempt(order, leads=leads)
        return attempt

    def stop(self, key: str, *, grace_s: float, cause: Cause) -> bool:
        """End the tree of an attempt; the answer is its `Ended` event with a receipt, or `Returned`.

        SIGTERM and SIGCONT to every process, *grace_s* seconds of patience, SIGKILL; a grace of 0 is SIGKILL
        at once. A second call may only shorten the patience. False: no such attempt runs (it may have ended).
        """
        attempt = self._attempts.get(key)
        if attempt is None:
            return False
        if attempt.link is None:
            self._end_unstarted(key, cause, "it was stopped before a process was started for it")
        else:
            attempt.stop = {"type": "stop", "key": key, "grace_s": grace_s, "cause": cause.value}
            attempt.link.send(attempt.stop)
            attempt.link.thaw()
        return True

    def signal(self, key: str, signal: str | int, *, alone: bool = False) -> bool:
        """Send a signal ("SIGINT" or 2) to the main process, *alone* or its group; False: no such attempt runs."""
        number = int(signals.Signals[signal]) if isinstance(signal, str) else signal
        return self._send(key, {"type": "signal", "key": key, "signal": number, "alone": alone})

    def feed(self, key: str, offset: int, content: bytes, *, eof: bool, size: tuple[int, int] = (0, 0)) -> bool:
        """Give bytes of standard input that begin at *offset*, and a terminal's *size*; `Fed` tells what was taken.

        At most 1 MiB may be unacknowledged; what is beyond is not kept. False: it has no shim yet, or does not run.
        """
        message = {"type": "feed", "key": key, "offset": offset, "eof": eof, "size": size}
        return self._send(key, message | {"content": base64.b64encode(content).decode()})

    def _send(self, key: str, message: Message) -> bool:
        attempt = self._attempts.get(key)
        if attempt is None or attempt.link is None:
            return False
        attempt.link.send(message)
        return True

    def read(self, key: str, from_position: int, max_bytes: int) -> bytes:
        """Return whole ledger frames from *from_position* on, at most *max_bytes* (but always one whole frame).

        Empty: nothing more is there now. Works for running and for ended attempts until `forget`.

        Raises:
            KeyError: the attempt is unknown or forgotten.
            FrameError: *from_position* is not at a frame border.
        """
        if not self.ledgers.knows(key) and key in self._attempts:
            return b""
        return self.ledgers.read(key, from_position, max_bytes)

    def running(self) -> Collection[str]:
        """Return the keys of all attempts that were started or wait for a shim, and have not ended."""
        return self._attempts.keys()

    def sample(self) -> dict[str, Usage]:
        """Return what the trees of attempts older than 1 s use now (cumulated CPU, resident bytes, live processes)."""
        now = time.monotonic()
        return sample_trees(
            {
                key: attempt.link.pid
                for key, attempt in self._attempts.items()
                if attempt.link is not None and now - attempt.at > SAMPLE_AFTER_S
            }
        )

    def forget(self, keys: Collection[str]) -> None:
        """The coordinator has everything of these ended attempts; a segment goes when all in it are forgotten."""
        self.ledgers.forget(keys)

    # -- shims

    def _fork_more(self) -> None:
        while len(self._forks) < min(FORKS_AT_ONCE, len(self._waiting)) and not self._closing:
            fork = self.own(self._new_shim())
            self._forks.add(fork)
            fork.add_done_callback(self._forked)

    def _forked(self, fork: asyncio.Task[None]) -> None:
        self._forks.discard(fork)
        self._fork_more()

    async def _new_shim(self) -> None:
        error: Exception | None = None
        for _ in range(_TRIES):
            self._last_shim += 1
            try:
                self.admit(*await self._launcher.make(self._last_shim, self.generation, CONNECT_S))
                return
            except LinkLost as lost:
                error = lost
                if lost.unmet is not None:
                    self.own(self._settle_lost(lost.unmet))  # until it has ended, and for what it leaves
        if self._waiting:
            self._end_unstarted(self._waiting[0], Cause.NOT_STARTED, NO_PROCESS, str(error))

    def admit(self, link: ShimLink, state: Message) -> None:
        """Take a connected shim in: it runs what it says it runs, or is free. Also used by recovery."""
        self._links[link.shim] = link
        link.is_long, link.fits = False, self.confining.fits(state.get("confined"))
        if (key := state["key"]) is None:
            self._offer(link)
        else:
            self._adopt(link, key, state)
        # Last, because what the shim said since its answer is handed over now.
        link.attach(self._on_message, self._on_lost)

    def _adopt(self, link: ShimLink, key: str, state: Message) -> None:
        attempt = self._attempts.setdefault(key, Attempt(None))
        attempt.link, attempt.pid = link, int(state["main_pid"])
        self.queues.add(link, key, leads=False)
        self.ledgers.place(key, state["segment"], state["ledger_offset"])
        self._tell(attempt, Started(key, attempt.pid, int(state["started_at_us"])))
        if state["position"]:
            self._tell(attempt, Output(key, int(state["position"])))
        if attempt.stop is not None:
            link.send(attempt.stop)

    def shims(self) -> set[int]:
        """Return the numbers of the shims that are connected, or were until just now."""
        return set(self._links)

    def discard(self, key: str) -> None:
        """End an attempt nobody wants any more, and do not tell of it."""
        self._attempts[key].discarded = True
        self.stop(key, grace_s=0.0, cause=Cause.DRAIN)

    def _offer(self, link: ShimLink) -> None:
        if self._waiting and link.fits:
            self._run(link, self._attempts[self._waiting.popleft()])
        elif self._closing or not link.fits:
            self._retire(link)
        else:
            link.idle_since = time.monotonic()
            self._idle.append(link)

    def _run(self, link: ShimLink, attempt: Attempt) -> None:
        order = attempt.order
        assert order is not None
        attempt.link = link
        self.queues.add(link, order.key, leads=attempt.leads)
        link.send_order(order)

    def _retire(self, link: ShimLink) -> None:
        link.retired = True
        link.send({"type": "retire"})

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(min(_HOUSEKEEPING_S, self._idle_surplus_s))
            self._launcher.reap()
            limit = time.monotonic() - self._idle_surplus_s
            surplus = sum(not link.retired for link in self._links.values()) - self._slots
            while surplus > 0 and self._idle and self._idle[0].idle_since < limit:
                self._retire(self._idle.pop(0))
                surplus -= 1

    # -- what shims say

    def _on_message(self, link: ShimLink, message: Message) -> None:
        kind = message["type"]
        if kind == "ended":
            self._on_ends(link, message["ended"])
            return
        if kind == "returned":
            self._on_returned(link, message["keys"])
            return
        attempt = self._attempts.get(message.get("key", ""))
        if attempt is None or attempt.link is not link:
            return
        key = str(message["key"])
        if kind in ("started", "output"):
            self.ledgers.place(key, message["segment"], message["ledger_offset"])
        if kind == "started":
            self.queues.runs_long(link)
            attempt.pid = int(message["pid"])
            self._tell(attempt, Started(key, attempt.pid, int(message["at_us"])))
        elif kind == "output":
            self._tell(attempt, Output(key, int(message["position"])))
        elif kind == "fed":
            self._tell(attempt, Fed(**{name: value for name, value in message.items() if name != "type"}))
        elif kind == "unkillable":
            survivors = tuple(EndedProcess(**each) for each in message["survivors"])
            self._tell(attempt, Unkillable(key, survivors))

    def _tell(self, attempt: Attempt, event: Event) -> None:
        if not attempt.discarded:
            self.tell(event)

    def _on_ends(self, link: ShimLink, content: list[Any]) -> None:
        ends = [Exited(*each) if type(each) is list else Ended.from_json(each) for each in content]
        self.queues.ran(link)
        # The shim is free first, so that a start from within the event finds it warm.
        if self.queues.remove(link, [ended.key for ended in ends]):
            self._offer(link)
        self.end(*ends)

    def _on_returned(self, link: ShimLink, keys: list[str]) -> None:
        keys = [key for key in keys if key in link.orders]
        # Orders that crossed the news that the shim is busy for longer come back without it.
        link.is_long = link.is_long or any(self._attempts[key].stop is None for key in keys)
        if self.queues.remove(link, keys):
            self._offer(link)
        self._return(keys)

    def _return(self, keys: list[str]) -> None:
        """Tell of attempts that were queued and never ran."""
        orders = tuple(order for key in keys if (order := self._attempts.pop(key).order) is not None)
        if not self._attempts:
            self._emptied.set()
        if orders:
            self.tell(Returned(orders))

    def end(self, *ends: Ended | Exited) -> None:
        """Close attempts and tell of each once. Also used by recovery."""
        told: list[Ended | Exited] = []
        for ended in ends:
            attempt = self._attempts.pop(ended.key, None)
            if attempt is None:
                continue
            if ended.segment and not attempt.discarded:
                self.ledgers.place(ended.key, ended.segment, ended.ledger_offset)
            else:
                self.ledgers.forget((ended.key,))
            if not attempt.discarded:
                told.append(ended)
        if not self._attempts:
            self._emptied.set()
        if told:
            self.tell(*told)

    def _end_unstarted(self, key: str, cause: Cause, evidence: str, error: str = "") -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(key)
        self.end(never_started(key, time.time_ns() // 1000, cause, evidence, error))

    # -- lost shims

    def _on_lost(self, link: ShimLink) -> None:
        if link in self._idle:
            self._idle.remove(link)
        self.queues.close(link)
        if link.shim in self._links:
            self.own(self._settle_lost(link))

    async def _settle_lost(self, link: ShimLink) -> None:
        """A connection broke: connect again while the shim lives; end its attempt once it is proved dead."""
        while is_alive(link.pid, link.start_ticks):
            try:
                if link.retired:
                    raise LinkLost("it is ending")
                state = await link.hello(self.generation, CONNECT_S)
            except LinkLost:
                await asyncio.sleep(_RECONNECT_PAUSE_S)
                continue
            self._readmit(link, state)
            return
        # What has no `started` frame, and no shim that could still write one, never ran: it may run now.
        keys, launcher = set(link.orders), self._launcher.pid
        self._settle(link, await end_of_dead(self.segments_dir, link.shim, keys, self.unkillable, launcher), None)
        self._shim_is_gone(link)
        self._fork_more()

    def _settle(self, link: ShimLink, ends: dict[str, Ended], running: str | None) -> None:
        """Close what a shim had when its connection was lost, but for what it still runs."""
        keys = list(link.orders)
        self.queues.remove(link, keys)
        unstarted = [key for key in keys if key in self._attempts and key not in ends and key != running]
        for ended in ends.values():
            self.end(ended)
        if unstarted and running is None:
            # The one that was next keeps its place among those that run; if shims die of it, this ends.
            self._requeue(unstarted.pop(0))
        self._return(unstarted)

    def unkillable(self, key: str, survivors: tuple[EndedProcess, ...]) -> None:
        """Tell that somebody survives SIGKILL."""
        attempt = self._attempts.get(key)
        if attempt is not None:
            self._tell(attempt, Unkillable(key, survivors))

    def _readmit(self, link: ShimLink, state: Message) -> None:
        # Orders that were lost on the way or waited: this shim has dropped them with the old connection.
        ends = {ended.key: ended for ended in map(Ended.from_json, state["ended"])}
        self._settle(link, ends, state["key"])
        self.admit(link, state)
        self._fork_more()

    def _requeue(self, key: str) -> None:
        attempt = self._attempts[key]
        attempt.link = None
        attempt.tries += 1
        if attempt.stop is not None:
            self._end_unstarted(key, Cause(attempt.stop["cause"]), "it was stopped before it was started")
        elif attempt.order is None or attempt.tries >= _TRIES:
            error = "the processes made for it ended before they could start it"
            self._end_unstarted(key, Cause.NOT_STARTED, NO_PROCESS, error)
        else:
            self._waiting.appendleft(key)

    def _shim_is_gone(self, link: ShimLink) -> None:
        self._links.pop(link.shim, None)
        self.ledgers.shim_gone(link.shim)
        self.confining.release(link.shim)
        if link.cgroup is not None:
            link.cgroup.remove()  # of one that was killed; another has done it itself
        with contextlib.suppress(OSError):
            os.unlink(link.path)

    # -- ownership and the end

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine for as long as it takes or until the runner closes."""
        owned = asyncio.get_running_loop().create_task(work)
        self._owned.add(owned)
        owned.add_done_callback(self._owned.discard)
        return owned

    async def close(self, *, stop_jobs: bool) -> None:
        """Leave. With *stop_jobs* every attempt is ended first (cause drain, 10 s of grace) and every shim retired.

        Without it attempts run on below their shims; idle shims are retired. Legal more than once.

        Raises:
            TimeoutError: with *stop_jobs*, some tree could not be killed; its shim goes on trying.
        """
        self._closing = True
        try:
            if stop_jobs and self._attempts:
                self._emptied.clear()
                for key in list(self._attempts):
                    self.stop(key, grace_s=CLOSE_GRACE_S, cause=Cause.DRAIN)
                async with asyncio.timeout(CLOSE_S):
                    await self._emptied.wait()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        if self._forks:  # a shim nobody has connected to would stay for a minute
            await asyncio.wait(self._forks, timeout=CONNECT_S)
        for link in self._idle:
            self._retire(link)
        self._idle.clear()
        over = [link for link in self._links.values() if link.retired or not link.orders]  # or killed
        await ended_within(CONNECT_S, over)
        for link in over:
            self._shim_is_gone(link)
        for link in self._links.values():
            link.close()
        self._links.clear()
        for owned in list(self._owned):
            owned.cancel()
        await asyncio.gather(*self._owned, return_exceptions=True)
        await self._launcher.close()
        self.ledgers.close()
