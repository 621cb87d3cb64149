"""Every reason why a job waits, and the worker that comes nearest to taking it.

Pure. `placement` decides; this says why it decided so, for whoever asks, and is never on the way of a dispatch. The
rule: a job that waits has at least one reason, and the reasons of workers (`standings`) count each worker once.
"""

from coordinator.capacity import ClassKey, PlacementClass, Worker
from coordinator.live import Job, Live
from coordinator.placement import Obstacle, facts_of, selector_of
from coordinator.standings import KeptStandings, hindrances
from hostler.lifecycle import State
from hostler.pending import Code, Nearest, Pending, Reason
from hostler.selectors import names
from hostler.shape import time_shape

ON_ITS_SLOTS = frozenset({State.RUNNING, State.STOPPING})
BEFORE_MAX = 1000  # jobs before another that are counted


def why_pending(live: Live, job: Job, kept: KeptStandings) -> tuple[Reason, ...]:
    """Every reason why a queued job waits."""
    of_class = kept.reasons(live, job.placement.key)
    return (*of_class, *_of_job(live, job, is_taken=not of_class))


def _of_job(live: Live, job: Job, *, is_taken: bool) -> list[Reason]:
    if job.number in live.delayed:
        return [Reason(code=Code.BACKOFF, text="the time of its next attempt has not come")]
    head = live.head(job.placement)
    if head is not None and head is not job:
        return [Reason(code=Code.BEHIND, text="other jobs that ask for the same come before it")]
    return [Reason(code=Code.TURN, text="a worker has room, and gets it in a moment")] if is_taken else []


def sent_ahead(live: Live, job: Job, worker: Worker) -> Reason | None:
    """Why a job that its worker has, and has not begun, waits there; None: nothing is known to keep it."""
    slots = job.placement.key.slots
    if job.state is not State.ASSIGNED or not slots or worker.slots_used <= worker.slots:
        return None
    held = (live.jobs[number] for number in worker.held.values())
    taken = sum(each.placement.key.slots for each in held if each.state in ON_ITS_SLOTS)
    if taken + slots <= worker.slots:
        return None
    text = f"it was sent ahead to {worker.name}, where {taken} of {worker.slots} slots are taken"
    return Reason(code=Code.AHEAD, text=text, workers=1)


def pending(live: Live, job: Job, kept: KeptStandings) -> Pending:
    """Everything about why a queued job waits."""
    before, more = (0, False) if job.number in live.delayed else _before(live, job.placement, job)
    return Pending(
        reasons=why_pending(live, job, kept), nearest=_nearest(live, job, kept), before=before, before_more=more
    )


def _before(live: Live, placement: PlacementClass, job: Job) -> tuple[int, bool]:
    """How many jobs of its class come before a job, and whether there may be more.

    A part of the heap whose top comes later holds nothing that comes before: what is looked at is little more than
    what is counted.
    """
    heap, own = placement.heap, (-job.priority, job.number)
    found: set[int] = set()
    size, places = len(heap), [0]
    for _ in range(4 * BEFORE_MAX):
        if not places or len(found) == BEFORE_MAX:
            break
        place = places.pop()
        if place >= size or heap[place] >= own:
            continue
        places += (2 * place + 1, 2 * place + 2)
        other = live.jobs.get(heap[place][1])
        # Entries of jobs that left are still there, and a job that waits again may be there twice.
        waits = other is not None and other.state is State.QUEUED and other.placement is placement
        if waits and heap[place][1] not in live.delayed:
            found.add(heap[place][1])
    return len(found), bool(places)


def _nearest(live: Live, job: Job, kept: KeptStandings) -> Nearest | None:
    wanted = job.placement.key
    worker = kept.nearest(live, wanted)
    if worker is None:
        return None
    found = hindrances(worker, wanted)
    missing, codes = tuple(_detail(worker, wanted, why) for why in found), tuple(why.code for why in found)
    return Nearest(worker=worker.id, name=worker.name, missing=missing, codes=codes)


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
        return f"has {worker.slots} {'slot' if worker.slots == 1 else 'slots'}, and {wanted.slots} are needed"
    if why.code in (Code.UNREACHABLE, Code.LEFT) and worker.seen_at_us:
        return f"{why.text}, and was last heard at {time_shape(worker.seen_at_us)}"
    if why.code is Code.DISK_FULL and worker.draining_reason:
        return f"{why.text}: {worker.draining_reason}"
    if why.code is Code.DRAINED and worker.drain is not None and worker.drain.reason:
        return f"{why.text}: {worker.drain.reason}"
    if why.code in (Code.DRAINING, Code.QUARANTINED, Code.REVOKED) and worker.reason:
        return f"{why.text}: {worker.reason}"
    return why.text


def _asked_for(worker: Worker, where: str) -> str:
    """Which of what a selector asks about a worker has."""
    selector, facts = selector_of(where), facts_of(worker)
    asked = dict.fromkeys(names(selector)) if selector is not None else {}
    return ", ".join(f"{name}={facts[name]}" if name in facts else f"no {name}" for name in asked) or "nothing of it"
