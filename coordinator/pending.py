"""Every reason why a job waits, and the worker that comes nearest to taking it.

Pure. `placement` decides; this says why it decided so, for whoever asks, and is never on the way of a dispatch. What a
look at one class has found can be kept for the next job of the class (`Reasons`). The rule: a job that waits has at
least one reason, and the reasons of workers count each worker once.
"""

from collections import Counter

from coordinator.capacity import ClassKey, PlacementClass, Worker
from coordinator.live import Job, Live
from coordinator.placement import SENT_AHEAD, Obstacle, facts_of, obstacle, obstacles, selector_of, wants_more
from hostler.lifecycle import State
from hostler.pending import Code, Nearest, Pending, Reason
from hostler.selectors import names
from hostler.shape import time_shape

BEFORE_MAX = 1000  # jobs before another that are counted
# What passes by itself, or with an end, while a worker stays what it is.
PASSING = frozenset(
    {Code.NO_FREE_SLOT, Code.PROCESSES, Code.SENT_AHEAD, Code.DRAINING, Code.DISK_FULL, Code.UNREACHABLE}
)

Reasons = dict[ClassKey, tuple[Reason, ...]]


def reasons(live: Live, wanted: ClassKey) -> tuple[Reason, ...]:
    """Why no worker takes the next job of this class, the most frequent first; empty: one takes it."""
    if not live.workers:
        return (Reason(code=Code.NO_WORKER, text="no worker has ever joined; start one with: hostler worker"),)
    if wanted.pin in live.workers:
        why = _why_not(live.workers[wanted.pin], wanted)
        return () if why is None else (Reason(code=why.code, text=f"the worker asked for {why.text}", workers=1),)
    counts: Counter[str] = Counter()  # by the text: enums are slow to hash, and there may be thousands of workers
    codes: dict[str, Code] = {}
    for worker in live.workers.values():
        why = _why_not(worker, wanted)
        if why is None:
            return ()
        counts[why.text] += 1
        codes[why.text] = why.code
    return tuple(
        Reason(code=codes[text], text=f"{number} {'worker' if number == 1 else 'workers'}: {text}", workers=number)
        for text, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def why_pending(live: Live, job: Job, known: Reasons) -> tuple[Reason, ...]:
    """Every reason why a queued job waits; *known* are the reasons of classes that were looked at in this moment."""
    wanted = job.placement.key
    of_class = known.get(wanted)
    if of_class is None:
        of_class = known[wanted] = reasons(live, wanted)
    return (*of_class, *_of_job(live, job, is_taken=not of_class))


def _of_job(live: Live, job: Job, *, is_taken: bool) -> list[Reason]:
    if job.number in live.delayed:
        return [Reason(code=Code.BACKOFF, text="the time of its next attempt has not come")]
    head = live.head(job.placement)
    if head is not None and head is not job:
        return [Reason(code=Code.BEHIND, text="other jobs that ask for the same come before it")]
    return [Reason(code=Code.TURN, text="a worker has room, and gets it in a moment")] if is_taken else []


def _why_not(worker: Worker, wanted: ClassKey) -> Obstacle | None:
    found = obstacle(worker, wanted)
    return SENT_AHEAD if found is None and not wants_more(worker, wanted) else found


def pending(live: Live, job: Job) -> Pending:
    """Everything about why a queued job waits; this looks at every condition of every worker."""
    wanted = job.placement.key
    before, more = (0, False) if job.number in live.delayed else _before(live, job.placement, job)
    return Pending(reasons=why_pending(live, job, {}), nearest=_nearest(live, wanted), before=before, before_more=more)


def _before(live: Live, placement: PlacementClass, job: Job) -> tuple[int, bool]:
    """How many jobs of its class come before a job, and whether there may be more.

    A part of the heap whose top comes later holds nothing that comes before: what is looked at is little more than
    what is counted.
    """
    heap, own = placement.heap, (-job.priority, job.number)
    found: set[int] = set()
    places = [0]
    for _ in range(4 * BEFORE_MAX):
        if not places:
            return len(found), False
        place = places.pop()
        if place >= len(heap) or heap[place] >= own:
            continue
        places += (2 * place + 1, 2 * place + 2)
        other = live.jobs.get(heap[place][1])
        # Entries of jobs that left are still there, and a job that waits again may be there twice.
        waits = other is not None and other.state is State.QUEUED and other.placement is placement
        if waits and heap[place][1] not in live.delayed:
            found.add(heap[place][1])
    return len(found), True


def _nearest(live: Live, wanted: ClassKey) -> Nearest | None:
    """The worker that fails the fewest conditions that last, then the fewest at all, then lacks the fewest slots."""
    pool = [live.workers[wanted.pin]] if wanted.pin in live.workers else live.workers.values()
    best: tuple[tuple[int, int, int, str], Worker, list[Obstacle]] | None = None
    for worker in pool:
        found = list(obstacles(worker, wanted))
        if not found and not wants_more(worker, wanted):
            found = [SENT_AHEAD]
        lasting = sum(why.code not in PASSING for why in found)
        rank = (lasting, len(found), worker.slots_used + wanted.slots - worker.slots, worker.id)
        if best is None or rank < best[0]:
            best = (rank, worker, found)
    if best is None:
        return None
    _, worker, found = best
    return Nearest(worker=worker.id, name=worker.name, missing=tuple(_detail(worker, wanted, why) for why in found))


def _detail(worker: Worker, wanted: ClassKey, why: Obstacle) -> str:
    """What is missing, with what is there instead."""
    if why.code is Code.LABEL:
        has = worker.labels.get(why.about)
        return f"{why.text} (it has {'none of this name' if has is None else f'{why.about}={has}'})"
    if why.code is Code.WHERE:
        return f"{why.text} (it has {_asked_for(worker, why.about)})"
    if why.code is Code.NO_FREE_SLOT:
        free = max(0, worker.slots - worker.slots_used)
        needed = f", and {wanted.slots} are needed" if wanted.slots > 1 else ""
        return f"has {free} of {worker.slots} slots free{needed}"
    if why.code is Code.FEW_SLOTS:
        return f"has {worker.slots} slots, and {wanted.slots} are needed"
    if why.code in (Code.UNREACHABLE, Code.LEFT) and worker.seen_at_us:
        return f"{why.text}, and was last heard at {time_shape(worker.seen_at_us)}"
    if why.code is Code.DISK_FULL and worker.draining_reason:
        return f"{why.text}: {worker.draining_reason}"
    if why.code in (Code.DRAINING, Code.QUARANTINED) and worker.reason:
        return f"{why.text}: {worker.reason}"
    return why.text


def _asked_for(worker: Worker, where: str) -> str:
    """Which of what a selector asks about a worker has."""
    selector, facts = selector_of(where), facts_of(worker)
    asked = dict.fromkeys(names(selector)) if selector is not None else {}
    return ", ".join(f"{name}={facts[name]}" if name in facts else f"no {name}" for name in asked) or "nothing of it"
