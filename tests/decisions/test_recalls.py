"""What was sent ahead is asked back when it could begin elsewhere."""

import pytest

from coordinator import recalls
from coordinator.capacity import RUN_TIMES_KEPT, ClassKey, Worker
from coordinator.effects import SendRecall
from coordinator.placement import Obstacle, obstacle
from coordinator.recalls import AHEAD_US
from hostler.ids import AttemptKey
from hostler.lifecycle import State
from tests.support.builders import NOON_US, W1, W2, W3, ended, never_ran, started
from tests.support.scene import Scene, only


def laden(scene: Scene, count: int = 4) -> list[AttemptKey]:
    """Worker 1 with two slots, which has earned a prefetch by short jobs and then got long ones."""
    scene.join()
    for _ in range(RUN_TIMES_KEPT):
        key = scene.assigned()
        scene.say(ended(key, ended_at_us=NOON_US + 1000))
    jobs = scene.queue(count)
    scene.place()
    keys = [scene.job(job).attempt_key for job in jobs]
    assert all(scene.job(job).state is State.ASSIGNED for job in jobs)
    for key in keys[:2]:
        scene.say(started(key))
    return keys


def asked(scene: Scene) -> list[AttemptKey]:
    """What a tick asks back."""
    return [recall.key for recall in only(scene.tick(), SendRecall)]


def test_what_waits_at_one_worker_is_asked_back_when_another_is_free() -> None:
    """The latest first, and only as many as the other could begin."""
    scene = Scene()
    keys = laden(scene, 5)
    scene.join(W2, slots=1)
    scene.wait(AHEAD_US / 1e6)

    assert asked(scene) == [keys[-1]]


def test_an_attempt_that_comes_back_goes_to_the_free_worker() -> None:
    """By its worker's proof that it never ran; nothing is started twice."""
    scene = Scene()
    keys = laden(scene)
    scene.join(W2, slots=1)
    scene.wait(2)
    (key,) = asked(scene)

    scene.say(never_ran(key))
    (sent,) = scene.place()

    assert (sent.worker, sent.key) == (W2, AttemptKey(key.job, 0, 2))
    assert key == keys[-1]


def test_nothing_is_asked_back_while_it_may_begin_in_a_moment() -> None:
    """A prefetch is there to be used."""
    scene = Scene()
    laden(scene)
    scene.join(W2)

    assert asked(scene) == []


def test_nothing_is_asked_back_when_nobody_is_free() -> None:
    """It would only come back to the same place."""
    scene = Scene()
    laden(scene)
    scene.wait(60)

    assert asked(scene) == []


def test_a_worker_that_may_not_run_it_is_not_free_for_it() -> None:
    """Labels and runtimes count."""
    scene = Scene()
    scene.join(labels=(("zone", "a"),))
    for _ in range(RUN_TIMES_KEPT):
        scene.say(ended(scene.assigned(labels=(("zone", "a"),)), ended_at_us=NOON_US + 1000))
    scene.queue(4, labels=(("zone", "a"),))
    scene.place()
    scene.join(W2)
    scene.wait(60)

    assert asked(scene) == []


def test_what_no_free_worker_may_run_is_not_asked_for_each_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of both, a tick would take minutes."""
    looked: list[str] = []

    def counted(worker: Worker, wanted: ClassKey) -> Obstacle | None:
        looked.append(worker.id)
        return obstacle(worker, wanted)

    scene = Scene()
    scene.join(labels=(("zone", "a"),))
    for _ in range(RUN_TIMES_KEPT):
        scene.say(ended(scene.assigned(labels=(("zone", "a"),)), ended_at_us=NOON_US + 1000))
    scene.queue(5, labels=(("zone", "a"),))
    assert len(scene.place()) == 5
    scene.join(W2)
    scene.wait(60)
    monkeypatch.setattr(recalls, "obstacle", counted)

    assert (asked(scene), looked) == ([], [W2])


def test_a_worker_that_is_spoken_for_is_not_asked_again() -> None:
    """Its one slot is given once, and the next attempt is asked back for the worker that is still free."""
    scene = Scene()
    keys = laden(scene, 6)
    scene.join(W2, slots=1)
    scene.join(W3, slots=1)
    scene.wait(2)

    assert asked(scene) == [keys[-1], keys[-2]]


def test_what_is_more_urgent_takes_the_place_of_what_has_not_begun() -> None:
    """One for one, and never of what runs."""
    scene = Scene()
    keys = laden(scene)
    worker = scene.worker()
    worker.prefetch = {key: 2 for key in worker.prefetch}  # the window is full
    (urgent,) = scene.queue(priority=5)
    assert scene.place() == []
    scene.wait(2)

    assert asked(scene) == [keys[-1]]
    scene.say(never_ran(keys[-1]))
    (sent,) = scene.place()
    assert (sent.key.job, sent.worker) == (urgent, W1)
