"""Logs: pushed by position, stored before the worker may drop them, and read from any position on."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from coordinator import engine
from coordinator.app import Coordinator
from coordinator.engine import Batch, Engine, Item
from hostler.client import Client, LogChunk
from hostler.endpoint import coordinator_socket
from hostler.errors import InvalidRequest, JobNotFound
from hostler.ids import AttemptKey
from hostler.jobs import LogStatus
from hostler.settings import Settings
from hostler.v1 import workers_pb2
from hostler.wire.work import key_to_proto
from tests.rpc.conftest import MakeWorker
from tests.support.builders import a_key, a_spec, some_frames
from tests.support.fake_worker import ENDED, RUNNING, FakeWorker
from tests.support.waiting import eventually

ONE, TWO, THREE = (some_frames(text) for text in (b"one\n", b"two two\n", b"three three three\n"))
WHOLE = ONE + TWO + THREE


async def running(client: Client, worker: FakeWorker) -> tuple[str, AttemptKey]:
    """A job that runs on the worker, whose log stream is open."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.report_started(key)
    await worker.open_push()
    return job, key


async def read(client: Client, job: str, start: int = 0, *, follow: bool = False) -> tuple[bytes, list[LogChunk]]:
    """The frames from a position on, checked to follow on one another, and the chunks."""
    chunks = [chunk async for chunk in client.read_log(job, start=start, follow=follow)]
    for before, after in pairwise(chunks):
        assert after.position == before.position + len(before.frames)
    assert [chunk.end for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return b"".join(chunk.frames for chunk in chunks), chunks


async def test_a_pushed_log_is_stored_and_read_back(client: Client, worker: FakeWorker) -> None:
    """Byte for byte, also while the job runs; then without `follow` it ends with what there is."""
    job, key = await running(client, worker)
    await worker.push(key, 0, ONE)
    await worker.push(key, len(ONE), TWO)
    await worker.stored(key, len(ONE + TWO))

    found, chunks = await read(client, job)

    assert found == ONE + TWO
    assert chunks[-1].status is LogStatus.ARRIVING
    assert (await client.get(job)).log_bytes == len(b"one\ntwo two\n")


@pytest.mark.parametrize("inline", [True, False])
async def test_a_log_is_read_from_every_position(client: Client, worker: FakeWorker, inline: bool) -> None:
    """One inside a frame is moved back to the frame's start: nobody gets half a frame."""
    job, key = await running(client, worker)
    if not inline:
        for position, frames in ((0, ONE), (len(ONE), TWO), (len(ONE + TWO), THREE)):
            await worker.push(key, position, frames)
        await worker.stored(key, len(WHOLE))
    await worker.report_ended(key, ledger=WHOLE if inline else b"", ledger_bytes=len(WHOLE))
    assert await client.wait_one(job, timeout_s=10)

    borders = [0, len(ONE), len(ONE + TWO), len(WHOLE)]
    for position in range(len(WHOLE) + 1):
        start = max(border for border in borders if border <= position)
        found, chunks = await read(client, job, position)
        assert found == WHOLE[start:]
        assert found == b"" or chunks[0].position == start
        assert chunks[-1].status is LogStatus.COMPLETE
    for position in (len(WHOLE) + 1, len(WHOLE) + 2, 1 << 63, (1 << 64) - 1):
        with pytest.raises(InvalidRequest, match=f"ends at {len(WHOLE)}"):
            await read(client, job, position)


async def test_a_follower_gets_each_piece_and_ends_with_the_log(client: Client, worker: FakeWorker) -> None:
    """It ends with the log, not with the state: the log may trail its job."""
    job, key = await running(client, worker)
    following = asyncio.create_task(read(client, job, follow=True))
    await worker.push(key, 0, ONE)
    await worker.stored(key, len(ONE))
    await worker.report_ended(key, ledger_bytes=len(WHOLE))
    assert await client.wait_one(job, timeout_s=10)
    assert not following.done()
    assert (await client.get(job)).log_status is LogStatus.ARRIVING

    await worker.push(key, len(ONE), TWO + THREE)

    found, chunks = await asyncio.wait_for(following, 10)
    assert found == WHOLE
    assert chunks[-1].status is LogStatus.COMPLETE


async def test_a_follower_of_a_waiting_job_waits_for_its_log(client: Client, worker: FakeWorker) -> None:
    """Who follows need not know when it starts."""
    ids = [str(job) for job in await client.submit([a_spec()] * 5)]
    following = asyncio.create_task(read(client, ids[4], follow=True))
    keys = await worker.takes(4)
    await worker.report_ended(keys[0])
    last = (await worker.takes(5))[4]

    await worker.report_ended(last, ledger=ONE)

    assert (await asyncio.wait_for(following, 10))[0] == ONE


async def test_a_stopped_waiting_job_has_an_empty_complete_log(client: Client) -> None:
    """Its follower ends."""
    job = await client.submit_one(a_spec())
    following = asyncio.create_task(read(client, job, follow=True))
    await client.stop(job)

    found, chunks = await asyncio.wait_for(following, 10)

    assert (found, chunks[-1].status) == (b"", LogStatus.COMPLETE)


async def test_a_long_log_is_read_in_pieces(client: Client, worker: FakeWorker) -> None:
    """Neither side holds the whole of it."""
    job, key = await running(client, worker)
    frames = some_frames(*[bytes([number]) * 60_000 for number in range(8)])
    ledger = frames * 8
    for place in range(8):
        await worker.push(key, place * len(frames), frames)
    await worker.report_ended(key, ledger_bytes=len(ledger))

    found, chunks = await asyncio.wait_for(read(client, job, follow=True), 20)

    assert found == ledger
    assert max(len(chunk.frames) for chunk in chunks) <= 1_100_000


async def test_an_attempt_that_never_was_is_not_taken_for_one_without_output(
    client: Client, worker: FakeWorker
) -> None:
    """A follower waits as long as there may still be one."""
    job, key = await running(client, worker)
    following = asyncio.create_task(read_attempt(client, job, 7))
    with pytest.raises(JobNotFound, match=f"attempt 2 of job {job} has no log: it has not run"):
        await read_attempt(client, job, 2, follow=False)
    assert not following.done()
    await worker.report_ended(key, ledger=b"")
    assert await client.wait_one(job, timeout_s=10)

    with pytest.raises(JobNotFound, match="attempt 7 of job"):
        await asyncio.wait_for(following, 10)
    for follow in (False, True):
        with pytest.raises(JobNotFound, match=f"attempt 1 of stage 3 of job {job} has no log"):
            await read_attempt(client, job, 1, stage=3, follow=follow)
        chunks = await read_attempt(client, job, 1, follow=follow)
        assert [(chunk.frames, chunk.end) for chunk in chunks] == [(b"", True)]


async def read_attempt(
    client: Client, job: str, attempt: int, *, stage: int = 0, follow: bool = True
) -> list[LogChunk]:
    """Everything of one attempt, to its end."""
    return [chunk async for chunk in client.read_log(job, stage=stage, attempt=attempt, follow=follow)]


async def test_who_asks_before_the_first_attempt_gets_it_from_his_position(client: Client, worker: FakeWorker) -> None:
    """A position means the same whether the job runs already or not."""
    ids = [str(job) for job in await client.submit([a_spec()] * 5)]
    following = asyncio.create_task(read(client, ids[4], len(ONE), follow=True))
    keys = await worker.takes(4)
    await worker.report_ended(keys[0])
    last = (await worker.takes(5))[4]

    await worker.report_ended(last, ledger=WHOLE)

    assert (await asyncio.wait_for(following, 10))[0] == TWO + THREE


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("over", [False, True])
async def test_a_position_beyond_what_is_held_is_refused(
    client: Client, worker: FakeWorker, over: bool, follow: bool
) -> None:
    """Of an attempt that runs as of one that is over: what would be left out is not left out in silence."""
    job, key = await running(client, worker)
    await worker.push(key, 0, ONE)
    await worker.stored(key, len(ONE))
    if over:
        await worker.report_ended(key, ledger_bytes=len(ONE))
        await client.wait_one(job, timeout_s=10)

    with pytest.raises(InvalidRequest, match=rf"the log of attempt 1 ends at {len(ONE)}$") as caught:
        await read(client, job, len(ONE) + 1, follow=follow)

    assert caught.value.field == "from"
    assert (await read(client, job, len(ONE)))[0] == b""


async def test_a_position_before_there_is_an_attempt_is_refused_unless_it_is_followed(client: Client) -> None:
    """There is nothing, and nothing to wait for; of a job that ended without an attempt there never is."""
    job = await client.submit_one(a_spec())
    with pytest.raises(InvalidRequest, match="no attempt has begun"):
        await read(client, job, 1)
    following = asyncio.create_task(read(client, job, 1, follow=True))

    await client.stop(job)

    with pytest.raises(InvalidRequest, match="no attempt has begun"):
        await asyncio.wait_for(following, 10)


async def test_a_follower_whose_position_an_attempt_does_not_come_to_is_told(
    client: Client, worker: FakeWorker
) -> None:
    """It asked before there was any attempt, and nothing of its log was sent."""
    ids = [str(job) for job in await client.submit([a_spec()] * 5)]
    following = asyncio.create_task(read(client, ids[4], len(WHOLE) + 1, follow=True))
    keys = await worker.takes(4)
    await worker.report_ended(keys[0])
    last = (await worker.takes(5))[4]

    await worker.report_ended(last, ledger=WHOLE)

    with pytest.raises(InvalidRequest, match=f"the log of attempt 1 ends at {len(WHOLE)}"):
        await asyncio.wait_for(following, 10)


# What a worker pushes


@pytest.mark.parametrize("position", [1, len(ONE) + 1, 10_000, 0])
async def test_a_piece_that_does_not_follow_is_refused(client: Client, worker: FakeWorker, position: int) -> None:
    """A gap, a place inside what is there, or the beginning again: the mark says where to go on."""
    job, key = await running(client, worker)
    await worker.push(key, 0, ONE)
    await worker.stored(key, len(ONE))

    await worker.push(key, position, TWO)

    mark = await worker.told()
    assert (mark.rewind, mark.received) == (True, len(ONE))
    await worker.push(key, len(ONE), THREE)
    await worker.stored(key, len(ONE + THREE))
    assert (await read(client, job))[0] == ONE + THREE


@pytest.mark.parametrize("frames", [ONE[:-1], ONE + b"x", b"x" * 100, ONE[:-1] + b"?"])
async def test_bytes_that_are_no_whole_frames_are_refused(client: Client, worker: FakeWorker, frames: bytes) -> None:
    """A torn or broken frame would make the rest unreadable."""
    job, key = await running(client, worker)

    await worker.push(key, 0, frames)

    mark = await worker.told()
    assert (mark.rewind, mark.received, mark.stored) == (True, 0, 0)
    assert (await read(client, job))[0] == b""


async def test_a_new_stream_goes_on_where_the_log_is_stored(client: Client, worker: FakeWorker) -> None:
    """What the old one had under way is sent again, and nothing is twice in the log."""
    job, key = await running(client, worker)
    await worker.push(key, 0, ONE)
    await worker.stored(key, len(ONE))
    await worker.break_off()
    await worker.connect([(key, RUNNING)])
    await worker.open_push()

    await worker.push(key, len(ONE), TWO)
    await worker.stored(key, len(ONE + TWO))

    assert (await read(client, job))[0] == ONE + TWO


async def test_the_rest_of_a_log_arrives_after_a_reconnect(client: Client, worker: FakeWorker) -> None:
    """The stream broke between the end and the log: the ended attempt is kept, and the log becomes complete."""
    job, key = await running(client, worker)
    await worker.push(key, 0, ONE)
    await worker.report_ended(key, ledger_bytes=len(WHOLE))
    await eventually(lambda: key in worker.acknowledged)
    await worker.stored(key, len(ONE))
    await worker.break_off()

    welcome = await worker.connect([(key, ENDED)])
    await worker.open_push()
    await worker.push(key, len(ONE), TWO + THREE)
    await worker.stored(key, len(WHOLE))

    assert [verdict.kind for verdict in welcome.verdicts] == [workers_pb2.VERDICT_KIND_KEEP]
    found, chunks = await read(client, job)
    assert (found, chunks[-1].status) == (WHOLE, LogStatus.COMPLETE)


async def test_a_log_that_its_worker_lost_ends_as_lost(client: Client, worker: FakeWorker) -> None:
    """Whoever follows is told how much is missing."""
    job, key = await running(client, worker)
    await worker.push(key, 0, ONE)
    await worker.stored(key, len(ONE))
    await worker.report_ended(key, ledger_bytes=len(WHOLE))
    following = asyncio.create_task(read(client, job, follow=True))
    await eventually(lambda: key in worker.acknowledged)
    await worker.break_off()

    await worker.connect()

    found, chunks = await asyncio.wait_for(following, 10)
    assert found == ONE
    assert (chunks[-1].status, chunks[-1].lost_bytes) == (LogStatus.LOST, len(TWO + THREE))


@pytest.mark.parametrize("key", [a_key(99), a_key(1, attempt=7)])
async def test_a_log_that_nobody_wants_is_told_to_be_forgotten(
    client: Client, worker: FakeWorker, key: AttemptKey
) -> None:
    """Of a job or an attempt that is not live."""
    await running(client, worker)

    await worker.push(key, 0, ONE)

    assert (await worker.told()).forget


async def test_a_complete_log_is_not_taken_again(client: Client, worker: FakeWorker) -> None:
    """The worker was not told in time, and pushes what is there."""
    job, key = await running(client, worker)
    await worker.report_ended(key, ledger=WHOLE)
    assert await client.wait_one(job, timeout_s=10)

    await worker.push(key, 0, ONE)

    assert (await worker.told()).forget
    assert (await read(client, job))[0] == WHOLE


async def test_logs_of_many_attempts_do_not_mix(client: Client, make_worker: MakeWorker) -> None:
    """They lie in one segment, turn by turn."""
    worker = await make_worker(slots=8)
    ids = [str(job) for job in await client.submit([a_spec()] * 8)]
    keys = await worker.takes(8)
    await worker.open_push()
    pieces = [[some_frames(b"%d says %d" % (job, turn)) for turn in range(5)] for job in range(8)]
    for turn in range(5):
        for job, key in enumerate(keys):
            await worker.push(key, sum(map(len, pieces[job][:turn])), pieces[job][turn])
    for job, key in enumerate(keys):
        await worker.stored(key, sum(map(len, pieces[job])))

    for job, name in enumerate(ids):
        assert (await read(client, name))[0] == b"".join(pieces[job])


async def test_logs_and_jobs_survive_a_restart_of_the_coordinator(settings: Settings, data_dir: Path) -> None:
    """A pushed log, one that came with the report, and one that is still under way."""
    address = f"unix:{coordinator_socket(data_dir)}"
    worker = FakeWorker(address)
    async with Coordinator(settings), Client(address) as client:
        await worker.connect()
        ids = [str(job) for job in await client.submit([a_spec()] * 3)]
        keys = await worker.takes(3)
        await worker.open_push()
        for key in keys[:2]:
            await worker.push(key, 0, ONE)
            await worker.stored(key, len(ONE))
        await worker.report_ended(keys[0], ledger_bytes=len(ONE))
        await worker.report_ended(keys[2], ledger=WHOLE)
        await eventually(lambda: worker.acknowledged == {keys[0], keys[2]})
        await worker.break_off()

    async with Coordinator(settings), Client(address) as client:
        await asyncio.wait_for(client.describe(wait_for_ready=True), 10)
        # Before its worker is back: what was read once is held, and nobody who read it is refused.
        assert (await read(client, ids[1], len(ONE)))[0] == b""
        welcome = await worker.connect([(keys[1], RUNNING)])
        await worker.open_push()
        await worker.push(keys[1], len(ONE), TWO)
        await worker.report_ended(keys[1], ledger_bytes=len(ONE + TWO))

        assert [v.kind for v in welcome.verdicts] == [workers_pb2.VERDICT_KIND_KEEP]
        assert (await asyncio.wait_for(read(client, ids[1], follow=True), 10))[0] == ONE + TWO
        assert (await read(client, ids[0]))[0] == ONE
        assert (await read(client, ids[2]))[0] == WHOLE
    await worker.close()


async def test_a_push_that_is_no_message_ends_its_stream_only(client: Client, worker: FakeWorker) -> None:
    """Control goes on."""
    await running(client, worker)
    async with grpc.aio.insecure_channel(client.address) as channel:
        call: Any = channel.stream_stream("/hostler.v1.Workers/PushLog")()
        await call.write(b"\xff\xff\xff")
        assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.INVALID_ARGUMENT

    await worker.write(workers_pb2.WorkerMessage(sent_at_ns=77))
    await eventually(lambda: worker.received[-1].heard_ns == 77)


async def test_pieces_of_unknown_logs_wait_for_room_like_everything_a_worker_says(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come while a commit is under way, the inbox keeps its bound; each of them is answered."""
    largest, open_now, wakes = 0, asyncio.Event(), set()
    take, is_full = Engine._take, vars(Batch)["full"].fget

    def measured(self: Engine, item: Item) -> None:
        nonlocal largest
        take(self, item)
        largest = max(largest, len(self._inbox))
        wakes.add(self._wake)

    monkeypatch.setattr(engine, "INBOX_MAX", 5)
    monkeypatch.setattr(Engine, "_take", measured)
    monkeypatch.setattr(Batch, "full", property(lambda batch: not open_now.is_set() or is_full(batch)))
    await worker.open_push()

    push = workers_pb2.LogPush(session=worker.session)
    for number in range(100):
        push.parts.add(key=key_to_proto(a_key(number)), frames=ONE)
    await worker._bulk.write(push)
    await eventually(lambda: largest >= 5)
    open_now.set()
    wakes.pop().set()  # as the end of a commit does

    await eventually(lambda: len({str(mark.key) for mark in worker.marks if mark.forget}) == 100)
    assert largest == 5
