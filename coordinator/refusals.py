"""What follows when a worker will not run what it was given.

Pure. A refusal of the worker's own (its policy, its version) is no word about the other workers: the job goes on to one
that has not refused it, and is rejected when none is left that may take it.
"""

from coordinator.capacity import ClassKey, Worker
from coordinator.changes import Ended, Returned
from coordinator.ends import concluded
from coordinator.events import Report
from coordinator.instant import Instant
from coordinator.live import Job, Live
from coordinator.pending import PASSING
from coordinator.placement import obstacles
from hostler.lifecycle import Outcome

REFUSALS_MAX = 8  # workers that refused a job before nobody else is asked: all of them may have the same policy


def refused(live: Live, job: Job, worker: str, report: Report, now: Instant) -> Returned | Ended:
    """Give the job to another worker, if one may take it, or end it."""
    wanted = job.placement.key
    barred = tuple(sorted({*wanted.barred, worker}))
    following = wanted._replace(barred=barred)
    goes_on = report.elsewhere and len(barred) < REFUSALS_MAX
    if goes_on and any(_may_take(other, following) for other in live.workers.values()):
        reason = f"the worker refused it: {report.refusal}"
        return Returned(job.number, job.attempt_key, reason, now.wall_us, barred)
    before = len(wanted.barred)
    others = f"; {before} {'other' if before == 1 else 'others'} had refused it before" if before else ""
    evidence = f"the worker refused it: {report.refusal}{others}"
    return concluded(job, Outcome.REJECTED, "refused", evidence, now)


def _may_take(worker: Worker, wanted: ClassKey) -> bool:
    """Whether nothing keeps a worker from it but what passes."""
    return all(why.code in PASSING for why in obstacles(worker, wanted))
