"""The composition root: builds the coordinator's parts and starts and stops them in order."""

import asyncio
import contextlib
import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from coordinator.engine import Engine
from coordinator.feeds import Feeds
from coordinator.log_store import LogStore, StoredPiece
from coordinator.rpc.cluster_service import ClusterService
from coordinator.rpc.feed_service import FeedService
from coordinator.rpc.jobs_service import DiskReserve, JobsService
from coordinator.rpc.log_service import LogService
from coordinator.rpc.server import RpcServer
from coordinator.rpc.workers_service import WorkersService
from coordinator.sessions import Sessions
from coordinator.storage.migrate import SchemaError
from coordinator.storage.sqlite import SqliteStore
from coordinator.watchers import Watchers
from hostler import logs
from hostler.clock import SystemClock
from hostler.endpoint import Endpoint, coordinator_socket, parse_bind, write_endpoint
from hostler.errors import InvalidRequest
from hostler.processes import settle_memory
from hostler.settings import Settings, make_private_dir, runtime_dir


class DataDirLock:
    """The exclusive right to a coordinator's data directory, held as long as the process lives."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            InvalidRequest: another coordinator holds it.
        """
        self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InvalidRequest(
                f"another coordinator (pid {holder}) uses {directory}; stop it, or choose another --data-dir",
                field="data_dir",
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Give the directory free."""
        os.close(self._fd)


class Coordinator:
    """A running coordinator. Entering starts it; leaving stops it in order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = contextlib.AsyncExitStack()
        self._engine_task: asyncio.Task[None] | None = None
        self.grpc_address = ""

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        settings, stack = self._settings, self._stack
        tcp = parse_bind(settings.grpc, field="grpc") if settings.grpc else None
        make_private_dir(settings.data_dir)
        directory = make_private_dir(settings.data_dir / "coordinator")
        make_private_dir(runtime_dir(settings.data_dir))
        stack.callback(DataDirLock(directory).release)
        try:
            store = await SqliteStore.open(directory / "hostler.db")
        except SchemaError as error:
            raise InvalidRequest(str(error)) from error
        stack.push_async_callback(store.close)
        clock, sessions, watchers = SystemClock(), Sessions(), Watchers()
        engine = Engine(
            store=store,
            sessions=sessions,
            watchers=watchers,
            clock=clock,
            lost_after_s=settings.lost_after_s,
            max_queued=settings.max_queued,
        )
        await engine.load()

        def on_stored(pieces: list[StoredPiece]) -> None:
            workers.on_stored(pieces)

        log_store = LogStore(directory / "logs", on_stored)
        log_store.open()
        stack.push_async_callback(log_store.close)
        feeds = Feeds(sessions)
        workers = WorkersService(engine, log_store, feeds, heartbeat_s=settings.heartbeat_s)
        disk = DiskReserve(directory, settings.disk_reserve_bytes)
        jobs = JobsService(engine, store, sessions, watchers, disk, clock)
        cluster = ClusterService(engine, store, clock, settings.data_dir)
        self._engine_task = asyncio.create_task(engine.run())
        stack.push_async_callback(self._end_engine, engine, sessions)
        feed = FeedService(engine, store, watchers, feeds)
        server = RpcServer(jobs, LogService(store, log_store, watchers), feed, cluster, workers)
        stack.push_async_callback(server.stop)
        stack.callback(sessions.drop_all)  # first: workers go at once instead of being waited for
        socket = coordinator_socket(settings.data_dir)
        self.grpc_address = await server.start(socket, tcp)
        write_endpoint(settings.data_dir, Endpoint(socket=f"unix:{socket}", grpc=self.grpc_address, pid=os.getpid()))
        settle_memory()
        logs.get().info(
            "coordinator.started",
            socket=str(socket),
            grpc=self.grpc_address,
            epoch=store.epoch,
            open_jobs=len(engine.live.jobs),
        )

    async def _end_engine(self, engine: Engine, sessions: Sessions) -> None:
        assert self._engine_task is not None
        if not self._engine_task.done():
            with contextlib.suppress(TimeoutError):
                await engine.stop()
        self._engine_task.cancel()
        await asyncio.gather(self._engine_task, return_exceptions=True)

    async def failed(self) -> None:
        """Return when the engine has ended by itself, which means that the process must end."""
        assert self._engine_task is not None
        await asyncio.wait((self._engine_task,))
        error = None if self._engine_task.cancelled() else self._engine_task.exception()
        logs.get().error("engine.failed", exc_info=error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        logs.get().info("coordinator.stopped")
