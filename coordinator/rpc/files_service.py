"""The service Files: large bytes in and out, one message in memory at a time.

The next message of an upload is read when the one before is on its way to the disk, and the next of a download
when the one before has been taken: gRPC's flow control holds the other side back.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import grpc.aio

from coordinator.blobs import PIECE_BYTES_MAX, SMALL_BYTES, BlobStore, Lane
from coordinator.rpc.context import Context, parse
from coordinator.rpc.file_rights import FileRights
from hostler.errors import DeadlineExceeded, FileNotFound, InvalidRequest, TooLarge
from hostler.policy import Principal
from hostler.v1 import files_pb2, jobs_pb2

GO_ON = (("hostler-go-on", "1"),)  # initial metadata of an upload that there is room for
SMALL_S = 60.0
MESSAGE_BYTES_MAX = PIECE_BYTES_MAX + 64 * 1024
STALL_S = 120.0  # an upload that sends nothing for so long is given up: it keeps others waiting


class FilesService:
    """See ``protos/hostler/v1/files.proto``."""

    def __init__(self, blobs: BlobStore, rights: FileRights, *, stall_s: float = STALL_S) -> None:
        self._blobs = blobs
        self._rights = rights
        self._stall_s = stall_s

    async def put(self, message: files_pb2.PutRequest, context: Context, principal: Principal) -> None:
        """Put: answers once the bytes are durable; without `complete` nothing is kept."""
        check_piece(message.bytes)
        lane = Lane.OUTPUT if message.output else Lane.SMALL if 0 < message.size_bytes <= SMALL_BYTES else Lane.UPLOAD
        async with self._blobs.receive(message.size_bytes, lane) as incoming, _limit(lane):
            # The word to go on: a client that waits for it gets a refusal as it is. To one that is sending, gRPC may
            # show the broken stream instead.
            await context.send_initial_metadata(GO_ON)
            while True:
                if message.bytes:
                    await incoming.write(message.bytes)
                if message.complete:
                    break
                message = await self._next(context)
            stored = await incoming.commit()
        self._rights.note_stored(principal, stored.digest)
        answer = files_pb2.PutResponse(digest=stored.digest, size_bytes=stored.size_bytes)
        await context.write(answer.SerializeToString())

    async def _next(self, context: Context) -> files_pb2.PutRequest:
        try:
            async with asyncio.timeout(self._stall_s):
                content = await context.read()
        except TimeoutError as error:
            raise DeadlineExceeded(f"no bytes came for {self._stall_s:g} s; nothing was kept") from error
        if content is grpc.aio.EOF:
            raise InvalidRequest("the upload ended before its last message; nothing was kept", field="complete")
        check_piece(content)
        return parse(files_pb2.PutRequest, content)

    async def read(self, request: files_pb2.ReadFileRequest, principal: Principal) -> AsyncIterator[jobs_pb2.FileChunk]:
        """Read: first what follows, then the bytes."""
        hidden = await self._rights.hidden(principal, (request.digest,))
        async with self._blobs.using((request.digest,)):
            size = await self._blobs.size(request.digest)
            if size is None or hidden:
                raise FileNotFound(f"no bytes are stored under {request.digest[:80]!r}")
            yield jobs_pb2.FileChunk(size_bytes=size, digest=request.digest)
            async with aclosing(self._blobs.read(request.digest, request.offset, request.length)) as pieces:
                async for piece in pieces:
                    yield jobs_pb2.FileChunk(bytes=piece)


@asynccontextmanager
async def _limit(lane: Lane) -> AsyncIterator[None]:
    """A small file has its place for a minute; the others as long as bytes come."""
    try:
        async with asyncio.timeout(SMALL_S if lane is Lane.SMALL else None):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"a small file did not arrive within {SMALL_S:g} s; nothing was kept") from error


def check_piece(content: bytes) -> None:
    """Raise TooLarge for a message that holds more than one piece may."""
    if len(content) > MESSAGE_BYTES_MAX:
        raise TooLarge(f"a message of {len(content)} bytes; send pieces of at most {PIECE_BYTES_MAX}", field="bytes")
