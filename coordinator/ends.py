"""What the end of an attempt becomes: the end of its job, or another attempt.

Pure. The worker's word says how an attempt ended; where a worker cannot say it, the coordinator
concludes.
"""

from coordinator.changes import LEDGER_UNKNOWN, Ended, Retried
from coordinator.events import Report
from coordinator.instant import Instant
from coordinator.live import Job
from hostler.jobs import RETRY_CAUSES, End
from hostler.lifecycle import Outcome
from hostler.wire.ends import end_to_bytes

RETRY_S_MAX = 60.0  # the longest pause before another attempt; they are 1, 2, 4 ... seconds

OUTCOME_OF_CAUSE = {
    "signal": Outcome.FAILED,
    "stop": Outcome.STOPPED,
    "drain": Outcome.STOPPED,
    "timeout": Outcome.TIMED_OUT,
    "lease": Outcome.LOST,
    "not_started": Outcome.FAILED,
    "supervisor_died": Outcome.LOST,
    "host_restarted": Outcome.LOST,
    "worker_lost": Outcome.LOST,
}


def outcome_of(cause: str, exit_code: int | None) -> Outcome:
    """How an attempt ended, in one word, from its worker's evidence."""
    if cause == "exit":
        return Outcome.SUCCEEDED if exit_code == 0 else Outcome.FAILED
    return OUTCOME_OF_CAUSE.get(cause, Outcome.LOST)


def attempt_over(job: Job, report: Report, now: Instant) -> Ended | Retried:
    """What follows from a worker's report of an end."""
    return _retried(job, report, now) if _may_retry(job, report) else _final(job, report, now)


def _may_retry(job: Job, report: Report) -> bool:
    """Whether an attempt that failed is followed by another."""
    end = report.end
    if end is None or job.retried >= job.retries or job.stop_grace_s is not None:
        return False
    if end.raised or outcome_of(end.cause, end.exit_code) is Outcome.SUCCEEDED:
        return False
    return end.cause in (job.retry_on or RETRY_CAUSES)


def _retried(job: Job, report: Report, now: Instant) -> Retried:
    end = report.end
    assert end is not None
    pause_s = min(RETRY_S_MAX, 2.0 ** min(job.retried, 10))
    return Retried(
        job.number,
        report.key,
        outcome_of(end.cause, end.exit_code),
        report.end_bytes,
        end.cause,
        end.started_at_us,
        end.ended_at_us,
        end.ledger_bytes,
        end.output_bytes,
        report.ledger,
        now.wall_us + int(pause_s * 1e6),
        now.wall_us,
    )


def _final(job: Job, report: Report, now: Instant) -> Ended:
    end = report.end
    assert end is not None
    return Ended(
        job.number,
        report.key,
        outcome_of(end.cause, end.exit_code),
        report.end_bytes,
        end.exit_code,
        end.signal,
        end.cause,
        end.error,
        end.started_at_us,
        end.ended_at_us,
        end.ledger_bytes,
        end.output_bytes,
        report.ledger,
        now.wall_us,
        report.outputs,
        job.family,
        job.queued_at_us,
    )


def concluded(job: Job, outcome: Outcome, cause: str, evidence: str, now: Instant) -> Ended:
    """An end that the coordinator concludes itself: the program never ran, or nobody can tell how it ended."""
    started = job.started_at_us
    # What a program wrote that nobody can ask for its length any more counts as lost.
    ledger_bytes = LEDGER_UNKNOWN if outcome is Outcome.LOST else 0
    end = End(started_at_us=started, ended_at_us=now.wall_us, cause=cause, evidence=evidence)
    return Ended(
        job.number,
        job.attempt_key,
        outcome,
        end_to_bytes(end),
        None,
        "",
        cause,
        "",
        started,
        now.wall_us,
        ledger_bytes,
        0,
        b"",
        now.wall_us,
        (),
        job.family,
        job.queued_at_us,
    )
