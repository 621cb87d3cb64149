"""The part of a fake coordinator that keeps workloads and stored bytes: the real gRPC services, in plain attributes."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hostler.errors import FileNotFound, HostlerError, InvalidRequest, WorkloadNotFound
from hostler.files_client import GO_ON
from hostler.v1 import files_pb2, files_pb2_grpc, jobs_pb2, workloads_pb2, workloads_pb2_grpc
from hostler.wire import errors as wire_errors
from hostler.wire.workloads import workload_from_proto, workload_to_proto
from hostler.workloads import Workload

PIECE_BYTES = 100_000


class FakeWorkloads(workloads_pb2_grpc.WorkloadsServicer, files_pb2_grpc.FilesServicer):
    """What a coordinator would keep."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}  # by SHA-256
        self.spoils = False  # what it says it has stored is not what was sent
        self.versions: dict[str, list[Workload]] = {}  # oldest first

    def Put(self, requests: Any, context: Any) -> Any:
        context.send_initial_metadata((GO_ON,))
        content = b"".join(message.bytes for message in requests)
        self.stored[hashlib.sha256(content).hexdigest()] = content
        digest = hashlib.sha256(b"spoiled" if self.spoils else content).hexdigest()
        return files_pb2.PutResponse(digest=digest, size_bytes=len(content))

    def Read(self, request: Any, context: Any) -> Iterator[Any]:
        content = self.stored.get(request.digest)
        if content is None:
            self._refuse(context, FileNotFound("no bytes are stored under this digest"))
        assert content is not None
        yield jobs_pb2.FileChunk(size_bytes=len(content), digest=request.digest)
        for start in range(0, len(content), PIECE_BYTES):
            yield jobs_pb2.FileChunk(bytes=content[start : start + PIECE_BYTES])

    def Apply(self, request: Any, context: Any) -> Any:
        answer = workloads_pb2.ApplyResponse()
        for message in request.workloads:
            workload = workload_from_proto(message)
            if workload.script is not None and workload.script.digest not in self.stored:
                self._refuse(context, InvalidRequest(f"workload {workload.name}: its script is not stored"))
            versions = self.versions.setdefault(workload.name, [])
            changed = not versions or replace(workload, version=versions[-1].version) != versions[-1]
            if changed:
                versions.append(replace(workload, version=len(versions) + 1))
            answer.applied.add(name=workload.name, version=len(versions), changed=changed)
        return answer

    def Get(self, request: Any, context: Any) -> Any:
        for workload in reversed(self.versions.get(request.name, [])):
            if request.version in (0, workload.version):
                return workload_to_proto(workload)
        self._refuse(context, WorkloadNotFound(f"there is no workload {request.name}"))

    def List(self, request: Any, context: Any) -> Any:
        newest = [versions[-1] for _, versions in sorted(self.versions.items())]
        return workloads_pb2.ListWorkloadsResponse(workloads=[workload_to_proto(workload) for workload in newest])

    def Remove(self, request: Any, context: Any) -> Any:
        if self.versions.pop(request.name, None) is None:
            self._refuse(context, WorkloadNotFound(f"there is no workload {request.name}"))
        return workloads_pb2.RemoveWorkloadResponse()

    def _refuse(self, context: Any, error: HostlerError) -> None:
        context.set_trailing_metadata(wire_errors.trailers_of(error))
        context.abort(wire_errors.status_of(error), error.message)
