"""The native API, ``/v1``: everything hostler can say about jobs, workers and the cluster.

    POST /v1/jobs               submit many, each answered in its place; ?wait=S waits for their ends
    GET  /v1/jobs               list, in pages, oldest or newest first
    GET  /v1/jobs/{id}          one job; ?wait=S waits for its end
    GET  /v1/jobs/{id}/explain  why it is as it is
    POST /v1/jobs/wait          wait for many
    POST /v1/jobs/{id}/stop     stop, with the receipt
    POST /v1/jobs/{id}/retry    submit a finished one again
    POST /v1/jobs/{id}/signal   send a signal to the main process
    GET  /v1/jobs/{id}/log      server-sent events, or plain bytes with ?raw=
    GET  /v1/workers
    POST /v1/workers/{id}/drain, resume, release
    GET  /v1/cluster
    errors                      {"error": {"code", "message", "field"}}

Files and workloads are in `native_files`, streams of events in `native_events`. Jobs of every family are seen here.
``docs/http-api.md`` is the reference.
"""

import asyncio
import signal
from typing import Annotated, TypeVar

from aiohttp import web
from pydantic import Field

from hostler.client import Client
from hostler.errors import (
    DeadlineExceeded,
    HostlerError,
    InvalidRequest,
    JobNotFound,
    Overloaded,
    TooLarge,
    Unavailable,
)
from hostler.explanation import explanation_shape
from hostler.jobs import SUBMIT_ITEMS_MAX, Job, JobSpec, Progress
from hostler.lifecycle import State
from hostler.shape import job_shape, worker_shape
from hostler.stages import attempts_of
from http_gateway import bodies, job_json, log_stream
from http_gateway import native_answers as answers
from http_gateway import native_parameters as parameters
from http_gateway.api import CODED_ERROR, Api, coded_error, json_response
from http_gateway.batching import Submitter
from http_gateway.callers import principal_of
from http_gateway.large_bodies import LargeBodies
from http_gateway.native_bodies import JobItem, Request, Seconds, job_item, validated
from http_gateway.operations import (
    TEXT,
    Answer,
    between,
    described,
    documented,
    fields,
    json_body,
    listed,
    one_of,
    whole_between,
)

LONG_POLL_S_MAX = 60.0
WAIT_S_MAX = 600.0
LEAST_WAIT_S = 0.001  # to the coordinator 0 means without end
STOP_WAIT_S = 30.0
ATTEMPT_MAX = (1 << 31) - 1  # also of stages
REASON_CHARACTERS_MAX = 200
SLICE_ITEMS = 250  # validated at a stretch, before others have their turn

WAIT = described(between(0, LONG_POLL_S_MAX), "seconds to wait for the end")
NO_BODY = json_body(Request, required=False, nothing={})

_SIGNALS = {number.name: int(number) for number in signal.Signals}
_SIGNAL_MAX = int(signal.SIGRTMAX)
_NOT_NOW = (Unavailable, Overloaded, DeadlineExceeded)


class Submission(Request):
    """The body of POST /v1/jobs; its items are validated one by one."""

    jobs: list[object]


class WaitBody(Request):
    """The body of POST /v1/jobs/wait."""

    ids: list[str]
    timeout: Annotated[float, Field(ge=0, le=WAIT_S_MAX)] = LONG_POLL_S_MAX


class StopBody(Request):
    """The body of POST /v1/jobs/{id}/stop; it may be empty."""

    grace: Seconds | None = None


class DrainBody(Request):
    """The body of POST /v1/workers/{id}/drain; it may be empty."""

    deadline: Seconds | None = None
    leave: bool = False
    reason: Annotated[str, Field(max_length=REASON_CHARACTERS_MAX)] = ""


class SignalBody(Request):
    """The body of POST /v1/jobs/{id}/signal."""

    signal: object  # its name or its number


class Native:
    """The endpoints of ``/v1``."""

    def __init__(self, client: Client, submitter: Submitter, large_bodies: LargeBodies, closing: asyncio.Event) -> None:
        self._client = client
        self._submitter = submitter
        self._closing = closing
        self._large_bodies = large_bodies

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name="native",
            prefixes=("/v1",),
            owns=("/v1",),
            routes=(
                web.post("/jobs", self.submit),
                web.get("/jobs", self.find),
                web.post("/jobs/wait", self.wait),
                web.get("/jobs/{id}", self.get),
                web.get("/jobs/{id}/explain", self.explain),
                web.post("/jobs/{id}/stop", self.stop),
                web.post("/jobs/{id}/retry", self.retry),
                web.post("/jobs/{id}/signal", self.signal),
                web.get("/jobs/{id}/log", self.log, allow_head=False),
                web.get("/workers", self.workers),
                web.post("/workers/{id}/drain", self.drain),
                web.post("/workers/{id}/resume", self.resume),
                web.post("/workers/{id}/release", self.release),
                web.get("/cluster", self.cluster),
            ),
            render_error=coded_error,
            error_schema=CODED_ERROR,
        )

    @documented(
        answers.SUBMITTED,
        query={"wait": WAIT},
        body=json_body(
            Submission,
            items={"jobs": JobItem},
            a_command={"jobs": [{"argv": ["sh", "-c", "echo hello"], "name": "greeting"}]},
            a_script={
                "jobs": [
                    {
                        "python": {"path": "script/twice.py"},
                        "params": {"n": 21},
                        "files": [
                            {"path": "script/twice.py", "text": "def main(ctx, params):\n    return params['n'] * 2\n"}
                        ],
                    }
                ]
            },
        ),
    )
    async def submit(self, request: web.Request) -> web.Response:
        """Submit jobs; each is answered in its place with its id or with what is wrong with it.

        With ?wait=S those that finish within S seconds are answered with their end.
        """
        wait_s = parameters.seconds(request, "wait", most_s=LONG_POLL_S_MAX)
        async with self._large_bodies.json_of(request) as body:
            return await self._submit(request, validated(Submission, body), wait_s)

    async def _submit(self, request: web.Request, body: Submission, wait_s: float) -> web.Response:
        if len(body.jobs) > SUBMIT_ITEMS_MAX:
            raise TooLarge(f"{len(body.jobs)} jobs; at most {SUBMIT_ITEMS_MAX} at once", field="jobs")
        key = _header_key(request, body.jobs)
        principal = principal_of(request)
        items: list[JobItem | InvalidRequest] = []
        specs: list[JobSpec] = []
        for start in range(0, len(body.jobs), SLICE_ITEMS):
            if start:
                await asyncio.sleep(0)
            found = list(map(job_item, body.jobs[start : start + SLICE_ITEMS]))
            if key and isinstance(found[0], JobItem):
                found[0] = _with_key(found[0], key)
            items += found
            specs += [item.spec(principal) for item in found if isinstance(item, JobItem)]
        accepted = iter(await (self._run(specs, wait_s, principal) if wait_s else self._accept(specs)))
        results = [item if isinstance(item, InvalidRequest) else next(accepted) for item in items]
        return json_response({"jobs": [job_json.answer_json(result) for result in results]})

    @documented(
        answers.PAGE,
        query={
            "state": described(TEXT, "queued, assigned, running, stopping, finished; several with commas"),
            "name": TEXT,
            "owner": TEXT,
            "family": TEXT,
            "worker": TEXT,
            "workload": TEXT,
            "filter": described(TEXT, "an expression over tags and state, outcome, name, ...: docs/selectors.md"),
            "order": one_of("oldest", "newest"),
            "limit": whole_between(1, parameters.PAGE_ITEMS_MAX),
            "after": described(TEXT, "`next` of the page before, with the same order"),
        },
    )
    async def find(self, request: web.Request) -> web.Response:
        """List jobs in pages, oldest first unless asked otherwise."""
        page = await self._client.find(parameters.job_query(request), principal=principal_of(request))
        return json_response(job_json.page_json(page))

    @documented(
        answers.WAITED,
        body=json_body(WaitBody, how_it_stands={"ids": ["4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"], "timeout": 0}),
        refuses=(404,),
    )
    async def wait(self, request: web.Request) -> web.Response:
        """Wait until each of many jobs has finished, or until the time is over."""
        parameters.check_names(request)
        body = validated(WaitBody, await bodies.read_json(request))
        if len(body.ids) > SUBMIT_ITEMS_MAX:
            raise TooLarge(f"{len(body.ids)} ids; at most {SUBMIT_ITEMS_MAX} at once", field="ids")
        pending = dict.fromkeys(map(parameters.checked_id, body.ids))
        timeout_s = max(LEAST_WAIT_S, body.timeout)
        ended = []
        if pending:
            principal = principal_of(request)
            async for progress in self._client.wait(list(pending), timeout_s=timeout_s, principal=principal):
                if progress.state is State.FINISHED and progress.id in pending:
                    del pending[progress.id]
                    ended.append(job_json.progress_json(progress))
        return json_response({"jobs": ended, "pending": list(pending)})

    @documented(answers.JOB, query={"wait": WAIT})
    async def get(self, request: web.Request) -> web.Response:
        """Show a job; with ?wait=S as soon as it has finished, or after S seconds as it stands."""
        name = parameters.job_id(request)
        wait_s = parameters.seconds(request, "wait", most_s=LONG_POLL_S_MAX)
        principal = principal_of(request)
        job = await self._client.get(name, principal=principal)
        if wait_s and job.state is not State.FINISHED:
            found = await self._client.wait_one(name, timeout_s=wait_s, principal=principal)
            job = found or await self._client.get(name, principal=principal)
        return json_response(job_shape(job))

    @documented(answers.EXPLANATION)
    async def explain(self, request: web.Request) -> web.Response:
        """Tell why a job is as it is: why it waits, where it ran and why there, how it ended, what happens next."""
        parameters.check_names(request)
        known = await self._client.explanations.of(parameters.job_id(request), principal=principal_of(request))
        return json_response(explanation_shape(known))

    @documented(
        {
            200: Answer(schema=answers.JOB, text="nothing of it is left"),
            202: Answer(schema=answers.JOB, text="it is being stopped still"),
        },
        body=json_body(StopBody, required=False, with_a_grace={"grace": 5}),
    )
    async def stop(self, request: web.Request) -> web.Response:
        """Stop a job: 200 with the receipt once nothing of it is left, 202 when that takes too long."""
        name = parameters.job_id(request)
        body = await _optional_body(request, StopBody)
        job = await self._client.stop(name, grace_s=body.grace, wait_s=STOP_WAIT_S, principal=principal_of(request))
        return json_response(job_shape(job), status=200 if job.state is State.FINISHED else 202)

    @documented(answers.RETRIED, body=NO_BODY, refuses=(409, 425, 503))
    async def retry(self, request: web.Request) -> web.Response:
        """Submit a finished job again as a new one that asks for the same, and answer its id."""
        name = parameters.job_id(request)
        await _optional_body(request, Request)
        (result,) = await self._client.retry([name], principal=principal_of(request))
        if isinstance(result, HostlerError):
            raise result
        return json_response({"id": result, "retry_of": name})

    @documented(answers.JOB, body=json_body(SignalBody, by_its_name={"signal": "SIGUSR1"}), refuses=(409,))
    async def signal(self, request: web.Request) -> web.Response:
        """Send a signal to the main process of a running job, and show the job."""
        name = parameters.job_id(request)
        parameters.check_names(request)
        body = validated(SignalBody, await bodies.read_json(request))
        principal = principal_of(request)
        await self._client.signal(name, _signal_number(body.signal), principal=principal)
        return json_response(job_shape(await self._client.get(name, principal=principal)))

    @documented(
        Answer(media=("text/event-stream", "application/octet-stream"), text="events, or with raw plain bytes"),
        query={
            "from": described(
                TEXT, "STAGE.ATTEMPT.POSITION, as an event's id has it, or a position in the attempt that is chosen"
            ),
            "follow": one_of("", "0", "1", "false", "true"),
            "stage": whole_between(0, ATTEMPT_MAX),
            "attempt": whole_between(0, ATTEMPT_MAX),
            "raw": one_of("out", "err", "both"),
        },
    )
    async def log(self, request: web.Request) -> web.StreamResponse:
        """Send the log of a job's attempt, as events or as plain bytes."""
        job = await self._client.get(parameters.job_id(request), principal=principal_of(request))
        asked = _log_request(request, job)
        raw = request.query.get("raw", "")
        if raw and raw not in log_stream.RAW_KINDS:
            raise InvalidRequest("raw is out, err or both", field="raw")
        await log_stream.check_place(self._client, job, asked, principal_of(request))
        if not raw:
            return await log_stream.send_events(request, self._client, job, asked, self._closing)
        kinds = log_stream.RAW_KINDS[raw]
        return await log_stream.send_bytes(request, self._client, job, asked, self._closing, kinds=kinds)

    @documented(fields(workers=listed(answers.WORKER)))
    async def workers(self, request: web.Request) -> web.Response:
        """List every worker the coordinator knows."""
        parameters.check_names(request)
        workers = await self._client.workers(principal=principal_of(request))
        return json_response({"workers": [worker_shape(worker) for worker in workers]})

    @documented(
        answers.WORKER,
        body=json_body(DrainBody, required=False, for_a_new_disk={"deadline": 600, "reason": "new disk"}),
    )
    async def drain(self, request: web.Request) -> web.Response:
        """Give a worker nothing more, and show it; what runs there goes on, until the deadline if there is one."""
        name = parameters.worker(request)
        body = await _optional_body(request, DrainBody)
        worker = await self._client.drain_worker(
            name,
            deadline_s=body.deadline,
            leave=body.leave,
            reason=body.reason,
            principal=principal_of(request),
        )
        return json_response(worker_shape(worker))

    @documented(answers.WORKER, body=NO_BODY)
    async def resume(self, request: web.Request) -> web.Response:
        """Give a drained worker work again, and show it."""
        name = parameters.worker(request)
        await _optional_body(request, Request)
        return json_response(worker_shape(await self._client.resume_worker(name, principal=principal_of(request))))

    @documented(answers.WORKER, body=NO_BODY)
    async def release(self, request: web.Request) -> web.Response:
        """End the quarantine of a worker, and show it."""
        name = parameters.worker(request)
        await _optional_body(request, Request)
        return json_response(worker_shape(await self._client.release_worker(name, principal=principal_of(request))))

    @documented(answers.CLUSTER)
    async def cluster(self, request: web.Request) -> web.Response:
        """Show what the coordinator says of itself."""
        parameters.check_names(request)
        return json_response(job_json.cluster_json(await self._client.describe(principal=principal_of(request))))

    async def _accept(self, specs: list[JobSpec]) -> list[str | HostlerError]:
        """Submit; when nothing was accepted for a reason that passes, that is the answer to the whole."""
        return _unless_refused(await self._submitter.submit(specs))

    async def _run(self, specs: list[JobSpec], wait_s: float, principal: str) -> list[str | Progress | HostlerError]:
        """Submit and wait for the ends, in one call of its own."""
        return _unless_refused(await self._client.submit_and_wait(specs, wait_s=wait_s, principal=principal))


Answers = TypeVar("Answers", list[str | HostlerError], list[str | Progress | HostlerError])


def _unless_refused(accepted: Answers) -> Answers:
    if accepted and isinstance(accepted[0], _NOT_NOW) and all(isinstance(a, _NOT_NOW) for a in accepted):
        raise accepted[0]
    return accepted


Body = TypeVar("Body", bound=Request)


async def _optional_body(request: web.Request, model: type[Body]) -> Body:
    """Read a body that may be missing. Raises InvalidRequest, also of a query, which nothing here has."""
    parameters.check_names(request)
    raw = await bodies.read(request, bytes_max=bodies.BODY_BYTES_MAX)
    return validated(model, await bodies.parse_apart(raw) if raw.strip() else {})


def _header_key(request: web.Request, jobs: list[object]) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if not key:
        return ""
    if len(jobs) != 1:
        raise InvalidRequest(
            "the header Idempotency-Key goes with exactly one job; give each item its key", field="key"
        )
    return parameters.encodable(key, "Idempotency-Key")


def _with_key(item: JobItem, key: str) -> JobItem | InvalidRequest:
    if item.key and item.key != key:
        return InvalidRequest("key and the header Idempotency-Key differ", field="key")
    return item.model_copy(update={"key": key})


def _signal_number(asked: object) -> int:
    number = 0
    if isinstance(asked, str):
        name = asked.upper()
        number = _SIGNALS.get(name if name.startswith("SIG") else f"SIG{name}", 0)
    elif isinstance(asked, int) and not isinstance(asked, bool):
        number = asked
    if not 1 <= number <= _SIGNAL_MAX:
        raise InvalidRequest(f"signal is a name such as SIGINT, or a number from 1 to {_SIGNAL_MAX}", field="signal")
    return number


def _log_request(request: web.Request, job: Job) -> log_stream.LogRequest:
    parameters.check_names(request, "from", "follow", "stage", "attempt", "raw")
    stage = parameters.number(request, "stage", most=ATTEMPT_MAX, otherwise=job.stage)
    attempt = parameters.number(request, "attempt", most=ATTEMPT_MAX, otherwise=0)
    follow = request.query.get("follow", "").lower()
    if follow not in ("", "0", "1", "false", "true"):
        raise InvalidRequest("follow is true or false", field="follow")
    # A browser's EventSource repeats its URL and tells by this header how far it had come.
    name = "Last-Event-ID" if request.headers.get("Last-Event-ID") else "from"
    text = request.headers.get("Last-Event-ID") or request.query.get("from") or "0"
    place = log_stream.parse_place(text, stage=stage, attempt=attempt, name=name)
    last = _last_attempt(job, place.stage)
    if place.stage > job.stage or place.attempt > last:
        raise JobNotFound(f"job {job.id} has no attempt {place.attempt} of stage {place.stage}")
    place = place._replace(attempt=place.attempt or last)
    # Of a stage that was chosen it is one attempt's log, once one has begun: what is only assigned may be taken back.
    stays = attempt > 0 or (bool(request.query.get("stage")) and place[:2] in attempts_of(job))
    return log_stream.LogRequest(place=place, follow=follow in ("1", "true"), go_on=not stays, place_name=name)


def _last_attempt(job: Job, stage: int) -> int:
    """The number of a stage's last attempt; 0: none has been assigned."""
    past = [past.attempt for past in job.past if past.stage == stage]
    return max([*past, job.attempt] if stage == job.stage else past, default=0)
