"""The stages of a chain as somebody sees them who looks at its job.

Pure. What ran before the current stage is in `Job.past`, which only an answer about one job has; in a
list the earlier stages are known to have succeeded, and no more.
"""

from typing import NamedTuple

from hostler.errors import InvalidRequest
from hostler.jobs import End, Job, PastAttempt, Stage
from hostler.lifecycle import Outcome, State
from hostler.workloads import NAME

WAITING = "waiting"  # its turn has not come
SKIPPED = "skipped"  # the job was over before its turn came
VERSION_MAX = (1 << 31) - 1


class StageView(NamedTuple):
    """One stage as it stands."""

    workload: str
    version: int
    state: str  # a word of `State`, or `WAITING`, or `SKIPPED`
    outcome: Outcome = Outcome.NONE
    attempt: int = 0  # 0: none yet, or not said
    worker: str = ""
    end: End | None = None
    started_at_us: int = 0
    finished_at_us: int = 0


def stages_of(job: Job) -> tuple[StageView, ...]:
    """Every stage of a chain, in order; nothing for a job that is none."""
    return tuple(_view(job, number, stage) for number, stage in enumerate(job.spec.stages))


def attempts_of(job: Job) -> list[tuple[int, int]]:
    """Stage and attempt of everything that has begun to run, oldest first."""
    found = [(past.stage, past.attempt) for past in job.past if past.attempt]
    # What is only assigned may be taken back, and then it never was.
    begun = job.attempt and job.state not in (State.QUEUED, State.ASSIGNED)
    return [*found, (job.stage, job.attempt)] if begun else found


def end_of_stage(job: Job, stage: int | None = None) -> End | None:
    """How a stage ended; None: the last one.

    Returns:
        None when it has not ended, or will never run.

    Raises:
        InvalidRequest: the job has no such stage.
    """
    last = max(0, len(job.spec.stages) - 1)
    number = last if stage is None else stage
    if not 0 <= number <= last:
        raise InvalidRequest(f"job {job.id} has no stage {number}; its last one is {last}", field="stage")
    if number == job.stage:
        return job.end if job.state is State.FINISHED else None
    past = _succeeded(job, number)
    return None if past is None else past.end


def stage_text(job: Job) -> str:
    """Which stage of a chain is under way, or was the last: ``stage 1 (mesh, 2 of 5)``; empty for other jobs."""
    stages = job.spec.stages
    if not stages:
        return ""
    return f"stage {job.stage} ({stages[job.stage].workload}, {job.stage + 1} of {len(stages)})"


def read_stage(text: str) -> Stage:
    """Read ``NAME`` or ``NAME@VERSION``.

    Raises:
        InvalidRequest: it has another form.
    """
    name, at, version = text.partition("@")
    if NAME.fullmatch(name) is None:
        raise InvalidRequest(f"{text[:200]!r} is no workload's name; give NAME or NAME@VERSION")
    if not at:
        return Stage(workload=name)
    if not (version.isascii() and version.isdecimal() and len(version) < 11 and 1 <= int(version) <= VERSION_MAX):
        raise InvalidRequest(f"{text[:200]!r}: a version is a number from 1; give NAME or NAME@VERSION")
    return Stage(workload=name, workload_version=int(version))


def _view(job: Job, number: int, stage: Stage) -> StageView:
    name, version = stage.workload, stage.workload_version
    if number > job.stage:
        return StageView(name, version, SKIPPED if job.state is State.FINISHED else WAITING)
    if number == job.stage:
        end = job.end if job.state is State.FINISHED else None
        return StageView(
            name,
            version,
            job.state.word,
            job.outcome,
            job.attempt,
            job.worker,
            end,
            end.started_at_us if end is not None else job.started_at_us,
            end.ended_at_us if end is not None else 0,
        )
    past = _succeeded(job, number)
    if past is None:
        return StageView(name, version, State.FINISHED.word, Outcome.SUCCEEDED)
    end = past.end
    return StageView(
        name,
        version,
        State.FINISHED.word,
        past.outcome,
        past.attempt,
        past.worker,
        end,
        end.started_at_us,
        end.ended_at_us,
    )


def _succeeded(job: Job, stage: int) -> PastAttempt | None:
    return next((past for past in job.past if past.stage == stage and past.outcome is Outcome.SUCCEEDED), None)
