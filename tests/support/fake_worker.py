"""A worker that speaks the contract by hand: it runs nothing and says what a test wants it to say."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc.aio

from hostler.client import open_channel
from hostler.ids import AttemptKey
from hostler.jobs import End
from hostler.tls import Target
from hostler.v1 import workers_pb2, workers_pb2_grpc
from hostler.wire.ends import end_to_proto
from hostler.wire.work import key_from_proto, key_to_proto
from tests.support.builders import NOON_US, an_end
from tests.support.waiting import eventually

RUNNING = workers_pb2.HELD_STATE_RUNNING
ENDED = workers_pb2.HELD_STATE_ENDED


class FakeWorker:
    """One worker over any number of connections; `sent` and `received` hold every message of the control stream."""

    def __init__(self, address: str | Target, **hello: Any) -> None:
        """*hello* changes how it introduces itself."""
        self.address = address
        self._channel = open_channel(address)
        self._stub = workers_pb2_grpc.WorkersStub(self._channel)
        self._hello: dict[str, Any] = {
            "name": "fake",
            "host": "nowhere",
            "slots": 4,
            "boot_id": "boot",
            "journal_id": "journal",
            "generation": 1,
        } | hello
        self._control: Any = None
        self._bulk: Any = None
        self._readers: list[asyncio.Task[None]] = []
        self.id = self.session = ""
        self.mark = 0
        self.sent: list[workers_pb2.WorkerMessage] = []
        self.received: list[workers_pb2.CoordinatorMessage] = []
        self.marks: list[workers_pb2.LogMark] = []
        self.passes: bool | None = True  # what it answers to signals; None: nothing

    async def close(self) -> None:
        """End every stream."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        await self._channel.close()

    # Control

    async def connect(
        self, inventory: Sequence[tuple[AttemptKey, workers_pb2.HeldState.ValueType]] = (), **hello: Any
    ) -> workers_pb2.Welcome:
        """Open a control stream and return the welcome.

        Raises:
            grpc.aio.AioRpcError: the coordinator refused.
        """
        self._control = self._stub.Connect(wait_for_ready=True)
        held = [workers_pb2.Held(key=key_to_proto(key), state=state) for key, state in inventory]
        fields: dict[str, Any] = {"worker": self.id, "mark": self.mark, "inventory": held} | self._hello | hello
        message = workers_pb2.Hello(**fields)
        await self.write(workers_pb2.WorkerMessage(hello=message))
        first = await asyncio.wait_for(self._control.read(), 10)
        if first is grpc.aio.EOF:
            await self._control.wait_for_connection()  # raises what ended the stream
            raise AssertionError("the stream ended without a word")
        self.received.append(first)
        assert first.HasField("welcome"), first
        self.id, self.session = first.welcome.worker, first.session
        self._readers.append(asyncio.create_task(self._read(self._control, self.received)))
        return first.welcome  # type: ignore[no-any-return]

    async def write(self, message: workers_pb2.WorkerMessage) -> None:
        """Send a message."""
        self.sent.append(message)
        await self._control.write(message)

    async def break_off(self) -> None:
        """Let both streams end without a word, as a cut cable does."""
        self._control.cancel()
        if self._bulk is not None:
            self._bulk.cancel()
        await eventually(self._control.done)

    async def say_goodbye(self) -> None:
        """Leave by its own will, and wait until the coordinator ends the stream."""
        await self.write(workers_pb2.WorkerMessage(goodbye=workers_pb2.Goodbye(reason="done")))
        await eventually(self._control.done, "the coordinator ended the stream")

    async def ended_with(self) -> grpc.StatusCode:
        """The status with which the coordinator ended the control stream."""
        return await asyncio.wait_for(self._control.code(), 10)

    @property
    def starts(self) -> list[workers_pb2.Start]:
        """Every start that was received, in order."""
        return [start for message in self.received for start in message.starts]

    @property
    def stops(self) -> list[workers_pb2.StopAttempt]:
        """Every stop that was received, in order."""
        return [stop for message in self.received for stop in message.stops]

    @property
    def acknowledged(self) -> set[AttemptKey]:
        """The attempts whose end is durable."""
        return {key_from_proto(key) for message in self.received for key in message.acknowledged}

    async def takes(self, count: int = 1) -> list[AttemptKey]:
        """Wait for so many starts in all, accept them, and return their attempts."""
        await eventually(lambda: len(self.starts) >= count, f"{count} starts")
        self.mark = max(start.sequence for start in self.starts)
        return [key_from_proto(start.key) for start in self.starts]

    async def report_started(self, key: AttemptKey) -> None:
        """The program runs."""
        report = workers_pb2.Report(key=key_to_proto(key), started_at_us=NOON_US, pid=7)
        await self.write(workers_pb2.WorkerMessage(reports=[report]))

    async def report_ended(self, key: AttemptKey, *, ledger: bytes = b"", **changes: Any) -> None:
        """Nothing of the attempt is left; with *ledger* its whole log comes along."""
        end: End = an_end(**({"ledger_bytes": len(ledger)} | changes))
        report = workers_pb2.Report(
            key=key_to_proto(key), started_at_us=end.started_at_us, end=end_to_proto(end), ledger=ledger
        )
        await self.write(workers_pb2.WorkerMessage(reports=[report]))

    async def report_never_ran(self, key: AttemptKey, refusal: str = "") -> None:
        """The program was not and will not be started."""
        report = workers_pb2.Report(key=key_to_proto(key), never_ran=True, refusal=refusal)
        await self.write(workers_pb2.WorkerMessage(reports=[report]))

    # Bulk

    async def open_push(self) -> None:
        """Open a stream for logs; what an earlier one was told is forgotten."""
        if self._bulk is not None:
            self._bulk.cancel()
        self.marks = []
        self._bulk = self._stub.PushLog(wait_for_ready=True)
        self._readers.append(asyncio.create_task(self._read_marks(self._bulk, self.marks)))

    async def push(self, key: AttemptKey, position: int, frames: bytes) -> None:
        """Send a piece of a log."""
        part = workers_pb2.LogPart(key=key_to_proto(key), position=position, frames=frames)
        await self._bulk.write(workers_pb2.LogPush(session=self.session, parts=[part]))

    async def stored(self, key: AttemptKey, position: int) -> None:
        """Wait until the log is durable up to *position*."""
        proto = key_to_proto(key)
        await eventually(
            lambda: any(mark.key == proto and mark.stored >= position for mark in self.marks),
            f"{key} is stored up to {position}",
        )

    async def told(self) -> workers_pb2.LogMark:
        """Wait for a mark that asks for something: to go back, or to forget."""
        asking = await eventually(lambda: [mark for mark in self.marks if mark.rewind or mark.forget])
        return asking[0]

    async def _read(self, call: Any, into: list[workers_pb2.CoordinatorMessage]) -> None:
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                into.append(message)
                if message.signals and self.passes is not None:
                    said = [workers_pb2.Signalled(number=s.number, passed=self.passes) for s in message.signals]
                    await self.write(workers_pb2.WorkerMessage(signalled=said))
        except grpc.aio.AioRpcError:
            pass  # how it ended is asked with `ended_with`

    async def _read_marks(self, call: Any, into: list[workers_pb2.LogMark]) -> None:
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                into.extend(message.marks)
        except grpc.aio.AioRpcError:
            pass
