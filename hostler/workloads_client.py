"""Workloads over gRPC: register, look, remove. A part of `hostler.client.Client`."""

from collections.abc import Callable, Iterable

import grpc.aio

from hostler.v1 import workloads_pb2, workloads_pb2_grpc
from hostler.wire import workloads as wire
from hostler.wire.errors import CALLING
from hostler.workloads import Applied, Workload

CALL_S = 30.0


class WorkloadsClient:
    """The calls about workloads. `Client.workloads` is one."""

    def __init__(self, channel: grpc.aio.Channel, principal: Callable[[str | None], str]) -> None:
        self._stub = workloads_pb2_grpc.WorkloadsStub(channel)
        self._as = principal

    async def apply(self, workloads: Iterable[Workload], *, principal: str | None = None) -> list[Applied]:
        """Register definitions, all or none; the scripts they name must be stored already.

        Raises:
            InvalidRequest: one of them is unusable; the text names it.
        """
        request = workloads_pb2.ApplyRequest(
            workloads=[wire.workload_to_proto(w) for w in workloads], principal=self._as(principal)
        )
        with CALLING:
            answer = await self._stub.Apply(request, timeout=CALL_S)
        return [wire.applied_from_proto(a) for a in answer.applied]

    async def get(self, name: str, *, version: int = 0, principal: str | None = None) -> Workload:
        """Return a definition; version 0 is the newest.

        Raises:
            WorkloadNotFound: there is none of this name and version, or it was removed.
        """
        request = workloads_pb2.GetWorkloadRequest(name=name, version=version, principal=self._as(principal))
        with CALLING:
            return wire.workload_from_proto(await self._stub.Get(request, timeout=CALL_S))

    async def list(self, *, family: str = "", principal: str | None = None) -> list[Workload]:
        """Return the newest version of every workload, by name; only those a *family* shows when it is given."""
        request = workloads_pb2.ListWorkloadsRequest(family=family, principal=self._as(principal))
        with CALLING:
            answer = await self._stub.List(request, timeout=CALL_S)
        return [wire.workload_from_proto(w) for w in answer.workloads]

    async def remove(self, name: str, *, principal: str | None = None) -> None:
        """Remove a workload; jobs that were accepted run on.

        Raises:
            WorkloadNotFound: there is none of this name.
        """
        request = workloads_pb2.RemoveWorkloadRequest(name=name, principal=self._as(principal))
        with CALLING:
            await self._stub.Remove(request, timeout=CALL_S)
