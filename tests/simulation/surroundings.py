"""What the code under test finds around itself: time, chance, files' syncs, threads, and the host's other side.

The product has no switches for this. Names that its modules have imported are replaced for as long as a simulation
runs, and put back afterwards.
"""

import os
import random
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import grpc.aio

import coordinator.__main__ as coordinator_program
import coordinator.app
import coordinator.audit
import coordinator.ends
import coordinator.log_store
import coordinator.storage.sqlite
import hostler.client
import hostler.logs
import worker_agent.app
import worker_agent.link
import worker_agent.orphans
import worker_agent.recovery
import worker_agent.runner
import worker_agent.shim_link
import worker_agent.supervision
from coordinator.storage.protocol import StoreBroken
from hostler.errors import Unavailable
from hostler.processes import Ending
from tests.simulation.host import SimulatedHost, SimulatedLauncher, SimulatedShim
from tests.simulation.network import SimulatedChannel
from tests.simulation.nodes import CheckedAgent, CheckedLogStore, CheckedRunner, CheckedStore, the_process
from tests.simulation.programs import SimulatedPipes
from tests.simulation.server import SimulatedServer
from worker_agent.draining import DiskRoom
from worker_agent.journal import Journal, JournalFull

if TYPE_CHECKING:
    from tests.simulation.world import World


FENCE_S = 2.0  # no host is so busy that a supervisor would need the ten seconds it has


class SimulatedThreads:
    """A pool of threads that is none: the loop executes what it is given."""

    def __init__(self, workers: int = 0, **options: Any) -> None:
        self._workers = workers

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Execute at once: nobody waits for it."""
        function(*arguments)

    def shutdown(self, *arguments: Any, **options: Any) -> None:
        """There are no threads."""


class NoLock:
    """The lock of the coordinator's data directory: not held, so that two coordinators can be simulated."""

    def __init__(self, directory: Any) -> None:
        pass

    def release(self) -> None:
        """Nothing is held."""


class NoAuditFiles:
    """The files of the audit log: a coordinator that is killed without a word would leave them open."""

    def __init__(self, directory: Any, **options: Any) -> None:
        pass

    def open(self) -> list[str]:
        """Nothing was broken."""
        return []

    def append(self, entries: Any) -> None:
        """They are written."""

    def close(self) -> None:
        """Nothing is open."""

    def closed(self) -> list[Any]:
        """Nothing was ever closed."""
        return []


class NotedLogs:
    """The structured log: its events go into the trace."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def __getattr__(self, level: str) -> Callable[..., None]:
        return self._note

    def _note(self, event: str, **fields: Any) -> None:
        self._world.note(event, {name: repr(value) for name, value in fields.items()})
        if event in ("request.failed", "workspace.failed", "engine.failed", "retention.failed"):
            error = fields.get("exc_info")
            # A broken store ends the process, as it must; and gRPC's word to who writes to a client that is gone. What
            # finds the disk full is asked again.
            is_full = event == "retention.failed" and isinstance(error, Unavailable)
            if not (is_full or isinstance(error, grpc.aio.BaseError) or _is_broken_store(error)):
                text = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else repr(fields)
                self._world.failed(f"I16: {event}: {text}")


def _is_broken_store(error: Any) -> bool:
    """Whether a broken store is what led to an error."""
    while isinstance(error, BaseException):
        if isinstance(error, StoreBroken) or "StoreBroken" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@asynccontextmanager
async def never_ending(parent_fd: int) -> AsyncIterator[Ending]:
    """`hostler.processes.end_requested`, without signals."""
    yield Ending()


def the_host() -> SimulatedHost:
    """The host of the process whose code runs now."""
    owner = the_process().owner
    host: SimulatedHost = owner.host
    return host


def the_shim() -> SimulatedShim:
    """The shim whose code runs now."""
    shim: SimulatedShim = the_process().owner
    return shim


def _append(real: Callable[..., None]) -> Callable[..., None]:
    def append(journal: Journal, kind: int, entries: list[Any]) -> None:
        if the_host().journal_full:
            raise JournalFull("no space left on the device")
        real(journal, kind, entries)

    return append


def _fsync(fd: int) -> None:
    owner = the_process().owner
    if isinstance(getattr(owner, "host", None), SimulatedHost):
        status = os.fstat(fd)
        owner.host.synced[status.st_ino] = status.st_size


class NobodyHolds:
    """`worker_agent.held_shims`: no program traces its shim."""

    HELD_MAX = 10

    @staticmethod
    def free(pid: int, start_ticks: int, *, stopped_too: bool) -> bool:
        """It is free."""
        return False


async def no_hardened_path() -> str:
    """`worker_agent.capacity.hardened_refusal`."""
    return "programs are simulated"


async def no_limits() -> tuple[str, ...]:
    """`worker_agent.capacity.limits_kept`."""
    return ()


def _program_ended(identity: Any, keys: Any, within_s: float, *others: Any) -> Any:
    return the_host().end_orphans(identity, keys, within_s)


@contextmanager
def surroundings(world: "World") -> Iterator[None]:
    """Put the simulated surroundings in the place of the real ones."""
    loop, chance = world.loop, world.chance

    def channel(address: str, *others: Any, **more: Any) -> Any:
        return SimulatedChannel(world.network)

    async def connect_local(factory: Any, path: str) -> Any:
        return await the_host().connect(factory, path)

    SimulatedServer.network = world.network
    loop.connect_local = connect_local
    replaced: list[tuple[Any, str, Any]] = [
        (time, "monotonic", loop.time),
        (time, "time_ns", lambda: world.wall_us() * 1000),
        (time, "time", lambda: world.wall_us() / 1e6),
        (time, "clock_gettime_ns", lambda clock: int(loop.now * 1e9)),
        (os, "urandom", chance.randbytes),
        (os, "fsync", _fsync),
        (os, "fdatasync", lambda fd: None),
        (random, "uniform", chance.uniform),
        (hostler.logs, "get", lambda: NotedLogs(world)),
        (hostler.client, "open_channel", channel),
        (coordinator_program, "end_requested", never_ending),
        (coordinator.app, "SqliteStore", CheckedStore),
        (coordinator.app, "LogStore", CheckedLogStore),
        (coordinator.app, "RpcServer", SimulatedServer),
        (coordinator.app, "DataDirLock", NoLock),
        (coordinator.audit, "AuditFiles", NoAuditFiles),
        (coordinator.app, "settle_memory", lambda _: None),
        (coordinator.storage.sqlite, "ThreadPoolExecutor", SimulatedThreads),
        (coordinator.log_store, "ThreadPoolExecutor", SimulatedThreads),
        (worker_agent.app, "Agent", CheckedAgent),
        (worker_agent.app, "Runner", CheckedRunner),
        (worker_agent.app, "settle_memory", lambda: None),
        (worker_agent.app, "boot_id", lambda: the_host().boot_id),
        (worker_agent.app, "host_name", lambda: the_host().name),
        (worker_agent.link, "open_channel", channel),
        (worker_agent.runner, "LauncherLink", SimulatedLauncher),
        (worker_agent.runner, "is_alive", lambda pid, ticks: the_host().is_alive(pid, ticks)),
        (worker_agent.runner, "sample_trees", lambda roots: {}),
        (worker_agent.app, "hardened_refusal", no_hardened_path),
        (worker_agent.app, "limits_kept", no_limits),
        (worker_agent.shim_link, "held_shims", NobodyHolds),
        (worker_agent.shim_link, "is_alive", lambda pid, ticks: the_host().is_alive(pid, ticks)),
        (worker_agent.recovery, "is_alive", lambda pid, ticks: the_host().is_alive(pid, ticks)),
        (worker_agent.orphans, "end_orphans", _program_ended),
        (worker_agent.supervision, "spawn", lambda order, env, *others, **fds: the_shim().spawn(order, env)),
        (worker_agent.supervision, "reap_one", lambda: the_shim().reap_one()),
        (worker_agent.supervision, "OutputPipes", SimulatedPipes),
        (Journal, "_append", _append(Journal._append)),
        (DiskRoom, "problem", lambda room: "the disk is full" if the_host().disk_short else ""),
        (coordinator.ends, "FENCE_S", FENCE_S),
    ]
    with ExitStack() as stack:
        for where, name, value in replaced:
            stack.enter_context(patch.object(where, name, value))
        yield
