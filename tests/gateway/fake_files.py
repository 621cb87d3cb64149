"""The parts of the fake coordinator that hold things: stored files, outputs of jobs, workloads, records."""

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from hostler.errors import FileNotFound, HostlerError, JobNotFound, NotFinished, NotRunning, WorkloadNotFound
from hostler.expansion import check_workload
from hostler.files_client import GO_ON
from hostler.jobs import Job, OutputFile, Outputs, Record
from hostler.lifecycle import State
from hostler.v1 import files_pb2, files_pb2_grpc, jobs_pb2, jobs_pb2_grpc, workloads_pb2, workloads_pb2_grpc
from hostler.wire import jobs as wire
from hostler.wire import workloads as wire_workloads
from hostler.wire.errors import status_of, trailers_of
from hostler.workloads import Workload

KEPT_BYTES_MAX = 4 * 1024 * 1024  # of one file; what is longer is only counted
PIECE_BYTES = 1024 * 1024
MODIFIED_AT_US = 1_790_000_000_500_000

Context = Any


async def fail(context: Context, error: HostlerError) -> None:
    """End the call with *error*."""
    context.set_trailing_metadata(trailers_of(error))
    await context.abort(status_of(error), error.message)


def digest_of(content: bytes) -> str:
    """The name under which bytes are stored."""
    return hashlib.sha256(content).hexdigest()


class FakeFiles(files_pb2_grpc.FilesServicer):
    """Stores bytes in memory, as far as they are few."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.refuse: HostlerError | None = None  # what every call answers
        self.aborted = 0  # uploads that did not come to their end
        self.open = 0  # uploads that are on their way

    async def Put(self, request_iterator: Any, context: Context) -> Any:
        """Store bytes."""
        if self.refuse is not None:
            return await fail(context, self.refuse)
        hashed, kept, size, complete = hashlib.sha256(), bytearray(), 0, False
        self.open += 1
        try:
            await context.send_initial_metadata((GO_ON,))
            async for request in request_iterator:
                complete = complete or request.complete
                hashed.update(request.bytes)
                size += len(request.bytes)
                if size <= KEPT_BYTES_MAX:
                    kept += request.bytes
        finally:
            self.open -= 1
            self.aborted += not complete
        if complete:
            self.stored[hashed.hexdigest()] = bytes(kept)
            self.sizes[hashed.hexdigest()] = size
        return files_pb2.PutResponse(digest=hashed.hexdigest(), size_bytes=size)

    async def Read(self, request: files_pb2.ReadFileRequest, context: Context) -> AsyncIterator[jobs_pb2.FileChunk]:
        """Stream stored bytes, as far as they were kept."""
        content = self.stored.get(request.digest)
        if content is None:
            await fail(context, FileNotFound("nothing is stored under this name"))
            return
        yield jobs_pb2.FileChunk(size_bytes=len(content), digest=request.digest, modified_at_us=MODIFIED_AT_US)
        for start in range(0, len(content), PIECE_BYTES):
            yield jobs_pb2.FileChunk(bytes=content[start : start + PIECE_BYTES])

    def store(self, content: bytes) -> str:
        """Store bytes as somebody else would, and return their name."""
        self.stored[digest_of(content)], self.sizes[digest_of(content)] = content, len(content)
        return digest_of(content)


class FakeWorkloads(workloads_pb2_grpc.WorkloadsServicer):
    """Definitions that a test puts there, or applies: each time as a new version."""

    def __init__(self) -> None:
        self.known: dict[str, Workload] = {}
        self.older: dict[tuple[str, int], Workload] = {}
        self.lists = 0  # how often all of them were asked for

    def add(self, *workloads: Workload) -> None:
        """Make definitions known."""
        self.known.update({workload.name: workload for workload in workloads})

    async def Apply(self, request: workloads_pb2.ApplyRequest, context: Context) -> Any:
        """Register definitions that are usable, all or none."""
        workloads = [wire_workloads.workload_from_proto(message) for message in request.workloads]
        for error in filter(None, map(check_workload, workloads)):
            return await fail(context, error)
        answer = workloads_pb2.ApplyResponse()
        for workload in workloads:
            before = self.known.get(workload.name, Workload(name=workload.name))
            made = replace(workload, version=before.version + 1, applied_at_us=MODIFIED_AT_US)
            self.older[before.name, before.version] = before
            self.known[made.name] = made
            answer.applied.add(name=made.name, version=made.version, changed=True)
        return answer

    async def Get(self, request: workloads_pb2.GetWorkloadRequest, context: Context) -> Any:
        """Show a definition."""
        found = self.known.get(request.name)
        if request.version and (found is None or request.version != found.version):
            found = self.older.get((request.name, request.version))
        if found is None:
            return await fail(context, WorkloadNotFound("there is no such workload"))
        return wire_workloads.workload_to_proto(found)

    async def List(self, request: workloads_pb2.ListWorkloadsRequest, context: Context) -> Any:
        """List definitions."""
        self.lists += 1
        shown = [w for _, w in sorted(self.known.items()) if not request.family or w.shown_to(request.family)]
        return workloads_pb2.ListWorkloadsResponse(workloads=[wire_workloads.workload_to_proto(w) for w in shown])

    async def Remove(self, request: workloads_pb2.RemoveWorkloadRequest, context: Context) -> Any:
        """Forget a definition."""
        removed = self.known.pop(request.name, None)
        if removed is None:
            return await fail(context, WorkloadNotFound("there is no such workload"))
        self.older[removed.name, removed.version] = removed
        return workloads_pb2.RemoveWorkloadResponse()


class FakeRecords(jobs_pb2_grpc.RecordsServicer):
    """What somebody else runs, by owner and id."""

    def __init__(self, jobs: dict[str, Job], owner_of: Callable[[str], str]) -> None:
        self.jobs = jobs
        self.owner_of = owner_of
        self.known: dict[tuple[str, str], Record] = {}

    async def Put(self, request: jobs_pb2.PutRecordRequest, context: Context) -> Any:
        """Note a record."""
        owner = self.owner_of(request.principal)
        record = wire.record_from_proto(request.record)
        if record.id in self.jobs:
            return await fail(context, NotRunning(f"job {record.id} is run by this cluster, whose own word counts"))
        self.known[owner, record.id] = record
        return jobs_pb2.PutRecordResponse()

    async def Find(self, request: jobs_pb2.FindRecordsRequest, context: Context) -> Any:
        """Find records of a principal."""
        found = [
            record
            for (owner, name), record in self.known.items()
            if owner == self.owner_of(request.principal) and (not request.ids or name in request.ids)
        ]
        return jobs_pb2.FindRecordsResponse(records=[wire.record_to_proto(record) for record in found])


class FakeOutputs:
    """The calls of the service Jobs that show what jobs have put out."""

    jobs: dict[str, Job]
    outputs: dict[str, dict[str, bytes]]
    expired: set[str]  # jobs whose files were removed

    async def ListOutputs(self, request: jobs_pb2.ListOutputsRequest, context: Context) -> Any:
        """List output files."""
        if (job := self.visible(request.id, request.principal, request.family)) is None:
            return await fail(context, JobNotFound("no such job"))
        if job.id in self.expired:
            return wire.outputs_to_proto(Outputs(expired=True))
        live = job.state is not State.FINISHED
        files = tuple(
            OutputFile(
                path=path,
                size_bytes=len(content),
                modified_at_us=MODIFIED_AT_US,
                digest="" if live else digest_of(content),
            )
            for path, content in sorted(self.outputs.get(job.id, {}).items())
        )
        missing = () if job.end is None else job.end.outputs_missing
        return wire.outputs_to_proto(Outputs(files=files, live=live, missing=missing))

    async def ReadOutput(
        self, request: jobs_pb2.ReadOutputRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.FileChunk]:
        """Stream an output file, or a part of it."""
        if (job := self.visible(request.id, request.principal, request.family)) is None:
            await fail(context, JobNotFound("no such job"))
            return
        content = None if job.id in self.expired else self.outputs.get(job.id, {}).get(request.path)
        if content is None:
            await fail(context, FileNotFound("the job has no such file"))
            return
        digest = digest_of(content) if job.state is State.FINISHED else ""
        yield jobs_pb2.FileChunk(size_bytes=len(content), digest=digest, modified_at_us=MODIFIED_AT_US)
        end = request.offset + request.length if request.length else len(content)
        for start in range(request.offset, min(end, len(content)), PIECE_BYTES):
            yield jobs_pb2.FileChunk(bytes=content[start : min(start + PIECE_BYTES, end)])

    async def ReadArchive(
        self, request: jobs_pb2.ReadArchiveRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.FileChunk]:
        """Stream everything as one zip."""
        if (job := self.visible(request.id, request.principal, request.family)) is None:
            await fail(context, JobNotFound("no such job"))
            return
        if job.state is not State.FINISHED:
            await fail(context, NotFinished("the job runs still"))
            return
        if job.id in self.expired:
            await fail(context, FileNotFound("the files were removed when their time was over"))
            return
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for path, content in self.outputs.get(job.id, {}).items():
                archive.writestr(zipfile.ZipInfo(path), content)  # the same bytes each time
        content = made.getvalue()
        yield jobs_pb2.FileChunk(size_bytes=len(content))
        for start in range(0, len(content), PIECE_BYTES):
            yield jobs_pb2.FileChunk(bytes=content[start : start + PIECE_BYTES])

    def visible(self, name: str, said: str, family: str = "") -> Job | None:
        """A job where it exists for somebody."""
        raise NotImplementedError
