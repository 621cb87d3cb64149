"""What the end of an attempt becomes: the end of its job, or another attempt.

Pure. The worker's word says how an attempt ended; where a worker cannot say it, the coordinator
concludes.
"""

from dataclasses import replace

from coordinator.changes import KEEP, LEDGER_UNKNOWN, Chain, Ended, Losses, Retried, StageEnded, StagePlan
from coordinator.events import Report
from coordinator.instant import Instant
from coordinator.live import Job
from hostler.causes import CAUSES
from hostler.errors import HostlerError, InvalidRequest
from hostler.expansion import abilities_needed, expand, runtime_needed
from hostler.ids import AttemptKey
from hostler.jobs import CRASH_LIMIT, RETRY_CAUSES, End, File, JobSpec
from hostler.lifecycle import Outcome
from hostler.wire.ends import end_from_bytes, end_to_bytes
from hostler.wire.work import work_to_bytes
from hostler.workloads import Runtime, Workload

# How long a supervisor may take from the end of the lease to the end of the tree, besides the job's grace: it looks
# at the lease every second, kills, and both clocks may run a little differently.
FENCE_S = 10.0
RETRY_S_MAX = 60.0  # the longest pause before another attempt; they are 1, 2, 4 ... seconds

LOSS_CAUSES = frozenset(
    {"lease", "supervisor_died", "host_restarted"}
)  # a job may be tried again after them (`on_lost`)


# Looked up once: a member is looked for by name whenever it is written as `Outcome.FAILED`.
SUCCEEDED, FAILED = Outcome.SUCCEEDED, Outcome.FAILED


def outcome_of(cause: str, exit_code: int | None, *, raised: bool = False) -> Outcome:
    """How an attempt ended, in one word, from its worker's evidence.

    A program that exits with 0 has failed all the same when it left no result although it had to (`raised`).
    """
    if cause == "exit":
        return SUCCEEDED if exit_code == 0 and not raised else FAILED
    known = CAUSES.get(cause)
    return known.outcome if known is not None else Outcome.LOST


def attempt_over(job: Job, report: Report, now: Instant) -> list[Ended | Retried | StageEnded]:
    """What follows from a worker's report of an end, in order."""
    if _may_retry(job, report) or _may_retry_loss(job, report):
        return [_retried(job, report, now)]
    if job.chain is None or job.stage + 1 >= len(job.chain.workloads) or job.stop_grace_s is not None:
        return [_final(job, report, now)]
    end = report.end
    assert end is not None
    if outcome_of(end.cause, end.exit_code, raised=end.raised) is not Outcome.SUCCEEDED:
        return [_final(job, report, now)]
    planned = report.following
    if planned is None:
        planned = next_stage(job.chain, job.id, job.stage, report.end_bytes)
    if not isinstance(planned, HostlerError):
        return [_stage_ended(job, report, planned, now)]
    # The result of this stage is nothing that the next one takes: that one fails, and never starts.
    workload = job.chain.workloads[job.stage + 1]
    refused = StagePlan(Runtime.COMMAND.value, workload.name, workload.version, (), workload.slots, b"")
    evidence = f"stage {job.stage + 1} ({workload.name}) cannot take the result of stage {job.stage}: {planned.message}"
    key = AttemptKey(job.id, job.stage + 1, 0)
    end_of_next = End(ended_at_us=now.wall_us, cause="refused", evidence=evidence, error=planned.message)
    ended = concluded(job, Outcome.REJECTED, "refused", evidence, now)
    return [
        _stage_ended(job, report, refused, now),
        ended._replace(key=key, started_at_us=0, end=end_to_bytes(end_of_next), error=planned.message),
    ]


def next_stage(chain: Chain, job_id: str, stage: int, end_bytes: bytes) -> StagePlan | HostlerError:
    """What the stage after *stage* asks of a worker, whose parameters are the result of that one."""
    end = end_from_bytes(end_bytes)
    workload = chain.workloads[stage + 1]
    stored = None
    if end.result_digest:
        stored = File(path="params.json", digest=end.result_digest, size_bytes=end.result_bytes)
    try:
        params = end.result.decode() or "null"
    except UnicodeDecodeError:
        return InvalidRequest("it is no UTF-8 text", field="params")
    spec = replace(chain.spec, stages=(), workload=workload.name, params=params)
    completed = expand(workload, spec, job_id, stored=stored)
    return completed if isinstance(completed, HostlerError) else plan_of(workload, completed)


def plan_of(workload: Workload | None, completed: JobSpec) -> StagePlan:
    """What an expanded job asks of a worker; without a workload it is a program of its own."""
    return StagePlan(
        runtime=runtime_needed(completed.work).value,
        workload=workload.name if workload is not None else "",
        workload_version=workload.version if workload is not None else 0,
        labels=tuple(sorted(completed.labels.items())),
        slots=completed.slots,
        work=work_to_bytes(completed.work),
        retries=completed.retries or 0,
        retry_on=completed.retry_on,
        inputs=tuple(sorted({file.digest for file in completed.work.files if file.digest})),
        abilities=abilities_needed(completed.work),
        losses=losses_of(completed),
        secrets=tuple(sorted((completed.secrets | (workload.secrets if workload is not None else {})).items())),
    )


def losses_of(spec: JobSpec) -> Losses:
    """What is done about a job whose worker is lost."""
    if not spec.work.loss_policy and spec.lost_after_s is None:
        return KEEP
    stops = spec.work.loss_policy == "stop"
    return Losses(
        fence_s=spec.work.grace_s + FENCE_S if stops else 0.0,
        retry=stops and spec.on_lost == "retry",
        lost_after_s=spec.lost_after_s,
        crash_limit=spec.crash_limit or CRASH_LIMIT,
    )


def _stage_ended(job: Job, report: Report, following: StagePlan, now: Instant) -> StageEnded:
    end = report.end
    assert end is not None
    return StageEnded(
        job.number,
        report.key,
        report.end_bytes,
        end.started_at_us,
        end.ended_at_us,
        end.ledger_bytes,
        end.output_bytes,
        report.ledger,
        (end.result_digest,) if end.result_digest else (),
        following,
        now.wall_us,
    )


def _may_retry(job: Job, report: Report) -> bool:
    """Whether an attempt that failed is followed by another."""
    end = report.end
    if end is None or job.retried >= job.retries or job.stop_grace_s is not None:
        return False
    if end.raised or outcome_of(end.cause, end.exit_code) is Outcome.SUCCEEDED:
        return False
    return end.cause in (job.retry_on or RETRY_CAUSES)


def _may_retry_loss(job: Job, report: Report) -> bool:
    """Whether an attempt that hostler ended, or whose supervisor died, is followed by another.

    Only when its worker has proved that nothing of it is left.
    """
    end = report.end
    if end is None or not end.proved or not job.losses.retry or job.stop_grace_s is not None:
        return False
    if end.cause == "drain":
        return True
    return end.cause in LOSS_CAUSES and job.crashes + 1 < job.losses.crash_limit


def _pause_us(tries: int) -> int:
    return int(min(RETRY_S_MAX, 2.0 ** min(tries, 10)) * 1e6)


def lost(job: Job, cause: str, evidence: str, now: Instant, *, fenced: bool) -> Ended | Retried:
    """What the loss of an attempt becomes, whose end nobody saw; *fenced*: it is known not to run any more."""
    crashes = job.crashes + 1
    if not fenced or not job.losses.retry or job.stop_grace_s is not None:
        return concluded(job, Outcome.LOST, cause, evidence, now)
    if crashes >= job.losses.crash_limit:
        times = "once" if crashes == 1 else f"{crashes} times"
        evidence = f"{evidence}; its worker was lost {times}, which is its crash limit, so it is not tried again"
        return concluded(job, Outcome.LOST, cause, evidence, now)
    end = End(started_at_us=job.started_at_us, ended_at_us=now.wall_us, cause=cause, evidence=evidence)
    return Retried(
        job.number,
        job.attempt_key,
        Outcome.LOST,
        end_to_bytes(end),
        cause,
        job.started_at_us,
        now.wall_us,
        LEDGER_UNKNOWN,
        0,
        b"",
        now.wall_us + _pause_us(job.crashes),
        now.wall_us,
        retries=0,
        crashes=1,
    )


def _retried(job: Job, report: Report, now: Instant) -> Retried:
    end = report.end
    assert end is not None
    failed, crashed = _may_retry(job, report), end.cause in LOSS_CAUSES
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
        now.wall_us + _pause_us(job.crashes if crashed else job.retried),
        now.wall_us,
        int(failed),
        int(crashed),
    )


def _final(job: Job, report: Report, now: Instant) -> Ended:
    end = report.end
    assert end is not None
    outcome = outcome_of(end.cause, end.exit_code, raised=end.raised)
    if job.chain is not None and outcome is Outcome.SUCCEEDED and job.stage + 1 < len(job.chain.workloads):
        outcome = Outcome.STOPPED  # this stage was faster than the stop, and the others never start
    return Ended(
        job.number,
        report.key,
        outcome,
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
        _waited_since_us(job),
        (end.result_digest,) if end.result_digest else (),
    )


def _waited_since_us(job: Job) -> int:
    """Since when the job has waited for what ends here; 0: not since its acceptance."""
    return 0 if job.stage or job.retried else job.queued_at_us


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
        _waited_since_us(job),
    )
