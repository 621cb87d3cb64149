"""The service that keeps workloads: decode, check, ask the engine, encode."""

import asyncio

from coordinator.blobs import BlobStore
from coordinator.engine import Engine
from coordinator.rpc.disk_reserve import DiskReserve
from coordinator.rpc.file_rights import FileRights
from coordinator.storage.protocol import Store
from hostler.errors import InvalidRequest, TooLarge, WorkloadNotFound
from hostler.expansion import check_workload
from hostler.policy import Principal
from hostler.v1 import workloads_pb2
from hostler.wire.workloads import workload_from_proto, workload_to_proto
from hostler.workloads import Applied, Workload

ITEMS_MAX = 1000


class WorkloadsService:
    """See ``protos/hostler/v1/workloads.proto``; each method is one RPC."""

    def __init__(self, engine: Engine, store: Store, blobs: BlobStore, disk: DiskReserve, rights: FileRights) -> None:
        self._engine = engine
        self._store = store
        self._blobs = blobs
        self._disk = disk
        self._rights = rights

    async def apply(self, request: workloads_pb2.ApplyRequest, principal: Principal) -> workloads_pb2.ApplyResponse:
        """Apply: all or none."""
        if len(request.workloads) > ITEMS_MAX:
            raise TooLarge(f"{len(request.workloads)} workloads in one call; at most {ITEMS_MAX}", field="workloads")
        self._disk.check()
        workloads = []
        for message in request.workloads:
            message.origin = ""  # whoever asks is somebody who applied it
            try:
                workloads.append(workload_from_proto(message))
            except ValueError as error:
                raise InvalidRequest(f"workload {message.name[:100]}: {error}", field="workloads") from error
        scripts = {w.script.digest: w.name for w in workloads if w.script is not None}
        for digest in await self._rights.hidden(principal, scripts):
            raise _script_missing(scripts[digest])
        answer = workloads_pb2.ApplyResponse()
        for applied in await self.register(workloads):
            answer.applied.add(name=applied.name, version=applied.version, changed=applied.changed)
        return answer

    async def register(self, workloads: list[Workload]) -> list[Applied]:
        """Check and register definitions.

        Raises:
            InvalidRequest: one cannot be used; the text names it.
        """
        if len({workload.name for workload in workloads}) < len(workloads):
            raise InvalidRequest("a workload is there twice", field="workloads")
        for workload in workloads:
            error = await asyncio.to_thread(check_workload, workload)
            if error is not None:
                raise error
        scripts = {w.script.digest: w.name for w in workloads if w.script is not None}
        for digest in await self._blobs.touch(tuple(scripts)):
            raise _script_missing(scripts[digest])
        return await self._engine.apply_workloads(workloads)

    async def get(self, request: workloads_pb2.GetWorkloadRequest, principal: Principal) -> workloads_pb2.Workload:
        """Get: one definition."""
        newest, known = await self._engine.look(
            lambda live: (live.workloads.get(request.name), live.workload_versions.get(request.name, 0))
        )
        found = newest
        if request.version and (newest is None or request.version != newest.version):
            # Also of a workload that was removed: jobs that ran name its versions.
            found = await self._store.get_workload(request.name, request.version) if known else None
        if found is None:
            which = f" version {request.version} of" if known and request.version else ""
            raise WorkloadNotFound(f"there is no{which} workload {request.name[:100]!r}", field="name")
        return workload_to_proto(found)

    async def list(
        self, request: workloads_pb2.ListWorkloadsRequest, principal: Principal
    ) -> workloads_pb2.ListWorkloadsResponse:
        """List: the newest versions, by name."""
        family = request.family
        known = await self._engine.look(lambda live: dict(live.workloads))
        shown = [known[name] for name in sorted(known) if not family or known[name].shown_to(family)]
        return workloads_pb2.ListWorkloadsResponse(workloads=[workload_to_proto(workload) for workload in shown])

    async def remove(
        self, request: workloads_pb2.RemoveWorkloadRequest, principal: Principal
    ) -> workloads_pb2.RemoveWorkloadResponse:
        """Remove: no new job can name it."""
        await self._engine.remove_workload(request.name)
        return workloads_pb2.RemoveWorkloadResponse()


def _script_missing(workload: str) -> InvalidRequest:
    return InvalidRequest(f"workload {workload}: its script is not stored; store it first", field="script")
