"""What follows when a worker will not run what it was given.

Pure. A refusal of the worker's own (its policy, its version) is no word about the other workers: the job goes on to one
that has not refused it, and is rejected when none is left that may take it. A job that asks for one worker is rejected
as soon as that worker is connected and its own word is that it never takes such a job.
"""

from collections.abc import Iterator
from dataclasses import replace

from coordinator.capacity import ClassKey, Worker
from coordinator.changes import Ended, Returned
from coordinator.ends import concluded
from coordinator.events import Report
from coordinator.instant import Instant
from coordinator.live import Job, Live
from coordinator.placement import Obstacle, obstacles
from coordinator.standings import PASSING
from hostler.lifecycle import Outcome, State
from hostler.pending import Code
from hostler.wire.ends import end_from_bytes, end_to_bytes

REFUSALS_MAX = 8  # workers that refused a job before nobody else is asked: all of them may have the same policy

# What a worker says of itself that it never takes, as it is now: no end of another job and no drain changes it.
NEVER = frozenset({Code.POLICY, Code.WORKLOAD, Code.RUNTIME})


def refused(live: Live, job: Job, worker: str, report: Report, now: Instant) -> Returned | Ended:
    """Give the job to another worker, if one may take it, or end it."""
    wanted = job.placement.key
    barred = tuple(sorted({*wanted.barred, worker}))
    following = wanted._replace(barred=barred)
    goes_on = report.elsewhere and len(barred) < REFUSALS_MAX
    if goes_on and any(_may_take(other, following) for other in live.workers.values()):
        reason = f"the worker refused it: {report.refusal}"
        return Returned(job.number, job.attempt_key, reason, now.wall_us, barred, job.worker)
    before = len(wanted.barred)
    others = f"; {before} {'other' if before == 1 else 'others'} had refused it before" if before else ""
    evidence = f"the worker refused it: {report.refusal}{others}"
    return _rejected(job, report.refusal, evidence, now)


def never_taken(live: Live, now: Instant, *, limit: int) -> Iterator[Ended]:
    """End waiting jobs that ask for one worker which is connected and never takes such a job, at most *limit*.

    Nothing is concluded from what a worker said before it was cut off: it may come back with another policy.
    """
    ended = 0
    for placement in live.classes.values():
        wanted = placement.key
        worker = live.workers.get(wanted.pin) if wanted.pin and placement.waiting else None
        if worker is None or not worker.connected:
            continue
        why = next((each for each in obstacles(worker, wanted) if each.code in NEVER), None)
        if why is None:
            continue
        error = _never(worker, why)
        for number in sorted({number for _, number in placement.heap}):
            job = live.jobs.get(number)
            if job is None or job.state is not State.QUEUED or job.placement is not placement or number in live.delayed:
                continue
            if ended == limit:
                return
            ended += 1
            yield _rejected(job, error, f"{error}; the job asks for this worker", now)


def _never(worker: Worker, why: Obstacle) -> str:
    if why.code is Code.POLICY:
        rule = "mode" if worker.policy == "named" else "workloads"
        return f"refused by the worker's policy, rule {rule}: {worker.name} {why.text}"
    return f"refused by what the worker takes: {worker.name} {why.text}"


def _rejected(job: Job, error: str, evidence: str, now: Instant) -> Ended:
    ended = concluded(job, Outcome.REJECTED, "refused", evidence, now)
    return ended._replace(end=end_to_bytes(replace(end_from_bytes(ended.end), error=error)), error=error)


def _may_take(worker: Worker, wanted: ClassKey) -> bool:
    """Whether nothing keeps a worker from it but what passes, or a drain that somebody may take back."""
    return all(why.code in PASSING or why.code is Code.DRAINED for why in obstacles(worker, wanted))
