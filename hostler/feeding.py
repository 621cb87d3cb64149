"""The standard input of a running job, over as many calls as it takes.

How many bytes have arrived is the word of the attempt's shim, which lives as long as the program. What it has not
taken is kept here, at most 512 KiB and a piece; so a call that breaks, a coordinator or a worker's agent that is
killed, lose no byte and double none. Who feeds a job that somebody has fed before goes on where that one stopped.
Limits: one event loop. An attempt that follows on a failed one begins with no input, and what was read is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc.aio

from hostler.errors import HostlerError, InternalError, NotRunning, Unavailable
from hostler.patience import PASSING, Absence
from hostler.v1 import jobs_pb2
from hostler.wire.errors import error_from_call

KEPT_BYTES_MAX: Final = 512 * 1024
PIECE_BYTES_MAX: Final = 256 * 1024
SENDER_S: Final = 0.1  # for the sender to see that the call has ended


class Feeding:
    """One client's input for one job. Create it, `run` it once; `resize` its terminal at any time."""

    def __init__(self, open_call: Callable[[], Any], job: str, *, principal: str, patience_s: float) -> None:
        """*open_call* makes a Jobs.Feed; *patience_s* is for a coordinator that is away, 0 for none."""
        self.taken = 0  # bytes the job has taken, of all that was ever fed to it
        self.closed = False  # the job reads no more
        self.taken_over = False  # somebody else feeds the job now
        self.attempt = 0  # that is fed; 0: nobody has said yet
        self.read = False  # something of the pieces was
        self._begun = False  # ... and sent
        self._open, self._job, self._principal = open_call, job, principal
        self._absence = Absence(patience_s)
        self._kept = bytearray()  # what may have to be sent again, and what was not sent yet
        self._first: int | None = None  # the place of its first byte; None: nobody has said where we begin
        self._sent = 0  # the place behind the last byte that was ever sent
        self._ended = False  # nothing follows on what is kept
        self._failure: Exception | None = None
        self._size = (0, 0)
        self._more = asyncio.Event()  # there is something to send
        self._room = asyncio.Event()

    def resize(self, rows: int, columns: int) -> None:
        """Say the size of the job's terminal; the last one is said again to whoever takes the call next."""
        self._size = rows, columns
        self._more.set()

    async def run(self, pieces: AsyncIterator[bytes], *, ends: bool = True) -> int:
        """Feed *pieces*, and with *ends* their end; return how many bytes the job has taken.

        Returns when all was taken, when the job reads no more (`closed`), or somebody else feeds it (`taken_over`).
        Without *ends* only then.

        Raises:
            NotRunning: the job is over, or was submitted without ``stdin``.
            HostlerError: the coordinator refuses, or stayed away for too long.
        """
        pump = asyncio.create_task(self._pump(pieces, ends=ends))
        try:
            while True:
                try:
                    await self._call()
                    return self.taken
                except PASSING as error:
                    await self._absence.bear(error)
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self, pieces: AsyncIterator[bytes], *, ends: bool) -> None:
        try:
            async for piece in pieces:
                self.read = True
                self._kept += piece
                self._more.set()
                while len(self._kept) >= KEPT_BYTES_MAX:
                    self._room.clear()
                    await self._room.wait()
            self._ended = ends
        except Exception as failure:
            # The owner of the pieces: whatever is wrong with them is raised by `run`.
            self._failure = failure
        self._more.set()

    async def _call(self) -> None:
        """Make one call and be with it until all is taken. Raises what `run` does."""
        call, begun = self._open(), asyncio.Event()
        reader = asyncio.create_task(self._listen(call, begun))
        sender = asyncio.create_task(self._send(call, begun))
        try:
            await asyncio.wait((reader, sender), return_when=asyncio.FIRST_COMPLETED)
            if self._failure is not None and not reader.done():
                raise self._failure
            # What was wrong with the sending the end of the call says better.
            await asyncio.wait((reader,))
            try:
                reader.result()
            except grpc.aio.AioRpcError as error:
                raise await _refusal(error, sender) from error
        finally:
            for part in (reader, sender):
                part.cancel()
            await asyncio.gather(reader, sender, return_exceptions=True)
            call.cancel()

    async def _listen(self, call: Any, begun: asyncio.Event) -> None:
        async for answer in call:
            self._absence.heard()
            if not begun.is_set():
                self._begin(answer)
            self._note(answer)
            begun.set()
            if self.closed or self.taken_over:
                return
        if not self._ended or self._first is None or self._kept:
            raise Unavailable("the coordinator ended the input's stream")

    def _begin(self, answer: jobs_pb2.FeedResponse) -> None:
        """Find our place at the first answer of a call."""
        if self._first is None and not answer.attempt:
            raise NotRunning(f"job {self._job} is over, so it takes no input")
        is_next = self._first is not None and answer.attempt not in (0, self.attempt)
        if self._first is None or (is_next and not self._begun):
            self._first = self._sent = max(answer.received, answer.taken)
            self.attempt = answer.attempt
        elif is_next:
            raise InternalError("the job has begun anew, and the input that it had read is gone")
        elif answer.received > self._sent:
            self.taken_over = True  # by somebody who has been there while we could not be told

    def _note(self, answer: jobs_pb2.FeedResponse) -> None:
        self.taken = max(self.taken, answer.taken)
        self.closed = self.closed or answer.closed
        self.taken_over = self.taken_over or answer.taken_over
        if self._first is not None and answer.taken > self._first:
            del self._kept[: answer.taken - self._first]
            self._first = answer.taken
        if len(self._kept) < KEPT_BYTES_MAX:
            self._room.set()

    async def _send(self, call: Any, begun: asyncio.Event) -> None:
        size = self._size
        first = jobs_pb2.FeedRequest(id=self._job, principal=self._principal, rows=size[0], columns=size[1])
        await call.write(first)
        await begun.wait()
        assert self._first is not None
        place = self._first
        while self._failure is None:
            self._more.clear()
            place = max(place, self._first)  # taken of what was sent in an earlier call
            piece = bytes(self._kept[place - self._first :][:PIECE_BYTES_MAX])
            if size != self._size:
                size = self._size
                await call.write(jobs_pb2.FeedRequest(offset=place, rows=size[0], columns=size[1]))
            elif piece:
                self._begun = True
                await call.write(jobs_pb2.FeedRequest(offset=place, bytes=piece))
                place += len(piece)
                self._sent = max(self._sent, place)
            elif self._ended:
                await call.write(jobs_pb2.FeedRequest(offset=place, eof=True))
                await call.done_writing()
                return
            else:
                await self._more.wait()


async def _refusal(error: grpc.aio.AioRpcError, sender: "asyncio.Task[None]") -> HostlerError:
    """What a call ended with."""
    refused = error_from_call(error)
    if type(refused) is InternalError:
        await asyncio.wait((sender,), timeout=SENDER_S)
        if sender.done() and sender.exception() is not None:
            # gRPC has put its own words in the place of the answer: all that is known is that the call ended.
            return Unavailable("the coordinator ended the input's stream")
    return refused
