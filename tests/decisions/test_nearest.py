"""Which worker is nearest to taking a job that waits, and what is said of it."""

import pytest

from coordinator.changes import Drain, DrainAsked, WorkerDraining
from coordinator.pending import pending
from coordinator.standings import KeptStandings
from hostler.pending import Code
from tests.decisions.test_pending import STORIES
from tests.support.builders import W1, W2, W3
from tests.support.scene import Scene


def nearest(scene: Scene, job: str) -> tuple[str, tuple[str, ...]]:
    """The worker that comes nearest to a job, and what it misses."""
    found = pending(scene.live, scene.job(job), KeptStandings()).nearest
    assert found is not None
    return found.worker, found.missing


def test_the_nearest_worker_fails_the_fewest_conditions() -> None:
    """Of one label that is wrong it is said what is there instead."""
    scene = Scene()
    scene.join(W1, labels=(("zone", "a"), ("gpu", "yes")))
    scene.join(W2, labels=(("zone", "a"),))
    scene.join(W3)
    (job,) = scene.queue(labels=(("gpu", "yes"), ("zone", "b")))

    assert nearest(scene, job) == (W1, ("does not have the label zone=b (it has zone=a)",))


def test_what_passes_is_nearer_than_what_lasts() -> None:
    """A full worker takes it soon, one without the label never."""
    scene = Scene()
    scene.join(W1, slots=4, labels=(("zone", "a"),))
    scene.queue(3, labels=(("zone", "a"),))
    scene.place()
    scene.join(W2, slots=4)
    (job,) = scene.queue(slots=2, labels=(("zone", "a"),))
    scene.place()

    assert nearest(scene, job) == (W1, ("has 1 of 4 slots free, and 2 are needed",))


def test_the_nearest_of_full_workers_lacks_the_fewest_slots() -> None:
    """It has three of four."""
    scene = Scene()
    scene.join(W1, slots=4)
    scene.join(W2, slots=4)
    scene.queue(3)
    scene.place()
    (job,) = scene.queue(slots=4)
    scene.place()

    assert nearest(scene, job) == (W2, ("has 3 of 4 slots free, and 4 are needed",))


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        (Code.DISK_FULL, "has too little room on its disk: 1 MiB is free"),
        (Code.DRAINING, "is draining: the worker is ending"),
        (Code.QUARANTINED, "is quarantined: two agents"),
        (Code.REVOKED, "was revoked: its host may join again with a new invitation, as another worker"),
        (Code.UNREACHABLE, "is unreachable, and was last heard at 2023-11-14T22:13:20.000000Z"),
        (Code.FEW_SLOTS, "has 2 slots, and 3 are needed"),
        (Code.POLICY, "takes only named workloads"),
        (Code.WHERE, "does not match zone=b (it has zone=a)"),
    ],
)
def test_what_the_nearest_misses_is_told_closely(code: Code, missing: str) -> None:
    """With what there is instead, and since when."""
    scene = Scene()
    job = STORIES[code][0](scene)
    assert nearest(scene, job) == (W1, (missing,))


def test_a_drain_and_a_missing_label_are_both_told() -> None:
    """The nearest misses all that is missing, not the first thing."""
    scene = Scene()
    scene.join()
    scene.apply(DrainAsked(W1, Drain(reason="new disk")))
    (job,) = scene.queue(labels=(("zone", "b"),))

    assert nearest(scene, job)[1] == (
        "does not have the label zone=b (it has none of this name)",
        "is drained on request: new disk",
    )


def test_a_full_worker_is_nearer_than_a_drained_one_and_that_is_nearer_than_one_that_is_unfit() -> None:
    """One frees itself, the second needs a word of somebody, the third would have to be another worker."""
    scene = Scene()
    scene.join(W1, labels=(("zone", "b"),))
    scene.join(W2)
    scene.apply(DrainAsked(W2, Drain()))
    scene.join(W3, slots=1)
    scene.queue()
    scene.place()
    (job,) = scene.queue(labels=(("zone", "b"),))
    scene.apply(DrainAsked(W1, Drain()))
    (other,) = scene.queue()
    scene.place()

    assert nearest(scene, other) == (W3, ("has 0 of 1 slots free",))
    assert nearest(scene, job) == (W1, ("is drained on request",))


def test_a_worker_that_drains_itself_is_as_near_as_a_full_one() -> None:
    """That is over when its disk has room again."""
    scene = Scene()
    scene.join(W1)
    scene.apply(WorkerDraining(W1, True, "1 MiB is free", disk_full=True))
    scene.join(W2)
    scene.apply(DrainAsked(W2, Drain()))
    (job,) = scene.queue()

    assert nearest(scene, job) == (W1, ("has too little room on its disk: 1 MiB is free",))
