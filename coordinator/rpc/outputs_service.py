"""Output files: of finished jobs from the blobs, of running ones from the worker that has them.

No path of a file system comes from outside: a finished job's file is found by its exact path in the store, a running
job's is looked up by its worker.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import grpc.aio

from coordinator.archive import Member, archive_bytes, archive_pieces
from coordinator.blobs import BlobStore
from coordinator.rpc.context import Caller, Context, parse, visible
from coordinator.rpc.files_service import check_piece
from coordinator.shows import Showing, Shows
from coordinator.storage.protocol import Store, StoredOutputs
from hostler.errors import FileNotFound, InvalidRequest, NotFinished, Unavailable
from hostler.ids import AttemptKey, JobId, is_uuid
from hostler.jobs import Job, OutputFile, Outputs
from hostler.lifecycle import State
from hostler.policy import Principal
from hostler.v1 import jobs_pb2, workers_pb2
from hostler.wire.jobs import outputs_to_proto

NUMBER_MAX = (1 << 62) - 1
LAST_WORD_S = 1.0
ON_THE_WORKER = frozenset({State.RUNNING, State.STOPPING})


Chunks = AsyncGenerator[jobs_pb2.FileChunk, None]


class OutputsService:
    """Jobs.ListOutputs, ReadOutput and ReadArchive, and Workers.SendOutput."""

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        shows: Shows,
        live_outputs: Callable[[str], tuple[OutputFile, ...]],
    ) -> None:
        """Serve outputs; *live_outputs* gives what a running job's worker has listed last."""
        self._store = store
        self._blobs = blobs
        self._shows = shows
        self._live_outputs = live_outputs

    async def list_outputs(
        self, request: jobs_pb2.ListOutputsRequest, principal: Principal
    ) -> jobs_pb2.ListOutputsResponse:
        """ListOutputs: what is kept, or what a running job has by now, which its worker knows."""
        found = await self._find(request.id, principal, request.family)
        job = found.job
        if job.state in ON_THE_WORKER:
            self._shows.reach(job.worker)
        if job.state is not State.FINISHED:
            files = sorted(self._live_outputs(job.id), key=lambda file: file.path)
            return outputs_to_proto(Outputs(files=tuple(files), live=True))
        missing = () if job.end is None else job.end.outputs_missing
        return outputs_to_proto(Outputs(files=found.files, expired=found.expired, missing=missing))

    async def read_output(self, request: jobs_pb2.ReadOutputRequest, principal: Principal) -> Chunks:
        """ReadOutput: first what follows, then the bytes."""
        _check_range(request.offset, request.length)
        job = await self._job(request.id, principal, request.family)
        begun = False
        if job.state is not State.FINISHED:
            try:
                async with aclosing(self._read_live(job, request)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
                return
            except (FileNotFound, Unavailable):
                # The job may have ended in between: then its worker has the file no more, and it is kept here.
                job = await self._job(request.id, principal, request.family)
                if begun or job.state is not State.FINISHED:
                    raise
        async with aclosing(self._read_kept(job, request, principal)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _read_kept(self, job: Job, request: jobs_pb2.ReadOutputRequest, principal: Principal) -> Chunks:
        file = await self._store.find_output(job.id, request.path)
        if file is None:
            found = await self._find(job.id, principal)
            raise _expired(job) if found.expired else _no_such_file(job, request.path)
        async with self._blobs.using((file.digest,)) as missing:
            if missing:
                found = await self._find(job.id, principal)
                raise _expired(job) if found.expired else _damaged(job, request.path)
            yield _head(file.size_bytes, file.modified_at_us, file.digest)
            async with aclosing(self._blobs.read(file.digest, request.offset, request.length)) as pieces:
                async for piece in pieces:
                    yield jobs_pb2.FileChunk(bytes=piece)

    async def _read_live(self, job: Job, request: jobs_pb2.ReadOutputRequest) -> Chunks:
        if job.state not in ON_THE_WORKER:
            raise _no_such_file(job, request.path)
        key = AttemptKey(JobId(job.id), job.stage, job.attempt)
        async with self._shows.open(job.worker, key, request.path, request.offset, request.length) as reading:
            yield _head(reading.size_bytes, reading.modified_at_us)
            async with aclosing(reading.pieces) as pieces:
                async for piece in pieces:
                    yield jobs_pb2.FileChunk(bytes=piece)

    async def read_archive(self, request: jobs_pb2.ReadArchiveRequest, principal: Principal) -> Chunks:
        """ReadArchive: first its exact size, then the zip."""
        found = await self._find(request.id, principal, request.family)
        job = found.job
        if job.state is not State.FINISHED:
            raise NotFinished(f"job {job.id} is not finished yet; it is {job.phase or job.state.word}")
        if found.expired:
            raise _expired(job)
        async with self._blobs.using([file.digest for file in found.files]) as missing:
            for file in found.files:
                if file.digest in missing:
                    raise _damaged(job, file.path)
            members = [
                Member(file.path, self._blobs.path(file.digest), file.size_bytes, file.modified_at_us)
                for file in found.files
            ]
            yield _head(archive_bytes(members), job.finished_at_us)
            # Not closed here: a cancelled call leaves a thread in it, and the last to let go of it closes its file.
            pieces = archive_pieces(members)
            try:
                while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                    if piece:
                        yield jobs_pb2.FileChunk(bytes=piece)
            except OSError as error:
                raise Unavailable(f"a stored file cannot be read: {error.strerror}") from error

    async def send_output(self, context: Context, caller: Caller) -> None:
        """SendOutput: a worker's answer to a ShowOutput; ends early when the reader has gone."""
        piece = parse_piece(await context.read())
        if piece is None:
            raise InvalidRequest("the first message names the ticket", field="ticket")
        showing = self._shows.take_up(piece.ticket)
        if not piece.error:
            _check_range(piece.size_bytes, piece.modified_at_us)
            showing.begin(piece.size_bytes, piece.modified_at_us)
        passing = asyncio.create_task(_pass_on(context, showing, piece))
        leaving = asyncio.create_task(showing.left.wait())
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if showing.complete:  # the reader was quicker than the end of the stream, which is about to come
                await asyncio.wait({passing}, timeout=LAST_WORD_S)
            if passing.done():
                passing.result()
        finally:
            text = "the worker stopped sending in the middle; read it again"
            showing.fail(Unavailable(text, field="worker", retry_after_s=1))
            passing.cancel()
            leaving.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)
        await context.write(workers_pb2.OutputSent().SerializeToString())

    async def _job(self, job_id: str, principal: Principal, family: str) -> Job:
        job = await self._store.get_job(job_id) if is_uuid(job_id) else None
        return visible(job, job_id, principal, family)

    async def _find(self, job_id: str, principal: Principal, family: str = "") -> StoredOutputs:
        found = await self._store.find_outputs(job_id) if is_uuid(job_id) else None
        visible(None if found is None else found.job, job_id, principal, family)
        assert found is not None
        return found


def parse_piece(content: object) -> workers_pb2.OutputPiece | None:
    """Decode a message of SendOutput; None at the end of the stream."""
    if content is grpc.aio.EOF or not isinstance(content, bytes):
        return None
    check_piece(content)
    return parse(workers_pb2.OutputPiece, content)


async def _pass_on(context: Context, showing: Showing, first: workers_pb2.OutputPiece) -> None:
    piece: workers_pb2.OutputPiece | None = first
    while piece is not None:
        if piece.error:
            showing.fail(FileNotFound(piece.error[:500]))
            return
        await showing.offer(piece.bytes)
        piece = parse_piece(await context.read())


def _check_range(*numbers: int) -> None:
    if any(number > NUMBER_MAX for number in numbers):
        raise InvalidRequest("an offset or a length is beyond every file", field="offset")


def _head(size_bytes: int, modified_at_us: int, digest: str = "") -> jobs_pb2.FileChunk:
    return jobs_pb2.FileChunk(size_bytes=size_bytes, modified_at_us=modified_at_us, digest=digest)


def _no_such_file(job: Job, path: str) -> FileNotFound:
    return FileNotFound(f"job {job.id} has no output file {path[:200]!r}", field="path")


def _expired(job: Job) -> FileNotFound:
    return FileNotFound(f"the files of job {job.id} were removed when their time was over")


def _damaged(job: Job, path: str) -> FileNotFound:
    return FileNotFound(f"the bytes of {path[:200]!r} of job {job.id} are gone from the coordinator's disk")
