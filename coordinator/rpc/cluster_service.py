"""What the coordinator says of itself and of its workers, from memory."""

from pathlib import Path

from coordinator.blobs import BlobStore
from coordinator.capacity import Worker as LiveWorker
from coordinator.engine import Engine
from coordinator.metrics import Metrics
from coordinator.rpc.context import Caller, parse
from coordinator.storage.protocol import Store
from hostler import __version__
from hostler.clock import Clock
from hostler.v1 import jobs_pb2
from hostler.wire.workers import worker_to_proto
from hostler.workers import Worker, WorkerState


class ClusterService:
    """See ``protos/hostler/v1/jobs.proto``, service Cluster."""

    def __init__(
        self, engine: Engine, store: Store, clock: Clock, data_dir: Path, metrics: Metrics, blobs: BlobStore
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._blobs = blobs
        self._store = store
        self._data_dir = data_dir
        self._clock = clock
        self._started_at_us = clock.wall_us()

    async def list_workers(self, data: bytes, caller: Caller) -> jobs_pb2.ListWorkersResponse:
        """ListWorkers: by name, then id."""
        parse(jobs_pb2.ListWorkersRequest, data)
        workers = sorted(self._engine.live.workers.values(), key=lambda w: (w.name, w.id))
        return jobs_pb2.ListWorkersResponse(workers=[worker_to_proto(_worker(w, self._clock)) for w in workers])

    async def describe(self, data: bytes, caller: Caller) -> jobs_pb2.DescribeResponse:
        """Describe: counts and versions."""
        parse(jobs_pb2.DescribeRequest, data)
        live = self._engine.live
        return jobs_pb2.DescribeResponse(
            version=__version__,
            epoch=self._store.epoch,
            queued=live.queued,
            running=sum(len(w.held) for w in live.workers.values()),
            workers=sum(w.connected for w in live.workers.values()),
            started_at_us=self._started_at_us,
            data_dir=str(self._data_dir),
            open_by_family={family: count for family, count in live.open_by_family.items() if count},
        )

    async def metrics(self, data: bytes, caller: Caller) -> jobs_pb2.MetricsResponse:
        """Metrics: in the text format of Prometheus."""
        parse(jobs_pb2.MetricsRequest, data)
        return jobs_pb2.MetricsResponse(text=self._metrics.text(self._engine.live, await self._blobs.total_bytes()))


def _worker(worker: LiveWorker, clock: Clock) -> Worker:
    if worker.connected:
        state = WorkerState.DRAINING if worker.draining else WorkerState.CONNECTED
    else:
        state = WorkerState.GONE if worker.goodbye else WorkerState.UNREACHABLE
    return Worker(
        id=worker.id,
        name=worker.name,
        state=state,
        slots=worker.slots,
        labels=worker.labels,
        version=worker.version,
        running=len(worker.held),
        # A connected worker speaks at least once a heartbeat.
        seen_at_us=clock.wall_us() if worker.connected else worker.seen_at_us,
        host=worker.host,
        runtimes=worker.runtimes,
        workloads=worker.workloads,
    )
