"""The two kinds of programs that run: a coordinator and an agent, each as it is put together for real.

A node is the place of a program: it starts it, kills it and starts it again. The program is `coordinator.app` or
`worker_agent.app` itself; what a node gives it are a directory, settings, and the simulated surroundings.
"""

import asyncio
import os
import shutil
import sqlite3
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coordinator.__main__ as coordinator_program
import worker_agent.app as agent_program
from coordinator.changes import Change
from coordinator.log_store import LogStore, Piece, StoredPiece
from coordinator.storage.protocol import StoreBroken, StoreFull
from coordinator.storage.sqlite import SqliteStore
from hostler.processes import Ending
from hostler.settings import Settings
from tests.simulation.database import database
from tests.simulation.host import SimulatedHost
from tests.simulation.virtual_loop import PROCESS, SimulatedProcess
from worker_agent.agent import Agent
from worker_agent.attempts import Cause
from worker_agent.runner import Runner

if TYPE_CHECKING:
    from tests.simulation.world import World


SUPERSEDED = 3  # the exit code of an agent that another one has taken the place of


def the_process() -> SimulatedProcess:
    """The simulated process whose code runs now."""
    process = PROCESS.get()
    assert process is not None
    return process


class Node:
    """A place where a program runs."""

    def __init__(self, world: "World", name: str, directory: Path) -> None:
        self.world, self.name, self.directory = world, name, directory
        self.process: SimulatedProcess | None = None
        self.starts = 0
        self.skew_us = 0

    @property
    def runs(self) -> bool:
        """Whether its program runs."""
        return self.process is not None and self.process.alive

    def _begin(self, work: Any) -> None:
        process = self.process = SimulatedProcess(f"{self.name}-{self.starts}", self, wall_offset_us=self.skew_us)
        self.starts += 1
        self.world.note("process.started", process.name)
        self.world.loop.spawn(process, self._live(process, work))

    async def _live(self, process: SimulatedProcess, work: Any) -> None:
        try:
            outcome: Any = await work
        except Exception as error:
            outcome = error
        self.world.loop.call_as(None, 0.0, self._ended, process, outcome)

    def _ended(self, process: SimulatedProcess, outcome: Any) -> None:
        if process.alive:
            self.world.note("process.ended", process.name, _told(outcome))
            self._bury(process, silent=False)
            self.on_end(outcome)

    def on_end(self, outcome: Any) -> None:
        """The program has ended by itself."""

    def kill(self, *, silent: bool = False) -> None:
        """SIGKILL; *silent*: the host's power goes."""
        process = self.process
        if process is not None and process.alive:
            self.world.note("process.killed", process.name)
            self._bury(process, silent=silent)

    def _bury(self, process: SimulatedProcess, *, silent: bool) -> None:
        self.world.loop.kill(process)
        self.world.network.on_death(process, silent=silent)
        self.release(process)

    def release(self, process: SimulatedProcess) -> None:
        """Give back what the kernel would."""


def _told(outcome: Any) -> str:
    return "".join(traceback.format_exception(outcome)) if isinstance(outcome, Exception) else repr(outcome)


class CheckedStore(SqliteStore):
    """The real store; faults before, in and after a commit, and a check in the moment a commit is durable."""

    node: "CoordinatorNode"
    process: SimulatedProcess

    async def commit(self, changes: Sequence[Change], fetch: Collection[int]) -> dict[int, bytes]:
        """See the protocol; a disk can be slow."""
        slow_s = self.node.world.slow_commit_s()
        if changes and slow_s:
            await asyncio.sleep(slow_s)
        return await super().commit(changes, fetch)

    def _connect(self) -> sqlite3.Connection:
        connection = database().connection
        assert not connection.in_transaction
        return connection

    def _open_reader(self) -> None:
        self._reader = self._checkpointer = self._connect()

    def _close(self, *names: str) -> None:
        assert not database().connection.in_transaction

    def _open_writer(self) -> None:
        self.process = the_process()
        self.node = self.process.owner
        super()._open_writer()
        self.node.world.checker.opened(self.epoch)

    def _commit(self, changes: Sequence[Change], fetch: Collection[int]) -> dict[int, bytes]:
        world = self.node.world
        fault = world.store_fault() if changes else ""
        if fault == "full":
            world.checker.losses.begin_anew()  # memory is loaded again
            raise StoreFull("database or disk is full")
        if fault == "broken before":
            raise StoreBroken("COMMIT failed, its outcome is unknown: disk I/O error")
        works = super()._commit(changes, fetch)
        if changes:
            world.note("commit", self.epoch, [_in_short(change) for change in changes])
            world.checker.committed(self.epoch, changes)
        if fault == "broken after":
            raise StoreBroken("COMMIT failed, its outcome is unknown: disk I/O error")
        return works


def _in_short(change: Change) -> str:
    key = getattr(change, "key", "")
    outcome = getattr(change, "outcome", None)
    word = outcome.word if outcome is not None else ""
    return f"{type(change).__name__} {key or getattr(change, 'number', '')} {word}".strip()


class CheckedLogStore(LogStore):
    """The real log store, with a disk that can be full."""

    node: "CoordinatorNode"
    process: SimulatedProcess

    def open(self) -> None:
        """Note whose it is."""
        self.process = the_process()
        self.node = self.process.owner
        self.node.log_stores.append(self)
        super().open()

    def _write(self, group: list[Piece]) -> list[StoredPiece]:
        if self.node.world.log_disk_full:
            raise OSError(28, "No space left on device")
        return super()._write(group)


class CoordinatorNode(Node):
    """Where the coordinator runs."""

    def __init__(self, world: "World", name: str, directory: Path) -> None:
        super().__init__(world, name, directory)
        self.log_stores: list[CheckedLogStore] = []
        self.settings = Settings(
            data_path=str(directory),
            grpc="",
            lost_after_s=world.lost_after_s,
            lost_after_by_family_s={},
            sample_workloads=False,
            disk_reserve_bytes=0,
            heartbeat_s=world.heartbeat_s,
        )

    def start(self) -> None:
        """Start a coordinator on the data directory."""
        self.world.checker.losses.begin_anew()
        self._begin(coordinator_program.run(self.settings))

    def on_end(self, outcome: Any) -> None:
        """Its exit code says that the store is broken, or it fell over something."""
        if outcome not in (0, coordinator_program.EXIT_BROKEN):
            self.world.failed(f"I16: the coordinator ended by itself: {outcome!r}")
        if not self.runs:
            self.world.coordinator_is_down()

    def start_beside(self) -> SimulatedProcess | None:
        """Start another coordinator while the one that runs is still there; returns that one."""
        before, self.process = self.process, None
        self.start()
        return before

    def end_other(self, process: SimulatedProcess) -> None:
        """Kill a coordinator that another one has taken the place of."""
        if process.alive and process is not self.process:
            self.world.note("process.killed", process.name)
            self._bury(process, silent=False)

    def release(self, process: SimulatedProcess) -> None:
        """What was not committed is gone: no transaction is open between two steps."""
        self.world.server_is_gone(process)
        for log_store in [each for each in self.log_stores if each.process is process]:
            self.log_stores.remove(log_store)
            log_store._close_segment()


class CheckedAgent(Agent):
    """The real agent; what it is told to forget is checked."""

    node: "AgentNode"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.node = the_process().owner
        self.node.agent = self
        self.streams, self.is_up = 0, False

    def on_acknowledged(self, keys: Any) -> None:
        """See `Agent`."""
        known = list(keys)
        for key in known:
            self.node.world.checker.told_acknowledged(key)
        super().on_acknowledged(known)

    def on_log_mark(self, key: str, received: int, stored: int, *, forget: bool, rewind: bool) -> None:
        """See `Agent`."""
        if not forget:
            self.node.world.checker.told_stored(key, stored)
        super().on_log_mark(key, received, stored, forget=forget, rewind=rewind)

    def on_connected(self, mark: int) -> None:
        """See `Agent`."""
        super().on_connected(mark)
        self.node.world.checker.losses.connected(self.node)
        self.streams, self.is_up = self.streams + 1, True

    def on_disconnected(self) -> None:
        """See `Agent`."""
        super().on_disconnected()
        self.is_up = False

    def on_starts(self, commands: Any) -> None:
        """See `Agent`; some commands come later than what was said after them."""
        known = list(commands)
        world = self.node.world
        if world.chance.random() < world.late_commands:
            stream = self.streams
            world.loop.call_as(the_process(), world.chance.random() * 3, self._start_late, known, stream)
        else:
            self._start(known)

    def _start_late(self, commands: list[Any], stream: int) -> None:
        if self.is_up and self.streams == stream:  # what was on its way on another stream never comes
            self._start(commands)

    def _start(self, commands: list[Any]) -> None:
        self.node.world.note("told to start", self.node.name, [(c.sequence, c.order.key) for c in commands])
        # Only what was heard is said again: what was refused for a full disk leaves no trace either.
        self.node.said += [c for c in commands if c not in self.node.said]
        super().on_starts(commands)
        # What did not fit into the journal was refused without a trace: no stream says it again, and nothing stops it.
        self.node.said = [c for c in self.node.said if c not in commands or c.sequence <= self.journal.mark]

    def hear_again(self) -> None:
        """A command is said once more, perhaps long after."""
        if self.is_up and self.node.said:
            self._start([self.node.world.chance.choice(self.node.said)])

    def on_stop(self, key: str, sequence: int, grace_s: float, cause: Cause = Cause.STOP) -> None:
        """See `Agent`."""
        self.node.world.note("told to stop", self.node.name, key, sequence)
        super().on_stop(key, sequence, grace_s, cause)

    def on_verdict(self, key: str, kind: str, slots: int) -> None:
        """See `Agent`."""
        self.node.world.note("verdict", self.node.name, key, kind)
        super().on_verdict(key, kind, slots)


class CheckedRunner(Runner):
    """The real runner."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        the_process().owner.runner = self


class AgentNode(Node):
    """Where an agent runs: one worker on a host of its own."""

    def __init__(self, world: "World", name: str, directory: Path, host: SimulatedHost | None = None) -> None:
        super().__init__(world, name, directory)
        self.host = host or SimulatedHost(world, name)
        self.agent: CheckedAgent | None = None
        self.said: list[Any] = []  # every command to start that ever came here
        self.runner: CheckedRunner | None = None
        self.is_removed = False  # a copy that somebody has removed
        self.ending: Ending | None = None
        self.settings = Settings(
            data_path=str(directory),
            name=name,
            slots=world.slots,
            coordinator="unix:/simulated",
            disk_reserve_bytes=0,
            allow_root=True,
        )

    @property
    def worker_dir(self) -> Path:
        """Its journal, its segments."""
        return self.directory / "workers" / self.settings.name

    def copy(self, host: SimulatedHost, directory: Path) -> "AgentNode":
        """A copy of its data directory, on a host, with an agent that does not run yet."""
        made = AgentNode(self.world, self.settings.name, directory, host)
        made.name = f"{self.name}-copy"
        shutil.copytree(self.worker_dir, made.worker_dir, ignore=lambda *_: {"run"})
        for path in made.worker_dir.rglob("*"):
            if path.is_file():
                host.synced[path.stat().st_ino] = path.stat().st_size
        return made

    def start(self) -> None:
        """Start an agent."""
        self.ending = Ending()
        self._begin(agent_program.run(self.settings, self.ending))

    def ask_to_end(self) -> None:
        """SIGTERM: the agent leaves, its jobs run on."""
        if self.ending is not None and self.runs:
            self.world.note("process.terminated", self.process.name if self.process else "")
            self.ending.terminated = True
            self.ending.set()

    def on_end(self, outcome: Any) -> None:
        """In order, superseded, or it fell over something."""
        if outcome not in (0, *self.world.excused_ends):
            self.world.failed(f"I16: agent {self.name} ended by itself: {outcome!r}")
        self.world.agent_is_down(self, soon=outcome == SUPERSEDED)

    def release(self, process: SimulatedProcess) -> None:
        """Locks and descriptors; its local connections end, which its shims see."""
        for transport in self.host.transports:
            if transport.process is process and not transport.closed:
                transport.closed = True
                transport.far.arrive_later(b"")
        self.host.transports = [t for t in self.host.transports if not t.closed]
        if self.agent is not None:
            journal = self.agent.journal
            for fd in (journal._fd, journal._lock_fd):
                if fd >= 0:
                    os.close(fd)
            journal._fd = journal._lock_fd = -1
        if self.runner is not None:
            self.runner.ledgers.close()
        self.agent = self.runner = None
