"""What the coordinator says of itself and of its workers, from memory as it is committed."""

from pathlib import Path

from coordinator.blobs import BlobStore
from coordinator.capacity import Worker as LiveWorker
from coordinator.changes import Drain
from coordinator.drains import on_drain, on_release, on_resume
from coordinator.engine import Engine, WorkerChange
from coordinator.live import Live
from coordinator.metrics import Metrics
from coordinator.storage.protocol import Store
from hostler import __version__
from hostler.clock import Clock
from hostler.errors import InvalidRequest
from hostler.jobs import DURATION_S_MAX
from hostler.policy import LOCAL, Principal
from hostler.v1 import jobs_pb2, types_pb2
from hostler.wire.workers import worker_to_proto
from hostler.workers import Worker

REASON_CHARACTERS_MAX = 200


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

    async def list_workers(
        self, request: jobs_pb2.ListWorkersRequest, principal: Principal
    ) -> jobs_pb2.ListWorkersResponse:
        """ListWorkers: by name, then id."""
        workers = await self._engine.look(lambda live: [_worker(w, self._clock) for w in live.workers.values()])
        workers.sort(key=lambda w: (w.name, w.id))
        return jobs_pb2.ListWorkersResponse(workers=[worker_to_proto(worker) for worker in workers])

    async def drain_worker(self, request: jobs_pb2.DrainWorkerRequest, principal: Principal) -> types_pb2.Worker:
        """DrainWorker: durable before the answer."""
        by_us = 0
        if request.HasField("deadline_s"):
            if not 0 <= request.deadline_s <= DURATION_S_MAX:
                raise InvalidRequest(
                    "the deadline is a number of seconds, and none at all without it", field="deadline"
                )
            by_us = self._clock.wall_us() + round(request.deadline_s * 1e6)
        if len(request.reason) > REASON_CHARACTERS_MAX:
            raise InvalidRequest(
                f"the reason has {len(request.reason)} characters; at most {REASON_CHARACTERS_MAX}", field="reason"
            )
        drain = Drain(by_us, request.leave, request.reason)
        return await self._change_worker(lambda live, reply: on_drain(live, request.worker, drain, reply))

    async def resume_worker(self, request: jobs_pb2.WorkerRequest, principal: Principal) -> types_pb2.Worker:
        """ResumeWorker: the same."""
        return await self._change_worker(lambda live, reply: on_resume(live, request.worker, reply))

    async def release_worker(self, request: jobs_pb2.WorkerRequest, principal: Principal) -> types_pb2.Worker:
        """ReleaseWorker: the same."""
        return await self._change_worker(lambda live, reply: on_release(live, request.worker, reply))

    async def _change_worker(self, decide: WorkerChange) -> types_pb2.Worker:
        changed = await self._engine.change_worker(decide)
        return worker_to_proto(await self._engine.look(lambda live: _worker(live.workers[changed], self._clock)))

    async def describe(self, request: jobs_pb2.DescribeRequest, principal: Principal) -> jobs_pb2.DescribeResponse:
        """Describe: counts and versions."""
        answer = await self._engine.look(self._describe)
        answer.event = await self._store.newest_event()
        if principal == LOCAL:  # of no use to others, and none of their business
            answer.data_dir = str(self._data_dir)
        return answer

    def _describe(self, live: Live) -> jobs_pb2.DescribeResponse:
        return jobs_pb2.DescribeResponse(
            version=__version__,
            epoch=self._store.epoch,
            queued=live.queued,
            running=sum(len(w.held) for w in live.workers.values()),
            workers=sum(w.connected for w in live.workers.values()),
            started_at_us=self._started_at_us,
            open_by_family={family: count for family, count in live.open_by_family.items() if count},
        )

    async def metrics(self, request: jobs_pb2.MetricsRequest, principal: Principal) -> jobs_pb2.MetricsResponse:
        """Metrics: in the text format of Prometheus."""
        return jobs_pb2.MetricsResponse(text=self._metrics.text(self._engine.live, await self._blobs.total_bytes()))


def _worker(worker: LiveWorker, clock: Clock) -> Worker:
    return Worker(
        id=worker.id,
        name=worker.name,
        state=worker.state,
        slots=worker.slots,
        labels=worker.labels,
        version=worker.version,
        running=len(worker.held),
        # A connected worker speaks at least once a heartbeat.
        seen_at_us=clock.wall_us() if worker.connected else worker.seen_at_us,
        host=worker.host,
        runtimes=worker.runtimes,
        workloads=worker.workloads,
        abilities=worker.abilities,
        reason=worker.reason,
        drain_by_us=worker.drain.by_us if worker.drain is not None else 0,
        policy=worker.policy,
    )
