"""The start/stop/query API: run a command on a named worker, stop it, ask how it fares.

    POST /start  {"worker_id", "command", "path"}  -> 201 {"job_id"}
    POST /stop   {"worker_id", "job_id"}           -> 200 {"success": true}
    POST /query  {"worker_id", "job_id"}           -> 200 {"done", "error", "error_text"}
    errors                                         -> 500 {"error"}

At the root and under /scheduler. The document is that of a Go program: keys match in any case,
unknown keys and the Content-Type are ignored, errors are in Go's words. Where it says nothing:

- ``command path`` is a program and exactly one argument; an empty path is an empty argument.
- A worker that is not connected is not found, also for its finished jobs. A job that still waits for it is.
- A worker that takes no new work is told to /start as an error, with the reason; its jobs are there as before.
- A stop ends the whole tree with SIGKILL and answers when nothing is left of it.
"""

from dataclasses import dataclass
from typing import Self

from aiohttp import web

from hostler.client import Client
from hostler.errors import (
    DeadlineExceeded,
    ErrorCode,
    HostlerError,
    InternalError,
    InvalidRequest,
    JobNotFound,
    TooLarge,
    Unavailable,
    WorkerNotFound,
)
from hostler.ids import is_uuid
from hostler.jobs import End, Job, JobSpec, Progress, Work
from hostler.lifecycle import Outcome, State
from hostler.workers import WorkerState
from http_gateway import bodies, go_text
from http_gateway.api import Api, Refusal, json_response
from http_gateway.batching import Submitter
from http_gateway.callers import principal_of
from http_gateway.job_outputs import why_still_stopping
from http_gateway.operations import TEXT, TRUTH, UUID, Answer, documented, fields, json_body, some_of

FAMILY = "scheduler"
START_WAIT_S = 2.0  # for the start, so that a program that is not there is an error of /start
STOP_WAIT_S = 30.0  # for the proof that nothing is left
CONNECTED = (WorkerState.CONNECTED, WorkerState.DRAINING, WorkerState.DRAINED)

# The document knows one error code, 500. Kept apart: a body over the limit, and "not now".
STATUSES = {
    ErrorCode.INVALID_REQUEST: 500,
    ErrorCode.JOB_NOT_FOUND: 500,
    ErrorCode.WORKER_NOT_FOUND: 500,
    ErrorCode.KEY_CONFLICT: 500,
    ErrorCode.NOT_RUNNING: 500,
    ErrorCode.INTERNAL: 500,
}
# The texts that clients compare.
NOT_RUN = "the worker would not run the command"
TEXTS = {ErrorCode.WORKER_NOT_FOUND: "worker not found", ErrorCode.JOB_NOT_FOUND: "job not found"}

A_JOB = json_body(
    some_of(worker_id=TEXT, job_id=TEXT),
    of_the_document={
        "worker_id": "d5feef60-3029-11e9-b210-d663bd873d93",
        "job_id": "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """The payload of /start."""

    command: str
    path: str
    worker_id: str

    @classmethod
    async def parse(cls, request: web.Request) -> Self:
        """Read it. Raises InvalidRequest in Go's words."""
        return cls(**await _texts(request, "apiStartJobReq", ("command", "path", "worker_id")))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """The payload of /stop and of /query."""

    job_id: str
    worker_id: str

    @classmethod
    async def parse(cls, request: web.Request, struct: str) -> Self:
        """Read it. Raises InvalidRequest in Go's words."""
        return cls(**await _texts(request, struct, ("job_id", "worker_id")))


class StartStopQuery:
    """The three endpoints, in the document's order."""

    def __init__(self, client: Client, submitter: Submitter) -> None:
        self._client = client
        self._submitter = submitter

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name=FAMILY,
            prefixes=("", "/scheduler"),
            owns=("/start", "/stop", "/query", "/scheduler"),
            routes=(
                web.post("/start", self.start),
                web.post("/stop", self.stop),
                web.post("/query", self.query),
            ),
            render_error=_render_error,
            statuses=STATUSES,
        )

    @documented(
        {201: Answer(schema=fields(job_id=UUID))},
        body=json_body(
            some_of(worker_id=TEXT, command=TEXT, path=TEXT),
            of_the_document={
                "worker_id": "d5feef60-3029-11e9-b210-d663bd873d93",
                "command": "bash",
                "path": "count.sh",
            },
        ),
    )
    async def start(self, request: web.Request) -> web.Response:
        """Start Job on Worker."""
        asked = await StartRequest.parse(request)
        principal = principal_of(request)
        if not is_uuid(asked.worker_id):
            raise WorkerNotFound(TEXTS[ErrorCode.WORKER_NOT_FOUND])
        if not asked.command:
            await self._check_worker(asked.worker_id, principal)
            raise InvalidRequest("exec: no command", field="command")
        spec = JobSpec(
            work=Work(argv=(asked.command, asked.path), grace_s=0.0),
            family=FAMILY,
            worker=asked.worker_id,
            slots=0,
            principal=principal,
        )
        try:
            job = await self._submitter.submit_one(spec)
        except TooLarge as error:
            # What execve would say; the document has no other status for it than 500.
            raise InvalidRequest(f"fork/exec {asked.command[:100]}: argument list too long", field="path") from error
        if refusal := _not_started(await self._started(job, principal)):
            raise refusal
        return json_response({"job_id": job}, status=201)

    @documented(fields(success=TRUTH), body=A_JOB)
    async def stop(self, request: web.Request) -> web.Response:
        """Stop Job on Worker."""
        asked = await JobRequest.parse(request, "apiStopJobReq")
        principal = principal_of(request)
        job = await self._find(asked, principal)
        job = await self._client.stop(job.id, grace_s=0.0, wait_s=STOP_WAIT_S, family=FAMILY, principal=principal)
        if job.state is not State.FINISHED:
            raise InternalError(why_still_stopping(job, again="stop it again"))
        if job.outcome is Outcome.LOST and not _proved_gone(job.end):
            raise WorkerNotFound(TEXTS[ErrorCode.WORKER_NOT_FOUND])
        return json_response({"success": True})

    @documented(fields(done=TRUTH, error=TRUTH, error_text=TEXT), body=A_JOB)
    async def query(self, request: web.Request) -> web.Response:
        """Query Job on Worker."""
        job = await self._find(await JobRequest.parse(request, "apiQueryJobReq"), principal_of(request))
        done = job.state is State.FINISHED
        text = _error_text(job) if done else ""
        return json_response({"done": done, "error": bool(text), "error_text": text})

    async def _started(self, job: str, principal: str) -> Progress | None:
        """Return where the job has come to once it has started or ended; None when that takes too long."""
        try:
            async for progress in self._client.wait(
                [job], until=State.RUNNING, timeout_s=START_WAIT_S, principal=principal
            ):
                return progress
        except (Unavailable, DeadlineExceeded):
            pass  # it is accepted and durable, whatever became of the coordinator: its id is the answer
        return None

    async def _find(self, asked: JobRequest, principal: str) -> Job:
        job = await self._of_worker(asked, principal)
        # One that waits is with the coordinator and not with its worker: it is there to be ended wherever that is.
        if job is None or job.state is not State.QUEUED:
            await self._check_worker(asked.worker_id, principal)
        if job is None:
            raise JobNotFound(TEXTS[ErrorCode.JOB_NOT_FOUND])
        return job

    async def _of_worker(self, asked: JobRequest, principal: str) -> Job | None:
        if not is_uuid(asked.job_id):
            return None
        try:
            job = await self._client.get(asked.job_id, family=FAMILY, principal=principal)
        except JobNotFound:
            return None
        return job if job.spec.worker == asked.worker_id else None

    async def _check_worker(self, worker_id: str, principal: str) -> None:
        for worker in await self._client.workers(principal=principal):
            if worker.id == worker_id and worker.state in CONNECTED:
                return
        raise WorkerNotFound(TEXTS[ErrorCode.WORKER_NOT_FOUND])


async def _texts(request: web.Request, struct: str, names: tuple[str, ...]) -> dict[str, str]:
    try:
        return go_text.decode_texts(await bodies.read_json(request), struct=struct, names=names)
    except bodies.NotJson as error:
        if error.syntax is None:
            raise
        raise InvalidRequest(go_text.syntax_text(error.syntax)) from None
    except go_text.WrongType as error:
        raise InvalidRequest(str(error)) from None


def _render_error(refusal: Refusal) -> object:
    try:
        return {"error": TEXTS[ErrorCode(refusal.code)]}
    except (KeyError, ValueError):
        return {"error": refusal.message}


def _not_started(progress: Progress | None) -> HostlerError | None:
    """Why the program of a job never ran; None when it did, or when nobody knows yet."""
    if progress is None or progress.state is not State.FINISHED:
        return None
    if progress.outcome is Outcome.LOST:
        return WorkerNotFound(TEXTS[ErrorCode.WORKER_NOT_FOUND])
    if progress.outcome is Outcome.REJECTED or progress.cause == "not_started":
        return InvalidRequest(progress.error or NOT_RUN)
    return None


def _proved_gone(end: End | None) -> bool:
    return end is not None and end.nothing_left


def _error_text(job: Job) -> str:
    """How a finished job ended, in Go's words; empty when it went well.

    Raises:
        WorkerNotFound: the worker was lost, and the true end with it.
    """
    end = job.end
    match job.outcome:
        case Outcome.SUCCEEDED:
            return ""
        case Outcome.LOST:
            raise WorkerNotFound(TEXTS[ErrorCode.WORKER_NOT_FOUND])
        case Outcome.REJECTED:
            return (end and (end.error or end.evidence)) or NOT_RUN
    if end is not None and end.cause == "not_started":
        return end.error or NOT_RUN
    if end is not None and end.signal:
        return go_text.signal_text(end.signal, core_dumped=end.core_dumped)
    if end is not None and end.exit_code:
        return go_text.exit_text(end.exit_code)
    # It was ended on request before its program ran, or ended well while being told to end.
    return go_text.signal_text("SIGKILL")
