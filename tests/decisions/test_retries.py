"""Attempts that failed and are followed by another."""

from typing import Any

import pytest

from coordinator.changes import Due, Ended, LogStored, Retried
from coordinator.effects import Acknowledge
from coordinator.ends import RETRY_S_MAX
from hostler.ids import AttemptKey
from hostler.jobs import RETRY_CAUSES, Failure
from hostler.lifecycle import Outcome, State
from tests.support.builders import W1, a_key, ended, started
from tests.support.scene import Scene, check_invariants

FAILED: dict[str, Any] = {"exit_code": 1}


def due(scene: Scene) -> None:
    """Let the pause before the next attempt pass."""
    scene.wait(RETRY_S_MAX)
    scene.tick()


def test_a_failed_attempt_with_retries_left_is_followed_by_another() -> None:
    """The job waits, with another attempt number to come, and its worker may forget the first."""
    scene = Scene()
    key = scene.running(retries=1)

    assert scene.say(ended(key, **FAILED)) == [Acknowledge(W1, key)]

    job = scene.job(key.job)
    assert (job.state, job.retried, job.worker, job.started_at_us) == (State.QUEUED, 1, "", 0)
    assert scene.last(Retried).outcome is Outcome.FAILED
    check_invariants(scene.live)


def test_the_next_attempt_begins_after_a_pause() -> None:
    """Not before it is due; then it is placed like any job."""
    scene = Scene()
    key = scene.running(retries=1)
    scene.say(ended(key, **FAILED))

    assert scene.place() == []
    scene.wait(0.5)
    scene.tick()
    assert scene.place() == []
    scene.wait(0.6)
    scene.tick()
    (sent,) = scene.place()

    assert sent.key == a_key(1, attempt=2)
    check_invariants(scene.live)


def test_the_pauses_double_up_to_a_minute() -> None:
    """A program that fails at once is not started in a tight loop."""
    scene = Scene()
    scene.running(retries=9)
    pauses = []
    for attempt in range(1, 10):
        key = a_key(1, attempt=attempt)
        scene.say(started(key))
        scene.say(ended(key, **FAILED))
        pauses.append((scene.last(Retried).due_at_us - scene.now.wall_us) / 1e6)
        due(scene)
        scene.place()

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_last_attempt_ends_the_job() -> None:
    """`1 + retries` attempts and no more; the outcome is that of the last."""
    scene = Scene()
    key = scene.running(retries=1)
    scene.say(ended(key, **FAILED))
    due(scene)
    scene.place()
    again = AttemptKey(key.job, 0, 2)
    scene.say(started(again))

    scene.say(ended(again, exit_code=3))

    assert scene.last(Ended).exit_code == 3
    assert scene.live.jobs == {}


@pytest.mark.parametrize(
    ("change", "retried"),
    [
        ({"exit_code": 1}, True),
        ({"exit_code": None, "signal": "SIGSEGV", "cause": "signal"}, True),
        ({"exit_code": None, "signal": "SIGKILL", "cause": "timeout"}, True),
        ({"exit_code": None, "cause": "not_started", "error": "exec: no"}, True),
        ({"exit_code": 0}, False),
        ({"exit_code": None, "cause": "stop"}, False),
        ({"exit_code": None, "cause": "drain"}, True),
        ({"exit_code": None, "cause": "supervisor_died"}, False),
        ({"exit_code": 1, "failure": Failure(type="ValueError", module="builtins", message="no")}, False),
    ],
)
def test_what_another_attempt_may_mend_is_tried_again(change: dict[str, Any], retried: bool) -> None:
    """A success, an end that was asked for, an unknown end and an exception of a script are final."""
    scene = Scene()
    key = scene.running(retries=1)

    scene.say(ended(key, **change))

    assert isinstance(scene.history[-1], Retried if retried else Ended)


@pytest.mark.parametrize("cause", RETRY_CAUSES)
def test_a_job_can_say_which_ends_are_tried_again(cause: str) -> None:
    """Those it names and no others."""
    for retry_on, retried in (((cause,), True), (tuple(c for c in RETRY_CAUSES if c != cause), False)):
        scene = Scene()
        key = scene.running(retries=1, retry_on=retry_on)
        scene.say(ended(key, exit_code=None if cause != "exit" else 2, cause=cause))
        assert isinstance(scene.history[-1], Retried if retried else Ended)


def test_a_job_that_is_being_stopped_gets_no_other_attempt() -> None:
    """Also when its program fails by itself before the stop reaches it."""
    scene = Scene()
    key = scene.running(retries=5)
    scene.stop(key.job)

    scene.say(ended(key, **FAILED))

    assert isinstance(scene.history[-1], Ended)


def test_a_job_that_waits_for_its_next_attempt_can_be_stopped() -> None:
    """At once: nothing of it runs."""
    scene = Scene()
    key = scene.running(retries=1)
    scene.say(ended(key, **FAILED))

    scene.stop(key.job)

    assert scene.last(Ended).outcome is Outcome.STOPPED
    assert scene.live.jobs == {} and scene.live.delayed == {} and scene.live.queued == 0
    check_invariants(scene.live)


def test_the_log_of_an_earlier_attempt_still_arrives() -> None:
    """While the next one waits or runs; each attempt has its own log."""
    scene = Scene()
    key = scene.running(retries=1)
    scene.apply(LogStored(1, key, (), 1000, 900))
    scene.say(ended(key, ledger_bytes=5000, **FAILED))
    due(scene)
    scene.place()

    log = scene.live.log_of(key)
    assert log is not None and log.log_position == 1000
    scene.apply(LogStored(1, key, (), 5000, 3900, past=True))

    assert scene.live.log_of(key) is None
    assert scene.job(key.job).log_position == 0
    check_invariants(scene.live)


def test_a_clock_that_was_set_back_does_not_keep_a_job_waiting() -> None:
    """What is due further ahead than the longest pause is due now."""
    scene = Scene()
    key = scene.running(retries=1)
    scene.say(ended(key, **FAILED))
    scene.now = scene.now._replace(wall_us=scene.now.wall_us - 3_600_000_000)

    scene.tick()

    assert scene.last(Due).number == 1
    assert len(scene.place()) == 1
