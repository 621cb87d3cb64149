"""What workers report: only forward, only about the current attempt, and acknowledged when durable."""

import pytest

from coordinator import decisions
from coordinator.changes import Ended, Returned, Started, Unkillable
from coordinator.effects import Acknowledge
from coordinator.ends import outcome_of
from hostler.causes import CAUSES
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_from_bytes
from tests.support.builders import W1, W2, a_key, a_report, an_id, ended, never_ran, some_frames, started
from tests.support.scene import Scene, check_invariants


def test_a_start_moves_an_assigned_job_to_running() -> None:
    """It is not acknowledged: the end will be, and a start that is lost says itself again with the next report."""
    scene = Scene()
    key = scene.assigned()

    effects = scene.say(started(key))

    assert scene.job(key.job).state is State.RUNNING
    assert effects == []
    assert scene.last(Started).key == key


def test_a_repeated_start_changes_nothing() -> None:
    """Workers say again what was not acknowledged."""
    scene = Scene()
    key = scene.running()
    length = len(scene.history)

    assert scene.say(started(key)) == []
    assert len(scene.history) == length


def test_an_end_is_final_and_acknowledged() -> None:
    """The slot is free and the job leaves memory: the store has it."""
    scene = Scene()
    key = scene.running()

    effects = scene.say(ended(key, exit_code=7))

    change = scene.last(Ended)
    assert (change.outcome, change.exit_code, change.cause) == (Outcome.FAILED, 7, "exit")
    assert effects == [Acknowledge(W1, key)]
    assert scene.live.jobs == {}
    assert (scene.worker().slots_used, scene.worker().held) == (0, {})
    check_invariants(scene.live)


def test_an_end_without_a_start_is_taken() -> None:
    """A short job may be over before its start was told."""
    scene = Scene()
    key = scene.assigned()

    scene.say(ended(key))

    assert scene.last(Ended).outcome is Outcome.SUCCEEDED


def test_a_repeated_end_is_acknowledged_and_changes_nothing() -> None:
    """The acknowledgement may have been lost."""
    scene = Scene()
    key = scene.running()
    scene.say(ended(key))
    length = len(scene.history)

    assert scene.say(ended(key, exit_code=9)) == [Acknowledge(W1, key)]
    assert len(scene.history) == length


def test_the_end_of_a_job_whose_log_still_arrives_is_final_too() -> None:
    """Only its log stays in memory."""
    scene = Scene()
    key = scene.trailing()
    length = len(scene.history)

    assert scene.say(ended(key, exit_code=9)) == [Acknowledge(W1, key)]
    assert scene.live.jobs == {} and key in scene.live.trailing
    assert len(scene.history) == length


def test_a_log_that_comes_with_the_end_is_whole() -> None:
    """Nothing of it will be pushed, so the job leaves memory."""
    scene = Scene()
    key = scene.running()
    ledger = some_frames(b"hello")

    scene.say(ended(key, ledger=ledger))

    assert scene.last(Ended).ledger == ledger
    assert scene.live.jobs == {}


def test_a_report_of_an_older_attempt_changes_nothing() -> None:
    """After an attempt came back its worker may still speak of it; it is too late."""
    scene = Scene()
    old = scene.assigned()
    scene.say(never_ran(old))
    scene.place()
    new = scene.job(old.job).attempt_key
    length = len(scene.history)

    for report in (started(old), ended(old), never_ran(old)):
        assert scene.say(report) == [Acknowledge(W1, old)]

    assert new.attempt == 2
    assert len(scene.history) == length
    assert scene.job(new.job).state is State.ASSIGNED


def test_a_report_of_an_attempt_of_another_worker_changes_nothing() -> None:
    """A worker speaks only for what it was given."""
    scene = Scene()
    key = scene.running()
    scene.join(W2)
    length = len(scene.history)

    assert scene.say(ended(key), worker=W2) == [Acknowledge(W2, key)]
    assert scene.job(key.job).state is State.RUNNING
    assert len(scene.history) == length


@pytest.mark.parametrize("key", [a_key(99), a_key(1, attempt=5)])
def test_a_report_of_something_unknown_is_told_to_be_forgotten(key: object) -> None:
    """The worker would repeat it for ever."""
    scene = Scene()
    scene.running()

    assert scene.say(ended(key)) == [Acknowledge(W1, key)]  # type: ignore[arg-type]


def test_an_attempt_that_never_ran_waits_again() -> None:
    """With its age and priority, and with the next attempt's number when it is given away again."""
    scene = Scene()
    key = scene.assigned()

    effects = scene.say(never_ran(key))

    job = scene.job(key.job)
    assert (job.state, job.worker, scene.live.queued) == (State.QUEUED, "", 1)
    assert effects == [Acknowledge(W1, key)]
    assert scene.worker().slots_used == 0
    check_invariants(scene.live)
    assert [start.key.attempt for start in scene.place()] == [2]


def test_a_job_that_came_back_keeps_its_place() -> None:
    """It is older than those that waited behind it."""
    scene = Scene()
    key = scene.assigned()
    second = scene.queue()[0]
    scene.say(never_ran(key))

    assert [start.key.job for start in scene.place()] == [key.job, second]


def test_a_refused_job_is_rejected_with_the_worker_s_reason() -> None:
    """A worker has the last word, and another one would be asked only by the user."""
    scene = Scene()
    key = scene.assigned()

    effects = scene.say(never_ran(key, refusal="no such user"))

    change = scene.last(Ended)
    assert (change.outcome, change.cause) == (Outcome.REJECTED, "refused")
    assert "no such user" in end_from_bytes(change.end).evidence
    assert effects == [Acknowledge(W1, key)]


@pytest.mark.parametrize("refusal", ["", "it was told to leave"])
def test_a_stopped_attempt_that_never_ran_is_stopped(refusal: str) -> None:
    """It does not wait again: somebody wanted it to end."""
    scene = Scene()
    key = scene.assigned()
    scene.stop(key.job)

    scene.say(never_ran(key, refusal))

    assert scene.last(Ended).outcome is Outcome.STOPPED
    assert scene.live.jobs == {}


@pytest.mark.parametrize("refusal", ["", "on second thoughts"])
@pytest.mark.parametrize("stopping", [False, True])
def test_an_attempt_that_started_cannot_have_never_run(refusal: str, stopping: bool) -> None:
    """A worker that contradicts itself is not believed: running it again could run it twice, so it is lost."""
    scene = Scene()
    key = scene.running()
    if stopping:
        scene.stop(key.job)

    effects = scene.say(never_ran(key, refusal))

    assert scene.last(Ended).outcome is Outcome.LOST
    assert effects == [Acknowledge(W1, key)]
    assert [change for change in scene.history if isinstance(change, Returned)] == []
    check_invariants(scene.live)


def test_what_cannot_be_ended_is_named_and_the_job_goes_on() -> None:
    """Once for each new list of survivors; the job is not final while one of them lives."""
    scene = Scene()
    key = scene.running()
    scene.stop(key.job)
    report = a_report(key, started_at_us=1, survivors=((42, "stuck"),))

    scene.say(report)
    scene.say(report)
    scene.say(report._replace(survivors=((42, "stuck"), (43, "stuck"))))

    noted = [change.survivors for change in scene.history if isinstance(change, Unkillable)]
    assert noted == [((42, "stuck"),), ((42, "stuck"), (43, "stuck"))]
    assert scene.job(key.job).state is State.STOPPING


def test_survivors_that_died_after_all_end_the_job() -> None:
    """Unkillable is no final state."""
    scene = Scene()
    key = scene.running()
    scene.stop(key.job)
    scene.say(a_report(key, started_at_us=1, survivors=((42, "stuck"),)))

    scene.say(ended(key, cause="stop", exit_code=None, signal="SIGKILL"))

    assert scene.last(Ended).outcome is Outcome.STOPPED


@pytest.mark.parametrize(
    ("cause", "exit_code", "outcome"),
    [
        ("exit", 0, Outcome.SUCCEEDED),
        ("exit", 1, Outcome.FAILED),
        ("exit", None, Outcome.FAILED),
        ("signal", None, Outcome.FAILED),
        ("stop", None, Outcome.STOPPED),
        ("drain", None, Outcome.STOPPED),
        ("timeout", None, Outcome.TIMED_OUT),
        ("not_started", None, Outcome.FAILED),
        ("supervisor_died", None, Outcome.LOST),
        ("host_restarted", None, Outcome.LOST),
        ("worker_lost", None, Outcome.LOST),
        ("a word of a newer worker", 0, Outcome.LOST),
    ],
)
def test_the_outcome_follows_from_the_worker_s_evidence(cause: str, exit_code: int | None, outcome: Outcome) -> None:
    """A word nobody knows is an honest "unknown"."""
    assert outcome_of(cause, exit_code) is outcome
    assert cause == "exit" or cause in CAUSES or outcome is Outcome.LOST


def test_ids_in_reports_are_never_trusted_to_exist() -> None:
    """A report about nothing is no error for the coordinator."""
    scene = Scene()
    scene.join()

    scene.say(started(a_key(5)))

    assert scene.live.job(an_id(5)) is None


def test_a_stream_that_was_superseded_is_not_heard() -> None:
    """What it says late may be older than what the newer one has reconciled."""
    scene = Scene()
    key = scene.running()
    scene.join(session="session-2", mark=1, inventory=((key, "running"),))

    older = list(decisions.on_reports(scene.live, W1, "session-1", [ended(key)], scene.now))
    newer = list(decisions.on_reports(scene.live, W1, "session-2", [ended(key)], scene.now))

    assert older == []
    assert [type(change) for decision in newer for change in decision.changes] == [Ended]
