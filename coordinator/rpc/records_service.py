"""The service that keeps what others run elsewhere and have noted here."""

import asyncio

from coordinator.changes import RecordPut
from coordinator.decisions import Decision
from coordinator.effects import Answer
from coordinator.engine import Engine
from coordinator.instant import Instant
from coordinator.live import Live
from coordinator.rpc.disk_reserve import DiskReserve
from coordinator.storage.protocol import Store
from hostler.clock import Clock
from hostler.errors import HostlerError, InvalidRequest, NotRunning, TooLarge
from hostler.jobs import Record
from hostler.policy import Principal
from hostler.v1 import jobs_pb2
from hostler.wire.jobs import record_from_proto, record_to_proto

ID_CHARACTERS_MAX = 200
CONTAINERS_MAX = 100
IDS_MAX = 10_000
STATUSES = ("success", "failed", "running")


class RecordsService:
    """See ``protos/hostler/v1/jobs.proto``, service Records."""

    def __init__(self, engine: Engine, store: Store, disk: DiskReserve, clock: Clock) -> None:
        self._engine = engine
        self._store = store
        self._disk = disk
        self._clock = clock

    async def put(self, request: jobs_pb2.PutRecordRequest, principal: Principal) -> jobs_pb2.PutRecordResponse:
        """Put: durable before it is answered; beyond 10,000 of a principal the oldest goes."""
        self._disk.check()
        record = record_from_proto(request.record)
        if error := _check(record):
            raise error
        job = await self._store.get_job(record.id)
        if job is not None and principal.sees(job.spec.owner):
            raise _ours(record)
        noted = Record(id=record.id, status=record.status, containers=record.containers, at_us=self._clock.wall_us())
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        owner = principal.name

        def decide(live: Live, now: Instant) -> Decision:
            job = live.job(record.id)
            if job is not None and principal.sees(job.owner):
                return Decision([], [Answer(reply, _ours(record))])
            return Decision([RecordPut(owner, noted)], [Answer(reply, None)])

        self._engine.post(decide)
        await reply
        return jobs_pb2.PutRecordResponse()

    async def find(self, request: jobs_pb2.FindRecordsRequest, principal: Principal) -> jobs_pb2.FindRecordsResponse:
        """Find: those of the principal alone."""
        if len(request.ids) > IDS_MAX:
            raise TooLarge(f"{len(request.ids)} ids in one call; at most {IDS_MAX}", field="ids")
        found = await self._store.find_records(principal.name, request.ids)
        return jobs_pb2.FindRecordsResponse(records=[record_to_proto(record) for record in found])


def _ours(record: Record) -> HostlerError:
    return NotRunning(f"job {record.id} is run by this cluster, whose own word counts")


def _check(record: Record) -> HostlerError | None:
    if not record.id or len(record.id) > ID_CHARACTERS_MAX:
        return InvalidRequest(f"an id has 1 to {ID_CHARACTERS_MAX} characters", field="id")
    if record.status not in STATUSES:
        return InvalidRequest(f"status is one of {', '.join(STATUSES)}", field="status")
    if len(record.containers) > CONTAINERS_MAX or any(len(name) > ID_CHARACTERS_MAX for name in record.containers):
        return InvalidRequest(f"containers holds at most {CONTAINERS_MAX} names", field="containers")
    return None
