"""Submitting: every item is answered in its place, and a key stands for one job."""

import pytest

from coordinator.changes import Drain, DrainAsked, JobQueued, WorkerDraining
from coordinator.live import WORK_KEPT_BYTES_MAX
from hostler.errors import InvalidRequest, KeyConflict, Overloaded, WorkerNotFound
from hostler.lifecycle import State
from tests.support.builders import W1, W2, a_submission, an_id, ended
from tests.support.scene import Scene, check_invariants
from tests.support.stored import over

WRONG = InvalidRequest("argv is empty", field="argv")


def test_every_item_is_answered_in_its_place() -> None:
    """A bad item is an error where it stood, and the others are accepted."""
    scene = Scene()

    results = scene.submit(a_submission(1), a_submission(2, error=WRONG), a_submission(3))

    assert results == [an_id(1), WRONG, an_id(3)]
    assert list(scene.live.numbers) == [an_id(1), an_id(3)]
    check_invariants(scene.live)


def test_an_accepted_job_is_queued_and_numbered_in_order() -> None:
    """Numbers are the age of a job, and no error leaves a gap in them."""
    scene = Scene()

    scene.submit(a_submission(1), a_submission(2, error=WRONG), a_submission(3))
    scene.submit(a_submission(4))

    assert [(job.number, job.id, job.state) for job in scene.live.jobs.values()] == [
        (1, an_id(1), State.QUEUED),
        (2, an_id(3), State.QUEUED),
        (3, an_id(4), State.QUEUED),
    ]


def test_nothing_is_kept_of_a_family_without_open_jobs() -> None:
    """A family is any word that a caller says."""
    scene = Scene()
    scene.submit(*(a_submission(number, family=f"family-{number}") for number in (1, 2)), a_submission(3))
    for number in (1, 2):
        scene.live.apply(over(number))

    assert dict(scene.live.open_by_family) == {"native": 1}


def test_an_empty_call_is_answered_with_nothing() -> None:
    """No items, no results, no change."""
    assert Scene().submit() == []


def test_the_same_key_with_the_same_body_gives_the_same_job() -> None:
    """A client that lost the answer asks again, and nothing runs twice."""
    scene = Scene()
    scene.submit(a_submission(1, key="k", digest=b"body"))

    assert scene.submit(a_submission(2, key="k", digest=b"body")) == [an_id(1)]
    assert len(scene.live.jobs) == 1


def test_the_same_key_twice_in_one_call_gives_one_job() -> None:
    """The second item of a batch sees the first."""
    scene = Scene()

    results = scene.submit(
        a_submission(1, key="k", digest=b"body"),
        a_submission(2, key="k", digest=b"body"),
        a_submission(3, key="k", digest=b"other"),
    )

    assert results[:2] == [an_id(1), an_id(1)]
    assert isinstance(results[2], KeyConflict)
    assert len(scene.live.jobs) == 1


def test_a_key_with_another_body_is_a_conflict() -> None:
    """The key is named, and nothing is done."""
    scene = Scene()
    scene.submit(a_submission(1, key="k", digest=b"body"))

    (error,) = scene.submit(a_submission(2, key="k", digest=b"other"))

    assert isinstance(error, KeyConflict)
    assert (error.field, "'k'" in error.message) == ("key", True)
    assert len(scene.live.jobs) == 1


def test_keys_of_different_owners_are_different() -> None:
    """Nobody can find another's job by guessing a key."""
    scene = Scene()

    results = scene.submit(
        a_submission(1, key="k", digest=b"body", owner="ada"), a_submission(2, key="k", digest=b"body", owner="bob")
    )

    assert results == [an_id(1), an_id(2)]


def test_the_key_of_a_refused_item_is_free() -> None:
    """What was not accepted holds no key."""
    scene = Scene()

    results = scene.submit(
        a_submission(1, key="k", digest=b"body", error=WRONG), a_submission(2, key="k", digest=b"body")
    )

    assert results == [WRONG, an_id(2)]


def test_a_repetition_gives_the_same_job_while_its_worker_is_away() -> None:
    """The key is looked at before the worker: the first submission was accepted, and says so again."""
    scene = Scene()
    scene.join(W1)
    first = a_submission(1, key="k", digest=b"body", pin=W1, slots=0)
    scene.submit(first)
    scene.leave(W1)

    assert scene.submit(first._replace(id=an_id(2))) == [an_id(1)]


def test_a_key_leaves_memory_with_its_job() -> None:
    """Of a job that is over the store knows the key."""
    scene = Scene()
    key = scene.running(key="k", digest=b"body")
    assert list(scene.live.keys) == [("ada", "k")]

    scene.say(ended(key))

    assert scene.live.keys == {}


def test_above_the_limit_the_rest_is_refused_and_told_when_to_come_back() -> None:
    """Those before the limit are accepted; those beyond it in the same call are not."""
    scene = Scene(max_queued=2)

    results = scene.submit(*(a_submission(number) for number in (1, 2, 3, 4)))

    assert results[:2] == [an_id(1), an_id(2)]
    assert all(isinstance(error, Overloaded) and error.retry_after_s > 0 for error in results[2:])
    assert scene.live.queued == 2


def test_a_repetition_is_answered_also_above_the_limit() -> None:
    """It asks for nothing new."""
    scene = Scene(max_queued=1)
    scene.submit(a_submission(1, key="k", digest=b"body"))

    assert scene.submit(a_submission(2, key="k", digest=b"body")) == [an_id(1)]


def test_only_waiting_jobs_count_against_the_limit() -> None:
    """What a worker has taken makes room."""
    scene = Scene(max_queued=1)
    scene.assigned()

    assert scene.submit(a_submission(50)) == [an_id(50)]


@pytest.mark.parametrize("pin", [W2, "w1"])
def test_a_job_for_a_worker_nobody_knows_is_refused(pin: str) -> None:
    """It could wait for ever, and the document of /start wants an error at once. A name is no id."""
    scene = Scene()
    scene.join(W1)

    (error,) = scene.submit(a_submission(1, pin=pin))

    assert isinstance(error, WorkerNotFound)
    assert error.message.startswith(f"no worker has the id '{pin}'; a job names its worker by id")
    assert "hostler workers" in error.message


def test_a_job_for_a_worker_that_is_away_waits_for_it() -> None:
    """The worker is known, and jobs with a slot wait."""
    scene = Scene()
    scene.join(W1)
    scene.leave(W1)

    assert scene.submit(a_submission(1, pin=W1)) == [an_id(1)]
    assert scene.place() == []


def test_a_job_without_a_slot_starts_at_once_or_not_at_all() -> None:
    """Its worker must be there."""
    scene = Scene()
    scene.join(W1)
    scene.leave(W1)

    (error,) = scene.submit(a_submission(1, pin=W1, slots=0))

    assert isinstance(error, WorkerNotFound)
    assert f"worker {W1} is not connected" in error.message


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (DrainAsked(W1, Drain(reason="new disk")), "it is drained on request: new disk"),
        (DrainAsked(W1, Drain()), "it is drained on request"),
        (WorkerDraining(W1, True, "the worker is ending"), "it is draining: the worker is ending"),
        (
            WorkerDraining(W1, True, "1 MiB is free", disk_full=True),
            "it has too little room on its disk: 1 MiB is free",
        ),
    ],
)
def test_a_job_without_a_slot_for_a_worker_that_takes_no_new_work_is_refused_and_none_is_left(
    change: DrainAsked | WorkerDraining, text: str
) -> None:
    """It would wait, and run by itself long after its caller has gone; one that takes a slot may wait."""
    scene = Scene()
    scene.join(W1)
    scene.apply(change)

    slotless, waiting = scene.submit(a_submission(1, pin=W1, slots=0), a_submission(2, pin=W1))

    assert isinstance(slotless, InvalidRequest)
    assert str(slotless) == f"worker {scene.worker().name} takes no new work: {text}"
    assert list(scene.live.numbers) == [waiting]


def test_a_small_spec_is_kept_in_memory_and_a_big_one_is_read_at_dispatch() -> None:
    """A waiting job costs little whatever its environment; the store has it anyway."""
    scene = Scene()
    small, big = b"w" * WORK_KEPT_BYTES_MAX, b"w" * (WORK_KEPT_BYTES_MAX + 1)
    scene.join()

    scene.submit(a_submission(1, work=small), a_submission(2, work=big), placing=False)
    starts = scene.place()

    assert [start.work for start in starts] == [small, None]
    assert [change.work for change in scene.history if isinstance(change, JobQueued)] == [small, big]


def test_an_accepted_job_is_assigned_in_the_same_batch() -> None:
    """Insert and assignment share a commit: the answer and the command wait for the same one."""
    scene = Scene()
    scene.join()

    scene.submit(a_submission(1))

    assert scene.job(an_id(1)).state is State.ASSIGNED
    assert [type(change).__name__ for change in scene.history] == ["WorkerSeen", "JobQueued", "Assigned"]
