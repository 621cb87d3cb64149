"""Why a job waits: every cause has its code and its sentence, and no job waits without one."""

from collections.abc import Callable
from copy import copy
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.capacity import REVOKED, RUN_TIMES_KEPT, ClassKey
from coordinator.changes import Assigned, Drain, DrainAsked, Ended, Quarantined, WorkerDraining
from coordinator.pending import BEFORE_MAX, pending, why_pending
from coordinator.placement import PROCESSES_MAX, obstacle
from coordinator.standings import KeptStandings
from hostler.lifecycle import State
from hostler.pending import MEANINGS, Code
from tests.support.builders import NOON_US, W1, W2, W3, an_id, ended, never_ran, started
from tests.support.random_histories import STEPS, RandomHistory
from tests.support.scene import Scene

ANY = ClassKey("", (), 1)


def texts(scene: Scene, job: str) -> list[str]:
    """The reasons of a job as sentences."""
    return [why.text for why in why_pending(scene.live, scene.job(job), KeptStandings())]


# One story for each code: it returns the job that waits because of it.


def other_worker(scene: Scene) -> str:
    """A class that names a worker which is gone from memory; a submission never names one."""
    scene.join()
    (job,) = scene.queue(pin=W1)
    live = scene.live
    live.workers[W2] = live.workers.pop(W1)
    live.workers[W2].id = W2
    return job


def refused(scene: Scene) -> str:
    """The worker's policy has a list, and the job is not in it; another worker is away."""
    scene.join(W1)
    (job,) = scene.queue()
    scene.place()
    scene.join(W2)
    scene.leave(W2)
    scene.say(never_ran(scene.job(job).attempt_key, "rule programs")._replace(elsewhere=True))
    return job


def label(scene: Scene) -> str:
    """The worker is elsewhere."""
    scene.join(labels=(("zone", "a"),))
    return scene.queue(labels=(("zone", "b"),))[0]


def where(scene: Scene) -> str:
    """The worker is not what its expression asks for."""
    scene.join(labels=(("zone", "a"),))
    return scene.queue(where="zone=b")[0]


def runtime(scene: Scene) -> str:
    """The worker has no podman."""
    scene.join()
    return scene.queue(runtime="container")[0]


def limit(scene: Scene) -> str:
    """The worker has no control groups."""
    scene.join()
    return scene.queue(abilities=("memory_limit",))[0]


def hardened(scene: Scene) -> str:
    """The worker's kernel does not allow it."""
    scene.join()
    return scene.queue(abilities=("hardened",))[0]


def policy(scene: Scene) -> str:
    """The worker's own policy."""
    scene.join(policy="named", named_only=True)
    return scene.queue()[0]


def workload(scene: Scene) -> str:
    """The worker takes others."""
    scene.join(workloads=("thumbnails",))
    return scene.queue(workload="render")[0]


def quarantined(scene: Scene) -> str:
    """Two agents spoke for it."""
    scene.join()
    scene.apply(Quarantined(W1, "two agents"))
    return scene.queue()[0]


def revoked(scene: Scene) -> str:
    """Its certificates were revoked."""
    scene.join()
    scene.apply(Quarantined(W1, REVOKED))
    return scene.queue()[0]


def left(scene: Scene) -> str:
    """It said goodbye."""
    scene.join()
    scene.leave(goodbye=True)
    return scene.queue()[0]


def unreachable(scene: Scene) -> str:
    """Its stream broke."""
    scene.join()
    scene.leave()
    return scene.queue()[0]


def disk_full(scene: Scene) -> str:
    """Others have filled it."""
    scene.join()
    scene.apply(WorkerDraining(W1, True, "1 MiB is free", disk_full=True))
    return scene.queue()[0]


def draining(scene: Scene) -> str:
    """It is about to end, and may think better of it."""
    scene.join()
    scene.apply(WorkerDraining(W1, True, "the worker is ending"))
    return scene.queue()[0]


def drained(scene: Scene) -> str:
    """Somebody asked for it."""
    scene.join()
    scene.apply(DrainAsked(W1, Drain(reason="new disk")))
    return scene.queue()[0]


def few_slots(scene: Scene) -> str:
    """It is too small."""
    scene.join(slots=2)
    return scene.queue(slots=3)[0]


def no_free_slot(scene: Scene) -> str:
    """It is full."""
    scene.join(slots=1)
    return scene.queue(2)[1]


def processes(scene: Scene) -> str:
    """It watches over as many as it can."""
    scene.join()
    return scene.queue(PROCESSES_MAX + 1, slots=0, pin=W1)[-1]


def sent_ahead(scene: Scene) -> str:
    """Short jobs fill its window, and one of them is over."""
    for _ in range(RUN_TIMES_KEPT):
        scene.say(ended(scene.assigned(), started_at_us=NOON_US, ended_at_us=NOON_US + 4000))
    jobs = scene.queue(200)
    keys = [start.key for start in scene.place()]
    scene.say(ended(keys[0], started_at_us=0))
    return jobs[len(keys)]


def no_worker(scene: Scene) -> str:
    """The first thing that a new user meets."""
    return scene.queue()[0]


def backoff(scene: Scene) -> str:
    """Its first attempt failed."""
    scene.join()
    (job,) = scene.queue(retries=1)
    scene.place()
    key = scene.job(job).attempt_key
    scene.say(started(key))
    scene.say(ended(key, exit_code=1))
    return job


def behind(scene: Scene) -> str:
    """Another of its kind is older."""
    scene.join(slots=1)
    return scene.queue(3)[2]


def turn(scene: Scene) -> str:
    """It came while a batch was full."""
    scene.join(slots=8)
    return scene.queue(placing=False)[0]


NOT_YET_PLACED = (Code.TURN,)
STORIES: dict[Code, tuple[Callable[[Scene], str], str]] = {
    Code.REVOKED: (revoked, "1 worker was revoked"),
    Code.OTHER_WORKER: (other_worker, "1 worker is not the worker asked for"),
    Code.REFUSED: (refused, "1 worker has refused it"),
    Code.LABEL: (label, "1 worker does not have the label zone=b"),
    Code.WHERE: (where, "1 worker does not match zone=b"),
    Code.RUNTIME: (runtime, "1 worker has no runtime container"),
    Code.LIMIT: (limit, "1 worker cannot enforce a memory limit"),
    Code.HARDENED: (hardened, "1 worker has no hardened start path"),
    Code.POLICY: (policy, "1 worker takes only named workloads"),
    Code.WORKLOAD: (workload, "1 worker does not take the workload render"),
    Code.QUARANTINED: (quarantined, "1 worker is quarantined"),
    Code.LEFT: (left, "1 worker has left"),
    Code.UNREACHABLE: (unreachable, "1 worker is unreachable"),
    Code.DISK_FULL: (disk_full, "1 worker has too little room on its disk"),
    Code.DRAINING: (draining, "1 worker is draining"),
    Code.DRAINED: (drained, "1 worker is drained on request"),
    Code.FEW_SLOTS: (few_slots, "1 worker has fewer than 3 slots"),
    Code.NO_FREE_SLOT: (no_free_slot, "1 worker has no free slot"),
    Code.PROCESSES: (processes, "the worker asked for runs 512 processes, its limit"),
    Code.SENT_AHEAD: (sent_ahead, "1 worker has jobs sent ahead, and gets more when half of them are over"),
    Code.NO_WORKER: (no_worker, "no worker has ever joined; start one with: hostler worker"),
    Code.BACKOFF: (backoff, "the time of its next attempt has not come"),
    Code.BEHIND: (behind, "other jobs that ask for the same come before it"),
    Code.TURN: (turn, "a worker has room, and gets it in a moment"),
}


def test_every_code_has_a_story_and_a_meaning() -> None:
    """Whoever adds a code adds both, or this fails; that of a job which its worker has is told further down."""
    assert set(STORIES) | {Code.AHEAD} == set(Code) == set(MEANINGS)


@pytest.mark.parametrize("code", list(STORIES))
def test_every_cause_is_said_with_its_code(code: Code) -> None:
    """And the job does wait because of it: a pass of placement leaves it where it is."""
    scene, (story, text) = Scene(), STORIES[code]
    job = story(scene)
    if code not in NOT_YET_PLACED:
        scene.place()

    found = why_pending(scene.live, scene.job(job), KeptStandings())

    assert scene.job(job).state is State.QUEUED
    assert [(why.code, why.text) for why in found if why.code is code] == [(code, text)]


def test_an_idle_worker_has_no_obstacle() -> None:
    """And its class no reason."""
    scene = Scene()
    scene.join()

    assert obstacle(scene.worker(), ANY) is None
    assert KeptStandings().reasons(scene.live, ANY) == ()


def test_reasons_count_the_workers_they_keep_away() -> None:
    """All of them, the most frequent first; each worker counts once."""
    scene = Scene()
    scene.join(W1)
    scene.join(W2)
    scene.join(W3, labels=(("gpu", "yes"),))
    scene.leave(W3)

    assert [
        (why.text, why.workers) for why in KeptStandings().reasons(scene.live, ClassKey("", (("gpu", "yes"),), 1))
    ] == [
        ("2 workers do not have the label gpu=yes", 2),
        ("1 worker is unreachable", 1),
    ]


@pytest.mark.parametrize(
    ("story", "text"),
    [
        (left, "2 workers have left"),
        (unreachable, "2 workers are unreachable"),
        (policy, "2 workers take only named workloads"),
        (workload, "2 workers do not take the workload render"),
        (limit, "2 workers cannot enforce a memory limit"),
        (disk_full, "2 workers have too little room on their disks"),
    ],
)
def test_what_is_said_of_several_workers_is_said_in_the_plural(story: Callable[[Scene], str], text: str) -> None:
    """As people would say it."""
    scene = Scene()
    job = story(scene)
    scene.live.workers[W2] = twin = copy(scene.worker())
    twin.id = W2
    scene.live.worker_changes.note(twin)

    assert text in texts(scene, job)


def test_a_pinned_job_is_told_about_its_own_worker() -> None:
    """The others do not matter, neither as reasons nor as the nearest."""
    scene = Scene()
    scene.join(W1)
    scene.join(W2)
    scene.leave(W2)
    (job,) = scene.queue(pin=W2)

    found = pending(scene.live, scene.job(job), KeptStandings())

    assert [(why.text, why.workers) for why in found.reasons] == [("the worker asked for is unreachable", 1)]
    assert found.nearest is not None and found.nearest.worker == W2


# How many come before


def test_jobs_before_a_job_are_counted() -> None:
    """Those of its kind with a higher priority or the same and more age; those that left count no more."""
    scene = Scene()
    older = scene.queue(3)
    (job,) = scene.queue()
    scene.queue(2, priority=5)
    scene.queue(4)
    scene.queue(7, priority=9, labels=(("zone", "a"),))
    scene.stop(older[1])

    found = pending(scene.live, scene.job(job), KeptStandings())

    assert (found.before, found.before_more) == (4, False)
    assert pending(scene.live, scene.job(older[0]), KeptStandings()).before == 2


def test_no_more_are_counted_than_anybody_wants_to_know() -> None:
    """The count of a queue of a million would hold up everybody else."""
    scene = Scene(max_queued=10_000)
    job = scene.queue(BEFORE_MAX * 6)[-1]

    found = pending(scene.live, scene.job(job), KeptStandings())

    assert (found.before, found.before_more) == (BEFORE_MAX, True)


# Whatever is asked for


LABELS = st.dictionaries(st.sampled_from(("zone", "gpu")), st.sampled_from("ab"))
HELLOS = st.fixed_dictionaries(
    {
        "labels": LABELS.map(lambda labels: tuple(sorted(labels.items()))),
        "slots": st.integers(0, 3),
        "runtimes": st.sampled_from((("command",), ("command", "python"), ("python",))),
        "workloads": st.sampled_from(((), ("render",), ("re*", "x"))),
        "abilities": st.sampled_from(((), ("memory_limit",), ("hardened", "memory_limit"))),
        "named_only": st.booleans(),
    }
)
AFTERWARDS = st.sampled_from(("", "", "", "leave", "goodbye", "drain", "quarantine"))
JOBS = st.fixed_dictionaries(
    {
        "labels": LABELS.map(lambda labels: tuple(sorted(labels.items()))),
        "slots": st.integers(1, 3),
        "runtime": st.sampled_from(("command", "python")),
        "workload": st.sampled_from(("", "render", "other")),
        "abilities": st.sampled_from(((), ("memory_limit",), ("hardened",))),
        "pin": st.sampled_from(("", "", W1)),
        "priority": st.integers(-1, 1),
    }
)


@settings(max_examples=200, deadline=None)
@given(workers=st.lists(st.tuples(HELLOS, AFTERWARDS), max_size=3), jobs=st.lists(JOBS, min_size=1, max_size=8))
def test_placement_gives_a_worker_or_a_reason(workers: list[tuple[Any, str]], jobs: list[Any]) -> None:
    """Never neither: and of a job that waits, the workers of its reasons are all those that could be asked."""
    scene = Scene()
    known = (W1, W2, W3)[: len(workers)]
    for worker, (hello, _) in zip(known, workers, strict=True):
        scene.join(worker, **hello)
    ids = [scene.queue(**{**job, "pin": job["pin"] if known else ""})[0] for job in jobs]
    for worker, (_, afterwards) in zip(known, workers, strict=True):
        happen(scene, worker, afterwards)
    scene.place()

    rejected = {change.number for change in scene.history if isinstance(change, Ended)}
    for place, each in enumerate(ids):
        job = scene.live.job(each)
        if job is None:
            assert jobs[place]["pin"] and place + 1 in rejected, "the one worker it asks for never takes it"
            continue
        found = why_pending(scene.live, job, KeptStandings())
        if job.state is State.ASSIGNED:
            continue
        assert found, "a job waits and nobody says why"
        asked = 1 if job.placement.key.pin else len(known)
        of_workers = sum(why.workers for why in found)
        assert of_workers == asked, "each worker has one reason"
        assert all(isinstance(why.code, Code) and why.text for why in found)
        closely = pending(scene.live, job, KeptStandings())
        assert closely.reasons == found
        assert (closely.nearest is None) == (not known)
        assert closely.nearest is None or closely.nearest.missing


def happen(scene: Scene, worker: str, word: str) -> None:
    """Something befalls a worker."""
    if word in ("leave", "goodbye"):
        scene.leave(worker, goodbye=word == "goodbye")
    elif word == "drain":
        scene.apply(DrainAsked(worker, Drain()))
    elif word == "quarantine":
        scene.apply(Quarantined(worker, "two agents"))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happened_no_job_waits_without_a_reason(seed: int) -> None:
    """Through retries, losses, drains and workers that lie; before and after a pass of placement."""
    random, history = Random(seed), RandomHistory()
    waited = 0
    for _ in range(1500):
        history.step(random.choice(STEPS), random.getrandbits(40))
        for job in history.scene.live.jobs.values():
            if job.state is State.QUEUED:
                waited += 1
                assert pending(history.scene.live, job, KeptStandings()).reasons

    assert waited > 500, "nothing much happened"


# Why this worker


def chosen(scene: Scene) -> list[str]:
    """Why each worker was chosen, in order."""
    before = len(scene.history)
    scene.place()
    return [change.why for change in scene.history[before:] if isinstance(change, Assigned)]


def test_the_choice_of_a_worker_is_told() -> None:
    """The only one, the one asked for, or the least loaded of several."""
    scene = Scene()
    scene.join(W1, slots=2)
    scene.queue()
    assert chosen(scene) == ["no other could take it"]

    scene.join(W2, slots=4)
    scene.queue()
    scene.queue(slots=0, pin=W1)
    scene.queue(slots=0)

    assert chosen(scene) == [
        "of 2 that could take it the least loaded, 0 of 4 slots taken",
        "it asks for this worker",
        "of 2 that could take it the least loaded, with 1 job",
    ]
    assert scene.job(an_id(2)).worker == W2
