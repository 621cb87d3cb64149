"""Which worker a job gets: priority, then age, the least loaded worker, ties by id."""

import pytest

from coordinator import decisions
from coordinator.capacity import RUN_TIMES_KEPT, ClassKey, Worker
from coordinator.changes import WorkerDraining
from coordinator.placement import PROCESSES_MAX
from coordinator.standings import KeptStandings
from hostler.lifecycle import State
from tests.support.builders import NOON_US, W1, W2, W3, an_id, ended, started
from tests.support.scene import Scene, check_invariants

ANY = ClassKey("", (), 1)


def placed(scene: Scene, limit: int = 1000) -> list[tuple[str, str]]:
    """Place, and return (job, worker) in order."""
    return [(start.key.job, start.worker) for start in scene.place(limit)]


def test_older_jobs_go_first() -> None:
    """Within a class and a priority it is a queue."""
    scene = Scene()
    jobs = scene.queue(3)
    scene.join(slots=10)

    assert [job for job, _ in placed(scene)] == jobs


def test_higher_priority_goes_first() -> None:
    """Whatever its age."""
    scene = Scene()
    low, high, middle = scene.queue(priority=-1)[0], scene.queue(priority=9)[0], scene.queue()[0]
    scene.join(slots=10)

    assert [job for job, _ in placed(scene)] == [high, middle, low]


def test_order_holds_across_classes() -> None:
    """Jobs that ask for different things share one order, or a class of many would push aside an older job."""
    scene = Scene()
    labels = (("zone", "a"),)
    first, second = scene.queue()[0], scene.queue(labels=labels)[0]
    third, urgent = scene.queue()[0], scene.queue(labels=labels, priority=1)[0]
    scene.join(slots=10, labels=labels)

    assert [job for job, _ in placed(scene)] == [urgent, first, second, third]


def test_a_class_without_a_place_does_not_hold_up_the_others() -> None:
    """The head that fits nowhere is passed over, with its whole class."""
    scene = Scene()
    scene.queue(labels=(("gpu", "yes"),), priority=9)
    plain = scene.queue()[0]
    scene.join()

    assert [job for job, _ in placed(scene)] == [plain]


def test_the_least_loaded_worker_is_taken() -> None:
    """By the share of its slots, so that a large worker takes more."""
    scene = Scene()
    scene.join(W1, slots=4)
    scene.join(W2, slots=2)
    scene.queue(6)

    assert [worker for _, worker in placed(scene)] == [W1, W2, W1, W1, W2, W1]


def test_ties_break_by_id() -> None:
    """The same input gives the same answer, in whatever order the workers came."""
    scene = Scene()
    for worker in (W3, W1, W2):
        scene.join(worker, slots=1)
    scene.queue(3)

    assert [worker for _, worker in placed(scene)] == [W1, W2, W3]


def test_no_more_is_placed_than_there_are_slots() -> None:
    """The rest waits, and goes when a slot is free."""
    scene = Scene()
    scene.join(slots=2)
    scene.queue(5)

    first = placed(scene)
    scene.say(ended(scene.job(first[0][0]).attempt_key))

    assert len(first) == 2
    assert len(placed(scene)) == 1
    check_invariants(scene.live)


def test_a_job_of_many_slots_takes_them_all() -> None:
    """And waits while fewer are free."""
    scene = Scene()
    scene.join(slots=4)
    big, second = scene.queue(2, slots=3)

    assert [job for job, _ in placed(scene)] == [big]
    scene.say(ended(scene.job(big).attempt_key))
    assert [job for job, _ in placed(scene)] == [second]


def test_a_pinned_job_goes_to_its_worker_only() -> None:
    """Also when another one is idle."""
    scene = Scene()
    scene.join(W1, slots=8)
    scene.join(W2, slots=1)
    jobs = scene.queue(2, pin=W2)

    assert placed(scene) == [(jobs[0], W2)]


def test_every_label_must_be_equal() -> None:
    """One that differs or is missing is enough to say no; others of the worker do not matter."""
    scene = Scene()
    scene.join(W1, labels=(("disk", "ssd"), ("zone", "a")))
    scene.join(W2, labels=(("disk", "ssd"), ("gpu", "a100"), ("zone", "b")))
    (job,) = scene.queue(labels=(("disk", "ssd"), ("zone", "b")))

    assert placed(scene) == [(job, W2)]


def test_a_draining_worker_gets_nothing_and_says_when_it_takes_again() -> None:
    """Draining is told with every message."""
    scene = Scene()
    scene.join()
    (job,) = scene.queue()
    scene.apply(WorkerDraining(W1, True))
    assert placed(scene) == []

    scene.apply(WorkerDraining(W1, False))

    assert placed(scene) == [(job, W1)]


def test_a_job_without_slots_starts_on_a_full_worker() -> None:
    """It takes none and starts at once; the number of processes is its bound."""
    scene = Scene()
    scene.join(slots=1)
    scene.queue(1)
    scene.place()
    slotless = scene.queue(2, slots=0, pin=W1)

    assert [job for job, _ in placed(scene)] == slotless
    assert scene.worker().slots_used == 1


def test_a_job_without_slots_that_names_no_worker_goes_where_the_fewest_jobs_are() -> None:
    """Full or not, and it waits when there is no worker; only one that names a worker is refused then."""
    scene = Scene()
    jobs = scene.queue(4, slots=0)
    assert placed(scene) == []

    scene.join(W1, slots=1)
    scene.join(W2, slots=2)

    assert placed(scene) == list(zip(jobs, [W1, W2, W1, W2], strict=True))
    assert scene.worker().slots_used == 0


def test_a_worker_takes_512_processes_and_no_more() -> None:
    """A bound for what takes no slot."""
    scene = Scene()
    scene.join()
    scene.queue(PROCESSES_MAX + 5, slots=0, pin=W1)

    assert len(placed(scene)) == PROCESSES_MAX
    (why,) = KeptStandings().reasons(scene.live, ClassKey(W1, (), 0))
    assert why.text == "the worker asked for runs 512 processes, its limit"


def test_a_batch_places_at_most_its_limit() -> None:
    """The rest goes with the next batch, in the same order."""
    scene = Scene()
    jobs = scene.queue(5)
    scene.join(slots=10)

    assert [job for job, _ in placed(scene, limit=2)] == jobs[:2]
    assert [job for job, _ in placed(scene)] == jobs[2:]


def test_an_assignment_counts_up_attempt_and_sequence() -> None:
    """The attempt is the job's, the sequence the worker's."""
    scene = Scene()
    scene.join()
    first, second = scene.queue(2)

    starts = scene.place()

    assert [(s.key.job, s.key.attempt, s.sequence) for s in starts] == [(first, 1, 1), (second, 1, 2)]
    assert decisions.assignment(scene.job(first), scene.worker(), scene.now)[0].sequence == 3


def test_a_class_costs_nothing_while_nobody_waits_in_it() -> None:
    """Otherwise every label ever used would be looked at in every batch."""
    scene = Scene()
    scene.join(slots=10)
    for number in range(5):
        scene.queue(labels=(("n", str(number)),))
    assert len(scene.live.classes) == 5
    for job in list(scene.live.numbers):
        scene.stop(job)

    assert scene.live.classes == {}


def test_a_job_that_waits_for_its_next_attempt_is_not_placed_by_an_older_entry() -> None:
    """A batch that was full leaves the entry of what it placed last at the head of its queue."""
    scene = Scene()
    first, second = scene.queue(2, retries=1)
    scene.join(slots=1)
    (sent,) = scene.place(limit=1)
    assert sent.key.job == first
    scene.say(started(sent.key))
    scene.say(ended(sent.key, exit_code=1))

    assert placed(scene) == [(second, W1)]

    assert scene.job(first).state is State.QUEUED
    check_invariants(scene.live)


# Prefetch


def run(scene: Scene, count: int, seconds: float) -> None:
    """Let worker 1 run so many jobs of *seconds* each, one after another."""
    for _ in range(count):
        key = scene.assigned()
        scene.say(ended(key, started_at_us=NOON_US, ended_at_us=NOON_US + round(seconds * 1e6)))


def test_nothing_is_prefetched_before_20_results_are_known() -> None:
    """Nobody knows how long they will take."""
    scene = Scene()
    run(scene, RUN_TIMES_KEPT - 1, 0.001)
    scene.queue(50)

    assert len(placed(scene)) == 2


@pytest.mark.parametrize(
    ("run_s", "extra"),
    [(0.004, 100), (0.001, 256), (0.04, 10), (1.0, 0)],
)
def test_short_jobs_earn_as_many_as_fill_200_ms(run_s: float, extra: int) -> None:
    """Slots times 200 ms over the typical time, at most 256; long jobs earn nothing."""
    scene = Scene()
    run(scene, RUN_TIMES_KEPT, run_s)
    scene.queue(400)

    assert len(placed(scene)) == 2 + extra
    assert scene.worker().window(ANY) == 2 + extra


def test_prefetch_is_earned_by_each_class_for_itself() -> None:
    """Short jobs say nothing about others."""
    scene = Scene()
    run(scene, RUN_TIMES_KEPT, 0.001)
    scene.queue(50, labels=(("n", "1"),))
    scene.worker().labels["n"] = "1"

    assert len(placed(scene)) == 2


def test_prefetch_is_taken_back_by_slow_results() -> None:
    """Twenty results at a time say anew what is earned."""
    scene = Scene()
    run(scene, RUN_TIMES_KEPT, 0.001)
    run(scene, RUN_TIMES_KEPT, 10.0)

    assert scene.worker().window(ANY) == 2


def test_what_is_prefetched_is_refilled_by_half_windows() -> None:
    """Refilled one for one, each job would cost a message."""
    scene = Scene()
    run(scene, RUN_TIMES_KEPT, 0.004)
    scene.queue(400)
    keys = [start.key for start in scene.place()]
    for key in keys[:40]:
        scene.say(ended(key, started_at_us=0))
    assert placed(scene) == []

    for key in keys[40:51]:
        scene.say(ended(key, started_at_us=0))

    assert len(placed(scene)) == 51


def test_a_job_starts_when_a_matching_worker_joins() -> None:
    """Until then it waits and says why."""
    scene = Scene()
    scene.join(W1)
    labels = (("gpu", "yes"),)
    (job,) = scene.queue(labels=labels)
    assert placed(scene) == []
    assert [why.text for why in KeptStandings().reasons(scene.live, scene.job(job).placement.key)] == [
        "1 worker does not have the label gpu=yes"
    ]

    scene.join(W2, labels=labels)

    assert placed(scene) == [(job, W2)]
    assert scene.job(an_id(1)).state is State.ASSIGNED


def test_a_pass_asks_only_workers_that_changed_since_none_took_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """One end among thousands of busy workers frees one of them; the others are as full as they were."""
    scene, asked = Scene(), list[str]()
    workers = [f"worker-{number}" for number in range(20)]
    for worker in workers:
        scene.join(worker, slots=1)
    scene.queue(22)
    keys = {start.worker: start.key for start in scene.place()}
    window = Worker.window

    def noting(worker: Worker, wanted: ClassKey) -> int:
        asked.append(worker.id)
        return window(worker, wanted)

    monkeypatch.setattr(Worker, "window", noting)
    scene.place()
    asked.clear()
    assert placed(scene) == []
    assert not asked

    scene.say(ended(keys[workers[3]], started_at_us=0), workers[3])
    assert [worker for _, worker in placed(scene)] == [workers[3]]
    assert set(asked) == {workers[3]}
