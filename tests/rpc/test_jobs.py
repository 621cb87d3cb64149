"""Submit, get, list, wait, watch and stop, as a program calls them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from coordinator.decisions import Decision, Submission
from coordinator.effects import Answer
from coordinator.live import Live
from coordinator.rpc.submissions import submission
from hostler.client import SLICE_ITEMS, Client
from hostler.errors import (
    InvalidRequest,
    JobNotFound,
    KeyConflict,
    Overloaded,
    TooLarge,
    Unavailable,
    WorkerNotFound,
)
from hostler.ids import is_uuid
from hostler.jobs import JobEvent, JobQuery, JobSpec, Progress, Receipt, Work
from hostler.lifecycle import Outcome, State
from hostler.v1 import jobs_pb2, jobs_pb2_grpc
from tests.support.builders import W2, a_spec, an_id, some_frames
from tests.support.fake_worker import FakeWorker
from tests.support.waiting import eventually

BAD = a_spec(priority=5000)


# Submit


async def test_ten_thousand_jobs_are_answered_in_order(client: Client) -> None:
    """A bad item is an error in its place, and the rest is accepted."""
    specs = [BAD if number % 97 == 5 else a_spec(name=f"n{number}") for number in range(10_000)]

    results = await client.submit(specs)

    assert len(results) == 10_000
    bad = [number for number, result in enumerate(results) if isinstance(result, InvalidRequest)]
    assert bad == list(range(5, 10_000, 97))
    ids = [result for result in results if isinstance(result, str)]
    assert len(set(ids)) == 10_000 - len(bad) and all(map(is_uuid, ids))
    assert (await client.get(str(results[9999]))).spec.name == "n9999"
    assert (await client.describe()).queued == len(ids)


async def test_others_are_served_while_a_large_call_is_looked_at(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand items at once held everybody up for half a second, a few long ones as well."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    seen: list[int] = []

    def noting(*args: Any, **options: Any) -> Submission:
        seen.append(turns)
        return submission(*args, **options)

    monkeypatch.setattr("coordinator.rpc.jobs_service.submission", noting)
    others = asyncio.create_task(take_turns())
    await client.submit([a_spec(name=f"n{number}") for number in range(10_000)])
    assert len(seen) == 10_000
    assert max(seen.count(turn) for turn in set(seen)) <= 500

    seen.clear()
    long = replace(a_spec(), work=replace(a_spec().work, env={"A": "x" * 100_000}))
    await client.submit([replace(long, name=f"n{number}") for number in range(100)])
    assert len(seen) == 100
    assert max(seen.count(turn) for turn in set(seen)) <= 3
    others.cancel()


async def test_more_than_ten_thousand_are_refused_as_a_whole(client: Client) -> None:
    """And nothing is accepted."""
    with pytest.raises(TooLarge) as refused:
        await client.submit([a_spec()] * 10_001)

    assert refused.value.field == "jobs"
    assert (await client.describe()).queued == 0


async def test_a_job_is_read_back_as_it_was_submitted(client: Client, worker: FakeWorker) -> None:
    """Every option."""
    work = Work(argv=("sh", "-c", "x"), env={"A": "1"}, cwd="/", timeout_s=3.0, grace_s=1.0, output_bytes_max=5)
    spec = replace(
        a_spec(),
        work=work,
        name="n",
        key="k",
        worker=worker.id,
        labels={"zone": "a"},
        priority=3,
        slots=2,
        owner="ada",
        retries=4,
        retry_on=("signal", "exit"),
    )

    job = await client.get(await client.submit_one(spec))

    assert job.spec == spec
    assert job.state is State.QUEUED
    assert job.pending_reasons == ("the worker asked for does not have the label zone=a",)


async def test_an_error_of_an_item_has_code_field_and_text(client: Client) -> None:
    """Over the wire as here."""
    results = await client.submit([a_spec(), BAD, a_spec(worker=W2)])

    bad, lost = results[1], results[2]
    assert isinstance(bad, InvalidRequest) and (bad.field, "1000" in bad.message) == ("priority", True)
    assert isinstance(lost, WorkerNotFound) and (lost.field, W2 in lost.message) == ("worker", True)


async def test_an_error_says_when_to_try_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is of the whole call or of one item."""
    monkeypatch.setattr("coordinator.engine.decisions.on_submit", _no_room)
    (refused,) = await client.submit([a_spec()])
    assert isinstance(refused, Overloaded) and refused.retry_after_s == 7.0

    monkeypatch.setattr("coordinator.rpc.jobs_service.DiskReserve.check", _no_space)
    with pytest.raises(Unavailable) as failed:
        await client.submit([a_spec()])
    assert failed.value.retry_after_s == 30.5


def _no_room(live: Live, items: Sequence[Submission], reply: object, *_: object, **__: object) -> Decision:
    return Decision([], [Answer(reply, [Overloaded("too many", retry_after_s=7.0) for _ in items])])


async def test_a_key_stands_for_one_job_in_all_its_life(client: Client, worker: FakeWorker) -> None:
    """While it waits, while it runs, and when memory has let it go."""
    spec = a_spec(key="k")
    first = await client.submit_one(spec)
    assert await client.submit([spec, spec]) == [first, first]
    (key,) = await worker.takes()
    await worker.report_ended(key)
    await eventually(lambda: worker.acknowledged)

    assert await client.submit_one(spec) == first
    with pytest.raises(KeyConflict) as refused:
        await client.submit_one(a_spec("false", key="k"))
    assert refused.value.field == "key"
    assert len((await client.find(JobQuery())).jobs) == 1


async def test_the_order_of_an_environment_does_not_make_another_body(client: Client) -> None:
    """The digest is of the meaning."""
    one = replace(a_spec(key="k"), work=Work(argv=("true",), env={"A": "1", "B": "2"}))
    two = replace(a_spec(key="k"), work=Work(argv=("true",), env={"B": "2", "A": "1"}))

    assert await client.submit_one(one) == await client.submit_one(two)


async def test_submit_can_wait_for_the_end(client: Client, worker: FakeWorker) -> None:
    """What ended in time has its progress, what did not has its id."""
    asking = asyncio.create_task(client.submit_and_wait([a_spec(), BAD, a_spec()], wait_s=1.5))
    keys = await worker.takes(2)
    await worker.report_ended(keys[0], exit_code=4)

    first, bad, second = await asking

    assert first == Progress(keys[0].job, State.FINISHED, Outcome.FAILED, 4, "", "exit")
    assert isinstance(bad, InvalidRequest)
    assert second == keys[1].job


@pytest.mark.parametrize("waits", [False, True])
async def test_others_have_their_turn_while_a_large_submission_is_made(client: Client, waits: bool) -> None:
    """Ten thousand rich jobs take a third of a second to be made into messages: too long for one step of a loop."""
    turns = 0
    seen = set[int]()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def specs() -> Iterator[JobSpec]:
        for _ in range(4 * SLICE_ITEMS):
            seen.add(turns)
            yield BAD

    other = asyncio.create_task(others())
    answers = await (client.submit_and_wait(specs(), wait_s=1.0) if waits else client.submit(specs()))
    other.cancel()

    assert len(seen) >= 4
    assert len(answers) == 4 * SLICE_ITEMS


async def test_a_connection_that_may_assert_names_the_principal(client: Client) -> None:
    """The unix socket is the gateway's way in: whose job it is comes with the item."""
    made = await client.access.create_key("ada's", owner="ada", scopes=["developer"])

    (job,) = await client.submit([a_spec()], principal=f"key:{made.key.id}")

    assert (await client.get(str(job))).spec.owner == "ada"


# Get and list


@pytest.mark.parametrize("job", [an_id(1), "", "x", "' OR 1=1", "ü" * 500])
async def test_an_unknown_job_is_not_found(client: Client, job: str) -> None:
    """Whatever the id looks like, in every call that names one."""
    with pytest.raises(JobNotFound):
        await client.get(job)
    with pytest.raises(JobNotFound):
        await client.stop(job)
    with pytest.raises(JobNotFound):
        await client.signal(job, 15)
    with pytest.raises(JobNotFound):
        [progress async for progress in client.wait([job])]
    with pytest.raises(JobNotFound):
        [chunk async for chunk in client.read_log(job)]


async def test_a_job_of_another_family_is_unknown(client: Client) -> None:
    """Each API finds only its own."""
    job = await client.submit_one(a_spec(family="pixyz"))

    assert (await client.get(job, family="pixyz")).id == job
    with pytest.raises(JobNotFound):
        await client.get(job, family="altron")
    with pytest.raises(JobNotFound):
        await client.stop(job, family="altron")


async def test_lists_are_filtered_and_paged(client: Client) -> None:
    """Through every page, oldest first."""
    ids = [str(job) for job in await client.submit([a_spec(name=f"n{number % 2}") for number in range(7)])]

    pages: list[list[str]] = []
    after = ""
    while not pages or after:
        page = await client.find(JobQuery(name="n0", limit=2, after=after))
        pages.append([job.id for job in page.jobs])
        after = page.next

    assert pages == [[ids[0], ids[2]], [ids[4], ids[6]]]


async def test_a_page_that_never_was_is_refused(client: Client) -> None:
    """Not an empty list: the caller made a mistake."""
    with pytest.raises(InvalidRequest) as refused:
        await client.find(JobQuery(after="x"))

    assert refused.value.field == "after"


async def test_a_job_whose_worker_is_away_is_unreachable(client: Client, worker: FakeWorker) -> None:
    """A phase, not a state: it may run on."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.report_started(key)
    assert await client.wait_one(job, until=State.RUNNING, timeout_s=10)
    await worker.break_off()

    found = await client.get(job)
    for _ in range(1000):
        if found.phase:
            break
        await asyncio.sleep(0.01)
        found = await client.get(job)
    assert (found.state, found.phase) == (State.RUNNING, "unreachable")


# Wait and watch


async def test_wait_tells_of_each_job_once_and_ends(client: Client, worker: FakeWorker) -> None:
    """Of those that are over already too; an id that is named twice counts once."""
    ids = [str(job) for job in await client.submit([a_spec(), a_spec(), a_spec()])]
    keys = await worker.takes(3)
    await worker.report_ended(keys[0])
    await eventually(lambda: worker.acknowledged)

    told: list[str] = []
    async for progress in client.wait([*ids, ids[0]], timeout_s=20):
        told.append(progress.id)
        if len(told) < 3:
            await worker.report_ended(keys[len(told)])

    assert told == ids


async def test_wait_ends_with_what_there_is_when_time_is_over(client: Client, worker: FakeWorker) -> None:
    """And is no error."""
    ids = [str(job) for job in await client.submit([a_spec(), a_spec()])]
    keys = await worker.takes(2)
    await worker.report_ended(keys[1])
    await eventually(lambda: worker.acknowledged)

    assert [progress.id async for progress in client.wait(ids, timeout_s=0.5)] == [ids[1]]


async def test_wait_for_the_start_is_told_of_the_start(client: Client, worker: FakeWorker) -> None:
    """Or of an end that came without one, with the reason."""
    first, second = [str(job) for job in await client.submit([a_spec(), a_spec("missing")])]
    keys = await worker.takes(2)
    await worker.report_started(keys[0])
    await worker.report_ended(keys[1], cause="not_started", exit_code=None, started_at_us=0, error="no such file")

    told = {progress.id: progress async for progress in client.wait([first, second], until=State.RUNNING, timeout_s=10)}

    assert told[first] == Progress(first, State.RUNNING)
    assert told[second] == Progress(second, State.FINISHED, Outcome.FAILED, cause="not_started", error="no such file")


async def test_wait_for_too_many_is_refused(client: Client) -> None:
    """A bound of the contract."""
    with pytest.raises(TooLarge):
        [progress async for progress in client.wait([an_id(number) for number in range(10_001)])]


async def test_watch_tells_every_transition_and_resumes(client: Client, worker: FakeWorker) -> None:
    """From any event on, without a gap and without a repetition."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.report_started(key)
    stopping = asyncio.create_task(client.stop(job))
    await eventually(lambda: worker.stops)
    await worker.report_ended(key, cause="stop", exit_code=None, signal="SIGTERM")
    await stopping

    async def watched(after: int, until: str) -> list[JobEvent]:
        found = []
        async for event in client.watch([job], after=after):
            found.append(event)
            if event.kind == until:
                break
        return found

    events = await asyncio.wait_for(watched(0, "ended"), 10)
    assert [event.kind for event in events] == ["queued", "assigned", "started", "stop_requested", "ended"]
    assert [(event.kind, event.attempt, event.worker) for event in (events[0], events[-1])] == [
        ("queued", 0, ""),
        ("ended", 1, events[1].worker),
    ]
    for place, event in enumerate(events[:-1]):
        assert await asyncio.wait_for(watched(event.number, "ended"), 10) == events[place + 1 :]


async def test_watch_goes_on_with_what_happens(client: Client) -> None:
    """It does not end by itself."""
    watching = client.watch()
    await client.submit_one(a_spec(name="one"))
    first = await asyncio.wait_for(anext(watching), 10)

    async def following() -> JobEvent:
        return await anext(watching)

    second = asyncio.create_task(following())
    job = await client.submit_one(a_spec(name="two"))

    assert first.kind == "queued"
    assert (await asyncio.wait_for(second, 10)).job == job


# Stop


async def test_a_stop_is_answered_only_after_the_proof(client: Client, worker: FakeWorker) -> None:
    """The worker's report that nothing is left, with its receipt."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.report_started(key)
    stopping = asyncio.create_task(client.stop(job, grace_s=2.5))
    await eventually(lambda: worker.stops)

    assert (worker.stops[0].grace_s, worker.stops[0].sequence) == (2.5, 1)
    assert (await client.get(job)).state is State.STOPPING
    assert not stopping.done()

    receipt = Receipt(verified_by="wait", verified_at_us=7)
    await worker.report_ended(key, cause="stop", exit_code=None, signal="SIGTERM", receipt=receipt)
    stopped = await asyncio.wait_for(stopping, 10)
    assert (stopped.state, stopped.outcome) == (State.FINISHED, Outcome.STOPPED)
    assert stopped.end is not None and stopped.end.receipt == receipt
    assert await client.stop(job) == stopped, "stopping twice succeeds"


async def test_a_stop_without_a_grace_takes_the_job_s_own(client: Client, worker: FakeWorker) -> None:
    """As it was submitted."""
    job = await client.submit_one(JobSpec(work=Work(argv=("true",), grace_s=7.5)))
    await worker.takes()
    stopping = asyncio.create_task(client.stop(job))
    await eventually(lambda: worker.stops)

    assert worker.stops[0].grace_s == 7.5
    stopping.cancel()


async def test_a_stop_without_the_proof_is_answered_as_stopping(client: Client, worker: FakeWorker) -> None:
    """When its patience is over: not a lie, and not an error."""
    job = await client.submit_one(a_spec())
    await worker.takes()

    found = await client.stop(job, grace_s=0.0, wait_s=0.2)

    assert (found.state, found.outcome) == (State.STOPPING, Outcome.NONE)


async def test_a_waiting_job_is_stopped_at_once(client: Client) -> None:
    """There is nobody to ask."""
    job = await client.submit_one(a_spec())

    stopped = await client.stop(job)

    assert (stopped.outcome, stopped.attempt) == (Outcome.STOPPED, 0)


@pytest.mark.parametrize("grace_s", [-1.0, float("nan"), float("inf"), 1e9])
async def test_a_grace_that_is_none_is_refused(client: Client, channel: grpc.aio.Channel, grace_s: float) -> None:
    """And the job runs on."""
    job = await client.submit_one(a_spec())

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await jobs_pb2_grpc.JobsStub(channel).Stop(jobs_pb2.StopRequest(id=job, grace_s=grace_s), timeout=10)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ("hostler-field", "grace") in tuple(refused.value.trailing_metadata())
    assert (await client.get(job)).state is State.QUEUED


async def test_a_full_disk_refuses_what_is_new_and_takes_what_ends(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running work is not held up by what cannot be accepted."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    monkeypatch.setattr("coordinator.rpc.jobs_service.DiskReserve.check", _no_space)

    with pytest.raises(Unavailable):
        await client.submit_one(a_spec())
    await worker.report_ended(key, ledger=some_frames(b"x"))

    ended = await client.wait_one(job, timeout_s=10)
    assert ended is not None and ended.outcome is Outcome.SUCCEEDED


def _no_space(_: object) -> None:
    raise Unavailable("the coordinator's disk has 0 MiB free", retry_after_s=30.5)
