"""Decide, commit, act: nothing leaves before its commit, and a commit that fails takes everything with it."""

import asyncio

import pytest

from coordinator import decisions
from coordinator import engine as engine_module
from coordinator.changes import Assigned, Ended, JobQueued
from coordinator.decisions import Decision
from coordinator.live import WORK_KEPT_BYTES_MAX
from coordinator.sessions import Outbox
from coordinator.storage.protocol import StoreBroken, StoreFull
from hostler.errors import NotRunning, Overloaded, Unavailable
from hostler.jobs import Progress
from hostler.lifecycle import Outcome, State
from tests.engine.conftest import Bench
from tests.support.builders import W1, a_key, a_submission, an_id, ended, started
from tests.support.scene import check_invariants
from tests.support.waiting import eventually, turns

FULL = "database or disk is full"


async def running_job(bench: Bench, number: int = 1) -> None:
    """A job whose start by worker 1 is durable."""
    if W1 not in bench.engine.live.workers:
        await bench.join().attached
    assert await bench.submit(a_submission(number)) == [an_id(number)]
    bench.say(started(a_key(number)))
    await eventually(lambda: started_is_durable(bench, number), "the start is durable")


def started_is_durable(bench: Bench, number: int) -> bool:
    """Whether memory has the start and no commit is under way."""
    job = bench.engine.live.job(an_id(number))
    return job is not None and job.started_at_us > 0 and not bench.store._under_way


# Nothing leaves before its commit


async def test_an_id_is_durable_before_it_is_answered(bench: Bench) -> None:
    """The commit is under way and nobody has the id."""
    bench.store.hold()
    answer = bench.submit(a_submission(1))
    await turns()

    assert [type(change) for change in bench.store.begun[0]] == [JobQueued]
    assert not answer.done()

    bench.store.release()
    assert await answer == [an_id(1)]
    assert await bench.store.get_job(an_id(1)) is not None


async def test_a_worker_hears_nothing_before_the_commit(bench: Bench) -> None:
    """Neither its welcome nor a start: otherwise a job could run that nobody has."""
    await bench.submit(a_submission(1))
    bench.store.hold()
    session = bench.join()
    await turns()

    assert not session.attached.done()
    assert bench.sessions.get(W1) is None
    assert session.outbox == Outbox()

    bench.store.release()
    attached = await asyncio.wait_for(session.attached, 5)
    await eventually(lambda: session.outbox.starts)
    assert attached.verdicts == []
    assert [effect.key for effect, _ in session.outbox.starts] == [a_key(1)]


async def test_an_end_is_durable_before_anybody_hears_of_it(bench: Bench) -> None:
    """Neither the worker, which would forget it, nor who waits for it."""
    await running_job(bench)
    waiter = bench.wait_for(an_id(1))
    await waiter.absent
    bench.store.hold()
    session = bench.sessions.get(W1)
    assert session is not None
    session.take()
    bench.say(ended(a_key(1)))
    await turns()

    assert await waiter.ready(0) == []
    assert session.outbox == Outbox()

    bench.store.release()
    assert [progress.outcome for progress in await waiter.ready(5)] == [Outcome.SUCCEEDED]
    assert session.outbox.acknowledged == [a_key(1)]


async def test_a_stop_is_durable_before_it_is_sent(bench: Bench) -> None:
    """A stop that was sent and forgotten would end a job that nobody stopped."""
    await running_job(bench)
    session = bench.sessions.get(W1)
    assert session is not None
    bench.store.hold()
    bench.stop_job(an_id(1))
    await turns()
    assert not session.outbox.stops

    bench.store.release()
    await eventually(lambda: session.outbox.stops)


async def test_what_changes_nothing_waits_for_what_it_has_seen(bench: Bench) -> None:
    """A question that comes after an end is decided on it, so its answer must wait for it."""
    await running_job(bench)
    bench.store.hold()
    bench.say(ended(a_key(1), ledger_bytes=5000))
    await turns()
    waiter = bench.wait_for(an_id(1))
    await turns()

    assert not waiter.absent.done()

    bench.store.release()
    assert await waiter.absent == [an_id(1)]  # it is over, and in the store


async def test_what_is_looked_at_is_durable(bench: Bench) -> None:
    """Who asks for the live set hears nothing of a job whose commit is still under way."""
    bench.store.hold()
    submitting = bench.submit(a_submission(1))
    looking = asyncio.create_task(bench.engine.look(lambda live: live.queued))
    bench.asked.append(looking)
    await turns()
    assert not looking.done()

    bench.store.release()

    assert await looking == 1 and await submitting == [an_id(1)]


async def test_a_question_needs_no_commit(bench: Bench) -> None:
    """Nothing is written for it."""
    await bench.submit(a_submission(1))
    count = len(bench.store.begun)

    with pytest.raises(NotRunning):
        await bench.engine.signal(an_id(1), 15)

    assert len(bench.store.begun) == count


# Groups


async def test_an_insert_and_its_assignment_share_a_commit(bench: Bench) -> None:
    """One fsync for both."""
    await bench.join().attached

    await bench.submit(a_submission(1))

    assert [type(change) for change in bench.store.begun[-1]] == [JobQueued, Assigned]


async def test_a_big_spec_is_read_for_its_start(bench: Bench) -> None:
    """It is not kept in memory; the session gets the bytes that were stored."""
    session = bench.join()
    await session.attached
    big = b"w" * (WORK_KEPT_BYTES_MAX + 1)

    await bench.submit(a_submission(1, work=big))

    assert [work for _, work in session.outbox.starts] == [big]
    assert bench.engine.live.jobs[1].work is None


async def test_a_big_spec_is_read_also_when_a_start_is_sent_again(bench: Bench) -> None:
    """The second hello changes little, and still needs the bytes."""
    await bench.join().attached
    big = b"w" * (WORK_KEPT_BYTES_MAX + 1)
    await bench.submit(a_submission(1, work=big))

    session = bench.join(session="session-2")
    await session.attached

    assert [(effect.sequence, work) for effect, work in session.outbox.starts] == [(1, big)]


async def test_while_one_commit_is_under_way_the_next_batch_is_decided(bench: Bench) -> None:
    """Everything that came meanwhile shares the next commit; there are never two at once."""
    bench.store.hold()
    answers = [bench.submit(a_submission(1))]
    await turns()
    answers += [bench.submit(a_submission(number)) for number in (2, 3, 4)]
    await turns()

    assert len(bench.store.begun) == 1
    assert list(bench.engine.live.numbers) == [an_id(number) for number in (1, 2, 3, 4)]
    assert not any(answer.done() for answer in answers)

    bench.store.release()
    assert [await answer for answer in answers] == [[an_id(number)] for number in (1, 2, 3, 4)]
    assert [len(changes) for changes in bench.store.begun] == [1, 3]


async def test_what_came_first_is_answered_first(bench: Bench) -> None:
    """Effects leave in the order of their decisions, also across batches."""
    order: list[int] = []
    bench.store.hold()

    async def ask(number: int) -> None:
        await bench.submit(a_submission(number))
        order.append(number)

    for number in range(1, 8):
        bench.asked.append(asyncio.create_task(ask(number)))
        if number % 3 == 0:
            await turns()
    bench.store.release()
    await eventually(lambda: len(order) == 7)

    assert order == [1, 2, 3, 4, 5, 6, 7]


async def test_the_inbox_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is slow, requests beyond the bounds are refused; a worker's word waits and is never refused."""
    monkeypatch.setattr(engine_module, "INBOX_MAX", 4)
    monkeypatch.setattr(engine_module, "BATCH_MAX", 3)
    bench.store.hold()
    answers = []
    for number in range(1, 9):  # one in flight, three decided, four in the inbox
        answers.append(bench.submit(a_submission(number)))
        await turns()
    with pytest.raises(Overloaded) as refused:
        await bench.submit(a_submission(9))
    word = asyncio.create_task(bench.engine.post_patiently(lambda live, now: Decision([], [])))
    await turns()

    assert refused.value.retry_after_s > 0
    assert not word.done()
    assert len(bench.engine.live.jobs) == 4

    bench.store.release()
    await asyncio.wait_for(word, 5)
    assert [await answer for answer in answers] == [[an_id(number)] for number in range(1, 9)]


# Failures


async def test_a_full_store_refuses_what_hung_on_the_commit(bench: Bench) -> None:
    """Both the batch that failed and the one decided on it; memory is what the store has, and it goes on."""
    await bench.submit(a_submission(1))
    bench.store.hold()
    bench.store.failures.append(StoreFull(FULL))
    in_flight = bench.submit(a_submission(2))
    await turns()
    decided = bench.submit(a_submission(3))
    await turns()
    bench.store.release()

    for refused in (in_flight, decided):
        with pytest.raises(Unavailable, match="full") as error:
            await refused
        assert error.value.retry_after_s > 0
    await eventually(lambda: list(bench.engine.live.numbers) == [an_id(1)], "memory was loaded again")
    check_invariants(bench.engine.live)
    assert await bench.submit(a_submission(4)) == [an_id(4)]
    assert [await bench.store.get_job(an_id(number)) is not None for number in (1, 2, 3, 4)] == [
        True,
        False,
        False,
        True,
    ]


async def test_after_a_full_store_the_workers_come_back(bench: Bench) -> None:
    """Their streams end, so that they are reconciled with what the store has, and repeat what was not acknowledged."""
    await running_job(bench)
    session = bench.sessions.get(W1)
    assert session is not None
    bench.store.failures.append(StoreFull(FULL))
    bench.say(ended(a_key(1)))
    await eventually(lambda: session.closed, "the session is closed")
    await eventually(lambda: not bench.engine.live.workers[W1].connected, "memory was loaded again")

    assert not session.outbox.acknowledged
    assert bench.engine.live.jobs[1].state is State.RUNNING
    again = bench.join(session="session-2", mark=1, inventory=((a_key(1), "ended"),))
    attached = await again.attached
    bench.say(ended(a_key(1)))
    await eventually(lambda: again.outbox.acknowledged)
    assert attached.verdicts == [(a_key(1), "keep", 1)]


async def test_a_hello_that_was_not_committed_is_not_welcomed(bench: Bench) -> None:
    """The stream ends and the worker tries again."""
    bench.store.failures.append(StoreFull(FULL))
    session = bench.join()

    await eventually(lambda: session.closed, "the session is closed")

    assert session.attached.cancelled()
    await eventually(lambda: bench.engine.live.workers == {}, "the live set as it is stored")


async def test_a_worker_whose_stream_broke_during_its_hello_is_not_taken_for_connected(bench: Bench) -> None:
    """Nobody listens to that session: jobs that go there anyway wait for the worker, and are lost in time."""
    await bench.submit(a_submission(1))
    bench.store.hold()
    session = bench.join()
    await turns()
    session.attached.cancel()  # as the handler does that waited for it
    bench.store.release()

    await eventually(lambda: bench.engine.live.workers[W1].left_at_s is not None, "the worker has left")

    assert bench.sessions.get(W1) is None
    assert bench.engine.live.jobs[1].state is State.ASSIGNED
    again = bench.join(session="session-2")
    await again.attached
    assert [effect.key for effect, _ in again.outbox.starts] == [a_key(1)]


async def test_who_waits_across_a_failed_commit_is_told_in_the_end(bench: Bench) -> None:
    """The wait was there before and holds; only waits that hung on the failed batch are refused."""
    await running_job(bench)
    waiting = bench.wait_for(an_id(1))
    await waiting.absent
    bench.store.hold()
    bench.store.failures.append(StoreFull(FULL))
    stopping = bench.stop_job(an_id(1))
    await turns()
    bench.store.release()

    with pytest.raises(Unavailable):
        await stopping.ready(5)
    await bench.join(session="session-2", mark=1, inventory=((a_key(1), "running"),)).attached
    bench.say(ended(a_key(1)))
    assert [progress.outcome for progress in await waiting.ready(5)] == [Outcome.SUCCEEDED]


async def test_a_broken_store_ends_the_engine(bench: Bench) -> None:
    """The outcome of the commit is unknown: nobody is answered, and nothing is written after it."""
    bench.store.hold()
    bench.store.failures.append(StoreBroken("disk I/O error"))
    in_flight, decided = bench.submit(a_submission(1)), None
    await turns()
    decided = bench.submit(a_submission(2))
    await turns()
    bench.store.release()
    await asyncio.wait((bench.running,), timeout=5)

    error = bench.running.exception()
    assert isinstance(error, ExceptionGroup)
    assert error.subgroup(StoreBroken) is not None
    assert len(bench.store.begun) == 1
    assert not in_flight.done() and not decided.done()


# Waiters


async def test_every_waiter_is_told_once(bench: Bench) -> None:
    """Of the start those that wait for it, of the end all the others."""
    await bench.join().attached
    await bench.submit(a_submission(1))
    start, end = bench.wait_for(an_id(1), until=State.RUNNING), bench.wait_for(an_id(1))
    bench.say(started(a_key(1)))

    assert await start.ready(5) == [Progress(an_id(1), State.RUNNING)]
    assert await end.ready(0) == []

    bench.say(ended(a_key(1), exit_code=3))
    assert await end.ready(5) == [Progress(an_id(1), State.FINISHED, Outcome.FAILED, 3, "", "exit")]
    assert await start.ready(0) == []


async def test_a_job_that_ends_without_having_started_ends_the_wait_for_its_start(bench: Bench) -> None:
    """Nobody waits for what can no longer come."""
    await bench.submit(a_submission(1))
    start = bench.wait_for(an_id(1), until=State.RUNNING)
    await start.absent

    bench.stop_job(an_id(1))

    assert [progress.outcome for progress in await start.ready(5)] == [Outcome.STOPPED]


async def test_a_start_and_an_end_in_one_batch_tell_once(bench: Bench) -> None:
    """Short jobs report both together."""
    await bench.join().attached
    await bench.submit(a_submission(1))
    waiter = bench.wait_for(an_id(1), until=State.RUNNING)
    bench.say(started(a_key(1)))
    bench.say(ended(a_key(1)))
    await eventually(lambda: not bench.engine.live.jobs)

    assert len(await waiter.ready(5)) == 1
    assert await waiter.ready(0) == []


async def test_a_waiter_that_went_away_is_forgotten(bench: Bench) -> None:
    """It takes its entries along; others for the same job stay."""
    await bench.submit(a_submission(1))
    gone, stays = bench.wait_for(an_id(1)), bench.wait_for(an_id(1))
    await stays.absent
    bench.watchers.remove(gone)
    bench.stop_job(an_id(1))

    assert len(await stays.ready(5)) == 1
    assert await gone.ready(0) == []
    assert not bench.watchers.waited_for(1)


# Start and stop


async def test_after_a_restart_every_worker_has_its_time_again(bench: Bench) -> None:
    """It may be away only because the coordinator was."""
    await running_job(bench)
    bench.clock.advance(10_000)
    await bench.engine.load()

    worker = bench.engine.live.workers[W1]
    assert not worker.connected
    assert worker.left_at_s == bench.clock.monotonic()
    assert bench.engine.live.jobs[1].state is State.RUNNING


async def test_the_engine_looks_at_its_deadlines_by_itself(bench: Bench) -> None:
    """Nothing else need happen for a job to be called lost."""
    await running_job(bench)
    bench.engine.post(lambda live, now: decisions.on_worker_left(live, W1, "session-1", False, now))
    waiter = bench.wait_for(an_id(1))
    await waiter.absent
    bench.clock.advance(61)

    assert [progress.outcome for progress in await waiter.ready(10)] == [Outcome.LOST]
    assert any(isinstance(change, Ended) for change in bench.store.begun[-1])


async def test_stop_waits_for_what_was_asked_and_refuses_what_comes_after(bench: Bench) -> None:
    """Also for what was posted in the same turn of the loop and not looked at yet."""
    await bench.submit(a_submission(1))
    bench.store.hold()
    last = bench.submit(a_submission(2))
    await asyncio.sleep(0)  # it is in the inbox
    stopping = asyncio.create_task(bench.engine.stop())
    await turns()
    with pytest.raises(Unavailable):
        await bench.submit(a_submission(3))
    assert not stopping.done()

    bench.store.release()
    await asyncio.wait_for(stopping, 5)
    assert last.done() and last.result() == [an_id(2)]
