"""What a worker's own policy forbids goes to another worker, and is rejected when none is left that may take it."""

from typing import Any

import pytest

from coordinator.changes import Ended, Returned
from coordinator.refusals import REFUSALS_MAX
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_from_bytes
from tests.support.builders import W1, W2, W3, an_id, ended, never_ran, started
from tests.support.scene import Scene, check_invariants

WHY = "refused by the worker's policy, rule programs: the program 'x' is not in the list"


def refuse(scene: Scene, job: str, *, elsewhere: bool = True) -> str:
    """The worker that has the job refuses it; returns which that was."""
    scene.place()
    key, worker = scene.job(job).attempt_key, scene.job(job).worker
    scene.say(never_ran(key, WHY)._replace(elsewhere=elsewhere), worker)
    check_invariants(scene.live)
    return worker


def test_a_refused_job_goes_to_a_worker_that_has_not_refused_it() -> None:
    """It is given back with the reason, and is never given to the same one again."""
    scene = Scene()
    scene.join(W1)
    scene.join(W2)
    (job,) = scene.queue()

    assert refuse(scene, job) == W1
    assert scene.last(Returned).reason == f"the worker refused it: {WHY}"
    scene.leave(W2)
    assert scene.place() == []
    scene.join(W2, session="session-2")
    (sent,) = scene.place()

    assert (sent.worker, sent.key.attempt) == (W2, 2)
    scene.say(started(sent.key), W2)
    scene.say(ended(sent.key), W2)
    assert scene.last(Ended).outcome is Outcome.SUCCEEDED
    assert scene.worker(W1).slots_used == scene.worker(W2).slots_used == 0


def test_a_job_that_every_worker_refuses_is_rejected() -> None:
    """With the last one's reason, and how many had refused it before."""
    scene = Scene()
    for worker in (W1, W2, W3):
        scene.join(worker)
    (job,) = scene.queue()

    assert [refuse(scene, job) for _ in range(3)] == [W1, W2, W3]

    change = scene.last(Ended)
    assert (change.outcome, change.cause) == (Outcome.REJECTED, "refused")
    assert b"; 2 others had refused it before" in change.end


@pytest.mark.parametrize("other", [{"labels": (("zone", "b"),)}, {"named_only": True}, {"slots": 0}])
def test_a_worker_that_never_takes_it_is_no_other(other: dict[str, Any]) -> None:
    """A job that nobody can run is not left to wait for ever."""
    scene = Scene()
    scene.join(W1, labels=(("zone", "a"),))
    scene.join(W2, **{"labels": (("zone", "a"),), **other})
    (job,) = scene.queue(labels=(("zone", "a"),))

    refuse(scene, job)

    assert scene.last(Ended).outcome is Outcome.REJECTED


def test_a_job_for_one_worker_is_rejected_by_it() -> None:
    """It asked for no other."""
    scene = Scene()
    scene.join(W1)
    scene.join(W2)
    (job,) = scene.queue(pin=W1)

    refuse(scene, job)

    assert scene.last(Ended).outcome is Outcome.REJECTED


def test_what_no_worker_could_run_is_rejected_by_the_first() -> None:
    """An input that is gone is gone everywhere: the refusal says so."""
    scene = Scene()
    scene.join(W1)
    scene.join(W2)
    (job,) = scene.queue()

    refuse(scene, job, elsewhere=False)

    assert scene.last(Ended).outcome is Outcome.REJECTED


def test_a_thousand_workers_with_one_policy_are_not_all_asked() -> None:
    """After a few refusals nobody else is."""
    scene = Scene()
    for number in range(REFUSALS_MAX + 3):
        scene.join(an_id(1000 + number))
    (job,) = scene.queue()

    asked = 0
    while scene.live.job(job) is not None:
        refuse(scene, job)
        asked += 1

    assert asked == REFUSALS_MAX
    assert scene.last(Ended).outcome is Outcome.REJECTED


def test_others_of_its_kind_are_not_held_up() -> None:
    """Who was refused waits in a class of its own; the next of its old class is tried at the same worker."""
    scene = Scene()
    scene.join(W1, slots=1)
    scene.join(W2, slots=1)
    first, second = scene.queue(2)
    scene.leave(W2)
    refuse(scene, first)

    (sent,) = scene.place()

    assert (sent.key.job, sent.worker) == (second, W1)
    assert scene.job(first).state is State.QUEUED


NEVER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"policy": "named", "named_only": True}, {}, "rule mode: alpha takes only named workloads"),
    ({"policy": "allow-list", "named_only": True}, {}, "rule workloads: alpha takes only named workloads"),
    ({"workloads": ("render",)}, {"workload": "scan"}, "alpha does not take the workload scan"),
    ({"runtimes": ("command",)}, {"runtime": "container"}, "alpha has no runtime container"),
]


@pytest.mark.parametrize(("worker", "job", "text"), NEVER)
def test_a_job_for_a_worker_that_never_takes_it_is_rejected_at_once(
    worker: dict[str, Any], job: dict[str, Any], text: str
) -> None:
    """It is not left to wait for ever for the worker it asked for; others of that worker are not touched."""
    scene = Scene()
    scene.join(W1, name="alpha", **worker)
    (other,) = scene.queue(slots=10_000, pin=W1, workload="render")
    (asked,) = scene.queue(pin=W1, placing=True, **job)

    change = scene.last(Ended)
    assert (change.outcome, change.cause) == (Outcome.REJECTED, "refused")
    assert text in change.error and text in end_from_bytes(change.end).error
    assert scene.live.job(asked) is None
    assert scene.job(other).state is State.QUEUED
    check_invariants(scene.live)


def test_only_what_a_connected_worker_says_now_counts() -> None:
    """A job waits for a worker that is away or drains, and ends when it comes back with a word that forbids it."""
    scene = Scene()
    scene.join(W1, named_only=True, policy="named")
    scene.leave(W1)
    first, second = scene.queue(2, pin=W1, placing=True)
    assert scene.job(first).state is scene.job(second).state is State.QUEUED

    scene.join(W1, session="session-2", placing=True, slots=1)
    assert scene.job(first).state is State.ASSIGNED
    scene.leave(W1, session="session-2")
    scene.tick()
    assert scene.job(second).state is State.QUEUED

    scene.join(W1, session="session-3", placing=True, named_only=True, policy="named", slots=1)
    assert scene.live.job(second) is None
    assert scene.last(Ended).outcome is Outcome.REJECTED
    check_invariants(scene.live)


def test_what_a_worker_says_of_its_refusal_is_the_jobs_error() -> None:
    """Whoever is told of the end learns the rule, without asking for the evidence."""
    scene = Scene()
    scene.join(W1)
    (job,) = scene.queue(pin=W1)

    refuse(scene, job)

    change = scene.last(Ended)
    assert change.error == end_from_bytes(change.end).error == WHY
