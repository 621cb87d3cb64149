"""A worker that comes for a moment again and again: what that postpones, and what it does not.

Each hello lists everything that the worker holds, and is decided on as a whole. An attempt in the list is known to be
held at that moment, so its time begins anew and calling it lost would be wrong; one that is not in it ends, returns or
is sent again at once. A hello that is refused is no word of the worker, and postpones nothing.
"""

from typing import Any

from coordinator.changes import Ended, Returned
from hostler.lifecycle import Outcome, State
from tests.support.scene import Scene, check_invariants

LOST_AFTER_S = 60.0
LOOPS = 20


def come_and_go(scene: Scene, loop: int, **hello: Any) -> None:
    """The worker says hello and is gone a second later; then it stays away for most of the time."""
    session = f"loop-{loop}"
    scene.join(session=session, generation=1 + loop, instance=f"agent-{loop}", **hello)
    scene.wait(1.0)
    scene.leave(session=session)
    scene.wait(LOST_AFTER_S - 10.0)
    scene.tick()


def test_what_each_hello_accounts_for_is_not_lost_however_often_its_agent_crashes() -> None:
    """Its shim lives and its end will be told; only when the worker stays away altogether nobody can know any more."""
    scene = Scene(lost_after_s=LOST_AFTER_S)
    key = scene.running()
    scene.leave()

    for loop in range(1, LOOPS):
        come_and_go(scene, loop, mark=1, inventory=((key, "running"),))

    assert scene.job(key.job).state is State.RUNNING
    scene.wait(LOST_AFTER_S)
    scene.tick()
    assert (scene.last(Ended).outcome, scene.last(Ended).cause) == (Outcome.LOST, "worker_lost")
    check_invariants(scene.live)


def test_what_a_hello_does_not_account_for_waits_for_no_further_one() -> None:
    """A program that had started is lost with the first hello without it; what never ran goes to another worker."""
    scene = Scene(lost_after_s=LOST_AFTER_S)
    started, accepted = scene.running(), scene.assigned()
    scene.leave()

    come_and_go(scene, 1, mark=2)

    assert (scene.last(Ended).key, scene.last(Ended).cause) == (started, "supervisor_died")
    assert scene.last(Returned).key == accepted
    check_invariants(scene.live)


def test_a_start_that_a_crashing_agent_never_takes_still_has_its_deadline() -> None:
    """Such an attempt is not lost, for it is known that it never ran; it is sent again, until it is too late."""
    scene = Scene(lost_after_s=LOST_AFTER_S)
    key = scene.assigned(start_within_s=300.0)
    scene.leave()

    for loop in range(1, LOOPS):
        come_and_go(scene, loop, mark=0)

    assert (scene.last(Ended).key, scene.last(Ended).cause) == (key, "start_deadline")
    assert scene.live.jobs == {}
    check_invariants(scene.live)


def test_a_hello_that_is_refused_postpones_nothing() -> None:
    """A copy of the worker's directory cannot keep its jobs from being lost."""
    scene = Scene(lost_after_s=LOST_AFTER_S)
    scene.join(generation=7)
    key = scene.running()
    scene.leave()

    scene.wait(LOST_AFTER_S - 1.0)
    scene.join(session="copy", generation=6, mark=1, inventory=((key, "running"),))
    scene.wait(1.0)
    scene.tick()

    assert (scene.last(Ended).outcome, scene.last(Ended).cause) == (Outcome.LOST, "worker_lost")
