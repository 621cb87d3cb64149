"""A coordinator that speaks the contract by hand: it stores files in memory, and says what a test wants it to say."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from hostler import frames
from hostler.errors import FileNotFound
from hostler.files_client import GO_ON
from hostler.jobs import File, Work
from hostler.v1 import files_pb2, files_pb2_grpc, jobs_pb2, types_pb2, workers_pb2, workers_pb2_grpc
from hostler.wire.errors import status_of, trailers_of
from hostler.wire.work import work_to_bytes
from tests.worker.real_runner import eventually

PIECE_BYTES = 64 * 1024


class FakeCoordinator(workers_pb2_grpc.WorkersServicer, files_pb2_grpc.FilesServicer):
    """One worker's coordinator; it may go and come back at the same address."""

    def __init__(self, place: Path) -> None:
        self.address = f"unix:{place}/coordinator.sock"
        self.blobs: dict[str, bytes] = {}
        self.hellos: list[workers_pb2.Hello] = []
        self.messages: list[workers_pb2.WorkerMessage] = []
        self.pieces: dict[str, list[workers_pb2.OutputPiece]] = {}  # by ticket
        self.ledgers: dict[str, list[bytes]] = {}  # what was pushed of each
        self.puts = self.reads = 0
        self.transfers = 0  # under way now
        self.transfers_max = 0
        self.may_read, self.may_put = asyncio.Event(), asyncio.Event()  # cleared: such calls hang
        self.may_read.set()
        self.may_put.set()
        self.broken_reads = 0  # so many reads break in the middle
        self.acknowledges = True
        self.has_room = True  # for logs; False: each piece is to be pushed again
        self.refused: list[float] = []  # when that was said
        self._sequence = 0
        self._outbox: asyncio.Queue[workers_pb2.CoordinatorMessage | None] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None

    async def come(self) -> None:
        """Serve."""
        self._server = grpc.aio.server()
        workers_pb2_grpc.add_WorkersServicer_to_server(self, self._server)
        files_pb2_grpc.add_FilesServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def go(self) -> None:
        """Be away; what was stored stays."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def file(self, path: str, content: bytes) -> File:
        """Store bytes and return a job's file of them."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return File(path=path, digest=digest, size_bytes=len(content))

    # -- words to the worker

    def _say(self, **fields: Any) -> None:
        self._outbox.put_nowait(workers_pb2.CoordinatorMessage(session="s", **fields))

    def start(
        self, key: str, work: Work | bytes, *, slots: int = 1, secrets: dict[str, str] | None = None, workload: str = ""
    ) -> None:
        """Tell the worker to run an attempt; bytes are sent as they are."""
        self._sequence += 1
        content = work if isinstance(work, bytes) else work_to_bytes(work)
        start = workers_pb2.Start(sequence=self._sequence, key=_key(key), work=content, slots=slots, workload=workload)
        start.secrets.update(secrets or {})
        self._say(starts=[start])

    def stop(self, key: str, grace_s: float = 0.0) -> None:
        """Tell the worker to end an attempt."""
        self._say(stops=[workers_pb2.StopAttempt(sequence=self._sequence, key=_key(key), grace_s=grace_s)])

    def signal(self, number: int, key: str, signal: int) -> None:
        """Have a signal passed on."""
        self._say(signals=[workers_pb2.SignalAttempt(number=number, key=_key(key), signal=signal)])

    async def signalled(self, number: int) -> bool:
        """Wait for the answer to a signal."""

        def look() -> list[bool]:
            return [s.passed for message in self.messages for s in message.signalled if s.number == number]

        (passed,) = await eventually(look, f"an answer to signal {number}")
        return passed

    def show(self, ticket: str, key: str, path: str, *, offset: int = 0, length: int = 0) -> None:
        """Ask for an output file."""
        wish = workers_pb2.ShowOutput(ticket=ticket, key=_key(key), path=path, offset=offset, length=length)
        self._say(shows=[wish])

    # -- words of the worker

    def reports(self, key: str) -> list[workers_pb2.Report]:
        """Every report of an attempt."""
        return [each for message in self.messages for each in message.reports if each.key == _key(key)]

    def notes(self, key: str) -> list[workers_pb2.Note]:
        """Every note of an attempt."""
        return [each for message in self.messages for each in message.notes if each.key == _key(key)]

    async def over(self, key: str) -> workers_pb2.Report:
        """Wait for the report that an attempt has ended, or never ran."""

        def look() -> workers_pb2.Report | None:
            return next((r for r in self.reports(key) if r.HasField("end") or r.never_ran), None)

        return await eventually(look, f"the end of {key}")

    async def started(self, key: str) -> None:
        """Wait for the report that an attempt was started."""
        await eventually(lambda: any(each.started_at_us for each in self.reports(key)), f"{key} to be started")

    def log(self, key: str) -> str:
        """Everything an attempt has written, as far as it has come."""
        pushed = b"".join(self.ledgers.get(key, []))
        inline = next((each.ledger for each in self.reports(key) if each.ledger), b"")
        return b"".join(frame.payload for frame in frames.iter_frames(pushed or inline)).decode(errors="replace")

    async def noted(self, key: str, phase: str) -> None:
        """Wait for a note with a phase."""
        await eventually(lambda: any(note.phase == phase for note in self.notes(key)), f"{key} to be {phase}")

    async def shown(self, ticket: str) -> tuple[bytes, workers_pb2.OutputPiece]:
        """Wait for a whole output file; its bytes, and the first piece with an error in it from any."""
        await eventually(lambda: ticket in self.pieces, f"ticket {ticket}")
        pieces = self.pieces[ticket]
        first = pieces[0]
        first.error = "".join(piece.error for piece in pieces)
        return b"".join(piece.bytes for piece in pieces), first

    def output(self, report: workers_pb2.Report, path: str) -> bytes:
        """The bytes of an output that a report names."""
        (digest,) = [each.digest for each in report.outputs if each.path == path]
        return self.blobs[digest]

    # -- the services

    async def Connect(self, request_iterator: Any, context: Any) -> AsyncIterator[workers_pb2.CoordinatorMessage]:
        """The control stream."""
        requests = aiter(request_iterator)
        hello = (await anext(requests)).hello
        self.hellos.append(hello)
        outbox = self._outbox = asyncio.Queue()
        keep = [workers_pb2.Verdict(key=h.key, kind=workers_pb2.VERDICT_KIND_KEEP, slots=1) for h in hello.inventory]
        self._say(welcome=workers_pb2.Welcome(worker="w", heartbeat_s=2, mark=hello.mark, verdicts=keep))
        reading = asyncio.create_task(self._hear(requests, outbox))
        try:
            while (message := await outbox.get()) is not None:
                yield message
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _hear(self, requests: Any, outbox: asyncio.Queue[workers_pb2.CoordinatorMessage | None]) -> None:
        async for message in requests:
            self.messages.append(message)
            over = [each.key for each in message.reports if each.HasField("end") or each.never_ran]
            if over and self.acknowledges:
                outbox.put_nowait(workers_pb2.CoordinatorMessage(acknowledged=over))
        outbox.put_nowait(None)

    async def PushLog(self, request_iterator: Any, context: Any) -> AsyncIterator[workers_pb2.LogReceipt]:
        """Every log is stored at once, or refused."""
        async for push in request_iterator:
            if not self.has_room:
                self.refused.append(time.monotonic())
                marks = [workers_pb2.LogMark(key=part.key, rewind=True) for part in push.parts]
                yield workers_pb2.LogReceipt(marks=marks)
                continue
            for part in push.parts:
                self.ledgers.setdefault(key_text(part.key), []).append(part.frames)
            marks = [
                workers_pb2.LogMark(key=p.key, received=p.position + len(p.frames), stored=p.position + len(p.frames))
                for p in push.parts
            ]
            yield workers_pb2.LogReceipt(marks=marks)

    async def SendOutput(self, request_iterator: Any, context: Any) -> workers_pb2.OutputSent:
        """Keep an output file that was asked for."""
        pieces = [piece async for piece in request_iterator]
        self.pieces[pieces[0].ticket] = pieces
        return workers_pb2.OutputSent()

    async def Put(self, request_iterator: Any, context: Any) -> files_pb2.PutResponse:
        """Store bytes."""
        self.puts += 1
        content, complete = b"", False
        with self._transfer():
            await context.send_initial_metadata((GO_ON,))
            async for request in request_iterator:
                content += request.bytes
                complete = complete or request.complete
            await self.may_put.wait()
        if not complete:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "aborted")
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return files_pb2.PutResponse(digest=digest, size_bytes=len(content))

    async def Read(self, request: Any, context: Any) -> AsyncIterator[jobs_pb2.FileChunk]:
        """Give stored bytes, in pieces."""
        self.reads += 1
        content = self.blobs.get(request.digest)
        if content is None:
            error = FileNotFound("not stored")
            await context.abort(status_of(error), error.message, trailers_of(error))
            return
        with self._transfer():
            await self.may_read.wait()
            yield jobs_pb2.FileChunk(size_bytes=len(content), digest=request.digest)
            for at in range(request.offset, len(content), PIECE_BYTES):
                yield jobs_pb2.FileChunk(bytes=content[at : at + PIECE_BYTES])
                if self.broken_reads:
                    self.broken_reads -= 1
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the cable was cut")

    def _transfer(self) -> "_Transfer":
        return _Transfer(self)


class _Transfer:
    """Counts the transfers that are under way."""

    def __init__(self, owner: FakeCoordinator) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        self._owner.transfers += 1
        self._owner.transfers_max = max(self._owner.transfers_max, self._owner.transfers)

    def __exit__(self, *_: object) -> None:
        self._owner.transfers -= 1


def key_text(key: types_pb2.AttemptKey) -> str:
    """An attempt's name as text."""
    return f"{key.job}.{key.stage}.{key.attempt}"


def _key(text: str) -> types_pb2.AttemptKey:
    job, stage, attempt = text.split(".")
    return types_pb2.AttemptKey(job=job, stage=int(stage), attempt=int(attempt))
