"""Records over gRPC: what others run and note here. A part of `hostler.client.Client`."""

from collections.abc import Callable, Sequence

import grpc.aio

from hostler.jobs import Record
from hostler.v1 import jobs_pb2, jobs_pb2_grpc
from hostler.wire import jobs as wire
from hostler.wire.errors import CALLING

CALL_S = 30.0


class RecordsClient:
    """The calls about records. `Client.records` is one."""

    def __init__(self, channel: grpc.aio.Channel, principal: Callable[[str | None], str]) -> None:
        self._stub = jobs_pb2_grpc.RecordsStub(channel)
        self._as = principal

    async def put(self, record: Record, *, principal: str | None = None) -> None:
        """Note a record of the principal, or replace the one of the same id.

        Raises:
            InvalidRequest: it cannot be one.
            NotRunning: the cluster has a job of this id, and its word counts.
        """
        request = jobs_pb2.PutRecordRequest(record=wire.record_to_proto(record), principal=self._as(principal))
        with CALLING:
            await self._stub.Put(request, timeout=CALL_S)

    async def find(self, ids: Sequence[str] = (), *, principal: str | None = None) -> list[Record]:
        """Return the principal's records of these ids, or all of them, oldest first."""
        request = jobs_pb2.FindRecordsRequest(ids=ids, principal=self._as(principal))
        with CALLING:
            answer = await self._stub.Find(request, timeout=CALL_S)
        return [wire.record_from_proto(record) for record in answer.records]
