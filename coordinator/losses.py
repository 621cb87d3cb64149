"""What follows when a worker stays away: the loss of its jobs, or another attempt where that cannot run a job twice.

Pure. A job of the policy *keep* is lost after `lost_after`, and its program may still run. A job of the
policy *stop* is ended by its supervisor when the worker's lease runs out; once the coordinator has waited
for longer than that can take, nothing of it is left, and only then another attempt may follow.
"""

import math
from collections.abc import Callable, Iterator

from coordinator.capacity import Worker
from coordinator.changes import Ended, Retried
from coordinator.ends import lost
from coordinator.instant import Instant
from coordinator.live import Job, Live


def silent_workers(
    live: Live, now: Instant, *, lost_after: Callable[[str], float], lease_s: float
) -> Iterator[Ended | Retried]:
    """What becomes of the jobs whose workers have been away for too long.

    *lost_after* says for an API family after how many seconds, *lease_s* for how long a worker's lease lasts.
    """
    for worker in live.workers.values():
        if worker.connected or worker.left_at_s is None or not worker.held:
            continue
        away_s = now.monotonic_s - worker.left_at_s
        for number in worker.held.values():
            job = live.jobs[number]
            limit_s = _limit_s(job, lost_after, lease_s)
            if away_s >= limit_s:
                yield _lost(job, worker, limit_s, lease_s, now)


def lost_with_their_worker(live: Live, worker: Worker, now: Instant) -> list[Ended | Retried]:
    """What becomes of the jobs of a worker that is revoked now: it never comes back to say how they end.

    Those of the policy *stop* take their time: their supervisors end them when the lease runs out, and `silent_workers`
    says so.
    """
    evidence = (
        f"worker {worker.name} was revoked; the program may still run on {worker.host} until that host is reached"
    )
    jobs = [live.jobs[number] for number in worker.held.values()]
    return [lost(job, "worker_lost", evidence, now, fenced=False) for job in jobs if not job.losses.fence_s]


def lost_at_s(job: Job, worker: Worker, *, lost_after: Callable[[str], float], lease_s: float) -> float:
    """When a job of a worker that is away is over if it stays away, by the monotonic clock; infinite: never.

    See `silent_workers`.
    """
    return math.inf if worker.left_at_s is None else worker.left_at_s + _limit_s(job, lost_after, lease_s)


def _limit_s(job: Job, lost_after: Callable[[str], float], lease_s: float) -> float:
    losses = job.losses
    if losses.fence_s:
        # The lease counts from a message that was sent before the last one that was heard: it ended long ago.
        return lease_s + losses.fence_s
    if losses.lost_after_s is None:
        return lost_after(job.family)
    return losses.lost_after_s if losses.lost_after_s >= 0 else math.inf


def _lost(job: Job, worker: Worker, limit_s: float, lease_s: float, now: Instant) -> Ended | Retried:
    away = f"worker {worker.name} was not heard of for {limit_s:.0f} s; "
    if job.losses.fence_s:
        evidence = f"{away}its supervisor had to end the program when the worker's lease of {lease_s:g} s ran out"
        return lost(job, "lease", evidence, now, fenced=True)
    evidence = f"{away}the program may still run on {worker.host} until that host is reached"
    return lost(job, "worker_lost", evidence, now, fenced=False)
