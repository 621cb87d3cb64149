"""Explain, as a program calls it: one answer, to the end of what there is."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.app import Coordinator
from hostler.client import Client
from hostler.endpoint import coordinator_socket
from hostler.errors import JobNotFound
from hostler.explanation import Explained, explain
from hostler.lifecycle import State
from hostler.pending import Code
from hostler.settings import Settings
from hostler.v1 import workers_pb2
from hostler.workers import WorkerState
from tests.rpc.conftest import MakeWorker
from tests.rpc.test_workers import is_seen_as
from tests.support.builders import NOON_US, W2, a_spec, an_id
from tests.support.fake_worker import FakeWorker
from tests.support.waiting import eventually, until


async def is_over(client: Client, job: str) -> None:
    """Wait until a job has finished."""
    assert await client.wait_one(job, timeout_s=10)


async def runs(client: Client, job: str) -> None:
    """Wait until a job runs."""
    assert await client.wait_one(job, until=State.RUNNING, timeout_s=10)


async def test_a_job_that_waits_is_explained(client: Client, worker: FakeWorker) -> None:
    """Each reason with its code and its workers, the nearest worker with what is missing, and who comes before."""
    await client.submit([replace(a_spec(), slots=3)])
    await worker.takes()
    spec = replace(a_spec(), slots=2)
    first, second = await client.submit([spec, spec])

    known = await client.explanations.of(str(second))

    assert known.job.state is State.QUEUED
    assert [(why.code, why.workers) for why in known.pending.reasons] == [(Code.NO_FREE_SLOT, 1), (Code.BEHIND, 0)]
    assert known.pending.before == 1
    assert known.pending.nearest is not None
    assert known.pending.nearest.name == "fake"
    assert known.pending.nearest.missing == ("has 1 of 4 slots free, and 2 are needed",)
    assert [event.kind for event in known.events] == ["queued"]
    told = explain(known).waited
    assert "Nearest to taking it is worker fake, which has 1 of 4 slots free, and 2 are needed." in told
    assert "1 job that asks for the same comes before it." in told
    assert (await client.explanations.of(str(first))).pending.before == 0


async def test_what_get_says_are_the_same_reasons(client: Client, worker: FakeWorker) -> None:
    """As sentences; a list says them of every job that waits."""
    spec = replace(a_spec(), labels={"zone": "a"})
    ids = [str(each) for each in await client.submit([spec] * 3)]

    for number, job in enumerate(ids):
        known = await client.explanations.of(job)
        assert (await client.get(job)).pending_reasons == tuple(why.text for why in known.pending.reasons)
        assert (Code.BEHIND in [why.code for why in known.pending.reasons]) == (number > 0)


async def test_what_a_job_waited_for_is_told_when_it_is_over(client: Client, worker: FakeWorker) -> None:
    """Each second the coordinator looks what waits for what; a job that is stopped after that tells it."""
    spec = replace(a_spec(), labels={"zone": "a"})
    waiting = [str(job) for job in await client.submit([spec] * 200)]

    async def one_tells() -> str:
        job = waiting.pop()
        await client.stop(job)
        end = (await client.get(job)).end
        assert end is not None
        return end.evidence.partition("; it waited then: ")[2]

    assert await until(one_tells, "a job to tell") == "1 worker does not have the label zone=a"


async def test_a_job_that_was_sent_ahead_says_why_it_has_not_begun(client: Client, worker: FakeWorker) -> None:
    """To `explain`, with its code, and to `get`."""
    for number, job in enumerate(await client.submit([a_spec()] * 20), start=1):
        *_, key = (await worker.takes(number))[:number]
        await worker.report_ended(key, started_at_us=NOON_US, ended_at_us=NOON_US + 5000)
        await is_over(client, str(job))
    await client.submit([a_spec()] * 4)
    running = (await worker.takes(24))[20:]
    (ahead,) = await client.submit([a_spec()])
    await worker.takes(25)
    for key in running:
        await worker.report_started(key)
        await runs(client, str(key.job))

    known = await client.explanations.of(str(ahead))

    assert known.job.state is State.ASSIGNED
    assert [(why.code, why.text) for why in known.pending.reasons] == [
        (Code.AHEAD, "it was sent ahead to fake, where 4 of 4 slots are taken")
    ]
    assert known.job.pending_reasons == ("it was sent ahead to fake, where 4 of 4 slots are taken",)


async def test_a_worker_that_takes_only_named_workloads_is_not_chosen(client: Client, make_worker: MakeWorker) -> None:
    """And says why; a coordinator that was started again has not forgotten it."""
    strict = await make_worker(policy="named", named_only=True)
    job = await client.submit_one(a_spec())

    known = await client.explanations.of(job)

    assert [(why.code, why.text) for why in known.pending.reasons] == [
        (Code.POLICY, "1 worker takes only named workloads")
    ]
    assert [worker.policy for worker in await client.workers()] == ["named"]
    free = await make_worker(journal_id="other", policy="arbitrary")
    await free.takes()
    assert not strict.starts


async def test_the_whole_story_outlives_the_coordinator(settings: Settings, data_dir: Path) -> None:
    """Where it ran and why there, and how it ended, from the store alone."""
    address = f"unix:{coordinator_socket(data_dir)}"
    async with Coordinator(settings), Client(address) as client:
        worker = FakeWorker(address)
        await worker.connect()
        job = await client.submit_one(a_spec())
        (key,) = await worker.takes()
        await worker.report_started(key)
        await worker.report_ended(key)
        await is_over(client, job)
        before = await client.explanations.of(job)
        await worker.close()

    async with Coordinator(settings), Client(address) as client:
        after = await client.explanations.of(job)

    assert [event.kind for event in after.events] == ["queued", "assigned", "started", "ended"]
    assert replace(after, now_us=0) == replace(before, now_us=0)
    told = explain(after)
    assert told.attempts[0].worker == "fake"
    assert told.attempts[0].chosen == "no other could take it"
    assert any(line.endswith("later: no other could take it.") for line in told.waited)


async def test_what_happens_to_a_job_that_is_cut_off_is_told_with_its_time(
    client: Client, worker: FakeWorker, settings: Settings
) -> None:
    """Since when its worker is away, and when it is lost if that stays away."""
    job = await client.submit_one(replace(a_spec(), family="native"))
    (key,) = await worker.takes()
    await worker.report_started(key)
    await runs(client, job)
    await worker.break_off()
    await is_seen_as(client, worker.id, WorkerState.UNREACHABLE)

    known = await client.explanations.of(job)

    assert known.job.phase == "unreachable"
    assert 0 < known.away_since_us <= known.now_us
    left_s = (known.lost_at_us - known.now_us) / 1e6
    assert settings.lost_after_s - 60 < left_s <= settings.lost_after_s
    assert any("it is lost, and its program may still run there." in line for line in explain(known).next)


async def test_deadlines_of_a_job_and_of_its_worker_are_told(client: Client, worker: FakeWorker) -> None:
    """The start deadline while it has not started, and the drain of its worker."""
    await worker.write(workers_pb2.WorkerMessage(draining=True))
    await is_seen_as(client, worker.id, WorkerState.DRAINING)
    late = await client.submit_one(replace(a_spec(), start_within_s=3600))
    known = await client.explanations.of(late)
    assert 3500 < (known.start_by_us - known.now_us) / 1e6 <= 3600
    await worker.write(workers_pb2.WorkerMessage(draining=False))
    (key,) = await worker.takes()
    await worker.report_started(key)
    await runs(client, late)
    await client.drain_worker(worker.id, deadline_s=600)

    known = await client.explanations.of(late)

    assert known.start_by_us == 0
    assert 500 < (known.drain_by_us - known.now_us) / 1e6 <= 600
    assert any("Its worker is drained, and ends at " in line for line in explain(known).next)


async def test_a_job_that_is_given_back_again_and_again_is_told_to_its_newest(
    client: Client, worker: FakeWorker
) -> None:
    """Its transitions are bounded, and that some are left out is said."""
    job = await client.submit_one(a_spec())
    for count in range(1, 8):
        keys = await worker.takes(count)
        await worker.report_never_ran(keys[-1])
    await worker.takes(8)

    known = await client.explanations.of(job)

    assert [event.kind for event in known.events].count("requeued") == 7
    assert known.events[-1].kind == "assigned"
    assert not known.older


async def _ended(client: Client, worker: FakeWorker) -> Explained:
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.report_started(key)
    await worker.report_ended(key)
    await is_over(client, job)
    return await client.explanations.of(job)


@pytest.mark.parametrize("job", [an_id(9), W2, "", "no id"])
async def test_an_unknown_job_is_not_found(client: Client, job: str) -> None:
    """As of Get."""
    with pytest.raises(JobNotFound):
        await client.explanations.of(job)


async def test_explaining_waits_for_nothing(client: Client, worker: FakeWorker) -> None:
    """It ends with what there is: twenty take less time than one used to."""
    job = (await _ended(client, worker)).job.id
    async with asyncio.timeout(5.0):
        for _ in range(20):
            assert (await client.explanations.of(job)).events[-1].kind == "ended"
    await eventually(lambda: worker.acknowledged, "the end to be durable")
