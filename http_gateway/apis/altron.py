"""The Altron API: jobs that are a title, a description and a priority, and replies to Discord messages.

    POST   /subprocess/job/create      {"title", "description", "priority"}  -> the same with "id" and "created_at"
    GET    /subprocess/job/get_status  ?job_id=  -> {"id", "status"}
    GET    /subprocess/job/get_result  ?job_id=  -> {"id", "status", "text", "images"}
    DELETE /subprocess/job/terminate   ?job_id=  -> {"id", "status"}
    POST   /discord/message            [{"sender", "text", "image"}, ...]    -> {"sender", "text", "image"}
    GET    /discord/ping               -> "pong"
    errors                             {"error"}

At the root and under /altron. The document names no program: a job runs the workload of the setting
``altron_workload``, a reply that of ``altron_reply_workload``; never a command out of a request. What
the document leaves open is settled in ``docs/apis/altron.md``. Images are text that is handed on;
nothing is fetched.
"""

import asyncio
from contextlib import suppress
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hostler.client import Client
from hostler.clock import SystemClock
from hostler.errors import (
    ErrorCode,
    HostlerError,
    InternalError,
    InvalidRequest,
    JobNotFound,
    WorkloadNotFound,
)
from hostler.ids import is_uuid
from hostler.jobs import NAME_CHARACTERS_MAX, PRIORITY_MAX, Job, JobSpec, Work
from hostler.lifecycle import Outcome, State
from hostler.settings import Settings
from hostler.shape import time_shape
from http_gateway import bodies, job_outputs
from http_gateway.api import Api, json_response
from http_gateway.batching import Submitter
from http_gateway.callers import principal_of
from http_gateway.large_bodies import LargeBodies
from http_gateway.large_params import with_params
from http_gateway.operations import (
    ANY,
    TEXT,
    UUID,
    WHOLE,
    described,
    documented,
    either,
    fields,
    fields_and,
    json_body,
    listed,
    one_of,
    or_null,
    some_of,
)
from http_gateway.raw_json import is_list, is_text, raw_values

FAMILY = "altron"
SENDER = "Altron"
MESSAGES_MAX = 200
COALESCED_BYTES_MAX = 8 * 1024  # of a job's parameters; larger ones are submitted in a call of their own
STOP_WAIT_S = 30.0  # for the proof that nothing is left
REPLY_GRACE_S = 1.0  # between SIGTERM and SIGKILL of a reply that nobody waits for any more
REPLY_STOP_WAIT_S = 3.0  # for the proof of that
REPLY_LIMITS_LATER_S = 5.0  # a reply's own limits end it so long after we would have: what is late is ours to say

# The document knows 400 and 500. Kept apart: an unknown job, a body over the limit, and "not now".
STATUSES = {
    ErrorCode.KEY_CONFLICT: 500,
    ErrorCode.NOT_RUNNING: 500,
    ErrorCode.NOT_FINISHED: 500,
    ErrorCode.DEADLINE_EXCEEDED: 500,
}
RUNNING = {State.RUNNING, State.STOPPING}
STATUS_WORDS = {Outcome.SUCCEEDED: "completed", Outcome.STOPPED: "terminated"}


def _whole(value: object) -> object:
    # JSON has one kind of number: 7.0 is 7. True and "7" are no numbers, which the strict model says.
    return int(value) if isinstance(value, float) and value.is_integer() else value


class JobBody(BaseModel):
    """The process job to create."""

    model_config = ConfigDict(strict=True, frozen=True)

    title: str
    description: str
    priority: Annotated[int, BeforeValidator(_whole), Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)]
    workload: str = ""


class Message(BaseModel):
    """One Discord message."""

    model_config = ConfigDict(strict=True, frozen=True)

    sender: str
    text: str
    image: str | None = None


STATUS = one_of("pending", "running", "completed", "failed", "terminated")
JOB_ID = {"job_id": TEXT, "id": described(TEXT, "the same as job_id")}
MESSAGE = fields_and(fields(sender=TEXT, text=TEXT), image=or_null(TEXT))
WRAPPED = either(MESSAGE, fields(message=MESSAGE), fields(messaage=MESSAGE))
MESSAGES = either(listed(WRAPPED), fields(messages=listed(WRAPPED)))


class Altron:
    """The endpoints, in the document's order."""

    def __init__(self, client: Client, submitter: Submitter, large_bodies: LargeBodies, settings: Settings) -> None:
        self._client = client
        self._submitter = submitter
        self._workload = settings.altron_workload
        self._reply_workload = settings.altron_reply_workload
        self._reply_wait_s = settings.altron_reply_wait_s
        self._large_bodies = large_bodies

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name=FAMILY,
            prefixes=("", "/altron"),
            owns=("/subprocess", "/discord", "/altron"),
            routes=(
                web.post("/subprocess/job/create", self.create),
                web.get("/subprocess/job/get_status", self.get_status),
                web.get("/subprocess/job/get_result", self.get_result),
                web.delete("/subprocess/job/terminate", self.terminate),
                web.post("/discord/message", self.message),
                web.get("/discord/ping", self.ping),
            ),
            statuses=STATUSES,
        )

    @documented(
        fields(id=UUID, title=TEXT, description=TEXT, priority=WHOLE, created_at=TEXT),
        body=json_body(JobBody, a_job={"title": "Ship it", "description": "Build.\nTest.\nShip.", "priority": 5}),
        refuses=(404,),
    )
    async def create(self, request: web.Request) -> web.Response:
        """Create a new process job."""
        body = await bodies.read_json(request)
        if isinstance(body, dict) and "job" in body:
            body = body["job"]
        asked = _validated(JobBody, body, "")
        principal = principal_of(request)
        if asked.workload:
            await self._check_workload(asked.workload, principal)
        params = {"title": asked.title, "description": asked.description, "priority": asked.priority}
        spec = JobSpec(
            work=Work(),
            workload=asked.workload or self._workload,
            params=msgspec.json.encode(params).decode(),
            name=asked.title[:NAME_CHARACTERS_MAX],
            priority=asked.priority,
            family=FAMILY,
            principal=principal,
        )
        created_at = time_shape(SystemClock().wall_us())
        job = await self._submit(spec, named=bool(asked.workload))
        return json_response({"id": job, **params, "created_at": created_at})

    @documented(fields(id=UUID, status=STATUS), query=JOB_ID, refuses=(404,))
    async def get_status(self, request: web.Request) -> web.Response:
        """Get the status of a process job."""
        job = await self._find(_asked_id(request), principal_of(request))
        return json_response({"id": job.id, "status": _status(job)})

    @documented(fields(id=UUID, status=STATUS, text=ANY, images=ANY), query=JOB_ID, refuses=(404,))
    async def get_result(self, request: web.Request) -> web.Response:
        """Get the result of a process job; before its end there is none yet, and nothing waits for it."""
        job = await self._find(_asked_id(request), principal_of(request))
        text: str | msgspec.Raw | None = ""
        images: list[str] | msgspec.Raw | None = []
        headers: dict[str, str] = {}
        if job.state is State.FINISHED:
            found = await job_outputs.with_result(self._client, job, principal=principal_of(request))
            headers |= found.headers
            result = _result(found.job)
            text, images = result.get("text"), result.get("images")
            if not is_text(text):
                output = await job_outputs.read_text(self._client, job, principal=principal_of(request))
                text = output.text
                headers |= output.headers
            if not is_list(images):
                images = await job_outputs.read_images(self._client, job, principal=principal_of(request))
        return json_response({"id": job.id, "status": _status(job), "text": text, "images": images}, headers=headers)

    @documented(
        fields(id=UUID, status=STATUS),
        query=JOB_ID,
        body=json_body(some_of(job_id=TEXT, id=TEXT), required=False),
        refuses=(404,),
    )
    async def terminate(self, request: web.Request) -> web.Response:
        """Terminate a process job, and answer when nothing of it is left."""
        name = _asked_id(request, await _id_of_body(request))
        job = await self._client.stop(
            _checked(name), wait_s=STOP_WAIT_S, family=FAMILY, principal=principal_of(request)
        )
        if job.state is not State.FINISHED:
            raise InternalError(job_outputs.why_still_stopping(job, again="terminate it again"))
        return json_response({"id": job.id, "status": _status(job)})

    @documented(
        fields(sender=TEXT, text=ANY, image=ANY),
        body=json_body(MESSAGES, one_message=[{"sender": "ada", "text": "2 * (3 + 4)", "image": None}]),
    )
    async def message(self, request: web.Request) -> web.Response:
        """Send a list of Discord messages to Altron, and wait for its reply."""
        principal = principal_of(request)
        async with self._large_bodies.json_of(request) as body:
            raw = msgspec.json.encode([message.model_dump() for message in _messages(body)])
            spec = await with_params(self._client, await self._reply_spec(principal), raw, principal=principal)
        job = await self._run_reply(spec)
        if job.outcome is not Outcome.SUCCEEDED:
            why = await job_outputs.why_failed(self._client, job, principal=principal)
            raise InternalError(f"the reply workload {self._reply_workload!r} failed: {why}")
        found = await job_outputs.with_result(self._client, job, principal=principal)
        if why := job_outputs.why_no_result(found):
            raise InternalError(f"the reply workload {self._reply_workload!r} left no usable result: {why}")
        said = {name: value for name, value in _result(found.job).items() if is_text(value)}
        text: str | msgspec.Raw | None = said.get("text")
        headers: dict[str, str] = {}
        if text is None:
            output = await job_outputs.read_text(self._client, job, principal=principal)
            text, headers = output.text, output.headers
        reply = {"sender": said.get("sender", SENDER), "text": text, "image": said.get("image")}
        return json_response(reply, headers=headers)

    @documented(one_of("pong"))
    async def ping(self, _: web.Request) -> web.Response:
        """Answer ``"pong"``."""
        return json_response("pong")

    # Jobs

    async def _submit(self, spec: JobSpec, *, named: bool) -> str:
        """Submit a job and return its id; an unknown workload is the caller's fault only when the caller named it."""
        large = len(spec.params) > COALESCED_BYTES_MAX
        try:
            return await (
                self._client.submit_one(spec, principal=spec.principal) if large else self._submitter.submit_one(spec)
            )
        except WorkloadNotFound as error:
            if named:
                raise _no_workload(spec.workload) from error
            raise InternalError(
                f"the workload {spec.workload!r}, which the settings name, is not registered"
            ) from error

    async def _check_workload(self, name: str, principal: str) -> None:
        try:
            workload = await self._client.workloads.get(name, principal=principal)
        except WorkloadNotFound as error:
            raise _no_workload(name) from error
        if not workload.shown_to(FAMILY):
            raise _no_workload(name)

    async def _find(self, name: str, principal: str) -> Job:
        return await self._client.get(_checked(name), family=FAMILY, principal=principal)

    # Replies

    async def _reply_spec(self, principal: str) -> JobSpec:
        """A reply's job without its parameters. It ends by itself, also when no gateway is left to stop it."""
        limit_s = self._reply_wait_s + REPLY_LIMITS_LATER_S
        own_s = 0.0
        with suppress(WorkloadNotFound):  # its submission says so
            own_s = (await self._client.workloads.get(self._reply_workload, principal=principal)).timeout_s
        return JobSpec(
            work=Work(timeout_s=min(limit_s, own_s or limit_s)),
            workload=self._reply_workload,
            name="reply",
            family=FAMILY,
            principal=principal,
            start_within_s=limit_s,
        )

    async def _run_reply(self, spec: JobSpec) -> Job:
        """Run a job to its end and return it. However else this is left, the job is told to stop.

        Raises:
            InternalError: it did not end in time.
        """
        submitting = asyncio.create_task(self._submit(spec, named=False))
        over = False
        try:
            # A caller who hangs up must not cut the submission off: the job would run and nobody knew its id.
            name = await asyncio.shield(submitting)
            async for _ in self._client.wait([name], timeout_s=self._reply_wait_s, principal=spec.principal):
                over = True
        finally:
            stopped = over or await self._stop_reply(submitting, spec.principal)
        if over:
            return await self._client.get(name, family=FAMILY, principal=spec.principal)
        raise InternalError(
            f"the reply workload {self._reply_workload!r} did not answer within the deadline of "
            f"{self._reply_wait_s:g} s; its job {name} {'was' if stopped else 'is being'} stopped"
        )

    async def _stop_reply(self, submitting: asyncio.Task[str], principal: str) -> bool:
        """Stop the job of a reply that nobody waits for any more; whether nothing of it is left, as far as is known."""
        with suppress(HostlerError):
            name = await submitting
            job = await self._client.stop(
                name, grace_s=REPLY_GRACE_S, wait_s=REPLY_STOP_WAIT_S, family=FAMILY, principal=principal
            )
            return job.state is State.FINISHED
        return False


Model = TypeVar("Model", bound=BaseModel)


def _validated(model: type[Model], value: object, place: str) -> Model:
    """Check a part of a body; *place* says where it is, as ``messages[3].``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = place + ".".join(map(str, first["loc"]))
    said = str(first["msg"])
    match first["type"]:
        case "missing":
            said = f"{field} is missing"
        case "model_type":
            said = f"{place.rstrip('.') or 'the body'}: a JSON object is expected here"
        case _:
            said = f"{field}: {said[:1].lower()}{said[1:]}"
    raise InvalidRequest(said, field=field)


def _messages(body: object) -> list[Message]:
    """Read the messages in every form that the document can be taken to mean."""
    if isinstance(body, dict) and "messages" in body:
        body = body["messages"]
    if not isinstance(body, list):
        raise InvalidRequest("a list of messages is expected here", field="messages")
    if not body:
        raise InvalidRequest("there are no messages to answer", field="messages")
    if len(body) > MESSAGES_MAX:
        raise InvalidRequest(f"{len(body)} messages; at most {MESSAGES_MAX}", field="messages")
    return [_validated(Message, _unwrapped(item, number), f"messages[{number}].") for number, item in enumerate(body)]


def _unwrapped(item: object, number: int) -> object:
    # "messaage" is how the document spells it.
    if isinstance(item, dict) and item.keys() == {"message", "messaage"}:
        raise InvalidRequest(
            f"messages[{number}]: message and messaage are the same, and both are there", field="messages"
        )
    if isinstance(item, dict) and len(item) == 1:
        return item.get("message", item.get("messaage", item))
    return item


def _asked_id(request: web.Request, of_body: object = None) -> str:
    """The id that a request names.

    Raises:
        InvalidRequest: it names none.
    """
    name = request.query.get("job_id") or request.query.get("id") or of_body
    if name is None or name == "":
        raise InvalidRequest("job_id is missing", field="job_id")
    if not isinstance(name, str):
        raise InvalidRequest("job_id: a string is expected here", field="job_id")
    return name


async def _id_of_body(request: web.Request) -> object:
    if request.query.get("job_id") or request.query.get("id"):
        return None  # it is named already, and a body is not looked at
    raw = await bodies.read(request, bytes_max=bodies.BODY_BYTES_MAX)
    if not raw.strip():
        return None
    body = bodies.parse(raw)
    if not isinstance(body, dict):
        raise InvalidRequest("a JSON object is expected here", field="job_id")
    return body.get("job_id", body.get("id"))


def _checked(name: str) -> str:
    if not is_uuid(name):
        raise JobNotFound("there is no such job; its id is the one that create has answered")
    return name


def _no_workload(name: str) -> InvalidRequest:
    return InvalidRequest(f"there is no workload {name[:100]!r} for this API", field="workload")


def _status(job: Job) -> str:
    if job.state is State.FINISHED:
        return STATUS_WORDS.get(job.outcome, "failed")
    return "running" if job.state in RUNNING else "pending"


def _result(job: Job) -> dict[str, msgspec.Raw]:
    """The values of a job's result when it is a JSON object, as they were written; else none."""
    return raw_values(job.end.result if job.end is not None else b"")
