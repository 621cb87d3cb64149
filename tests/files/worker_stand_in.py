"""A worker that is asked for output files: reads its session's outbox and answers with SendOutput."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from coordinator.effects import AttachSession
from coordinator.sessions import Session, Sessions, ShowOutput
from hostler.v1 import workers_pb2, workers_pb2_grpc
from tests.files.stand_ins import NOON_US, W1

PIECE_BYTES = 256 * 1024


class WorkerStandIn:
    """Holds files in memory, and notes what it was asked for."""

    def __init__(self, session: Session, channel: grpc.aio.Channel, files: dict[str, bytes]) -> None:
        self.session = session
        self.files = files
        self.asked: list[ShowOutput] = []
        self.sent_bytes = 0  # of all files
        self.ended: list[str] = []  # how its streams ended
        self._stub = workers_pb2_grpc.WorkersStub(channel)

    async def next_show(self) -> ShowOutput:
        """Wait for the next thing it is asked for."""
        async with asyncio.timeout(10):
            while not self.session.outbox.shows:
                await self.session.wake.wait()
                self.session.wake.clear()
        show = self.session.take().shows[0]
        self.asked.append(show)
        return show

    def stream(self) -> Any:
        """An open SendOutput call."""
        return self._stub.SendOutput(timeout=20)

    async def serve(self) -> None:
        """Answer one ShowOutput after another."""
        while True:
            await self.send(await self.next_show())

    async def send(self, show: ShowOutput) -> None:
        """Answer one ShowOutput: the file or an error, in pieces."""
        call = self.stream()
        content = self.files.get(show.path)
        if content is None:
            await call.write(workers_pb2.OutputPiece(ticket=show.ticket, error=f"there is no {show.path}"))
        else:
            await call.write(head(show, len(content)))
            wanted = content[show.offset :][: show.length or None]
            try:
                for start in range(0, len(wanted), PIECE_BYTES):
                    await call.write(workers_pb2.OutputPiece(bytes=wanted[start : start + PIECE_BYTES]))
                    self.sent_bytes += len(wanted[start : start + PIECE_BYTES])
            except asyncio.InvalidStateError:
                pass  # the coordinator has ended the call: the reader is gone
        await call.done_writing()
        try:
            await call
            self.ended.append("ok")
        except grpc.aio.AioRpcError as error:
            self.ended.append(error.code().name)


def head(show: ShowOutput, size_bytes: int) -> workers_pb2.OutputPiece:
    """The first message of an answer."""
    return workers_pb2.OutputPiece(ticket=show.ticket, size_bytes=size_bytes, modified_at_us=NOON_US)


@asynccontextmanager
async def connected_worker(
    sessions: Sessions, channel: grpc.aio.Channel, **files: bytes
) -> AsyncIterator[WorkerStandIn]:
    """The first worker, connected; it has *files* and answers only when told to."""
    session = Session(W1, "session-1")
    effect: Any = type("Attached", (), {"session": session, "worker": W1})
    attached: AttachSession = effect
    sessions.attach(attached)
    yield WorkerStandIn(session, channel, files)
    sessions.drop(W1, superseded=False)


@asynccontextmanager
async def serving_worker(sessions: Sessions, channel: grpc.aio.Channel, **files: bytes) -> AsyncIterator[WorkerStandIn]:
    """The first worker, connected and answering."""
    async with connected_worker(sessions, channel, **files) as worker:
        serving = asyncio.create_task(worker.serve())
        try:
            yield worker
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
