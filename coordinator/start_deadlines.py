"""Jobs whose program had to start by a time, and had not.

Pure. One that waits is over then, and its end tells why it waited; what a worker was told is asked back from it.
"""

from coordinator.capacity import ClassKey
from coordinator.changes import Ended
from coordinator.effects import SendRecall
from coordinator.ends import concluded
from coordinator.instant import Instant
from coordinator.live import Job, Live
from coordinator.pending import why_pending
from coordinator.standings import KeptStandings
from coordinator.waits import told as told_reasons
from hostler.lifecycle import Outcome, State

CLASSES_TOLD_MAX = 8  # classes whose workers are looked at in one moment: each takes milliseconds at thousands of them


def late_starts(live: Live, now: Instant, lost: set[int]) -> tuple[list[Ended], list[SendRecall]]:
    """End what should have started by now and has not; what a worker was told is asked back from it.

    It knows the deadline, too, and begins nothing later; what it has begun in time runs on. What is *lost* at this
    moment is over already.
    """
    ended, recalled = list[Ended](), list[SendRecall]()
    standings, told = KeptStandings(), set[ClassKey]()
    for number in live.due_to_start(now.wall_us):
        job = live.jobs[number]
        if number in lost:
            continue
        if job.state is State.QUEUED:
            if len(told) < CLASSES_TOLD_MAX:
                told.add(job.placement.key)
            why = _why(live, job, standings) if job.placement.key in told else ""
            ended.append(started_too_late(job, now, why))
        elif job.state is State.ASSIGNED:
            recalled.append(SendRecall(job.worker, job.attempt_key))
    return ended, recalled


def is_too_late(job: Job, now: Instant) -> bool:
    """Whether a program that has not started may not any more."""
    return 0 < job.start_by_us <= now.wall_us and not job.started_at_us


def started_too_late(job: Job, now: Instant, why: str = "") -> Ended:
    """The end of a job by its start deadline; *why*: what it waited for."""
    within_s = (job.start_by_us - job.queued_at_us) / 1e6
    evidence = f"its program had not started {within_s:g} s after the submit, as it should have; it never ran"
    return concluded(job, Outcome.TIMED_OUT, "start_deadline", f"{evidence}{why}", now)


def _why(live: Live, job: Job, standings: KeptStandings) -> str:
    return f"; it waited then: {told_reasons(why_pending(live, job, standings))}"
