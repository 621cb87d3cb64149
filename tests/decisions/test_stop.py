"""Stopping, waiting and signalling: what is asked for in each state, and who is told."""

from typing import Any

import pytest

from coordinator import decisions
from coordinator.changes import Ended, StopRequested
from coordinator.effects import Answer, SendSignal, SendStop, Tell, Wait
from hostler.errors import JobNotFound, NotRunning, Unavailable
from hostler.ids import AttemptKey
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_from_bytes
from tests.support.builders import NOON_US, W1, an_id, ended, started
from tests.support.scene import Scene, check_invariants, only


def the_error(effects: list[Any]) -> Any:
    """The error a caller is answered with."""
    (answer,) = only(effects, Answer)
    return answer.value


def test_a_waiting_job_ends_at_once() -> None:
    """Nothing ran, so there is nothing to prove; the waiter is told with the commit."""
    scene = Scene()
    (job,) = scene.queue()
    number = scene.job(job).number

    effects = scene.stop(job)

    change = scene.last(Ended)
    assert effects == [Wait(None, number, State.FINISHED)]
    assert (change.outcome, change.cause, change.started_at_us) == (Outcome.STOPPED, "stop", 0)
    assert "never ran" in end_from_bytes(change.end).evidence
    assert scene.live.job(job) is None
    assert scene.live.queued == 0
    check_invariants(scene.live)


def test_a_stopped_waiting_job_is_never_placed() -> None:
    """Its entry in the queue is stale and passed over."""
    scene = Scene()
    first, second = scene.queue(2)
    scene.stop(first)
    scene.join()

    assert [start.key.job for start in scene.place()] == [second]


def test_a_stop_of_an_assigned_job_asks_its_worker() -> None:
    """The worker may have started it already: only its word ends the job."""
    scene = Scene()
    key = scene.assigned()

    effects = scene.stop(key.job, grace_s=3.0)

    assert scene.job(key.job).state is State.STOPPING
    assert only(effects, SendStop) == [SendStop(W1, 1, key, 3.0)]
    assert [wait.until for wait in only(effects, Wait)] == [State.FINISHED]


def test_a_stop_of_a_running_job_asks_its_worker() -> None:
    """The job is stopping, and nobody is answered yet."""
    scene = Scene()
    key = scene.running()

    effects = scene.stop(key.job)

    assert scene.job(key.job).state is State.STOPPING
    assert [type(effect) for effect in effects] == [Wait, SendStop]
    assert scene.last(StopRequested).by == "ada"


def test_a_second_stop_is_sent_on_with_its_own_patience() -> None:
    """Somebody who cannot wait any longer may say so; nothing else changes."""
    scene = Scene()
    key = scene.running()
    scene.stop(key.job, grace_s=60.0)

    effects = scene.stop(key.job, grace_s=0.0)

    assert [stop.grace_s for stop in only(effects, SendStop)] == [0.0]
    assert scene.job(key.job).state is State.STOPPING
    check_invariants(scene.live)


def test_a_stop_of_a_job_that_is_not_live_is_answered_as_not_found() -> None:
    """The caller then looks in the store."""
    assert isinstance(the_error(Scene().stop(an_id(9))), JobNotFound)


def test_a_start_that_was_under_way_does_not_undo_a_stop() -> None:
    """The report of the start crosses the stop on the wire."""
    scene = Scene()
    key = scene.assigned()
    scene.stop(key.job)

    scene.say(started(key))

    assert scene.job(key.job).state is State.STOPPING
    assert scene.job(key.job).started_at_us == NOON_US


def test_a_job_that_exited_before_the_stop_arrived_has_succeeded() -> None:
    """Whichever end the worker saw counts, not the wish."""
    scene = Scene()
    key = scene.running()
    scene.stop(key.job)

    scene.say(ended(key))

    assert scene.last(Ended).outcome is Outcome.SUCCEEDED


def test_a_job_ended_by_our_signal_is_stopped() -> None:
    """The worker says that the end was the stop's."""
    scene = Scene()
    key = scene.running()
    scene.stop(key.job)

    scene.say(ended(key, cause="stop", exit_code=None, signal="SIGTERM"))

    assert scene.last(Ended).outcome is Outcome.STOPPED


def test_waiters_of_live_jobs_are_told_when_they_are_as_far() -> None:
    """A running one at once when only the start is waited for, the others later; one that is over is in the store."""
    scene = Scene()
    scene.join()
    over = scene.trailing()
    running = scene.running()
    (waiting,) = scene.queue()
    ids = [over.job, running.job, waiting, an_id(77)]

    finish = decisions.on_wait(scene.live, ids, State.FINISHED, None)
    start = decisions.on_wait(scene.live, ids, State.RUNNING, None)

    assert not only(finish.effects, Tell)
    assert [wait.number for wait in only(finish.effects, Wait)] == [2, 3]
    assert [tell.progress.id for tell in only(start.effects, Tell)] == [running.job]
    assert [wait.number for wait in only(start.effects, Wait)] == [3]
    assert the_error(finish.effects) == the_error(start.effects) == [over.job, an_id(77)]
    assert finish.changes == start.changes == []


def test_a_stopping_job_counts_as_started_once_it_was() -> None:
    """Who waits for the start is not left waiting by a stop."""
    scene = Scene()
    key = scene.running()
    scene.stop(key.job)

    effects = decisions.on_wait(scene.live, [key.job], State.RUNNING, None).effects

    assert [tell.progress.state for tell in only(effects, Tell)] == [State.STOPPING]


def test_a_signal_goes_to_the_worker_of_a_running_job() -> None:
    """And is answered by it."""
    scene = Scene()
    key = scene.running()

    decision = decisions.on_signal(scene.live, key.job, 10, "reply", alone=True)

    assert decision.effects == [SendSignal(W1, key, 10, True, "reply")]


@pytest.mark.parametrize("state", ["queued", "assigned", "finished", "unknown"])
def test_a_signal_needs_a_running_program(state: str) -> None:
    """What has no process takes no signal, and the answer says so."""
    scene = Scene()
    key: AttemptKey
    if state == "queued":
        job = scene.queue()[0]
    elif state == "unknown":
        job = an_id(9)
    else:
        key = scene.assigned() if state == "assigned" else scene.trailing()
        job = key.job

    assert isinstance(the_error(decisions.on_signal(scene.live, job, 10, None).effects), NotRunning)


def test_a_signal_to_a_worker_that_is_away_is_not_claimed_to_be_sent() -> None:
    """Nothing keeps it for later: the caller must know."""
    scene = Scene()
    key = scene.running()
    scene.leave()

    effects = decisions.on_signal(scene.live, key.job, 10, None).effects

    assert isinstance(the_error(effects), Unavailable)
    assert only(effects, SendSignal) == []
