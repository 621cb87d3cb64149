"""The control stream of a worker: hello and welcome, commands, reports, reconnects and goodbyes."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from coordinator.rpc import workers_service
from coordinator.sessions import Session
from hostler.client import Client
from hostler.jobs import JobQuery
from hostler.lifecycle import Outcome, State
from hostler.v1 import types_pb2, workers_pb2
from hostler.wire.ends import end_to_proto
from hostler.wire.work import key_to_proto
from hostler.workers import WorkerState
from tests.rpc.conftest import MakeWorker
from tests.support.builders import NOON_US, W1, a_key, a_spec, an_end
from tests.support.fake_worker import ENDED, RUNNING, FakeWorker
from tests.support.waiting import eventually


async def is_seen_as(client: Client, worker: str, state: WorkerState) -> None:
    """Wait until the coordinator sees a worker so."""
    for _ in range(1000):
        if [w.state for w in await client.workers() if w.id == worker] == [state]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{worker} is not {state}: {await client.workers()}")


async def test_a_new_worker_gets_an_id_and_the_terms(client: Client, worker: FakeWorker) -> None:
    """And is listed with what it said of itself."""
    welcome = worker.received[0].welcome

    assert (welcome.heartbeat_s, welcome.mark, len(welcome.verdicts)) == (60.0, 0, 0)
    assert welcome.lease_s > welcome.heartbeat_s
    (seen,) = await client.workers()
    assert (seen.id, seen.name, seen.host, seen.slots, seen.state) == (
        worker.id,
        "fake",
        "nowhere",
        4,
        WorkerState.CONNECTED,
    )


async def test_a_start_carries_the_work_as_it_was_submitted(client: Client, worker: FakeWorker) -> None:
    """With sequence, attempt and slots."""
    job = await client.submit_one(a_spec("echo", "hello", slots=2))
    (key,) = await worker.takes()
    (start,) = worker.starts

    assert (key.job, key.stage, key.attempt) == (job, 0, 1)
    assert (start.sequence, start.slots) == (1, 2)
    assert list(types_pb2.Work.FromString(start.work).argv) == ["echo", "hello"]


async def test_no_more_is_sent_than_a_worker_has_slots(client: Client, worker: FakeWorker) -> None:
    """An end makes room for the next."""
    await client.submit([a_spec()] * 6)
    keys = await worker.takes(4)

    await worker.report_ended(keys[0])
    await worker.takes(5)

    assert len(worker.starts) == 5
    assert len((await client.find(JobQuery(states=(State.QUEUED,)))).jobs) == 1


async def test_many_starts_arrive_in_the_order_of_their_sequence(client: Client, make_worker: MakeWorker) -> None:
    """Also when they take several messages."""
    worker = await make_worker(slots=1200)
    await client.submit([a_spec(slots=3)] * 400)
    await client.submit([a_spec(slots=0, worker=worker.id)] * 112)
    await worker.takes(512)

    assert [start.sequence for start in worker.starts] == list(range(1, 513))


async def test_an_end_is_acknowledged_once_it_is_durable(client: Client, worker: FakeWorker) -> None:
    """Until then the worker says it again."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()

    await worker.report_ended(key, exit_code=9)

    await eventually(lambda: worker.acknowledged == {key})
    assert (await client.get(job)).outcome is Outcome.FAILED


async def test_reports_of_one_message_are_taken_in_order(client: Client, worker: FakeWorker) -> None:
    """A start and its end may travel together, and a repetition with them."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    proto = types_pb2.AttemptKey(job=key.job, stage=key.stage, attempt=key.attempt)
    start = workers_pb2.Report(key=proto, started_at_us=5)
    end = workers_pb2.Report(key=proto, started_at_us=5, end=types_pb2.End(exit_code=0, cause="exit"))

    await worker.write(workers_pb2.WorkerMessage(reports=[start, end, end]))

    await eventually(lambda: worker.acknowledged == {key})
    events = []
    async for event in client.watch([job]):
        events.append(event.kind)
        if event.kind == "ended":
            break
    assert events == ["queued", "assigned", "started", "ended"]


async def test_an_attempt_that_never_ran_is_given_away_again(client: Client, worker: FakeWorker) -> None:
    """As the next attempt."""
    await client.submit_one(a_spec())
    (first,) = await worker.takes()

    await worker.report_never_ran(first)

    _, second = await worker.takes(2)
    assert second == first._replace(attempt=2)


async def test_a_heartbeat_is_answered_with_what_was_heard(client: Client, worker: FakeWorker) -> None:
    """The worker counts its lease from the time at which it sent."""
    await client.submit_one(a_spec())
    await worker.takes()
    await worker.write(workers_pb2.WorkerMessage(sent_at_ns=1234))

    await eventually(lambda: worker.received[-1].heard_ns == 1234)


async def test_an_idle_worker_gets_its_lease_with_the_next_start(client: Client, worker: FakeWorker) -> None:
    """Until then it needs none, and its heartbeats are not answered."""
    before = len(worker.received)
    await worker.write(workers_pb2.WorkerMessage(sent_at_ns=1234, draining=True))
    await is_seen_as(client, worker.id, WorkerState.DRAINING)
    await worker.write(workers_pb2.WorkerMessage(sent_at_ns=1235))
    await is_seen_as(client, worker.id, WorkerState.CONNECTED)
    assert worker.received[before:] == []

    await client.submit_one(a_spec())
    await worker.takes()

    assert worker.received[before].heard_ns == 1235 and len(worker.received[before].starts) == 1


async def test_a_draining_worker_gets_no_work(client: Client, worker: FakeWorker) -> None:
    """It says so with each message, and may change its mind."""
    await worker.write(workers_pb2.WorkerMessage(draining=True))
    await is_seen_as(client, worker.id, WorkerState.DRAINING)
    job = await client.submit_one(a_spec())
    assert (await client.get(job)).pending_reasons == ("1 worker is draining",)

    await worker.write(workers_pb2.WorkerMessage(draining=False, sent_at_ns=1))

    await worker.takes()


# Leaving and coming back


async def test_a_broken_stream_makes_a_worker_unreachable(client: Client, worker: FakeWorker) -> None:
    """And a goodbye makes it gone."""
    await worker.break_off()
    await is_seen_as(client, worker.id, WorkerState.UNREACHABLE)

    await worker.connect()
    await worker.say_goodbye()
    await is_seen_as(client, worker.id, WorkerState.GONE)


async def test_a_silent_worker_is_unreachable_and_one_that_speaks_is_not(
    client: Client, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stream may stand for hours when nobody says that the other side has gone."""
    monkeypatch.setattr(workers_service, "SILENT_BEATS", 0.02)  # of 60 s each
    worker = await make_worker()
    for _ in range(9):
        await asyncio.sleep(0.3)
        await worker.write(workers_pb2.WorkerMessage())
    assert [each.state for each in await client.workers()] == [WorkerState.CONNECTED]

    await is_seen_as(client, worker.id, WorkerState.UNREACHABLE)


async def test_a_worker_that_reconnects_keeps_its_id_and_its_attempts(client: Client, worker: FakeWorker) -> None:
    """What it runs is kept, and its end arrives on the new stream."""
    job = await client.submit_one(a_spec(slots=3))
    (key,) = await worker.takes()
    await worker.report_started(key)
    assert await client.wait_one(job, until=State.RUNNING, timeout_s=10)
    before = worker.id
    await worker.break_off()

    welcome = await worker.connect([(key, RUNNING)])

    assert welcome.worker == worker.id == before
    assert [(v.key.attempt, v.kind, v.slots) for v in welcome.verdicts] == [(1, workers_pb2.VERDICT_KIND_KEEP, 3)]
    await worker.report_ended(key)
    ended = await client.wait_one(job, timeout_s=10)
    assert ended is not None and (ended.outcome, ended.attempt) == (Outcome.SUCCEEDED, 1)
    assert len(worker.starts) == 1, "nothing was started twice"


async def test_a_start_that_was_not_accepted_is_sent_again_above_the_mark(client: Client, worker: FakeWorker) -> None:
    """The same attempt with the same sequence: it was never accepted, so this is no second start."""
    await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.break_off()
    worker.mark = 0  # its journal has nothing

    welcome = await worker.connect()

    assert await worker.takes(2) == [key, key]
    assert [start.sequence for start in worker.starts] == [1, 1]
    assert welcome.mark < 1


async def test_strangers_are_killed_or_forgotten(worker: FakeWorker) -> None:
    """Attempts of jobs that nobody knows."""
    running, ended = a_key(1), a_key(2)
    await worker.break_off()

    welcome = await worker.connect([(running, RUNNING), (ended, ENDED)])

    assert {v.key.job: v.kind for v in welcome.verdicts} == {
        running.job: workers_pb2.VERDICT_KIND_KILL,
        ended.job: workers_pb2.VERDICT_KIND_FORGET,
    }


async def test_a_host_that_was_restarted_has_lost_its_jobs(client: Client, worker: FakeWorker) -> None:
    """Nobody can tell how they ended."""
    job = await client.submit_one(a_spec())
    await worker.takes()
    await worker.break_off()

    await worker.connect(boot_id="another", journal_id="another", mark=0)

    lost = await client.get(job)
    assert (lost.outcome, lost.end is not None and lost.end.cause) == (Outcome.LOST, "host_restarted")


async def test_a_second_stream_supersedes_the_first(client: Client, worker: FakeWorker) -> None:
    """The first is told so and ends; the worker is connected throughout."""
    first = worker.received
    second = FakeWorker(worker.address, generation=1)
    second.id = worker.id
    try:
        await second.connect()
        await eventually(lambda: first[-1].superseded, "the first stream was told")
        assert await worker.ended_with() is grpc.StatusCode.OK
        await is_seen_as(client, worker.id, WorkerState.CONNECTED)
        await client.submit_one(a_spec())
        await second.takes()
    finally:
        await second.close()


async def test_an_older_generation_brings_quarantine(worker: FakeWorker, make_worker: MakeWorker) -> None:
    """A restored copy of a worker's directory does not speak for it."""
    await worker.connect(generation=5)
    copy = await make_worker()
    copy.id = worker.id

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await copy.connect(generation=4)

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_what_an_agent_had_sent_before_it_was_ended_brings_no_quarantine(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives late, behind the hello of its successor; the end of its stream is behind it."""
    monkeypatch.setattr(workers_service, "STANDING_S", 0.5)
    await worker.connect(generation=5)
    late = FakeWorker(worker.address)
    late.id = worker.id
    saying = asyncio.create_task(late.connect(generation=4))
    await asyncio.sleep(0.2)
    saying.cancel()
    await asyncio.gather(saying, return_exceptions=True)
    await late.close()
    await asyncio.sleep(0.6)

    await is_seen_as(client, worker.id, WorkerState.CONNECTED)
    await client.submit_one(a_spec())
    await worker.takes()


@pytest.mark.parametrize(
    "hello", [{"worker": "x"}, {"worker": W1.upper()}, {"boot_id": ""}, {"journal_id": ""}], ids=str
)
async def test_a_hello_that_names_nobody_is_refused(make_worker: MakeWorker, hello: dict[str, Any]) -> None:
    """With a status, and without a trace."""
    worker = await make_worker()

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.connect(**hello)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_nothing_is_kept_of_what_a_worker_says_of_attempts_it_does_not_have(
    client: Client, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could fill the coordinator's memory; of its own attempts the latest word is kept."""
    sessions: list[Session] = []

    class Seen(Session):
        def __init__(self, worker: str, session_id: str) -> None:
            super().__init__(worker, session_id)
            sessions.append(self)

    monkeypatch.setattr(workers_service, "Session", Seen)
    worker = await make_worker()
    await worker.connect()
    await client.submit_one(a_spec())
    (key,) = await worker.takes()

    for named in (a_key(1), a_key(2), key):
        held = key_to_proto(named)
        said = workers_pb2.WorkerMessage()
        said.samples.add(key=held)
        said.notes.add(key=held, phase="preparing")
        await worker.write(said)

    await eventually(lambda: bool(sessions[-1].notes))
    assert list(sessions[-1].samples) == list(sessions[-1].notes) == [key]


async def test_a_worker_that_says_an_epoch_beyond_every_limit_keeps_no_other_one_out(
    client: Client, make_worker: MakeWorker
) -> None:
    """What it made the others hear is believed of them, too."""
    liar = await make_worker(epoch=(1 << 64) - 1)
    await liar.connect()
    heard = liar.received[0].epoch

    other = await make_worker(epoch=heard, journal_id="other")
    await other.connect()

    assert other.received[0].epoch == heard
    assert len(await client.workers()) == 2


async def test_the_first_message_must_be_a_hello(client: Client, channel: grpc.aio.Channel) -> None:
    """Nothing is taken from somebody who did not say who it is."""
    call: Any = channel.stream_stream("/hostler.v1.Workers/Connect")()
    await call.write(workers_pb2.WorkerMessage(draining=True).SerializeToString())

    assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.INVALID_ARGUMENT
    assert await client.workers() == []


async def test_a_worker_that_leaves_has_its_ends_acknowledged_at_once(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says goodbye only then; the acknowledgements of others wait for company."""
    monkeypatch.setattr("coordinator.sessions.ACKNOWLEDGE_S", 3600.0)
    await client.submit([a_spec(), a_spec()])
    first, second = await worker.takes(2)
    await worker.report_ended(first)
    await worker.write(workers_pb2.WorkerMessage(draining=True, draining_reason="the worker is ending"))
    await eventually(lambda: worker.acknowledged == {first})

    report = workers_pb2.Report(key=key_to_proto(second), started_at_us=NOON_US, end=end_to_proto(an_end()))
    await worker.write(
        workers_pb2.WorkerMessage(draining=True, draining_reason="the worker is ending", reports=[report])
    )

    await eventually(lambda: worker.acknowledged == {first, second})
