"""What is kept of how workers stand to classes of jobs: always what a fresh look finds, bounded, and cheap."""

from random import Random

import pytest

from coordinator import standings
from coordinator.capacity import ClassKey, Worker
from coordinator.changes import Drain, DrainAsked, Quarantined
from coordinator.live import Live
from coordinator.standings import KeptStandings
from tests.support.builders import W1
from tests.support.random_histories import STEPS, RandomHistory
from tests.support.scene import Scene

ANY = ClassKey("", (), 1)
CLASSES = (
    ANY,
    ClassKey("", (), 0),
    ClassKey("", (), 2),
    ClassKey(W1, (), 1),
    ClassKey("no worker", (), 1),
    ClassKey("", (("zone", "a"),), 1),
    ClassKey("", (), 1, where="zone=a"),
    ClassKey("", (), 1, barred=(W1,)),
    ClassKey("", (), 1, "python", "render", ("memory_limit",)),
)


def found(kept: KeptStandings, live: Live, wanted: ClassKey) -> tuple[object, str]:
    """Everything that is told of a class."""
    nearest = kept.nearest(live, wanted)
    return kept.reasons(live, wanted), nearest.id if nearest is not None else ""


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kept_max", [standings.KEPT_MAX, 12])
def test_what_is_kept_is_what_a_fresh_look_finds(seed: int, kept_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After whatever happened since the last look, to whichever class that was, and with room for few."""
    monkeypatch.setattr(standings, "KEPT_MAX", kept_max)
    random, history, kept = Random(seed), RandomHistory(), KeptStandings()
    live, told = history.scene.live, set()
    for _ in range(600):
        history.step(random.choice(STEPS), random.getrandbits(40))
        if live.workers and not random.randrange(10):
            history.scene.apply(Quarantined(random.choice(list(live.workers)), random.choice(("", "two agents"))))
        classes = [*CLASSES, *live.classes]
        for wanted in random.sample(classes, random.randint(0, 3)):
            fresh = found(KeptStandings(), live, wanted)
            assert found(kept, live, wanted) == fresh
            told.add(fresh)

    assert len(told) > 30, "nothing much happened"


def test_another_live_set_is_looked_at_anew() -> None:
    """The coordinator loads one after a failed commit: nothing of the one before is told of it."""
    first, second, kept = Scene(), Scene(), KeptStandings()
    for scene in (first, second):
        scene.join()
    second.apply(DrainAsked(W1, Drain()))
    first.apply(DrainAsked(W1, None))

    assert [kept.reasons(scene.live, ANY) == () for scene in (first, second, first)] == [True, False, True]


def test_only_workers_that_changed_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks after many jobs of many workers holds nobody up."""
    scene, kept, looked_at = Scene(), KeptStandings(), list[str]()
    workers = [f"worker-{number}" for number in range(20)]
    for worker in workers:
        scene.join(worker)
    hindrances = standings.hindrances

    def noting(worker: Worker, wanted: ClassKey) -> object:
        looked_at.append(worker.id)
        return hindrances(worker, wanted)

    monkeypatch.setattr(standings, "hindrances", noting)
    found(kept, scene.live, ANY)
    assert sorted(looked_at) == sorted(workers)
    looked_at.clear()
    found(kept, scene.live, ANY)
    assert not looked_at

    scene.leave(workers[3])
    found(kept, scene.live, ANY)
    assert looked_at == [workers[3]]


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes and workers together: a class may be whatever a caller says."""
    monkeypatch.setattr(standings, "KEPT_MAX", 8)
    monkeypatch.setattr(standings, "REASONS_MAX", 5)
    scene, kept = Scene(), KeptStandings()
    for number in range(3):
        scene.join(f"worker-{number}")
    for number in range(20):
        found(kept, scene.live, ClassKey("", (("zone", str(number)),), 1))

    assert len(kept._classes) == 2
    assert len(kept._reasons) <= 5
