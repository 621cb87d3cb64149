"""Which attempts are asked back: sent ahead to one worker while another could begin them now.

Pure. A worker is sent more than its slots so that it never waits for the next message. When it turns
out that what runs there takes long, and another worker is free, or something more urgent waits, what
has not begun is asked back. The worker's proof that it never ran puts it into the queue again; if it
has begun in the meantime, nothing happens.
"""

import heapq
from collections.abc import Iterator

from coordinator.capacity import ClassKey, PlacementClass, Worker
from coordinator.live import Job, Live
from coordinator.placement import obstacle
from hostler.ids import AttemptKey
from hostler.lifecycle import State
from hostler.pending import Code

AHEAD_US = 1_000_000  # so long what was sent ahead may wait: a message more for each short job would cost too much


def recalls(live: Live, now_us: int) -> Iterator[tuple[str, AttemptKey]]:
    """The attempts to ask back, with their workers; at most as many as could begin elsewhere, or as are waited for."""
    laden = [worker for worker in live.workers.values() if worker.connected and worker.slots_used > worker.slots]
    if not laden:
        return
    waiting = {placement: placement.waiting for placement in live.heads() if placement.heap}
    free = {w.id: w.slots - w.slots_used for w in live.workers.values() if w.connected and w.slots_used < w.slots}
    # What has no room for a class now gets none while this pass goes on: it is not asked again for each job.
    nowhere: set[ClassKey] = set()
    for worker in laden:
        for job in _unbegun(live, worker, now_us):
            wanted = job.placement.key
            urgent = _more_urgent(worker, job, waiting)
            if urgent is not None:
                waiting[urgent] -= 1
                yield worker.id, job.attempt_key
            elif wanted.pin or wanted in nowhere:
                continue
            elif elsewhere := _takes(live, free, wanted):
                free[elsewhere] -= wanted.slots
                if not free[elsewhere]:
                    del free[elsewhere]
                yield worker.id, job.attempt_key
            else:
                nowhere.add(wanted)


def _more_urgent(worker: Worker, job: Job, waiting: dict[PlacementClass, int]) -> PlacementClass | None:
    """A class whose head comes before this job and waits for nothing but room on this worker."""
    for placement, count in waiting.items():
        if count and -placement.heap[0][0] > job.priority:
            why = obstacle(worker, placement.key)
            if why is not None and why.code is Code.NO_FREE_SLOT:
                return placement
    return None


def _unbegun(live: Live, worker: Worker, now_us: int) -> list[Job]:
    """What was sent ahead and waits there too long: the latest first, and never what its slots can hold."""
    jobs = [live.jobs[number] for number in worker.held.values()]
    waiting = [
        job
        for job in jobs
        if job.state is State.ASSIGNED and job.placement.key.slots and now_us - job.assigned_at_us >= AHEAD_US
    ]
    return heapq.nlargest(worker.slots_used - worker.slots, waiting, key=lambda job: job.sequence)


def _takes(live: Live, free: dict[str, int], wanted: ClassKey) -> str:
    """A worker that could begin a job of this class now; empty when there is none."""
    for name, slots in free.items():
        if slots >= wanted.slots and not obstacle(live.workers[name], wanted):
            return name
    return ""
