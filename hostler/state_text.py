"""Where a job stands, or how it ended, in a few words. Pure."""

from hostler.jobs import Job, Progress
from hostler.lifecycle import Outcome, State


def state_text(job: Job | Progress) -> str:
    """Where a job stands, in a few words: ``running``, ``stopping: unkillable``, ``failed: exit status 3``."""
    if job.state is not State.FINISHED:
        phase = job.phase if isinstance(job, Job) else ""
        return f"{job.state.word}: {phase}" if phase else job.state.word
    outcome = job.outcome.word.replace("_", " ")
    end = job.end if isinstance(job, Job) else job
    if job.outcome is Outcome.SUCCEEDED or end is None:
        return outcome
    if end.signal:
        return f"{outcome}: {end.signal}"
    if end.exit_code is not None:
        return f"{outcome}: exit status {end.exit_code}"
    if end.cause and end.cause != "stop":
        return f"{outcome}: {end.cause.replace('_', ' ')}"
    return outcome
