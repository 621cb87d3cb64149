"""Jobs.Feed: whose word counts for how far the input is, who begins where, and what is sent again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

from hostler.client import Client
from hostler.errors import NotRunning
from hostler.ids import AttemptKey
from hostler.jobs import Terminal, Work
from hostler.v1 import jobs_pb2, workers_pb2
from hostler.wire.work import key_to_proto
from tests.support.builders import a_spec
from tests.support.fake_worker import RUNNING, FakeWorker
from tests.support.waiting import eventually


class FakeShim:
    """What a shim does with its input, behind a fake worker: it takes in order, skips what it knows, and counts."""

    def __init__(self, worker: FakeWorker, key: AttemptKey) -> None:
        self.worker, self.key = worker, key
        self.content = b""  # all that has arrived
        self.reads = 1 << 40  # so many bytes the program reads
        self.ended = False
        self.sizes: list[tuple[int, int]] = []
        self.closed = False  # the program reads no more
        self.loses = 0  # so many of the next pieces never arrive
        self._seen, self._writing = 0, asyncio.Lock()
        self._answering = asyncio.create_task(self._answer())

    async def close(self) -> None:
        """Answer no more."""
        self._answering.cancel()
        await asyncio.gather(self._answering, return_exceptions=True)

    @property
    def taken(self) -> int:
        """What the program has read."""
        return min(len(self.content), self.reads)

    async def say(self) -> None:
        """Say how far it is."""
        fed = workers_pb2.Fed(
            key=key_to_proto(self.key),
            taken=self.taken,
            received=len(self.content),
            ended=self.ended,
            closed=self.closed,
        )
        async with self._writing:
            await self.worker.write(workers_pb2.WorkerMessage(fed=[fed]))

    async def _answer(self) -> None:
        while True:
            await asyncio.sleep(0.002)
            messages, self._seen = self.worker.received[self._seen :], len(self.worker.received)
            for piece in (piece for message in messages for piece in message.feeds):
                if (piece.bytes or piece.eof) and self.loses:
                    self.loses -= 1
                    continue
                if piece.rows:
                    self.sizes.append((piece.rows, piece.columns))
                if piece.offset <= len(self.content) and not self.ended:
                    self.content += piece.bytes[len(self.content) - piece.offset :]
                    self.ended = piece.eof
                await self.say()


Fed = tuple[str, FakeShim]
Begin = Callable[..., Awaitable[Fed]]


@pytest.fixture
async def begin(client: Client, worker: FakeWorker) -> AsyncIterator[Begin]:
    """Submits a job that is fed, and has the fake worker run it."""
    shims: list[FakeShim] = []

    async def begin_one(**work: Any) -> Fed:
        job = await client.submit_one(a_spec(work=Work(argv=("cat",), stdin=True, **work)))
        key = (await worker.takes(len(shims) + 1))[-1]
        await worker.report_started(key)
        shims.append(FakeShim(worker, key))
        return job, shims[-1]

    yield begin_one
    for shim in shims:
        await shim.close()


async def pieces(*texts: bytes, then: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Yield these, and end, or end only after an event."""
    for text in texts:
        yield text
    if then is not None:
        await then.wait()


async def test_all_is_taken_before_the_call_ends(client: Client, begin: Begin) -> None:
    """The bytes, and the end of them: only the shim's word for both counts."""
    job, shim = await begin()
    shim.loses = 3

    assert await client.feed(job, pieces(b"one ", b"two ", b"three")) == 13

    assert (shim.content, shim.ended) == (b"one two three", True)


async def test_the_client_is_held_back_as_the_job_reads(client: Client, begin: Begin) -> None:
    """Half a megabyte and a little are under way at most, however much there is."""
    job, shim = await begin()
    shim.reads = 0
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while given < 8_000_000:
            given += 65536
            yield bytes(65536)

    feeding = asyncio.create_task(client.feed(job, endless()))
    await eventually(lambda: len(shim.content) >= 256 * 1024, "input to be under way")
    before = -1
    while before != given:
        before = given
        await asyncio.sleep(0.1)

    assert given < 1_500_000
    shim.reads = 1 << 40
    await shim.say()
    assert await feeding >= 8_000_000


async def test_what_is_lost_with_a_connection_is_sent_again(client: Client, begin: Begin) -> None:
    """The worker comes back; what it had not passed on, and the terminal's size, are said once more."""
    job, shim = await begin(terminal=Terminal())
    feeding = client.feeding(job)
    feeding.resize(30, 90)
    goes_on = asyncio.Event()
    under_way = asyncio.create_task(feeding.run(pieces(b"early ", b"late", then=goes_on)))
    await eventually(lambda: shim.content == b"early late", "the first of it")
    shim.loses = 1 << 40
    feeding.resize(40, 100)
    goes_on.set()  # its end is lost

    await shim.worker.break_off()
    shim.loses = 0
    await shim.worker.connect([(shim.key, RUNNING)])

    assert await under_way == 10
    assert (shim.content, shim.ended) == (b"early late", True)
    assert shim.sizes[0] == (30, 90) and shim.sizes[-1] == (40, 100)


async def test_a_second_one_takes_the_input_over(client: Client, begin: Begin) -> None:
    """It begins behind what has arrived, read or not; the first is told, and nothing of it arrives any more."""
    job, shim = await begin()
    shim.reads = 2
    never, first = asyncio.Event(), client.feeding(job)
    under_way = asyncio.create_task(first.run(pieces(b"first ", then=never)))
    await eventually(lambda: shim.content == b"first ", "the first one's input")
    second = client.feeding(job)
    taking_over = asyncio.create_task(second.run(pieces(b"second")))

    assert await asyncio.wait_for(under_way, 10) == 2
    assert first.taken_over and not second.taken_over
    await eventually(lambda: shim.content == b"first second", "the second one's input")
    shim.reads = 1 << 40
    await shim.say()
    assert await taking_over == 12


async def test_the_input_stays_open_when_its_client_goes(client: Client, begin: Begin) -> None:
    """Only an end that was said is one; the next client goes on."""
    job, shim = await begin()
    under_way = asyncio.create_task(client.feed(job, pieces(b"one ", then=asyncio.Event())))
    await eventually(lambda: shim.content == b"one ", "the first client's input")
    under_way.cancel()
    await asyncio.gather(under_way, return_exceptions=True)

    assert not shim.ended
    assert await client.feed(job, pieces(b"two")) == 7
    assert (shim.content, shim.ended) == (b"one two", True)


async def test_a_client_that_does_not_wait_for_the_first_answer(channel: grpc.aio.Channel, begin: Begin) -> None:
    """What has arrived before is skipped by its place; a hole is refused."""
    job, shim = await begin()
    shim.content = b"there"
    call: Any = channel.stream_stream("/hostler.v1.Jobs/Feed")()
    await call.write(jobs_pb2.FeedRequest(id=job, bytes=b"there is").SerializeToString())
    await call.write(jobs_pb2.FeedRequest(offset=8, bytes=b" more").SerializeToString())
    await eventually(lambda: shim.content == b"there is more", "the rest")

    await call.write(jobs_pb2.FeedRequest(offset=20, bytes=b"hole").SerializeToString())
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        while await asyncio.wait_for(call.read(), 10) is not grpc.aio.EOF:
            pass
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_job_that_reads_no_more_says_so(client: Client, begin: Begin) -> None:
    """The client is not held until the job's end."""
    job, shim = await begin()
    under_way = asyncio.create_task(client.feed(job, pieces(b"some", then=asyncio.Event())))
    await eventually(lambda: shim.content == b"some", "the input")

    shim.closed = True
    await shim.say()

    assert await asyncio.wait_for(under_way, 10) == 4


async def test_a_feed_ends_with_its_attempt_when_the_job_goes_on(client: Client, worker: FakeWorker) -> None:
    """Its supervisor was perhaps killed and says nothing; what follows is fed by who feeds it, from the beginning."""
    job = await client.submit_one(a_spec(retries=1, work=Work(argv=("cat",), stdin=True)))
    (key,) = await worker.takes()
    await worker.report_started(key)
    shim, feeding = FakeShim(worker, key), client.feeding(job)
    under_way = asyncio.create_task(feeding.run(pieces(b"once", then=asyncio.Event())))
    await eventually(lambda: feeding.taken == 4, "the shim's word for it")
    await shim.close()

    await worker.report_ended(key, exit_code=1)

    assert await asyncio.wait_for(under_way, 10) == 4
    assert (feeding.closed, feeding.attempt, feeding.read) == (True, 1, True)


async def test_a_job_that_is_over_takes_no_input(client: Client, begin: Begin, worker: FakeWorker) -> None:
    """Who comes too late is told so."""
    job, shim = await begin()
    await worker.report_ended(shim.key, exit_code=0)
    assert await client.wait_one(job, timeout_s=10)

    with pytest.raises(NotRunning, match="is over, so it takes no input"):
        await client.feed(job, pieces(b"late"))
