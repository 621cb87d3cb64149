"""The native API, ``/v1``: everything hostler can say about jobs, workers and the cluster.

    POST /v1/jobs               submit many, each answered in its place; ?wait=S waits for their ends
    GET  /v1/jobs               list, in pages
    GET  /v1/jobs/{id}          one job; ?wait=S waits for its end
    POST /v1/jobs/wait          wait for many
    POST /v1/jobs/{id}/stop     stop, with the receipt
    POST /v1/jobs/{id}/signal   send a signal to the main process
    GET  /v1/jobs/{id}/log      server-sent events, or plain bytes with ?raw=
    GET  /v1/workers
    GET  /v1/cluster
    errors                      {"error": {"code", "message", "field"}}

Jobs of every family are seen here. ``docs/http-api.md`` is the reference.
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
from hostler.ids import is_uuid
from hostler.jobs import SUBMIT_ITEMS_MAX, Job, JobQuery, JobSpec, Progress
from hostler.lifecycle import State
from hostler.shape import job_shape, worker_shape
from http_gateway import bodies, job_json, log_stream
from http_gateway.api import Api, coded_error, json_response
from http_gateway.batching import Submitter
from http_gateway.models import JobItem, Request, Seconds, job_item, validated

LONG_POLL_S_MAX = 60.0
WAIT_S_MAX = 600.0
LEAST_WAIT_S = 0.001  # to the coordinator 0 means without end
STOP_WAIT_S = 30.0
SLICE_ITEMS = 250  # validated at a stretch, before others have their turn
LARGE_BODIES_MAX = 8  # bodies over `bodies.BODY_BYTES_MAX` held at once
PAGE_ITEMS_MAX = 1000

_STATES = {state.word: state for state in State}
_SIGNALS = {number.name: int(number) for number in signal.Signals}
_SIGNAL_MAX = int(signal.SIGRTMAX)
_NOT_NOW = (Unavailable, Overloaded, DeadlineExceeded)


class Submission(Request):
    """The body of POST /v1/jobs; its items are validated one by one."""

    jobs: list[object]


class WaitBody(Request):
    """The body of POST /v1/jobs/wait."""

    ids: Annotated[list[str], Field(max_length=SUBMIT_ITEMS_MAX)]
    timeout: Annotated[float, Field(ge=0)] = LONG_POLL_S_MAX


class StopBody(Request):
    """The body of POST /v1/jobs/{id}/stop; it may be empty."""

    grace: Seconds | None = None


class SignalBody(Request):
    """The body of POST /v1/jobs/{id}/signal."""

    signal: str | int


class Native:
    """The endpoints of ``/v1``."""

    def __init__(self, client: Client, submitter: Submitter, closing: asyncio.Event) -> None:
        self._client = client
        self._submitter = submitter
        self._closing = closing
        self._large_bodies = 0

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
                web.post("/jobs/{id}/stop", self.stop),
                web.post("/jobs/{id}/signal", self.signal),
                web.get("/jobs/{id}/log", self.log, allow_head=False),
                web.get("/workers", self.workers),
                web.get("/cluster", self.cluster),
            ),
            render_error=coded_error,
        )

    async def submit(self, request: web.Request) -> web.Response:
        """Submit jobs; each is answered in its place with its id or with what is wrong with it.

        With ?wait=S those that finish within S seconds are answered with their end.
        """
        body = validated(Submission, await self._read_batch(request))
        if len(body.jobs) > SUBMIT_ITEMS_MAX:
            raise TooLarge(f"{len(body.jobs)} jobs; at most {SUBMIT_ITEMS_MAX} at once", field="jobs")
        key = _header_key(request, body.jobs)
        items: list[JobItem | InvalidRequest] = []
        for start in range(0, len(body.jobs), SLICE_ITEMS):
            items += map(job_item, body.jobs[start : start + SLICE_ITEMS])
            await asyncio.sleep(0)
        if key and isinstance(items[0], JobItem):
            items[0] = _with_key(items[0], key)
        specs = [item.spec() for item in items if isinstance(item, JobItem)]
        wait_s = _seconds(request, "wait", LONG_POLL_S_MAX)
        answers = iter(await (self._run(specs, wait_s) if wait_s else self._accept(specs)))
        results = [item if isinstance(item, InvalidRequest) else next(answers) for item in items]
        return json_response({"jobs": [job_json.answer_json(result) for result in results]})

    async def find(self, request: web.Request) -> web.Response:
        """List jobs in pages, oldest first unless asked otherwise."""
        page = await self._client.find(_query(request))
        return json_response(job_json.page_json(page))

    async def wait(self, request: web.Request) -> web.Response:
        """Wait until each of many jobs has finished, or until the time is over."""
        body = validated(WaitBody, await bodies.read_json(request))
        pending = dict.fromkeys(map(_job_id, body.ids))
        timeout_s = max(LEAST_WAIT_S, min(body.timeout, WAIT_S_MAX))
        ended = []
        if pending:
            async for progress in self._client.wait(list(pending), timeout_s=timeout_s):
                if progress.state is State.FINISHED and progress.id in pending:
                    del pending[progress.id]
                    ended.append(job_json.progress_json(progress))
        return json_response({"jobs": ended, "pending": list(pending)})

    async def get(self, request: web.Request) -> web.Response:
        """Show a job; with ?wait=S as soon as it has finished, or after S seconds as it stands."""
        name = _job_id(request.match_info["id"])
        wait_s = _seconds(request, "wait", LONG_POLL_S_MAX)
        job = await self._client.get(name)
        if wait_s and job.state is not State.FINISHED:
            found = await self._client.wait_one(name, timeout_s=wait_s)
            job = found or await self._client.get(name)
        return json_response(job_shape(job))

    async def stop(self, request: web.Request) -> web.Response:
        """Stop a job: 200 with the receipt once nothing of it is left, 202 when that takes too long."""
        name = _job_id(request.match_info["id"])
        raw = await bodies.read(request, bytes_max=bodies.BODY_BYTES_MAX)
        body = validated(StopBody, bodies.parse(raw)) if raw.strip() else StopBody()
        job = await self._client.stop(name, grace_s=body.grace, wait_s=STOP_WAIT_S)
        return json_response(job_shape(job), status=200 if job.state is State.FINISHED else 202)

    async def signal(self, request: web.Request) -> web.Response:
        """Send a signal to the main process of a running job, and show the job."""
        name = _job_id(request.match_info["id"])
        body = validated(SignalBody, await bodies.read_json(request))
        await self._client.signal(name, _signal_number(body.signal))
        return json_response(job_shape(await self._client.get(name)))

    async def log(self, request: web.Request) -> web.StreamResponse:
        """Send the log of a job's attempt, as events or as plain bytes."""
        job = await self._client.get(_job_id(request.match_info["id"]))
        asked = _log_request(request, job)
        raw = request.query.get("raw", "")
        if not raw:
            return await log_stream.send_events(request, self._client, job, asked, self._closing)
        if raw not in log_stream.RAW_KINDS:
            raise InvalidRequest("raw is out, err or both", field="raw")
        kinds = log_stream.RAW_KINDS[raw]
        return await log_stream.send_bytes(request, self._client, job, asked, self._closing, kinds=kinds)

    async def workers(self, _: web.Request) -> web.Response:
        """List every worker the coordinator knows."""
        workers = await self._client.workers()
        return json_response({"workers": [worker_shape(worker) for worker in workers]})

    async def cluster(self, _: web.Request) -> web.Response:
        """Show what the coordinator says of itself."""
        return json_response(job_json.cluster_json(await self._client.describe()))

    async def _read_batch(self, request: web.Request) -> object:
        small = (request.content_length or bodies.BATCH_BYTES_MAX) <= bodies.BODY_BYTES_MAX
        if small:
            return await bodies.read_json(request)
        if self._large_bodies >= LARGE_BODIES_MAX:
            raise Overloaded("too many large submissions arrive at once; try again in a second", retry_after_s=1.0)
        self._large_bodies += 1
        try:
            return await bodies.read_json(request, bytes_max=bodies.BATCH_BYTES_MAX)
        finally:
            self._large_bodies -= 1

    async def _accept(self, specs: list[JobSpec]) -> list[str | HostlerError]:
        """Submit; when nothing was accepted for a reason that passes, that is the answer to the whole."""
        return _unless_refused(await self._submitter.submit(specs))

    async def _run(self, specs: list[JobSpec], wait_s: float) -> list[str | Progress | HostlerError]:
        """Submit and wait for the ends, in one call of its own."""
        return _unless_refused(await self._client.submit_and_wait(specs, wait_s=wait_s))


Answers = TypeVar("Answers", list[str | HostlerError], list[str | Progress | HostlerError])


def _unless_refused(answers: Answers) -> Answers:
    if answers and isinstance(answers[0], _NOT_NOW) and all(isinstance(a, _NOT_NOW) for a in answers):
        raise answers[0]
    return answers


def _header_key(request: web.Request, jobs: list[object]) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if not key:
        return ""
    if len(jobs) != 1:
        raise InvalidRequest(
            "the header Idempotency-Key goes with exactly one job; give each item its key", field="key"
        )
    return _encodable(key, "Idempotency-Key")


def _with_key(item: JobItem, key: str) -> JobItem | InvalidRequest:
    if item.key and item.key != key:
        return InvalidRequest("key and the header Idempotency-Key differ", field="key")
    return item.model_copy(update={"key": key})


def _encodable(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} is not UTF-8", field=name) from None
    return text


def _job_id(text: str) -> str:
    if not is_uuid(text):
        raise JobNotFound("a job's id is a uuid in lower case, and this is none")
    return text


def _parameter(request: web.Request, name: str) -> str:
    return _encodable(request.query.get(name, ""), name)


def _known_parameters(request: web.Request, *names: str) -> None:
    for name in request.query:
        if name not in names:
            raise InvalidRequest(f"there is no parameter {name[:100]!r} here; there are {', '.join(names)}", field=name)


def _query(request: web.Request) -> JobQuery:
    _known_parameters(request, "state", "name", "owner", "family", "worker", "workload", "order", "limit", "after")
    states = []
    for word in ",".join(request.query.getall("state", ())).split(","):
        if word and word not in _STATES:
            raise InvalidRequest(f"state is one of {', '.join(_STATES)}", field="state")
        if word:
            states.append(_STATES[word])
    order = request.query.get("order", "oldest")
    if order not in ("oldest", "newest"):
        raise InvalidRequest("order is oldest or newest: which job comes first", field="order")
    limit = _parameter(request, "limit") or "100"
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 5 and 1 <= int(limit) <= PAGE_ITEMS_MAX):
        raise InvalidRequest(f"limit is a number from 1 to {PAGE_ITEMS_MAX}", field="limit")
    return JobQuery(
        states=tuple(states),
        name=_parameter(request, "name"),
        owner=_parameter(request, "owner"),
        family=_parameter(request, "family"),
        worker=_parameter(request, "worker"),
        limit=int(limit),
        after=_parameter(request, "after"),
        newest_first=order == "newest",
        workload=_parameter(request, "workload"),
    )


def _seconds(request: web.Request, name: str, most_s: float) -> float:
    _known_parameters(request, name)
    text = request.query.get(name) or "0"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:  # NaN too
        raise InvalidRequest(f"{name} is a number of seconds", field=name)
    return min(seconds, most_s)


def _signal_number(asked: str | int) -> int:
    if isinstance(asked, str):
        name = asked.upper()
        number = _SIGNALS.get(name if name.startswith("SIG") else f"SIG{name}", 0)
    else:
        number = asked
    if not 1 <= number <= _SIGNAL_MAX:
        raise InvalidRequest(f"signal is a name such as SIGINT, or a number from 1 to {_SIGNAL_MAX}", field="signal")
    return number


def _log_request(request: web.Request, job: Job) -> log_stream.LogRequest:
    _known_parameters(request, "from", "follow", "stage", "attempt", "raw")
    stage, attempt = (_count(request, name) for name in ("stage", "attempt"))
    follow = request.query.get("follow", "").lower()
    if follow not in ("", "0", "1", "false", "true"):
        raise InvalidRequest("follow is true or false", field="follow")
    # A browser's EventSource repeats its URL and tells by this header how far it had come.
    name = "Last-Event-ID" if request.headers.get("Last-Event-ID") else "from"
    text = request.headers.get("Last-Event-ID") or request.query.get("from") or "0"
    place = log_stream.parse_place(text, stage=stage, attempt=attempt, name=name)
    if place.stage > job.stage or place.attempt > job.attempt:
        raise JobNotFound(f"job {job.id} has no attempt {place.attempt} of stage {place.stage}")
    return log_stream.LogRequest(place=place, follow=follow in ("1", "true"))


def _count(request: web.Request, name: str) -> int:
    text = request.query.get(name) or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidRequest(f"{name} is a number", field=name)
    return int(text)
