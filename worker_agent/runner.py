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
import secrets
import signal as signals
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hostler.jobs import EndedProcess, Usage
from worker_agent.attempt_events import Event, Fed, NeverRan, Output, Started, Unkillable
from worker_agent.attempts import Cause, Ended, Order
from worker_agent.cgroups import Containment
from worker_agent.ledger import segments_of
from worker_agent.ledger_files import LedgerFiles
from worker_agent.orphans import end_of_dead
from worker_agent.process_tree import is_alive
from worker_agent.sampling import sample_trees
from worker_agent.shim_link import LauncherLink, LinkLost, Message, ShimLink
from worker_agent.shim_protocol import encode, order_to_json

__all__ = ["Event", "Fed", "NeverRan", "Output", "ProcessCapReached", "Runner", "Started", "Unkillable"]

SHIMS_PER_GENERATION: Final = 1_000_000  # shim numbers are unique in a data directory
CONNECT_S: Final = 5.0
FORKS_AT_ONCE: Final = 4
SAMPLE_AFTER_S: Final = 1.0
CLOSE_GRACE_S: Final = 10.0
CLOSE_S: Final = 90.0  # grace, kill, and the 60 s after which a tree is called unkillable
_HOUSEKEEPING_S: Final = 5.0
_RECONNECT_PAUSE_S: Final = 0.2
_TRIES: Final = 3  # to make a shim, and to give an order to shims that die of it


class ProcessCapReached(Exception):
    """`start` was refused: as many attempts run as the worker's process cap allows."""


class _Attempt:
    """An attempt that was started, or adopted, and has not ended."""

    __slots__ = ("at", "discarded", "link", "order", "pid", "stop", "tries")

    def __init__(self, order: Order | None) -> None:
        self.order = order  # None: adopted from an earlier agent
        self.link: ShimLink | None = None  # None: it waits for a shim
        self.pid = 0
        self.at = time.monotonic()
        self.discarded = False  # True: nobody may hear of its end
        self.stop: Message | None = None  # said again when a lost connection is made anew
        self.tries = 0


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
        on_event: Callable[[Event], None],
        process_cap: int = 512,
        idle_surplus_s: float = 60.0,
        containment: Containment = Containment.AUTO,
    ) -> None:
        """*slots* is how many idle shims are kept warm; *generation* comes from the journal and only grows."""
        self.generation, self.boot_id = generation, boot_id
        self.segments_dir, self.sockets_dir = data_dir / "segments", runtime_dir
        self.ledgers = LedgerFiles(self.segments_dir)
        self._slots, self._process_cap, self._idle_surplus_s = slots, process_cap, idle_surplus_s
        self._on_event = on_event
        self._launcher = LauncherLink(
            segments=self.segments_dir, sockets=runtime_dir, log=data_dir / "launcher.log", containment=containment
        )
        self._attempts: dict[str, _Attempt] = {}
        self._waiting: deque[str] = deque()  # keys without a shim; at most process_cap
        self._links: dict[int, ShimLink] = {}
        self._idle: list[ShimLink] = []  # the last one is the warmest
        self._forking = 0
        self._last_shim = generation * SHIMS_PER_GENERATION
        self._owned: set[asyncio.Task[None]] = set()
        self._closing = False
        self._emptied = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Make the directories (0700) and begin housekeeping; processes are started when needed."""
        for directory in (self.segments_dir, self.sockets_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in directory.glob("shim-*"):
                # Should a lost journal have taken the generation back, numbers must still not meet.
                number = path.name[5:].partition(".")[0]
                self._last_shim = max(self._last_shim, int(number) if number.isdecimal() else 0)
        self.own(self._keep_house())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave; attempts run on."""
        await self.close(stop_jobs=False)

    # -- the caller's verbs

    def start(self, order: Order) -> None:
        """Hand *order* to a free warm shim or to a new one; `Started` or `Ended` follows.

        Raises:
            ProcessCapReached: nothing was started.
            ValueError: an attempt of this key is known already.
        """
        key = order.key
        if key in self._attempts or self.ledgers.knows(key):
            raise ValueError(f"attempt {key} is known already")
        if len(self._attempts) >= self._process_cap:
            raise ProcessCapReached(f"{self._process_cap} attempts run")
        self._attempts[key] = _Attempt(order)
        if self._idle:
            self._run(self._idle.pop(), key)
        else:
            self._waiting.append(key)
            self._fork_more()

    def stop(self, key: str, *, grace_s: float, cause: Cause) -> bool:
        """End the tree of an attempt; the answer is its `Ended` event with a receipt.

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
        return True

    def signal(self, key: str, signal: str | int) -> bool:
        """Send a signal ("SIGINT" or 2) to the main process's group. False: no such attempt runs.

        Raises:
            KeyError: there is no signal of that name.
            ValueError: there is no signal of that number.
        """
        number = int(signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal))
        return self._send(key, {"type": "signal", "key": key, "signal": number})

    def feed(self, key: str, offset: int, content: bytes, *, eof: bool) -> bool:
        """Give bytes of standard input that begin at *offset*; `Fed` tells what was taken.

        At most 1 MiB may be unacknowledged; what is beyond is not kept and must be sent again.
        False: the attempt has no shim yet, or does not run.
        """
        text = base64.b64encode(content).decode()
        return self._send(key, {"type": "feed", "key": key, "offset": offset, "content": text, "eof": eof})

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
        while self._forking < min(FORKS_AT_ONCE, len(self._waiting)) and not self._closing:
            self._forking += 1
            self.own(self._new_shim())

    async def _new_shim(self) -> None:
        error: Exception | None = None
        try:
            for _ in range(_TRIES):
                self._last_shim += 1
                shim, nonce = self._last_shim, secrets.token_hex(16)
                path = self.sockets_dir / f"shim-{shim}.sock"
                try:
                    pid, start_ticks = await self._launcher.fork(shim, nonce)
                    link = ShimLink(shim=shim, pid=pid, start_ticks=start_ticks, nonce=nonce, path=path)
                    self.admit(link, await link.hello(self.generation, CONNECT_S))
                    return
                except LinkLost as lost:
                    error = lost
            if self._waiting:
                self._end_unstarted(self._waiting[0], Cause.NOT_STARTED, "no process could be made for it", str(error))
        finally:
            self._forking -= 1
            self._fork_more()

    def admit(self, link: ShimLink, state: Message) -> None:
        """Take a connected shim in: it runs what it says it runs, or is free. Also used by recovery."""
        self._links[link.shim] = link
        key = link.key = state["key"]
        if key is None:
            self._offer(link)
        else:
            self._adopt(link, key, state)
        # Last, because what the shim said since its answer is handed over now.
        link.attach(self._on_message, self._on_lost)

    def _adopt(self, link: ShimLink, key: str, state: Message) -> None:
        attempt = self._attempts.setdefault(key, _Attempt(None))
        attempt.link, attempt.pid = link, int(state["main_pid"])
        self.ledgers.place(key, state["segment"], state["ledger_offset"])
        self._tell(attempt, Started(key, attempt.pid, int(state["started_at_us"])))
        if state["position"]:
            self._tell(attempt, Output(key, int(state["position"])))
        if attempt.stop is not None:
            link.send(attempt.stop)

    def discard(self, key: str) -> None:
        """End an attempt nobody wants any more, and do not tell of it."""
        self._attempts[key].discarded = True
        self.stop(key, grace_s=0.0, cause=Cause.DRAIN)

    def _offer(self, link: ShimLink) -> None:
        link.key = None
        if self._waiting:
            self._run(link, self._waiting.popleft())
        elif self._closing:
            self._retire(link)
        else:
            link.idle_since = time.monotonic()
            self._idle.append(link)

    def _run(self, link: ShimLink, key: str) -> None:
        attempt = self._attempts[key]
        assert attempt.order is not None
        link.key = key
        attempt.link = link
        attempt.at = time.monotonic()
        link.send_raw(encode({"type": "run", "order": order_to_json(attempt.order)}))

    def _retire(self, link: ShimLink) -> None:
        link.retired = True
        link.send({"type": "retire"})

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(min(_HOUSEKEEPING_S, self._idle_surplus_s))
            # The coldest are at the front.
            limit = time.monotonic() - self._idle_surplus_s
            surplus = sum(not link.retired for link in self._links.values()) - self._slots
            while surplus > 0 and self._idle and self._idle[0].idle_since < limit:
                self._retire(self._idle.pop(0))
                surplus -= 1

    # -- what shims say

    def _on_message(self, link: ShimLink, message: Message) -> None:
        kind = message["type"]
        if kind == "ended":
            self._on_ended(link, Ended.from_json(message["ended"]))
            return
        attempt = self._attempts.get(message.get("key", ""))
        if attempt is None or attempt.link is not link:
            return
        key = str(message["key"])
        if kind in ("started", "output"):
            self.ledgers.place(key, message["segment"], message["ledger_offset"])
        if kind == "started":
            attempt.pid = int(message["pid"])
            self._tell(attempt, Started(key, attempt.pid, int(message["at_us"])))
        elif kind == "output":
            self._tell(attempt, Output(key, int(message["position"])))
        elif kind == "fed":
            self._tell(attempt, Fed(key, int(message["offset"])))
        elif kind == "unkillable":
            survivors = tuple(EndedProcess(**each) for each in message["survivors"])
            self._tell(attempt, Unkillable(key, survivors))

    def tell(self, event: Event) -> None:
        """Hand an event to the owner: for recovery, when it finds out late."""
        self._on_event(event)

    def _tell(self, attempt: _Attempt, event: Event) -> None:
        if not attempt.discarded:
            self._on_event(event)

    def _on_ended(self, link: ShimLink, ended: Ended) -> None:
        # The shim is free first, so that a start from within the event finds it warm.
        if link.key == ended.key:
            self._offer(link)
        self.end(ended)

    def end(self, ended: Ended) -> None:
        """Close an attempt and tell of it once. Also used by recovery."""
        attempt = self._attempts.pop(ended.key, None)
        if attempt is None:
            return
        if not self._attempts:
            self._emptied.set()
        if ended.segment and not attempt.discarded:
            self.ledgers.place(ended.key, ended.segment, ended.ledger_offset)
        else:
            self.ledgers.forget((ended.key,))
        self._tell(attempt, ended)

    def _end_unstarted(self, key: str, cause: Cause, evidence: str, error: str = "") -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(key)
        now_us = time.time_ns() // 1000
        self.end(
            Ended(
                key=key,
                started_at_us=0,
                ended_at_us=now_us,
                exit_code=None,
                signal="",
                cause=cause,
                evidence=evidence,
                error=error,
            )
        )

    # -- lost shims

    def _on_lost(self, link: ShimLink) -> None:
        if link in self._idle:
            self._idle.remove(link)
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
        key = link.key if link.key in self._attempts else None
        ended = await end_of_dead(self.segments_dir, link.shim, key, self.unkillable)
        if ended is not None:
            self.end(ended)
        elif key is not None:
            # No `started` frame, and no shim that could still write one: it never ran, so it may run now.
            self._requeue(key)
        self._shim_is_gone(link)

    def unkillable(self, key: str, survivors: tuple[EndedProcess, ...]) -> None:
        """Tell that somebody survives SIGKILL. Also used by recovery."""
        attempt = self._attempts.get(key)
        if attempt is not None:
            self._tell(attempt, Unkillable(key, survivors))

    def _readmit(self, link: ShimLink, state: Message) -> None:
        lost_key = link.key
        if state["ended"] is not None and state["ended"]["key"] == lost_key:
            self.end(Ended.from_json(state["ended"]))
        elif lost_key is not None and state["key"] != lost_key and lost_key in self._attempts:
            # The order was lost on the way; this shim closed the old connection unread and will never run it.
            self._requeue(lost_key)
        self.admit(link, state)

    def _requeue(self, key: str) -> None:
        attempt = self._attempts[key]
        attempt.link = None
        attempt.tries += 1
        if attempt.stop is not None:
            self._end_unstarted(key, Cause(attempt.stop["cause"]), "it was stopped before it was started")
        elif attempt.order is None or attempt.tries >= _TRIES:
            error = "the processes made for it ended before they could start it"
            self._end_unstarted(key, Cause.NOT_STARTED, "the program was not started", error)
        else:
            self._waiting.appendleft(key)
            self._fork_more()

    def _shim_is_gone(self, link: ShimLink) -> None:
        self._links.pop(link.shim, None)
        for path in segments_of(self.segments_dir, link.shim):
            self.ledgers.writes_to(path.name)
        self.ledgers.shim_gone(link.shim)
        with contextlib.suppress(OSError):
            os.unlink(link.path)

    # -- ownership and the end

    def own(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine for as long as it takes or until the runner closes."""
        owned = asyncio.get_running_loop().create_task(work)
        self._owned.add(owned)
        owned.add_done_callback(self._owned.discard)

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
        for link in self._idle:
            self._retire(link)
        self._idle.clear()
        retired = [link for link in self._links.values() if link.retired]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                while any(is_alive(link.pid, link.start_ticks) for link in retired):  # noqa: ASYNC110 - no child of ours
                    await asyncio.sleep(0.005)
        for link in retired:
            self._shim_is_gone(link)
        for link in self._links.values():
            link.close()
        self._links.clear()
        for owned in list(self._owned):
            owned.cancel()
        await asyncio.gather(*self._owned, return_exceptions=True)
        await self._launcher.close()
        self.ledgers.close()
