"""Drains and quarantines: what somebody asks about a worker, and what its agents bring upon it."""

from typing import Any

import pytest

from coordinator import drains
from coordinator.changes import Drain, DrainAsked, Ended, EpochRaised, LateEnd, Quarantined, Returned
from coordinator.decisions import Decision
from coordinator.effects import Answer, AttachSession, DropSession, Effect, SendLeave, SendRecall, SendStart, SendStop
from coordinator.places import RETURNS
from coordinator.quarantine import RETURNS_S
from hostler.errors import InvalidRequest, PermissionDenied, WorkerNotFound
from hostler.lifecycle import Outcome, State
from tests.support.builders import W1, W2, ended, never_ran
from tests.support.scene import Scene


def drained(scene: Scene, worker: str = W1, **given: object) -> list[Effect]:
    """Somebody drains a worker."""
    return scene.do(Decision(*drains.on_drain(scene.live, worker, Drain(**given), None)), placing=False)  # type: ignore[arg-type]


def test_a_drained_worker_is_given_nothing_more() -> None:
    """What waits goes to others, or waits."""
    scene = Scene()
    scene.join()
    drained(scene)

    scene.queue()

    assert scene.place() == []
    scene.join(W2)
    assert [start.worker for start in scene.place()] == [W2]


def test_what_a_drained_worker_has_not_begun_is_asked_back() -> None:
    """And goes to another worker once it is proved that it never ran."""
    scene = Scene()
    running = scene.running()
    waiting = scene.assigned()

    effects = drained(scene)

    assert [e for e in effects if isinstance(e, SendRecall)] == [SendRecall(W1, waiting)]
    scene.join(W2)
    scene.say(never_ran(waiting))
    assert isinstance(scene.history[-1], Returned)
    assert [start.worker for start in scene.place()] == [W2]
    assert scene.job(running.job).state is State.RUNNING


def test_what_runs_at_the_deadline_of_a_drain_is_ended_with_its_own_grace() -> None:
    """Said every second until its worker has proved the end; the job itself is not being stopped."""
    scene = Scene()
    key = scene.running()
    drained(scene, by_us=scene.now.wall_us + 5_000_000)

    scene.wait(4)
    assert [e for e in scene.tick() if isinstance(e, SendStop)] == []
    for _ in range(2):
        scene.wait(1)
        (stop,) = [e for e in scene.tick() if isinstance(e, SendStop)]
        assert (stop.key, stop.grace_s, stop.cause) == (key, drains.OWN_GRACE_S, "drain")
    assert scene.job(key.job).state is State.RUNNING


def test_a_drain_without_a_deadline_lets_everything_take_its_time() -> None:
    """Nothing is ever ended by it."""
    scene = Scene()
    scene.running()
    drained(scene)
    scene.wait(10_000_000)

    assert [e for e in scene.tick() if isinstance(e, SendStop)] == []


def test_an_empty_worker_is_told_to_go_when_that_was_asked() -> None:
    """Only once nothing of it is left here."""
    scene = Scene()
    key = scene.running()
    drained(scene, leave=True)
    assert SendLeave(W1) not in scene.tick()

    scene.say(ended(key))

    assert SendLeave(W1) in scene.tick()


def test_a_drain_outlives_the_connection() -> None:
    """A worker that comes back is still being emptied, until that is taken back."""
    scene = Scene()
    scene.join()
    drained(scene)
    scene.leave()
    scene.join(session="session-2")
    scene.queue()
    assert scene.place() == []

    scene.do(Decision(*drains.on_resume(scene.live, W1, None)), placing=False)

    assert scene.last(DrainAsked).drain is None
    assert [start.worker for start in scene.place()] == [W1]


def test_a_worker_is_found_by_its_name_when_only_one_has_it() -> None:
    """Anything else is an error that says what to do."""
    scene = Scene()
    scene.join(name="north")
    scene.join(W2, name="south")

    def answers(named: str) -> object:
        (answer,) = drains.on_resume(scene.live, named, None)[1]
        assert isinstance(answer, Answer)
        return answer.value

    assert answers("south") == W2
    missing = answers("east")
    assert isinstance(missing, WorkerNotFound) and missing.message == "there is no worker 'east'"
    scene.join(W2, name="north", session="session-2")
    assert isinstance(answers("north"), InvalidRequest)
    assert answers(W1) == W1


def refused(effects: list[Effect]) -> bool:
    """Whether a hello was answered with the quarantine."""
    return any(isinstance(e, Answer) and isinstance(e.value, PermissionDenied) for e in effects)


def test_two_agents_with_one_journal_are_two_copies_of_it() -> None:
    """Each start of an agent raises the generation: the same one twice cannot come from one directory."""
    scene = Scene()
    scene.join(instance="one")

    effects = scene.join(session="session-2", instance="two")

    assert refused(effects)
    assert DropSession(W1, superseded=False) in effects
    assert scene.last(Quarantined).id == W1
    scene.queue()
    assert scene.place() == []


def test_an_agent_that_reconnects_is_no_copy() -> None:
    """However often the network fails."""
    scene = Scene()
    for number in range(10):
        effects = scene.join(session=f"session-{number}", instance="one")
        assert not refused(effects)


def take_turns(scene: Scene, times: int, *, pause_s: float, leaving: bool = False) -> list[bool]:
    """Agents of two hosts come in turn, each with a directory of its own; which of them is refused."""
    found = []
    for number in range(times):
        boot, session = f"boot-{number % 2}", f"s{number}"
        found.append(refused(scene.join(session=session, instance=f"i{number}", boot_id=boot, generation=number + 1)))
        if leaving:
            scene.leave(session=session)
        scene.wait(pause_s)
    return found


@pytest.mark.parametrize("leaving", [False, True])
def test_agents_that_take_the_stream_back_from_one_another_are_put_under_quarantine(leaving: bool) -> None:
    """The first of each is new; after those, somebody comes back whose place was taken. Whose stream ends is the same.

    A word of before a restart that arrives late may look like that once or twice; more may not.
    """
    found = take_turns(Scene(), 2 + RETURNS, pause_s=5, leaving=leaving)

    assert found == [False] * (1 + RETURNS) + [True]


def test_a_host_that_loses_its_power_again_and_again_takes_nothing_from_another() -> None:
    """Each boot is a place of its own that is never seen again, however fast they follow one another."""
    scene = Scene()
    for number in range(20):
        place: dict[str, Any] = {"boot_id": f"boot-{number}", "journal_id": f"journal-{number}"}
        assert not refused(scene.join(session=f"s{number}", instance=f"i{number}", generation=number + 1, **place))
        scene.wait(3)


def test_agents_that_take_the_stream_back_slowly_are_not_put_under_quarantine() -> None:
    """It is the third time within a minute that counts."""
    assert not any(take_turns(Scene(), 10, pause_s=RETURNS_S / (RETURNS - 1) + 1))


def test_an_agent_that_is_started_again_and_again_takes_nothing_from_another() -> None:
    """Its directory's lock says that the one before is gone, also when we had no time to see its stream end."""
    scene = Scene()
    for number in range(10):
        assert not refused(scene.join(session=f"s{number}", instance=f"i{number}", generation=number + 1))


def test_agents_whose_streams_had_ended_take_over_nothing() -> None:
    """A crash loop is no second agent."""
    scene = Scene()
    for number in range(10):
        session = f"s{number}"
        assert not refused(scene.join(session=session, instance=f"i{number}", generation=number + 1))
        scene.leave(session=session)


def test_a_quarantined_worker_is_heard_again_once_it_is_released() -> None:
    """And not before, whoever comes."""
    scene = Scene()
    scene.join(instance="one")
    scene.join(session="session-2", instance="two")
    assert refused(scene.join(session="session-3", instance="one"))
    assert refused(scene.join(session="session-4", instance="three", generation=9))

    scene.do(Decision(*drains.on_release(scene.live, W1, None)), placing=False)

    effects = scene.join(session="session-5", instance="one")
    assert any(isinstance(e, AttachSession) for e in effects)


def test_whichever_directory_is_left_after_a_quarantine_is_the_workers() -> None:
    """Also the one with the older journal. What only the other one knew has run, and is not run again."""
    scene = Scene()
    scene.join(instance="one", generation=5)
    scene.join(session="session-2", instance="two", generation=6)
    key = scene.running()
    assert refused(scene.join(session="session-3", instance="one", generation=5, mark=0))

    scene.do(Decision(*drains.on_release(scene.live, W1, None)), placing=False)
    effects = scene.join(session="session-4", instance="one", generation=5, mark=0)

    assert any(isinstance(e, AttachSession) for e in effects)
    assert not any(isinstance(e, SendStart) for e in effects)
    assert scene.last(Ended).key == key
    assert scene.last(Ended).outcome is Outcome.LOST


def test_a_coordinator_that_is_behind_what_a_worker_has_heard_raises_its_epoch() -> None:
    """Its state was restored from a backup: without that the worker would hear it no more."""
    scene = Scene()
    scene.live.epoch = 3

    scene.join(epoch=7)

    assert [change for change in scene.history if isinstance(change, EpochRaised)] == [EpochRaised(8)]
    assert scene.live.epoch == 8


@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_a_worker_that_heard_no_later_coordinator_changes_no_epoch(epoch: int) -> None:
    """The usual case."""
    scene = Scene()
    scene.live.epoch = 3

    scene.join(epoch=epoch)

    assert not any(isinstance(change, EpochRaised) for change in scene.history)


def test_what_a_worker_says_of_an_attempt_that_was_lost_is_kept() -> None:
    """The outcome stays; the receipt is added."""
    scene = Scene(lost_after_s=10.0)
    key = scene.running()
    scene.leave()
    scene.wait(11)
    scene.tick()
    scene.join(session="session-2", inventory=((key, "running"),))

    scene.say(ended(key, cause="stop"))

    late = scene.last(LateEnd)
    assert (late.key, late.worker) == (key, W1)
