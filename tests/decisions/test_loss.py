"""Workers that leave, and what becomes of their jobs as time passes."""

import pytest

from coordinator import decisions
from coordinator.changes import Ended, LogLost, LogStored
from coordinator.effects import DropSession, SendStop
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_from_bytes
from tests.support.builders import W1, W2, ended, never_ran
from tests.support.scene import Scene, check_invariants, only


@pytest.mark.parametrize("goodbye", [False, True])
def test_a_broken_stream_concludes_nothing_about_jobs(goodbye: bool) -> None:
    """A cut cable must not lose knowledge: unreachable is a flag with a time."""
    scene = Scene()
    key = scene.running()

    effects = scene.leave(goodbye=goodbye)

    worker = scene.worker()
    assert effects == [DropSession(W1, superseded=False)]
    assert (worker.connected, worker.goodbye, worker.left_at_s) == (False, goodbye, scene.now.monotonic_s)
    assert scene.job(key.job).state is State.RUNNING
    check_invariants(scene.live)


def test_a_worker_that_is_away_gets_no_work() -> None:
    """Its slots are free, and nobody is there."""
    scene = Scene()
    scene.join()
    scene.leave()
    scene.queue()

    assert scene.place() == []


def test_nothing_is_lost_before_its_time() -> None:
    """Until then the worker may come back with everything."""
    scene = Scene(lost_after_s=60.0)
    key = scene.running()
    scene.leave()
    scene.wait(59.9)

    scene.tick()

    assert scene.job(key.job).state is State.RUNNING


def test_jobs_of_a_worker_that_stayed_away_are_lost() -> None:
    """And the evidence says that the program may still run, and where."""
    scene = Scene(lost_after_s=60.0)
    running, assigned = scene.running(), scene.assigned()
    scene.leave()
    scene.wait(60.0)

    scene.tick()

    ends = {c.key: c for c in scene.history if isinstance(c, Ended)}
    assert set(ends) == {running, assigned}
    assert {(c.outcome, c.cause) for c in ends.values()} == {(Outcome.LOST, "worker_lost")}
    assert "may still run on host-" in end_from_bytes(ends[running].end).evidence
    assert scene.live.jobs == {}
    assert scene.worker().slots_used == 0
    check_invariants(scene.live)


def test_a_job_that_is_stopping_is_lost_like_the_others() -> None:
    """Without the proof it may not be called stopped."""
    scene = Scene(lost_after_s=60.0)
    key = scene.running()
    scene.stop(key.job)
    scene.leave()
    scene.wait(60.0)

    scene.tick()

    assert scene.last(Ended).outcome is Outcome.LOST


def test_a_lost_job_does_not_run_again() -> None:
    """The policy is to keep: nothing waits, and nothing is placed."""
    scene = Scene(lost_after_s=60.0)
    scene.running()
    scene.leave()
    scene.wait(60.0)
    scene.tick()
    scene.join(W2)

    assert scene.place() == []


def test_the_end_that_comes_after_the_loss_changes_nothing() -> None:
    """Whichever final record was committed first stays."""
    scene = Scene(lost_after_s=60.0)
    key = scene.running()
    scene.leave()
    scene.wait(60.0)
    scene.tick()
    scene.join(session="session-2", mark=1, inventory=((key, "ended"),))

    scene.say(ended(key))

    assert [c.outcome for c in scene.history if isinstance(c, Ended)] == [Outcome.LOST]


def test_a_worker_that_is_back_loses_nothing() -> None:
    """Its time away is forgotten with its return."""
    scene = Scene(lost_after_s=60.0)
    key = scene.running()
    scene.leave()
    scene.wait(59.0)
    scene.join(session="session-2", mark=1, inventory=((key, "running"),))
    scene.wait(59.0)

    scene.tick()

    assert scene.job(key.job).state is State.RUNNING


def test_waiting_jobs_are_never_lost() -> None:
    """They hang on no worker; one that asks for a worker that left waits for it."""
    scene = Scene(lost_after_s=60.0)
    scene.join()
    scene.leave()
    (job,) = scene.queue(pin=W1)
    scene.wait(10_000.0)

    scene.tick()

    assert scene.job(job).state is State.QUEUED


def test_the_log_of_a_finished_job_is_lost_with_its_worker() -> None:
    """The bytes that are missing are counted, and the job leaves memory."""
    scene = Scene(lost_after_s=60.0)
    key = scene.trailing(ledger_bytes=5000)
    scene.apply(LogStored(1, key, (), 1200, 1100))
    scene.leave()
    scene.wait(60.1)

    scene.tick()

    assert scene.last(LogLost) == LogLost(1, key, 3800)
    assert scene.live.jobs == {}
    check_invariants(scene.live)


def test_a_log_of_a_worker_that_is_there_is_waited_for() -> None:
    """However long it takes."""
    scene = Scene(lost_after_s=60.0)
    key = scene.trailing()
    scene.wait(100_000.0)

    scene.tick()

    assert key in scene.live.trailing
    assert not [change for change in scene.history if isinstance(change, LogLost)]


def test_a_tick_looks_only_at_workers_and_trailing_logs() -> None:
    """It runs every second: with a million waiting jobs a look at each would stop everything else."""
    scene = Scene()
    scene.queue(100)

    class Untouchable(dict[int, object]):
        def __iter__(self) -> object:  # type: ignore[override]
            raise AssertionError("every job was looked at")

        values = items = keys = __iter__  # type: ignore[assignment]

    scene.live.jobs = Untouchable(scene.live.jobs)  # type: ignore[assignment]

    scene.tick()


# Start deadlines


def test_a_job_that_has_not_started_in_time_never_does() -> None:
    """While it waits it ends at once; the cause says why."""
    scene = Scene()
    (job,) = scene.queue(start_within_s=5.0)
    scene.wait(4.9)
    scene.tick()
    assert scene.job(job).state is State.QUEUED

    scene.wait(0.2)
    scene.tick()

    over = scene.last(Ended)
    assert (over.outcome, over.cause, over.started_at_us) == (Outcome.TIMED_OUT, "start_deadline", 0)
    assert scene.live.jobs == {}


def test_what_a_worker_was_told_and_has_not_started_is_taken_back() -> None:
    """Its proof that the program never ran ends the job."""
    scene = Scene()
    key = scene.assigned(start_within_s=5.0)
    scene.wait(6)
    assert [stop.key for stop in only(scene.tick(), SendStop)] == [key]
    assert scene.tick() == [], "once is enough"

    scene.say(never_ran(key))

    assert (scene.last(Ended).outcome, scene.last(Ended).cause) == (Outcome.TIMED_OUT, "start_deadline")


def test_a_program_that_has_started_has_met_its_deadline() -> None:
    """However long it runs."""
    scene = Scene()
    key = scene.running(start_within_s=5.0)
    scene.wait(60)

    assert scene.tick() == []
    assert scene.job(key.job).state is State.RUNNING
    assert scene.live.starts_due == {}


def test_a_job_that_is_lost_when_its_start_is_overdue_ends_once() -> None:
    """Both limits pass between two looks at the clock: the loss is its end, and no stop is asked for."""
    scene = Scene(lost_after_s=60.0)
    scene.assigned(start_within_s=5.0)
    scene.leave(W1)
    scene.wait(61)

    assert scene.tick() == []

    assert [change.outcome for change in scene.history if isinstance(change, Ended)] == [Outcome.LOST]
    assert scene.live.jobs == {} and scene.live.starts_due == {}


def test_an_attempt_that_came_back_keeps_its_deadline() -> None:
    """A worker that gives it back does not make its time begin anew."""
    scene = Scene()
    key = scene.assigned(start_within_s=5.0)
    scene.do(decisions.on_report(scene.live, W1, never_ran(key), scene.now), placing=False)
    scene.wait(6)
    scene.tick()

    assert (scene.last(Ended).outcome, scene.last(Ended).cause) == (Outcome.TIMED_OUT, "start_deadline")
