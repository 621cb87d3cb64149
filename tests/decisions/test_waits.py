"""What a job waited for is known when its wait is over, and why one waits that its worker has already."""

from functools import partial

from coordinator import waits
from coordinator.changes import Assigned, Ended
from coordinator.pending import sent_ahead
from coordinator.standings import KeptStandings
from hostler.lifecycle import State
from hostler.pending import Code
from hostler.wire.ends import end_from_bytes
from tests.support.builders import W1, W2, ended, never_ran, started
from tests.support.scene import Scene


def look(scene: Scene) -> None:
    """See what waits for what, as the engine does each second."""
    waits.look(scene.live, partial(KeptStandings().reasons, scene.live), scene.now.monotonic_s)


def why_given(scene: Scene, job: str) -> list[str]:
    """What the assignments of a job say."""
    return [change.why for change in scene.history if isinstance(change, Assigned) and change.key.job == job]


def evidence_of(scene: Scene, job: str) -> str:
    """How a job ended."""
    (end,) = (change for change in scene.history if isinstance(change, Ended) and change.key.job == job)
    return end_from_bytes(end.end).evidence


def a_full_worker(scene: Scene) -> str:
    """Worker 1 with its only slot taken; returns the job that waits behind."""
    scene.join(slots=1)
    scene.running()
    (job,) = scene.queue()
    scene.place()
    assert scene.job(job).state is State.QUEUED
    return job


def test_a_job_that_waited_tells_for_what_when_it_gets_its_worker() -> None:
    """Behind why it is this worker; one that came after the look, or waited for nothing, has nothing to tell."""
    scene = Scene()
    job = a_full_worker(scene)
    look(scene)
    (later,) = scene.queue()
    (running,) = (each.attempt_key for each in scene.live.jobs.values() if each.state is State.RUNNING)

    scene.say(ended(running))
    scene.place()
    scene.say(started(scene.job(job).attempt_key))
    scene.say(ended(scene.job(job).attempt_key))
    scene.place()

    assert why_given(scene, running.job) == ["no other could take it"]
    assert why_given(scene, job) == ["no other could take it; while it waited: 1 worker has no free slot"]
    assert why_given(scene, later) == ["no other could take it"]


def test_a_job_that_is_stopped_while_it_waits_tells_for_what_it_waited() -> None:
    """In its evidence, which is kept with it."""
    scene = Scene()
    scene.join(labels=(("zone", "a"),))
    seen, unseen = *scene.queue(labels=(("zone", "b"),)), *scene.queue(labels=(("zone", "c"),))
    (waits_longer,) = scene.queue(labels=(("zone", "b"),))
    look(scene)
    scene.stop(seen)
    scene.stop(unseen)
    scene.stop(waits_longer)

    assert evidence_of(scene, seen).endswith("it waited then: 1 worker does not have the label zone=b")
    assert evidence_of(scene, unseen).endswith("it waited then: 1 worker does not have the label zone=c")
    assert evidence_of(scene, waits_longer) == evidence_of(scene, seen)


def test_an_attempt_after_the_first_tells_nothing_of_the_time_before() -> None:
    """It may have come into the queue after the look, however old its job is."""
    scene = Scene()
    job = a_full_worker(scene)
    look(scene)
    (running,) = (each.attempt_key for each in scene.live.jobs.values() if each.state is State.RUNNING)
    scene.say(ended(running))
    scene.place()
    scene.say(never_ran(scene.job(job).attempt_key))
    scene.place()

    first, second = why_given(scene, job)
    assert "while it waited" in first
    assert "while it waited" not in second


def test_as_many_classes_are_looked_at_as_the_workers_allow_and_all_in_turn() -> None:
    """With thousands of workers one at a time; which was not looked at for the longest time comes first."""
    scene = Scene()
    scene.join()
    jobs = [scene.queue(labels=(("zone", f"z{number}"),))[0] for number in range(3)]
    asked = list[str]()

    def reasons(wanted: object) -> tuple[()]:
        asked.append(str(wanted))
        return ()

    wide = waits.WORKERS_MAX
    for number in range(wide):
        scene.live.workers[f"pretended-{number}"] = scene.worker()
    for _ in range(3):
        scene.wait(1)
        waits.look(scene.live, reasons, scene.now.monotonic_s)

    assert len(asked) == len(jobs) == len(set(asked))


def test_reasons_beyond_the_third_are_counted_as_more() -> None:
    """A line stays a line."""
    scene = Scene()
    for number, worker in enumerate((W1, W2)):
        scene.join(worker, labels=(("zone", f"z{number}"),))
    scene.leave(W2)
    (job,) = scene.queue(labels=(("zone", "x"),))
    look(scene)

    assert waits.waited_for(scene.job(job)) == "2 workers do not have the label zone=x"
    found = KeptStandings().reasons(scene.live, scene.job(job).placement.key)
    assert waits.told(found * 3).count("zone=x") == 3
    assert waits.told(found * 3) + ", and more" == waits.told(found * 4)
    assert waits.told(()) == ""


def test_a_job_that_was_sent_ahead_to_a_full_worker_says_so() -> None:
    """Until there is room for it, or it runs; one that has room there has no reason to wait."""
    scene = Scene()
    scene.join(slots=2)
    wanted = scene.job(scene.assigned().job).placement.key
    scene.worker().prefetch[wanted] = 2
    jobs = scene.queue(3)
    scene.place()
    first, second, third = (scene.job(job) for job in jobs)
    assert third.state is State.ASSIGNED
    assert sent_ahead(scene.live, third, scene.worker()) is None, "nothing is known to run there"

    for key in list(scene.worker().held)[:2]:
        scene.say(started(key))

    why = sent_ahead(scene.live, third, scene.worker())
    assert why is not None
    assert (why.code, why.workers) == (Code.AHEAD, 1)
    assert why.text == f"it was sent ahead to {scene.worker().name}, where 2 of 2 slots are taken"
    assert sent_ahead(scene.live, second, scene.worker()) == why
    assert sent_ahead(scene.live, first, scene.worker()) is None, "it runs"
    for key in list(scene.worker().held)[:2]:
        scene.say(ended(key))
    assert sent_ahead(scene.live, third, scene.worker()) is None
