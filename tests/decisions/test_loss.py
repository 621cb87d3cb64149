"""Workers that leave, and what becomes of their jobs as time passes."""

import pytest

from coordinator import decisions
from coordinator.changes import Ended, LogLost, LogStored, Losses, Retried
from coordinator.effects import DropSession, SendRecall
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_from_bytes
from tests.support.builders import W1, W2, ended, never_ran, started
from tests.support.scene import Scene, check_invariants


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


def test_why_it_had_not_started_in_time_is_kept() -> None:
    """The reasons that stood when its time was over are in the evidence of its end."""
    scene = Scene()
    scene.join(W1)
    scene.queue(start_within_s=5.0, labels=(("gpu", "yes"),))
    scene.wait(5.1)
    scene.tick()

    evidence = end_from_bytes(scene.last(Ended).end).evidence
    assert evidence.endswith("it never ran; it waited then: 1 worker does not have the label gpu=yes")


def test_what_a_worker_was_told_and_has_not_started_is_taken_back() -> None:
    """Its proof that the program never ran ends the job."""
    scene = Scene()
    key = scene.assigned(start_within_s=5.0)
    scene.wait(6)
    assert scene.tick() == [SendRecall(W1, key)]
    assert scene.job(key.job).state is State.ASSIGNED, "what it has begun in time runs on"

    scene.say(never_ran(key))

    assert (scene.last(Ended).outcome, scene.last(Ended).cause) == (Outcome.TIMED_OUT, "start_deadline")


def test_a_start_that_crosses_its_recall_stands() -> None:
    """The worker begins nothing after the deadline, so it was in time; nobody is ended for being told of late."""
    scene = Scene()
    key = scene.assigned(start_within_s=5.0)
    scene.wait(6)
    scene.tick()

    scene.say(started(key))
    scene.say(ended(key))

    assert (scene.last(Ended).outcome, scene.last(Ended).cause) == (Outcome.SUCCEEDED, "exit")


def test_a_worker_is_told_until_when_it_may_start() -> None:
    """Its first attempt alone: what is tried again was in time."""
    scene = Scene()
    scene.join()
    scene.queue(start_within_s=5.0, retries=1)
    (start,) = scene.place()
    assert start.start_by_us == scene.now.wall_us + 5_000_000
    scene.say(started(start.key))
    scene.say(ended(start.key, exit_code=1))
    scene.wait(2)
    scene.tick()

    assert [again.start_by_us for again in scene.place()] == [0]


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


STOPS = Losses(fence_s=20.0)
RETRIES = Losses(fence_s=20.0, retry=True, crash_limit=3)


def test_a_job_of_the_policy_stop_is_lost_once_its_supervisor_must_have_ended_it() -> None:
    """After the lease (8 s in these scenes) and what the end may take; not after `lost_after`."""
    scene = Scene(lost_after_s=5.0)
    scene.running(losses=STOPS)
    scene.leave()

    scene.wait(27.5)
    scene.tick()
    assert not any(isinstance(change, Ended) for change in scene.history)
    scene.wait(1)
    scene.tick()

    change = scene.last(Ended)
    assert (change.outcome, change.cause) == (Outcome.LOST, "lease")


def test_a_lost_job_is_tried_again_only_where_the_lost_attempt_runs_no_more() -> None:
    """And that takes none of its retries."""
    scene = Scene()
    key = scene.running(losses=RETRIES)
    scene.leave()
    scene.wait(30)

    scene.tick()

    change = scene.last(Retried)
    assert (change.outcome, change.retries, change.crashes) == (Outcome.LOST, 0, 1)
    job = scene.job(key.job)
    assert (job.state, job.retried, job.crashes, job.attempt) == (State.QUEUED, 0, 1, 1)


def test_a_job_whose_workers_are_lost_again_and_again_is_not_tried_for_ever() -> None:
    """The crash limit: perhaps it is the job that takes its workers down."""
    scene = Scene()
    scene.running(losses=RETRIES)
    for number in range(3):
        scene.leave(session=f"session-{number + 1}")
        scene.wait(40)
        scene.tick()
        scene.wait(120)
        scene.tick()
        scene.join(session=f"session-{number + 2}", placing=True)
        for job in list(scene.live.jobs.values()):
            scene.say(started(job.attempt_key))

    change = scene.last(Ended)
    assert (change.outcome, change.cause, change.key.attempt) == (Outcome.LOST, "lease", 3)
    assert "crash limit" in end_from_bytes(change.end).evidence


def test_a_job_that_is_being_stopped_is_not_tried_again_when_its_worker_is_lost() -> None:
    """Whoever asked for its end gets an end."""
    scene = Scene()
    key = scene.running(losses=RETRIES)
    scene.stop(key.job)
    scene.leave()
    scene.wait(40)

    scene.tick()

    assert scene.last(Ended).outcome is Outcome.LOST


@pytest.mark.parametrize(("same_boot", "tried_again"), [(True, False), (False, True)])
def test_after_a_restart_of_the_host_nothing_of_the_attempt_is_left(same_boot: bool, tried_again: bool) -> None:
    """A new boot id proves it; a new journal on the same boot does not."""
    scene = Scene()
    scene.running(losses=RETRIES)

    scene.join(session="session-2", boot_id="boot-1" if same_boot else "boot-2", journal_id="journal-2")

    assert isinstance(scene.history[-1], Retried if tried_again else Ended)


@pytest.mark.parametrize("cause", ["lease", "supervisor_died"])
@pytest.mark.parametrize("proved", [False, True])
def test_a_loss_that_the_worker_reports_is_tried_again_when_nothing_is_left(cause: str, proved: bool) -> None:
    """Its receipt says so, or nobody can."""
    scene = Scene()
    key = scene.running(losses=RETRIES)
    report = ended(key, cause=cause, exit_code=None)
    assert report.end is not None

    scene.say(report._replace(end=report.end._replace(proved=proved)))

    assert isinstance(scene.history[-1], Retried if proved else Ended)


def test_a_drained_job_is_tried_again_and_the_drain_does_not_count() -> None:
    """Neither as a retry nor as a loss."""
    scene = Scene()
    key = scene.running(losses=RETRIES)
    report = ended(key, cause="drain", exit_code=None)
    assert report.end is not None

    scene.say(report._replace(end=report.end._replace(proved=True)))

    job = scene.job(key.job)
    assert (job.state, job.retried, job.crashes) == (State.QUEUED, 0, 0)


def test_a_job_that_is_never_lost_waits_for_its_worker() -> None:
    """A negative `lost_after`."""
    scene = Scene(lost_after_s=5.0)
    scene.running(losses=Losses(lost_after_s=-1.0))
    scene.leave()
    scene.wait(1e9)
    scene.tick()

    assert not any(isinstance(change, Ended) for change in scene.history)


def test_a_job_has_its_own_patience_with_its_worker() -> None:
    """Before that of its family."""
    scene = Scene(lost_after_s=600.0)
    scene.running(losses=Losses(lost_after_s=3.0))
    scene.leave()
    scene.wait(4)
    scene.tick()

    assert scene.last(Ended).cause == "worker_lost"
