"""The composition root: builds the coordinator's parts and starts and stops them in order."""

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from coordinator.access_decisions import on_key_used
from coordinator.audit import DIRECTORY as AUDIT_DIRECTORY
from coordinator.audit import AuditLog
from coordinator.blobs import BlobStore
from coordinator.engine import Engine
from coordinator.feeds import Feeds
from coordinator.gateway_certificate import gateway_certificate_of
from coordinator.log_store import LogStore, StoredPiece
from coordinator.metrics import Metrics
from coordinator.ports import Ports, ports_of
from coordinator.retention import Limit, Retention
from coordinator.rpc.access_service import AccessService
from coordinator.rpc.audit_service import AuditService
from coordinator.rpc.auditing import Auditing
from coordinator.rpc.certificates import Certificates
from coordinator.rpc.cluster_service import ClusterService
from coordinator.rpc.disk_reserve import DiskReserve
from coordinator.rpc.explain_service import ExplainService
from coordinator.rpc.feed_service import FeedService
from coordinator.rpc.file_rights import FileRights
from coordinator.rpc.files_service import FilesService
from coordinator.rpc.gatekeeper import Gatekeeper, OwnerLookup
from coordinator.rpc.jobs_service import JobsService
from coordinator.rpc.joining_service import JoiningService, Reachable
from coordinator.rpc.key_ring import KeyRing
from coordinator.rpc.log_service import LogService
from coordinator.rpc.methods import Services
from coordinator.rpc.outputs_service import OutputsService
from coordinator.rpc.records_service import RecordsService
from coordinator.rpc.retry_service import RetryService
from coordinator.rpc.server import RpcServer, joined_address
from coordinator.rpc.submissions import Submissions
from coordinator.rpc.workers_service import WorkersService, lease_s
from coordinator.rpc.workloads_service import WorkloadsService
from coordinator.secrets_file import Secrets
from coordinator.sessions import Sessions
from coordinator.shows import Shows
from coordinator.storage.migrate import SchemaError
from coordinator.storage.protocol import Kept
from coordinator.storage.sqlite import SqliteStore
from coordinator.watchers import Watchers
from coordinator.workload_loading import register_found
from hostler import logs
from hostler.clock import Clock, SystemClock
from hostler.endpoint import Endpoint, coordinator_socket, parse_bind, write_endpoint
from hostler.errors import InvalidRequest
from hostler.peers import owner_of_peer
from hostler.processes import PIECE_BYTES, settle_memory
from hostler.settings import Settings, make_private_dir, runtime_dir
from hostler.tls import Pair, files_of, is_loopback

if TYPE_CHECKING:
    from coordinator.authority import Shown  # takes long to load


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


class Core(NamedTuple):
    """What the services of a coordinator share."""

    store: SqliteStore
    engine: Engine
    sessions: Sessions
    watchers: Watchers
    metrics: Metrics
    blobs: BlobStore
    clock: Clock
    keys: KeyRing
    certificates: Certificates
    audit: AuditLog


class EngineFailed(Exception):
    """The engine ended by itself while the coordinator was starting; the log says why."""


class Coordinator:
    """A running coordinator. Entering starts it; leaving stops it in order."""

    def __init__(self, settings: Settings, *, lookup: OwnerLookup = owner_of_peer) -> None:
        """Prepare one; *lookup* says whose process is at the other end of a loopback connection."""
        self._settings = settings
        self._lookup = lookup
        self._stack = contextlib.AsyncExitStack()
        self._engine_task: asyncio.Task[None] | None = None
        self._owned: list[asyncio.Task[None]] = []  # what must not end before this does
        self.grpc_address = ""
        self.workers_port = 0

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        settings, stack = self._settings, self._stack
        ports, files = ports_of(settings), files_of(settings)
        make_private_dir(settings.data_dir)
        directory = make_private_dir(settings.data_dir / "coordinator")
        make_private_dir(runtime_dir(settings.data_dir))
        stack.callback(DataDirLock(directory).release)
        audit = await self._open_audit(directory)
        core = await self._open_core(directory, audit)
        shown = await asyncio.to_thread(self._open_authority, ports, files, core.clock) if ports.secured else None
        reachable = Reachable(shown.fingerprint if shown is not None else "")
        services, log_store = self._services(core, directory, shown, reachable)
        self._engine_task = asyncio.create_task(core.engine.run())
        self._owned.append(self._engine_task)
        stack.push_async_callback(self._end_engine, core.engine, core.sessions)
        found = Path(settings.workloads_dir) if settings.workloads_dir else None
        registering = register_found(services.workloads, core.blobs, shipped=settings.sample_workloads, directory=found)
        await self._while_engine_runs(registering)
        self._keep_retention(core, log_store)
        gate = Gatekeeper(core.keys, secured=ports.secured, lookup=self._lookup, certificates=core.certificates)
        server = RpcServer(services, gate, shown, Auditing(core.audit))
        stack.push_async_callback(server.stop)
        stack.callback(core.sessions.drop_all)  # first: workers go at once instead of being waited for
        socket = coordinator_socket(settings.data_dir)
        bound = await server.start(socket, ports.grpc, ports.workers)
        self._owned.extend(server.owned)
        self.grpc_address, self.workers_port = bound
        if host := ports.host(settings):
            reachable.address = joined_address(host, int(bound.grpc.rpartition(":")[2]))
            reachable.workers_port = bound.workers_port
        await self._certify_gateway(shown, core.clock)
        write_endpoint(settings.data_dir, Endpoint(socket=f"unix:{socket}", grpc=self.grpc_address, pid=os.getpid()))
        settle_memory(PIECE_BYTES)
        logs.get().info(
            "coordinator.started",
            socket=str(socket),
            grpc=self.grpc_address,
            workers_port=self.workers_port,
            fingerprint=reachable.fingerprint,
            epoch=core.store.epoch,
            open_jobs=len(core.engine.live.jobs),
        )

    def _open_authority(self, ports: Ports, files: Pair | None, clock: Clock) -> "Shown":
        """Open the cluster's authority, in a thread: the library behind it is loaded only now."""
        from coordinator.authority import Authority, Shown

        authority = Authority.open(self._settings.data_dir / "coordinator" / "ca", clock.wall_us())
        return Shown(authority, files, ports.names(self._settings), clock.wall_us)

    async def _certify_gateway(self, shown: "Shown | None", clock: Clock) -> None:
        """Make a certificate for a gateway of this data directory that is to listen off loopback and has none."""
        settings = self._settings
        host, _ = parse_bind(settings.http, field="http", secured=True)
        if is_loopback(host) or settings.http_certificate:
            return
        certificate = await asyncio.to_thread(gateway_certificate_of, settings, host, shown, clock.wall_us)
        self._own(certificate.run())

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        """Do *work* until this ends; that it ends by itself is a failure of the coordinator."""
        task = asyncio.create_task(work)
        self._owned.append(task)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)

    async def _while_engine_runs(self, work: Coroutine[Any, Any, None]) -> None:
        """Do *work* that waits for the engine's answers; an engine that has ended gives none.

        Raises:
            EngineFailed: it ended by itself.
        """
        assert self._engine_task is not None
        doing = asyncio.create_task(work)
        try:
            await asyncio.wait((doing, self._engine_task), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                logs.get().error("engine.failed", exc_info=self._engine_task.exception())
                raise EngineFailed
            doing.result()
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)

    async def _open_audit(self, directory: Path) -> AuditLog:
        """Open the audit log, first of all and closed last, and start its owner."""
        audit = AuditLog(directory / AUDIT_DIRECTORY, SystemClock(), keep_s=self._settings.audit_keep_s)
        await asyncio.to_thread(audit.open)
        self._stack.push_async_callback(audit.close)  # after its owner has ended
        self._own(audit.run())
        return audit

    async def _open_core(self, directory: Path, audit: AuditLog) -> Core:
        """Open what has files, and load the engine."""
        settings, clock = self._settings, SystemClock()
        try:
            store = await SqliteStore.open(directory / "hostler.db")
        except SchemaError as error:
            raise InvalidRequest(str(error)) from error
        self._stack.push_async_callback(store.close)
        sessions, watchers, metrics = Sessions(), Watchers(), Metrics(clock)
        engine = Engine(
            store=store,
            sessions=sessions,
            watchers=watchers,
            clock=clock,
            metrics=metrics,
            lost_after=self._lost_after,
            lease_s=lease_s(settings.heartbeat_s),
            max_queued=settings.max_queued,
        )
        await engine.load()
        blobs = BlobStore(directory / "files", reserve_bytes=settings.disk_reserve_bytes)
        await asyncio.to_thread(blobs.open)
        keys = KeyRing(
            lambda: engine.live.access.keys,
            clock,
            lambda key: engine.post(lambda live, now: on_key_used(live, key, now)),
        )
        certificates = Certificates(lambda: engine.live.admissions, clock)
        return Core(store, engine, sessions, watchers, metrics, blobs, clock, keys, certificates, audit)

    def _lost_after(self, family: str) -> float:
        return self._settings.lost_after_by_family_s.get(family, self._settings.lost_after_s)

    def _services(
        self, core: Core, directory: Path, shown: "Shown | None", reachable: Reachable
    ) -> tuple[Services, LogStore]:
        settings = self._settings
        store, engine, sessions, watchers, metrics, blobs, clock, keys, certificates, audit = core
        feeds, secrets, shows = Feeds(sessions), Secrets(settings.data_dir), Shows(sessions)
        rights = FileRights(store)

        def on_stored(pieces: list[StoredPiece]) -> None:
            metrics.observe_log_bytes(sum(piece.extent.length for piece in pieces))
            workers.on_stored(pieces)

        log_store = LogStore(directory / "logs", on_stored)
        log_store.open()
        self._stack.push_async_callback(log_store.close)
        workers = WorkersService(
            engine,
            log_store,
            feeds,
            secrets,
            heartbeat_s=settings.heartbeat_s,
            certificates=certificates,
            audit=Auditing(audit),
        )
        disk = DiskReserve(directory, settings.disk_reserve_bytes)
        submissions = Submissions(engine, store, blobs, secrets, rights)
        jobs = JobsService(engine, store, sessions, watchers, disk, clock, submissions)
        services = Services(
            jobs=jobs,
            explain=ExplainService(
                engine,
                store,
                jobs.find,
                clock,
                lost_after=self._lost_after,
                lease_s=lease_s(settings.heartbeat_s),
            ),
            retries=RetryService(engine, store, disk, submissions),
            log=LogService(store, log_store, watchers),
            feed=FeedService(engine, store, watchers, feeds),
            outputs=OutputsService(store, blobs, shows, jobs.live_outputs),
            files=FilesService(blobs, rights),
            workloads=WorkloadsService(engine, store, blobs, disk, rights),
            records=RecordsService(engine, store, disk, clock),
            cluster=ClusterService(engine, store, clock, settings.data_dir, metrics, blobs),
            access=AccessService(engine, keys, clock),
            audit=AuditService(audit),
            workers=workers,
            joining=JoiningService(
                engine,
                shown.authority if shown is not None else None,
                reachable,
                clock,
                lifetime_s=settings.worker_certificate_s,
            ),
        )
        return services, log_store

    def _keep_retention(self, core: Core, log_store: LogStore) -> None:
        settings = self._settings
        limits = {
            Kept.FILES: Limit(settings.files_keep_s, settings.files_bytes_max),
            Kept.LOGS: Limit(settings.logs_keep_s, settings.logs_bytes_max),
            Kept.JOBS: Limit(settings.jobs_keep_s, settings.jobs_max),
        }
        retention = Retention(core.store, core.blobs, log_store, core.engine.expire, limits=limits, clock=core.clock)
        self._own(retention.run())

    async def _end_engine(self, engine: Engine, sessions: Sessions) -> None:
        assert self._engine_task is not None
        if not self._engine_task.done():
            with contextlib.suppress(TimeoutError):
                await engine.stop()
        self._engine_task.cancel()
        await asyncio.gather(self._engine_task, return_exceptions=True)

    async def failed(self) -> None:
        """Return when one of the owners has ended by itself, which means that the process must end."""
        done, _ = await asyncio.wait(self._owned, return_when=asyncio.FIRST_COMPLETED)
        ended = done.pop()
        error = None if ended.cancelled() else ended.exception()
        logs.get().error("engine.failed", exc_info=error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        logs.get().info("coordinator.stopped")
