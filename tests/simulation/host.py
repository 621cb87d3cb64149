"""A simulated host: its boot, its processes, its shims and the local sockets between them.

The shims are the real ones (`worker_agent.shim`), with the real supervision and real segments, only that their
epoll loop, their sockets and the programs below them are simulated.
"""

import asyncio
import contextlib
import math
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostler.jobs import Receipt, SentSignal
from tests.simulation.programs import SimulatedPipes, SimulatedProgram, SimulatedTree, Truth, truncate_torn
from tests.simulation.virtual_loop import PROCESS, SimulatedProcess, VirtualLoop
from worker_agent import lease
from worker_agent.attempts import Order
from worker_agent.confinement import FREE
from worker_agent.ledger import SegmentIdentity, SegmentWriter
from worker_agent.limits import Limiter
from worker_agent.process_tree import Reaped
from worker_agent.shim import ORPHAN_S, Shim
from worker_agent.shim_link import Message, ShimLink, meet
from worker_agent.shim_protocol import QUEUE_MAX

if TYPE_CHECKING:
    from tests.simulation.world import World

_PEER = struct.Struct("iII")


class ShimKilled(BaseException):
    """The shim is killed in the middle of what it does."""


class SimulatedHost:
    """One machine that runs one worker."""

    def __init__(self, world: "World", name: str, worker: str = "") -> None:
        self.world = world
        self.loop: VirtualLoop = world.loop
        self.name = name
        self.worker = worker or name  # whose agents run here
        self.boots = 1
        self.journal_full = False
        self.disk_short = False  # less is free than new work needs
        self.programs: list[SimulatedProgram] = []  # those that live
        self.shims: dict[int, SimulatedShim] = {}  # by pid
        self.sockets: dict[str, SimulatedShim] = {}  # by path
        self.synced: dict[int, int] = {}  # inode -> length at the last fsync
        self.transports: list[LocalTransport] = []
        self._pid = 100

    @property
    def boot_id(self) -> str:
        """The kernel's name for this boot."""
        return f"boot-{self.name}-{self.boots}"

    def next_pid(self) -> int:
        """A pid that was never used."""
        self._pid += 1
        return self._pid

    def is_alive(self, pid: int, start_ticks: int) -> bool:
        """`worker_agent.process_tree.is_alive`."""
        shim = self.shims.get(pid)
        return shim is not None and shim.process.alive

    def crash(self, *directories: Path) -> None:
        """The power goes; the processes of its agents are dead already."""
        self.world.checker.losses.begin_anew()
        for program in self.programs:
            program.living.clear()
            self.world.checker.program_ended(program)
        self.programs.clear()
        for shim in list(self.shims.values()):
            shim.die()
        self.sockets.clear()
        self.boots += 1
        self.journal_full = self.disk_short = False
        for directory in directories:
            journal = directory / "agent.journal"
            if journal.exists():
                truncate_torn(journal, self.synced.get(journal.stat().st_ino, 0), self.world.chance)

    def remove(self, directory: Path) -> None:
        """Somebody removes a data directory, and everything that was started from it."""
        for shim in [each for each in self.shims.values() if each.path.startswith(f"{directory}/")]:
            shim.die()
            for program in [each for each in self.programs if each.shim is shim]:
                program.kill_all()

    def end_orphans(self, identity: SegmentIdentity | None, keys: Any, within_s: float) -> Receipt:
        """`worker_agent.orphans.end_orphans`: by the cgroup and by the mark in the environment."""
        killed = 0
        for program in list(self.programs):
            if program.key in keys or (identity and program.shim.pid == identity.pid):
                killed += len(program.living)
                program.kill_all()
        at_us = self.world.wall_us()
        signals = (SentSignal(signal="SIGKILL", at_us=at_us, processes=killed),) if killed else ()
        return Receipt(signals=signals, verified_by="search+cgroup", verified_at_us=at_us)

    async def connect(self, factory: Any, path: str) -> tuple[Any, Any]:
        """Connect a process of this host to a shim's socket."""
        await asyncio.sleep(self.local_delay())
        shim = self.sockets.get(path)
        if shim is None or not shim.process.alive:
            raise ConnectionRefusedError(path)
        process = PROCESS.get()
        assert process is not None
        protocol = factory()
        transport = LocalTransport(self, process, protocol, shim)
        self.transports.append(transport)
        protocol.connection_made(transport)
        shim.backlog.append(transport.far)
        shim.wake(shim.accept_all)
        return transport, protocol

    def local_delay(self) -> float:
        """How long it takes until a local process has been woken."""
        chance = self.world.chance
        return 0.00002 + chance.random() * (0.05 if chance.random() < 0.01 else 0.0003)


class LocalTransport(asyncio.Transport):
    """The agent's end of a unix socket."""

    def __init__(self, host: SimulatedHost, process: SimulatedProcess, protocol: Any, shim: "SimulatedShim") -> None:
        super().__init__()
        self.host, self.process, self.protocol = host, process, protocol
        self.far = ShimSocket(shim, self)
        self.closed = False
        self._last = 0.0

    def write(self, content: Any) -> None:
        """Send to the shim."""
        if not self.closed:
            self.far.arrive_later(bytes(content))

    def hear(self, content: bytes) -> None:
        """The shim sent something; it arrives in the agent's process, in order."""
        self._soon(lambda: None if self.closed else self.protocol.data_received(content))

    def _soon(self, call: Callable[[], None]) -> None:
        loop = self.host.loop
        self._last = max(self._last, loop.now + self.host.local_delay())
        loop.call_as(self.process, self._last - loop.now, call)

    def lose(self) -> None:
        """The other end was closed."""
        self._soon(self._lost)

    def _lost(self) -> None:
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(None)

    def close(self) -> None:
        """Close this end."""
        self.abort()

    def abort(self) -> None:
        """Close this end."""
        if not self.closed:
            self.closed = True
            self.far.arrive_later(b"")
            self.host.loop.call_as(self.process, 0, self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known."""
        return default


class ShimSocket:
    """The shim's end: what `socket.socket` is to the real one."""

    def __init__(self, shim: "SimulatedShim", near: LocalTransport) -> None:
        self._shim, self._near = shim, near
        self._fd = shim.next_fd()
        self._unread = b""
        self._ended = False
        self._last = 0.0
        self.closed = False

    def arrive_later(self, content: bytes) -> None:
        """Bytes on their way to the shim; none of them: the end."""
        loop = self._shim.host.loop
        self._last = max(self._last, loop.now + self._shim.host.local_delay())
        loop.call_as(None, self._last - loop.now, self._arrive, content)

    def _arrive(self, content: bytes) -> None:
        self._unread += content
        self._ended = self._ended or not content
        self._shim.wake(self.readable)

    def readable(self) -> None:
        """Have the shim read, if there is something."""
        if not self.closed and self._fd in self._shim.known_fds() and (self._unread or self._ended):
            self._shim._on_event(self._fd)
            if self._unread and not self.closed:
                self._shim.wake(self.readable)

    def fileno(self) -> int:
        """A number of its own."""
        return self._fd

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """The peer is our user."""
        assert option == socket.SO_PEERCRED
        return _PEER.pack(1, os.geteuid(), 0)

    def recv(self, size: int) -> bytes:
        """Read; nothing at the end."""
        if self._unread:
            content, self._unread = self._unread[:size], self._unread[size:]
            return content
        if self._ended:
            return b""
        raise BlockingIOError

    def send(self, content: bytes) -> int:
        """Write."""
        if self._near.closed or not self._near.process.alive:
            raise BrokenPipeError
        self._near.hear(bytes(content))
        return len(content)

    def close(self) -> None:
        """Close; the agent hears of it."""
        if not self.closed:
            self.closed = True
            self._near.lose()


class _NoPoll:
    """The shim's epoll: what is readable is said by the model."""

    def __init__(self, shim: "SimulatedShim") -> None:
        self.shim = shim

    def register(self, fd: int, events: int) -> None:
        """Nothing to do."""

    def modify(self, fd: int, events: int) -> None:
        """Nothing to do."""

    def unregister(self, fd: int) -> None:
        """Nothing to do."""


class _Listener:
    """The shim's listening socket."""

    def __init__(self, shim: "SimulatedShim") -> None:
        self._shim = shim

    def accept(self) -> tuple[ShimSocket, None]:
        """Take a connection."""
        if not self._shim.backlog:
            raise BlockingIOError
        return self._shim.backlog.popleft(), None

    def close(self) -> None:
        """Listen no more."""


class NoMemoryWatch:
    """The kernel never runs out of memory."""

    def count(self) -> int:
        """How many processes it has killed."""
        return 0

    def close(self) -> None:
        """Nothing is open."""


class SimulatedShim(Shim):
    """The real shim in a process of its own, without its loop."""

    def __init__(self, host: SimulatedHost, identity: SegmentIdentity, segments: Path, path: str) -> None:
        self.host = host
        self.pid = identity.pid
        self.path = path
        self.process = SimulatedProcess(f"{host.name}.shim-{identity.shim}", self)
        self.process.unordered = True  # epoll says which sockets can be read, not which could be first
        self.programs: list[SimulatedProgram] = []
        self.backlog: deque[ShimSocket] = deque()
        self._fds = 0
        self._timer: asyncio.TimerHandle | None = None
        self._identity, self._confinement = identity, FREE
        self._tree: Any = SimulatedTree(self)
        self._listener: Any = _Listener(self)
        self._base_env = {}
        self._generation = 0
        self._agent = None
        self._strangers = {}
        self._current = None
        self._queue = deque()
        self._unsaid = []
        self._due_unsaid = math.inf
        self._last_ends = deque(maxlen=QUEUE_MAX + 1)
        self._retired = False
        self._poll: Any = _NoPoll(self)
        self._null = self._home = self._score = -1
        self._orphan_until = host.loop.now + ORPHAN_S
        self._listen_fd = self._woken = -2
        self._segment = SegmentWriter(segments, identity)
        self._limiter = Limiter("")
        self._memory: Any = NoMemoryWatch()
        self._lease = lambda term: lease.remaining_s(str(Path(path).parent), identity.boot_id, term)

    def next_fd(self) -> int:
        """A descriptor's number."""
        self._fds += 1
        return self._fds

    def known_fds(self) -> set[int]:
        """Connections that are open."""
        heard = self.__dict__.get("_old_agents", ())  # of a mutant that does not close them
        return {*self._strangers, *heard} | ({self._agent.fd} if self._agent is not None else set())

    def wake(self, event: Callable[[], None]) -> None:
        """Something has happened that the shim's loop sees next."""
        if self.process.alive:
            self.host.loop.call_as(self.process, 0, self._round, event)

    def _round(self, event: Callable[[], None] | None) -> None:
        now = self.host.loop.now
        due = self._next_due()
        try:
            if event is not None:
                event()
            if due <= now:
                self._tick(now)
        except ShimKilled:
            self.host.world.note("shim.killed", self.process.name)
            self.die()
        if not self.process.alive:
            return
        if self._current is None and (self._retired or self._orphaned(now)):
            self._leave()
            return
        if self._timer is not None:
            self._timer.cancel()
        due = self._next_due()
        if due < math.inf:
            self._timer = self.host.loop.call_as(self.process, max(0.0, due - now), self._round, None)

    def accept_all(self) -> None:
        """Take connections; what has come on them already can be read."""
        while self.backlog:
            waiting = self.backlog[0]
            self._accept()
            self.wake(waiting.readable)

    def on_child(self) -> None:
        """SIGCHLD."""
        if self._current is not None:
            self._current.reap()
            self._check_over()

    def on_pipe(self) -> None:
        """The program wrote."""
        if self._current is not None and self._current.reads(SimulatedPipes.FD):
            self._current.on_readable(SimulatedPipes.FD)

    def spawn(self, order: Order, env: Any) -> int:
        """`worker_agent.process_tree.spawn`, in this shim."""
        world = self.host.world
        doom = world.doom_of_spawn(self)
        if doom == "before":
            world.checker.recorded.add(order.key)
            raise ShimKilled
        program = SimulatedProgram(self.host, self, order, env)
        self.programs[:] = [program]  # the one before is over, and its pipe was emptied
        self.host.programs.append(program)
        world.note("starts", order.key, self.host.name)
        world.checker.program_started(
            program, Truth(order.key, program.job, program.stage, self.host.name, self.host.boot_id, world.loop.now)
        )
        if doom == "after":
            raise ShimKilled
        return program.pid

    def reap_one(self) -> Reaped | None:
        """`worker_agent.process_tree.reap_one`, in this shim."""
        reaped: Reaped | None = self._tree.reap()
        return reaped

    def _leave(self) -> None:
        """The end of the shim's process, in order."""
        self.close()
        self.die()
        self.host.sockets.pop(self.path, None)
        Path(self.path).unlink(missing_ok=True)

    def die(self) -> None:
        """The process is gone; the kernel closes its sockets, its files stay as they are."""
        if not self.process.alive:
            return
        connections = [*self._strangers.values(), *([self._agent] if self._agent else [])]
        for connection in connections:
            connection.sock.close()
        for waiting in self.backlog:
            waiting.close()
        for program in self.programs:
            program.orphan = True
        self.host.loop.kill(self.process)
        self.host.shims.pop(self.pid, None)
        if self._segment.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._segment.fd)
            self._segment.fd = -1


class SimulatedLauncher:
    """`worker_agent.shim_link.LauncherLink`: makes shims on the host of the agent that asks."""

    pid = 0  # it adopts nobody

    def __init__(self, *, segments: Path, sockets: Path, **others: Any) -> None:
        self._segments, self._sockets = segments, sockets

    async def make(self, shim: int, generation: int, within_s: float) -> tuple[ShimLink, Message]:
        """Fork a shim and connect to it."""
        process = PROCESS.get()
        assert process is not None
        host: SimulatedHost = process.owner.host
        loop = host.loop
        forked: asyncio.Future[SimulatedShim] = loop.create_future()
        path = self._sockets / f"shim-{shim}.sock"
        nonce = f"{host.world.chance.getrandbits(64):016x}"

        def fork() -> None:
            if not process.alive:
                return  # the launcher ends with its agent
            identity = SegmentIdentity(shim, host.boot_id, host.next_pid(), 1, nonce)
            made = SimulatedShim(host, identity, self._segments, str(path))
            path.touch()
            host.shims[made.pid] = made
            host.sockets[str(path)] = made
            made.wake(lambda: None)
            if not forked.done():
                forked.set_result(made)

        loop.call_as(None, 0.002 + host.local_delay(), fork)
        await asyncio.sleep(0)
        made = await forked
        link = ShimLink(shim=shim, pid=made.pid, start_ticks=1, nonce=nonce, path=path)
        return link, await meet(link, generation, within_s)

    def reap(self) -> None:
        """There is no process."""

    async def close(self) -> None:
        """There is no process."""
