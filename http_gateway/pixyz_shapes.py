"""What the PiXYZ API says of a job: its words for states, its three views of one, its names of output files.

Takes no clock and does no IO. Times are ISO 8601; ``request`` is naive UTC and the others say ``+00:00``,
as clients of this API have always had it.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import msgspec

from hostler.jobs import Advance, Job, OutputFile
from hostler.lifecycle import Outcome, State
from http_gateway.operations import (
    ANY,
    COUNT,
    NULL,
    NUMBER,
    TEXT,
    UUID,
    Schema,
    either,
    fields,
    listed,
    one_of,
    or_null,
)
from http_gateway.raw_json import is_json

SENT = "SENT"  # only in the answer to a submission
OPEN_WORDS = {
    State.QUEUED: "PENDING",
    State.ASSIGNED: "STARTED",
    State.RUNNING: "RUNNING",
    State.STOPPING: "RUNNING",
}
END_WORDS = {Outcome.SUCCEEDED: "SUCCESS", Outcome.STOPPED: "REVOKED"}  # every other is FAILURE
TIMED_OUT = "Task process timeout"
EXITED = "Task process exited with error"
INTERNAL = "Internal error"
# For the OpenAPI document.
JOB_STATE: Schema = fields(
    uuid=UUID,
    name=or_null(TEXT),
    status=one_of(SENT, *OPEN_WORDS.values(), "RETRY", *END_WORDS.values(), "FAILURE"),
    progress=or_null(NUMBER),
    error=or_null(TEXT),
)
_TIMES = fields(request=or_null(TEXT), started=or_null(TEXT), stopped=or_null(TEXT))
JOB_DETAILS: Schema = fields(
    **JOB_STATE["properties"],
    time_info=_TIMES,
    steps=or_null(listed(fields(duration=NUMBER, info=TEXT))),
    retry=COUNT,
    result=ANY,
)
TASK_META: Schema = fields(
    status=TEXT,
    result=ANY,
    traceback=or_null(TEXT),
    children=listed(ANY),
    parent_id=NULL,
    date_done=or_null(TEXT),
    task_id=UUID,
)
ERROR: Schema = fields(detail=either(TEXT, fields(code=COUNT, message=TEXT, details=or_null(TEXT))))

DECODINGS_MAX = 3  # of a path, when it is judged: once is usual, twice is a trick


def status_word(job: Job) -> str:
    """The state as the document's clients know it."""
    if job.state is State.FINISHED:
        return END_WORDS.get(job.outcome, "FAILURE")
    if job.state is State.QUEUED and job.retried:
        return "RETRY"
    return OPEN_WORDS[job.state]


def job_state(job: Job, *, status: str = "") -> dict[str, Any]:
    """The short view, of the job as it stands or in another *status*."""
    word = status or status_word(job)
    return {
        "uuid": job.id,
        "name": job.spec.name or None,
        "status": word,
        "progress": _progress(job, word),
        "error": _short_error(job) if word == "FAILURE" else None,
    }


def job_details(job: Job) -> dict[str, Any]:
    """The long view: with times, steps and the result."""
    state = job_state(job)
    if state["status"] == "FAILURE":
        state["error"] = _traceback(job) or _reason(job)
    return {
        **state,
        "time_info": _times(job),
        "steps": _steps(job),
        "retry": job.retried,
        "result": _reason(job) if state["status"] == "FAILURE" else _result(job),
    }


def task_meta(job: Job) -> dict[str, Any]:
    """The view of Celery's result back end, which stores an exception as its type, message and module."""
    word = status_word(job)
    result: Any = None
    if word == "FAILURE":
        result = _exception(job)
    elif word == "REVOKED":
        result = {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}
    elif word in ("SUCCESS", "RUNNING"):
        result = {
            "shadow_name": job.spec.name or None,
            "time_info": _times(job),
            "progress": _progress(job, word),
            "steps": _steps(job),
            "result": _result(job),
        }
        if job.retried:
            result["retry"] = job.retried
    return {
        "status": word,
        "result": result,
        "traceback": _traceback(job) or None,
        "children": [],
        "parent_id": None,
        "task_id": job.id,
        "date_done": _aware(job.finished_at_us),
    }


def top_names(files: Iterable[OutputFile]) -> list[str]:
    """The first level of what a job has put out: files and folders, by name."""
    return sorted({file.path.partition("/")[0] for file in files})


def leaves_folder(path: str) -> bool:
    """Whether *path* tries to lead out of the folder it is meant for, in any spelling."""
    for _ in range(DECODINGS_MAX):
        plain = path.replace("\\", "/")
        if plain.startswith("/") or "\0" in plain or ".." in plain.split("/"):
            return True
        path = unquote(path)
    return False


def _advance(job: Job) -> Advance:
    return job.end.advance if job.end is not None else job.advance


def _progress(job: Job, word: str) -> int | None:
    if word == "SUCCESS":
        return 100
    return _advance(job).percent if word == "RUNNING" else None


def _steps(job: Job) -> list[dict[str, Any]] | None:
    if job.state in (State.QUEUED, State.ASSIGNED):
        return None
    steps = [{"duration": s.duration_s if s.duration_s >= 0 else -1, "info": s.text} for s in _advance(job).steps]
    return steps or None


def _times(job: Job) -> dict[str, str | None]:
    request = _aware(job.queued_at_us)
    return {
        "request": request.removesuffix("+00:00") if request else None,
        "started": _aware(job.started_at_us or (job.end.started_at_us if job.end is not None else 0)),
        "stopped": _aware(job.finished_at_us),
    }


def _aware(at_us: int) -> str | None:
    if not at_us:
        return None
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC).replace(microsecond=at_us % 1_000_000)
    return at.isoformat(timespec="microseconds")


def _result(job: Job) -> Any:
    """What the program left, as it wrote it; an empty object while it runs."""
    if job.state in (State.RUNNING, State.STOPPING):
        return {}
    if job.end is None or not job.end.result:
        return None
    if not is_json(job.end.result):
        return job.end.result.decode(errors="replace")
    return msgspec.Raw(job.end.result)


def _traceback(job: Job) -> str:
    failure = job.end.failure if job.end is not None else None
    return failure.traceback if failure is not None else ""


def _short_error(job: Job) -> str:
    if job.outcome is Outcome.TIMED_OUT:
        return TIMED_OUT
    end = job.end
    if job.outcome is Outcome.FAILED and end is not None and end.failure is None and (end.exit_code or end.signal):
        return EXITED
    return INTERNAL


def _reason(job: Job) -> str:
    """Why it failed: the text of its exception, or the evidence of its end."""
    if job.end is None:
        return _short_error(job)
    if job.end.failure is not None:
        return job.end.failure.message
    return job.end.error or job.end.evidence or _short_error(job)


def _exception(job: Job) -> dict[str, Any]:
    failure = job.end.failure if job.end is not None else None
    return {
        "exc_type": failure.type if failure is not None else "RuntimeError",
        "exc_message": [_reason(job)],
        "exc_module": failure.module if failure is not None else "builtins",
    }
