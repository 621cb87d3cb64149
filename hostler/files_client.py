"""Files over gRPC: store bytes, read them, read what jobs put out. A part of `hostler.client.Client`.

Nothing here holds a file in memory: pieces of at most 1 MiB go through. Errors are those of
`hostler.errors`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from hostler.errors import InternalError, Unavailable
from hostler.jobs import Outputs
from hostler.v1 import files_pb2, files_pb2_grpc, jobs_pb2, jobs_pb2_grpc
from hostler.wire import jobs as wire_jobs
from hostler.wire.errors import CALLING, error_from_call

CALL_S = 30.0
TRANSFER_S = 7 * 86400.0
PIECE_BYTES_MAX = 1024 * 1024
GO_ON = ("hostler-go-on", "1")  # initial metadata of a call whose bytes are wanted
CALL_ENDED = (grpc.aio.AioRpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """Bytes the coordinator has stored."""

    digest: str  # SHA-256 in hex
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A file that is being read: what it is, and its bytes."""

    size_bytes: int  # of the whole file, also when a part is read
    digest: str  # empty for archives and for files of running jobs
    modified_at_us: int
    pieces: AsyncIterator[bytes]


class FilesClient:
    """The calls that move files. `Client.files` is one."""

    def __init__(self, channel: grpc.aio.Channel, principal: Callable[[str | None], str]) -> None:
        self._files = files_pb2_grpc.FilesStub(channel)
        self._jobs = jobs_pb2_grpc.JobsStub(channel)
        self._as = principal

    async def put(
        self, pieces: AsyncIterator[bytes], *, size_bytes: int = 0, output: bool = False, principal: str | None = None
    ) -> StoredFile:
        """Store the bytes of *pieces* and return their name once they are durable.

        An exception out of *pieces* aborts the call and nothing is left. *size_bytes* (0: not known) lets the
        coordinator refuse what does not fit before the first byte is sent. *output*: a worker stores what an attempt
        left, which does not wait for uploads.

        Raises:
            Unavailable: no place became free in time, or the disk has no room: try again later.
        """
        asserted = self._as(principal)

        async def requests() -> AsyncIterator[files_pb2.PutRequest]:
            async for piece in pieces:
                for start in range(0, len(piece), PIECE_BYTES_MAX):
                    yield files_pb2.PutRequest(bytes=piece[start : start + PIECE_BYTES_MAX])
            yield files_pb2.PutRequest(complete=True)

        call = self._files.Put(timeout=TRANSFER_S)
        failed: Exception | None = None
        try:
            try:
                await call.write(files_pb2.PutRequest(size_bytes=size_bytes, principal=asserted, output=output))
                # The coordinator says so when it has room: a refusal then comes before any byte is sent.
                if GO_ON not in tuple(await call.initial_metadata()):
                    await call
                async for request in requests():
                    await call.write(request)
                await call.done_writing()
            except CALL_ENDED as error:
                failed = error  # the coordinator has ended the call: its answer says why
            answer = await call
            return StoredFile(digest=answer.digest, size_bytes=answer.size_bytes)
        except grpc.aio.AioRpcError as error:
            refused = error_from_call(error)
            if failed is not None and type(refused) is InternalError:
                # gRPC has put its own words in the place of the answer: all that is known is that it ended.
                refused = Unavailable("the coordinator ended the upload before its end; send it again")
            raise refused from failed or error
        finally:
            call.cancel()

    async def put_bytes(self, content: bytes, *, principal: str | None = None) -> StoredFile:
        """Store *content*, which is held already. Raises as `put` does."""

        async def whole() -> AsyncIterator[bytes]:
            yield content

        return await self.put(whole(), size_bytes=len(content), principal=principal)

    def read(
        self, digest: str, *, offset: int = 0, length: int = 0, principal: str | None = None
    ) -> AbstractAsyncContextManager[Reading]:
        """Read stored bytes: ``async with files.read(digest) as reading``.

        Raises on entering:
            FileNotFound: they are not stored, or not for this caller.
        """
        request = files_pb2.ReadFileRequest(digest=digest, offset=offset, length=length, principal=self._as(principal))
        return self._reading(lambda: self._files.Read(request, timeout=TRANSFER_S))

    async def outputs(self, job: str, *, family: str = "", principal: str | None = None) -> Outputs:
        """Return the list of a job's output files."""
        request = jobs_pb2.ListOutputsRequest(id=job, family=family, principal=self._as(principal))
        with CALLING:
            return wire_jobs.outputs_from_proto(await self._jobs.ListOutputs(request, timeout=CALL_S))

    def read_output(
        self,
        job: str,
        path: str,
        *,
        offset: int = 0,
        length: int = 0,
        family: str = "",
        principal: str | None = None,
    ) -> AbstractAsyncContextManager[Reading]:
        """Read one output file, or a part: ``async with files.read_output(job, path) as reading``.

        Raises on entering:
            JobNotFound: no such job.
            FileNotFound: the job has no such file.
        """
        request = jobs_pb2.ReadOutputRequest(
            id=job, path=path, offset=offset, length=length, family=family, principal=self._as(principal)
        )
        return self._reading(lambda: self._jobs.ReadOutput(request, timeout=TRANSFER_S))

    def read_archive(
        self, job: str, *, family: str = "", principal: str | None = None
    ) -> AbstractAsyncContextManager[Reading]:
        """Read every kept output file as one zip: ``async with files.read_archive(job) as reading``.

        Raises on entering:
            JobNotFound: no such job.
            NotFinished: the job runs still.
        """
        request = jobs_pb2.ReadArchiveRequest(id=job, family=family, principal=self._as(principal))
        return self._reading(lambda: self._jobs.ReadArchive(request, timeout=TRANSFER_S))

    @asynccontextmanager
    async def _reading(self, start: Callable[[], Any]) -> AsyncIterator[Reading]:
        call = start()
        with CALLING:
            first = await call.read()
        try:
            if first is grpc.aio.EOF:
                raise InternalError("the coordinator sent nothing of the file")
            yield Reading(
                size_bytes=first.size_bytes,
                digest=first.digest,
                modified_at_us=first.modified_at_us,
                pieces=_pieces(call, first.bytes),
            )
        finally:
            call.cancel()


async def _pieces(call: Any, first: bytes) -> AsyncIterator[bytes]:
    if first:
        yield first
    with CALLING:
        while (chunk := await call.read()) is not grpc.aio.EOF:
            if chunk.bytes:
                yield chunk.bytes
