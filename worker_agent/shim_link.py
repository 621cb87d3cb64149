"""The agent's ends of the sockets to its launcher and to its shims.

Role: bytes to messages and back, nothing else; what messages mean is the runner's and recovery's.
Limits: asyncio, one event loop.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from hostler import logs
from worker_agent import held_shims
from worker_agent.attempts import Order
from worker_agent.cgroups import Cgroup, Containment, hierarchies
from worker_agent.leftover_cgroups import LeftoverCgroups
from worker_agent.process_tree import is_alive
from worker_agent.shim_protocol import QUEUE_MAX_FIRST, Decoder, ProtocolError, encode, encode_orders
from worker_agent.slot_users import Confining

FORK_S: Final = 10.0  # for the launcher to fork and answer
THAW_S: Final = 1.0
USER_PAUSE_S: Final = 0.02
FROZEN_MAX: Final = 10  # times that a shim is found frozen in a row before it is killed
Message = dict[str, Any]

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from worker_agent.launcher import main; main()"


class LinkLost(Exception):
    """The other side is gone or does not answer."""

    unmet: "ShimLink | None" = None  # a shim that was forked, and that nobody has spoken with


class _MessageProtocol(asyncio.Protocol):
    """Cuts what arrives into messages and hands them to the link that owns it."""

    def __init__(self, on_message: Callable[[Message], None], on_lost: Callable[[], None]) -> None:
        self._decoder = Decoder()
        self._on_message = on_message
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, content: bytes) -> None:
        try:
            messages = self._decoder.feed(content)
        except ProtocolError:
            self.abort()
            return
        for message in messages:
            self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._on_lost()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class ShimLink:
    """One connection to one shim: `hello` first, then `attach`; what comes between is kept."""

    def __init__(self, *, shim: int, pid: int, start_ticks: int, nonce: str, path: Path) -> None:
        self.shim, self.pid, self.start_ticks = shim, pid, start_ticks
        self.nonce = nonce
        self.path = path
        self.orders: dict[str, None] = {}  # attempts given to it and not known to be over; it runs them in this order
        self.queue_limit = QUEUE_MAX_FIRST  # how many the shim takes at most, as it says itself
        self.queue_max = 0  # how many may wait behind the first, by how short the latest were
        self.is_long = False  # True: what it runs now is long, so nothing may wait behind it
        self.idle_since = 0.0
        self.retired = False
        self.fits = True  # False: it runs programs in another way than the worker's policy says now
        self.cgroup: Cgroup | None = None  # the shim's own
        self.frozen = 0  # how often in a row it was found frozen by its job
        self.held = 0  # the same for being traced or stopped
        self._stopping: set[str] = set()  # of its attempts, those that it was told to end
        self._on_message: Callable[[ShimLink, Message], None] | None = None
        self._on_lost: Callable[[ShimLink], None] | None = None
        self._early: list[Message] = []  # a shim has one attempt, so these are few
        self._protocol: _MessageProtocol | None = None
        self._state: asyncio.Future[Message] | None = None
        self._unsent: list[Order] = []  # of this turn of the loop

    async def hello(self, generation: int, within_s: float) -> Message:
        """Connect, fence older agents out, and return the shim's `state`.

        Raises:
            LinkLost: nobody listens, the shim refused, or it stayed silent.
        """
        loop = asyncio.get_running_loop()
        self._on_message = self._on_lost = None
        self._early.clear()
        self._state = loop.create_future()
        try:
            async with asyncio.timeout(within_s):
                _, protocol = await loop.create_unix_connection(self._make_protocol, os.fspath(self.path))
                self._protocol = protocol
                self.send({"type": "hello", "generation": generation, "nonce": self.nonce})
                state = await self._state
                self.cgroup = Cgroup(state["cgroup"], freezer=state["freezer"]) if state.get("cgroup") else None
                self.queue_limit = int(state.get("queue_max", QUEUE_MAX_FIRST))
                return state
        except BaseException as error:
            # Also when we are cancelled: a half-open connection would keep the shim waiting for us.
            self.close()
            if isinstance(error, OSError | TimeoutError):
                raise LinkLost(f"shim {self.shim}: {error or 'no answer'}") from error
            raise
        finally:
            self._state = None

    def thaw(self) -> None:
        """Let a shim go on that its job has frozen.

        A job that freezes it again and again is faster than its shim: in the end both are killed, and what is left of
        the job is ended as after any dead shim.
        """
        if self.cgroup is None:
            return
        self.frozen = self.frozen + 1 if self.cgroup.thaw(self.pid) else 0
        if self.frozen >= FROZEN_MAX:
            self.cgroup.kill()

    def free(self) -> None:
        """Let a shim go on that its job holds as its tracer, or has stopped when it was to stop the job."""
        self._stopping.intersection_update(self.orders)
        held = held_shims.free(self.pid, self.start_ticks, stopped_too=bool(self._stopping))
        self.held = self.held + 1 if held else 0
        if held:
            logs.get().warning("shim.held", attempt=next(iter(self.orders), ""), times=self.held)
        if self.held >= held_shims.HELD_MAX:
            held_shims.kill(self.pid, self.start_ticks)

    def _make_protocol(self) -> _MessageProtocol:
        return _MessageProtocol(self._receive, self._lost)

    def attach(self, on_message: Callable[["ShimLink", Message], None], on_lost: Callable[["ShimLink"], None]) -> None:
        """Say who hears messages and the loss of the connection; what happened since `hello` is told at once."""
        self._on_message, self._on_lost = on_message, on_lost
        early, self._early = self._early, []
        for message in early:
            on_message(self, message)
        if self._protocol is None:
            on_lost(self)

    def _receive(self, message: Message) -> None:
        state = self._state
        if state is not None and not state.done() and message["type"] == "state":
            state.set_result(message)
        elif self._on_message is not None:
            self._on_message(self, message)
        else:
            self._early.append(message)

    def _lost(self) -> None:
        self._protocol = None
        if self._state is not None and not self._state.done():
            self._state.set_exception(LinkLost(f"shim {self.shim} closed the connection"))
        elif self._on_lost is not None:
            self._on_lost(self)

    def send(self, message: Message) -> None:
        """Send; what a lost connection swallows is found again by `state` or in the segment."""
        self._send_orders()  # first, for the message may be about one of them
        if message["type"] == "stop":
            self._stopping.add(message["key"])
        self._write(encode(message))

    @property
    def is_gathering(self) -> bool:
        """Whether a message with orders goes out at the end of this turn of the event loop anyway."""
        return bool(self._unsent)

    def send_order(self, order: Order) -> None:
        """Send an order; those of one turn of the event loop travel in one message.

        So nothing waits here when a lost connection is made anew, which takes more than a turn.
        """
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send_orders)
        self._unsent.append(order)

    def _send_orders(self) -> None:
        if self._unsent:
            orders, self._unsent = self._unsent, []
            self._write(encode_orders(orders))

    def _write(self, content: bytes) -> None:
        if self._protocol is not None and self._protocol.transport is not None:
            self._protocol.transport.write(content)

    def close(self) -> None:
        """Close the connection; nobody is told of it."""
        self._on_message = self._on_lost = None
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.abort()


async def meet(link: ShimLink, generation: int, within_s: float) -> Message:
    """Say hello to a shim that was just forked, and return its state.

    Raises:
        LinkLost: nobody came to the shim in time, as when the agent was stopped meanwhile. It ends by itself.
    """
    try:
        return await link.hello(generation, within_s)
    except LinkLost as lost:
        link.retired, lost.unmet = True, link
        raise


async def ended_within(within_s: float, links: Collection[ShimLink]) -> None:
    """Wait until these shims have ended, for *within_s* at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while any(is_alive(link.pid, link.start_ticks) for link in links):  # noqa: ASYNC110 - no child of ours
                await asyncio.sleep(0.005)


async def keep_thawed(links: Mapping[int, ShimLink]) -> None:
    """Look once a second whether a shim was frozen: what runs as root can freeze the cgroup it shares with its shim.

    The shim then meets no deadline, its own nor that of a stop. Runs until cancelled.
    """
    while True:
        await asyncio.sleep(THAW_S)
        for link in links.values():
            if link.orders:
                link.thaw()
                link.free()


class LauncherLink:
    """The launcher process of this agent; started on the first fork and again after it died."""

    def __init__(
        self, *, segments: Path, sockets: Path, log: Path, containment: Containment, confining: Confining
    ) -> None:
        self._segments, self._sockets, self._log = segments, sockets, log
        self._confining = confining
        self._leftovers = LeftoverCgroups(segments.parent)
        # A later agent of the directory knows whose it is; and were numbers of shims to come twice, names do not.
        self._cgroup_prefix = f"{self._leftovers.stem}{secrets.token_hex(3)}"
        self._containment = containment
        self._process: subprocess.Popen[bytes] | None = None
        self._protocol: _MessageProtocol | None = None
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int:
        """The pid of the launcher that runs; 0: none does."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    async def make(self, shim: int, generation: int, within_s: float) -> tuple[ShimLink, Message]:
        """Fork a shim and return a connection to it and its state.

        Raises:
            LinkLost: with the reason. The shim that it has as `unmet` is the caller's: its user is still taken.
        """
        nonce = secrets.token_hex(16)
        wish = {"type": "fork", "shim": shim, "nonce": nonce, "confined": await self._confined(shim, within_s)}
        try:
            pid, start_ticks = await self._fork(shim, wish)
        except LinkLost:
            self._confining.release(shim)
            raise
        path = self._sockets / f"shim-{shim}.sock"
        link = ShimLink(shim=shim, pid=pid, start_ticks=start_ticks, nonce=nonce, path=path)
        return link, await meet(link, generation, within_s)

    async def _confined(self, shim: int, within_s: float) -> Message:
        """What holds for a new shim; a user that a shim has is free when that has ended. Raises LinkLost."""
        until = asyncio.get_running_loop().time() + within_s
        while (confinement := self._confining.lease(shim)) is None:
            if asyncio.get_running_loop().time() > until:
                raise LinkLost("every user that the worker's policy names for its jobs is taken")
            await asyncio.sleep(USER_PAUSE_S)
        return confinement.to_json()

    async def _fork(self, shim: int, wish: Message) -> tuple[int, int]:
        async with self._starting:
            if self._protocol is None:
                await self._start()
        if self._protocol is None or self._protocol.transport is None:
            raise LinkLost("the launcher is gone")
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[shim] = answer
        try:
            self._protocol.transport.write(encode(wish))
            # Not `timeout`: an agent that was stopped for longer finds the answer and the end of the wait at once.
            await asyncio.wait((answer,), timeout=FORK_S)
            if not answer.done():
                raise LinkLost("the launcher does not answer")
            message = answer.result()
        finally:
            self._asked.pop(shim, None)
        if message["type"] != "forked":
            raise LinkLost(str(message["error"]))
        return int(message["pid"]), int(message["start_ticks"])

    def reap(self) -> None:
        """Take the status of a launcher that has ended, so that no zombie stays; the next fork starts another."""
        if self._process is not None:
            self._process.poll()

    async def _start(self) -> None:
        before, self._process = self._process, None
        if before is not None:
            await asyncio.to_thread(_wait_or_kill, before)
        await asyncio.to_thread(self._leftovers.note, [each.directory for each in hierarchies()])
        ours, theirs = socket.socketpair()
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        arguments = ["--fd", str(theirs.fileno()), "--segments", str(self._segments)]
        arguments += ["--sockets", str(self._sockets), "--cgroup", self._cgroup_prefix]
        arguments += ["--containment", self._containment.value]
        try:
            # Isolated and without site-packages: small, and nothing in the working directory can be imported.
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a vfork of a millisecond, once per agent
                [sys.executable, "-I", "-S", "-c", _START, _ROOT, *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise LinkLost(f"the launcher cannot be started: {error}") from error
        finally:
            theirs.close()
            os.close(log)
        ours.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            _, self._protocol = await loop.create_unix_connection(self._make_protocol, sock=ours)
        except BaseException:
            ours.close()
            raise

    def _make_protocol(self) -> _MessageProtocol:
        return _MessageProtocol(self._receive, self._lost)

    def _receive(self, message: Message) -> None:
        answer = self._asked.get(int(message["shim"]))
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _lost(self) -> None:
        self._protocol = None
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(LinkLost("the launcher died"))

    async def close(self) -> None:
        """Let the launcher end, and wait for it a moment."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.abort()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_wait_or_kill, process)


def _wait_or_kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
