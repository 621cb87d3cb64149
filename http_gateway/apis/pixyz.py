"""The PiXYZ API: processes, and jobs made of a process or of a script, with files.

    GET  /                                    the welcome line, as text
    GET  /processes                           {"processes": [name, ...]}
    GET  /processes/{process_name}            {"doc": text}
    GET  /jobs                                {"jobs": [JobState, ...]}
    POST /jobs                                a form -> 200 JobState, status SENT
    GET  /jobs/{job_uuid}                     JobState
    GET  /jobs/{job_uuid}/details             JobDetails
    GET  /jobs/{job_uuid}/outputs             {"outputs": [name, ...]}
    GET  /jobs/{job_uuid}/outputs/archive     every output file, as one zip
    GET  /jobs/{job_uuid}/outputs/{file_path} one output file
    GET  /backend/get_task_meta/{job_uuid}    TaskMeta
    POST /dev/callback                        prints an object -> null
    errors                                    {"detail": {"code", "message", "details"}}

At the root and under /pixyz, each path with or without a slash at its end. /metrics, which the
document has too, is no family's. A process is a workload that is shown to this family. The key is
looked at before anything else, the body above all. ``docs/apis/pixyz.md`` says what the document
leaves open.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TypeVar

import msgspec
from aiohttp import web

from hostler import logs
from hostler.client import Client
from hostler.errors import ErrorCode, FileNotFound, InvalidRequest, JobNotFound, NotFinished, WorkloadNotFound
from hostler.files_client import Reading, StoredFile
from hostler.job_checks import is_workspace_path
from hostler.jobs import File, Job, JobQuery, JobSpec
from hostler.lifecycle import State
from hostler.script_source import read_script
from hostler.settings import Settings
from hostler.workloads import NAME, Workload
from http_gateway import bodies, file_answers, job_outputs, pixyz_form, pixyz_shapes
from http_gateway.api import FIXED_HEADERS, Api, HttpRefused, Refusal, json_response
from http_gateway.batching import Submitter
from http_gateway.callers import principal_of
from http_gateway.operations import NULL, OBJECT, TEXT, Answer, Body, documented, fields, json_body, listed, raw
from http_gateway.pixyz_form import CUSTOM, FAMILY, Form
from http_gateway.streamed_json import StreamedJson
from http_gateway.uploads import invite, let_wait

PAGE_ITEMS = 1000
CALLBACK_BYTES_MAX = 64 * 1024
FILE = {200: raw(), 206: raw(text="the range that was asked for"), 304: Answer(media=(), text="it is what you have")}

# The messages of the document's table of errors. What is not in it is a plain text.
MESSAGES = {
    400: "Bad Request",
    404: "Not Found",
    422: "Validation Error",
    425: "Too Early",
    500: "Internal Server Error",
}
# Refusals that never reach an endpoint: of the router, and of callers without a key.
EDGE_TEXTS = {
    "not_found": "Not Found",
    "method_not_allowed": "Method Not Allowed",
    ErrorCode.UNAUTHENTICATED: "Invalid token",
}

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}")
Found = TypeVar("Found")


class Pixyz:
    """The endpoints, in the document's order."""

    def __init__(self, client: Client, submitter: Submitter, settings: Settings) -> None:
        self._client = client
        self._submitter = submitter
        self._version = settings.pixyz_version
        self._queues = settings.pixyz_queues
        self._upload_bytes_max = settings.upload_bytes_max

    def api(self) -> Api:
        """Return the family."""
        routes = (
            web.get("", self.root),
            web.get("/processes", self.list_processes),
            web.get("/processes/{process_name}", self.process),
            web.get("/jobs", self.list_jobs),
            web.post("/jobs", self.create_job, expect_handler=let_wait),
            web.get("/jobs/{job_uuid}", self.job),
            web.get("/jobs/{job_uuid}/details", self.details),
            web.get("/jobs/{job_uuid}/outputs", self.outputs),
            # Before the next one, which would take it for a file of this name.
            web.get("/jobs/{job_uuid}/outputs/archive", self.archive),
            web.get("/jobs/{job_uuid}/outputs/{file_path:[\\s\\S]+}", self.output),
            web.get("/backend/get_task_meta/{job_uuid}", self.task_meta),
            web.post("/dev/callback", self.callback),
        )
        return Api(
            name=FAMILY,
            prefixes=("", "/pixyz"),
            owns=("/jobs", "/processes", "/backend", "/dev", "/pixyz"),
            routes=tuple(spelling for route in routes for spelling in _both_spellings(route)),
            render_error=_render_error,
            error_schema=pixyz_shapes.ERROR,
            challenge="x-api-key",
        )

    # Root

    @documented(raw("text/plain"))
    async def root(self, _: web.Request) -> web.Response:
        """Retrieve the root of the API."""
        return web.Response(text=f"Welcome to PiXYZ API v{self._version}!", headers=FIXED_HEADERS)

    # Processes

    @documented(fields(processes=listed(TEXT)))
    async def list_processes(self, request: web.Request) -> web.Response:
        """Retrieve the list of all available scheduler processes."""
        workloads = await self._client.workloads.list(family=FAMILY, principal=principal_of(request))
        return json_response({"processes": [workload.name for workload in workloads]})

    @documented(fields(doc=TEXT))
    async def process(self, request: web.Request) -> web.Response:
        """Retrieve documentation for a specific process."""
        name = request.match_info["process_name"]
        workload = await self._workload(name, principal_of(request))
        if not workload.documentation:
            raise WorkloadNotFound(f"Process {workload.name!r} has no documentation")
        return json_response({"doc": f"Process {workload.name!r} documentation:\n\n{workload.documentation}"})

    # Jobs

    @documented(fields(jobs=listed(pixyz_shapes.JOB_STATE)))
    async def list_jobs(self, request: web.Request) -> web.StreamResponse:
        """List the statuses of all registered jobs, oldest first."""
        query = JobQuery(family=FAMILY, limit=PAGE_ITEMS)
        principal = principal_of(request)
        page = await self._client.find(query, principal=principal)
        answer = StreamedJson(request)  # there may be very many: few pages of them are held at a time
        await answer.add(b'{"jobs":[' + _inner(page.jobs))
        while page.next:
            page = await self._client.find(replace(query, after=page.next), principal=principal)
            if page.jobs:
                await answer.add(b"," + _inner(page.jobs))
        await answer.add(b"]}")
        return await answer.end()

    @documented(
        pixyz_shapes.JOB_STATE,
        body=Body(schema=pixyz_form.FORM, media=("multipart/form-data", "application/x-www-form-urlencoded")),
        refuses=(422,),
    )
    async def create_job(self, request: web.Request) -> web.Response:
        """Create a new job."""
        limit = self._upload_bytes_max
        await invite(request, bytes_max=limit)
        principal = principal_of(request)

        async def put(pieces: AsyncIterator[bytes]) -> StoredFile:
            return await self._client.files.put(pieces, principal=principal)

        spec = await self._spec(await pixyz_form.read_form(request, put, bytes_max=limit), principal)
        try:
            job = await self._submitter.submit_one(spec)
        except WorkloadNotFound as error:  # it was removed meanwhile
            raise InvalidRequest(_no_process(spec.workload), field="process") from error
        return json_response(
            pixyz_shapes.job_state(Job(id=job, spec=spec, state=State.QUEUED), status=pixyz_shapes.SENT)
        )

    @documented(pixyz_shapes.JOB_STATE, refuses=(422,))
    async def job(self, request: web.Request) -> web.Response:
        """Retrieve the status of a specific job."""
        return json_response(pixyz_shapes.job_state(await self._job(request)))

    @documented(pixyz_shapes.JOB_DETAILS, refuses=(422,))
    async def details(self, request: web.Request) -> web.Response:
        """Retrieve detailed information about a specific job."""
        found = await job_outputs.with_result(self._client, await self._job(request), principal=principal_of(request))
        return json_response(pixyz_shapes.job_details(found.job), headers=found.headers)

    @documented(fields(outputs=listed(TEXT)), refuses=(422,))
    async def outputs(self, request: web.Request) -> web.Response:
        """List all output files generated by a specific job."""
        uuid = _uuid(request)
        outputs = await _of_job(uuid, self._client.files.outputs(uuid, family=FAMILY, principal=principal_of(request)))
        return json_response({"outputs": pixyz_shapes.top_names(outputs.files)})

    @documented(FILE | {200: raw(text="a zip")}, refuses=(416, 422, 425))
    async def archive(self, request: web.Request) -> web.StreamResponse:
        """Retrieve all output files as an archive."""
        uuid = _uuid(request)
        try:
            principal = principal_of(request)
            async with self._client.files.read_archive(uuid, family=FAMILY, principal=principal) as reading:
                return await file_answers.send_archive(request, reading, name=f"{uuid}.zip")
        except JobNotFound:
            raise JobNotFound(_no_share(uuid)) from None
        except NotFinished:
            raise NotFinished(f"TaskNotCompletedError: Job '{uuid}' is not finished yet") from None

    @documented(FILE, refuses=(416, 422))
    async def output(self, request: web.Request) -> web.StreamResponse:
        """Retrieve a specific output file."""
        uuid, path = _uuid(request), request.match_info["file_path"]
        principal = principal_of(request)
        await self._check_path(uuid, path, principal)

        def open_file(offset: int, length: int) -> AbstractAsyncContextManager[Reading]:
            return self._client.files.read_output(
                uuid, path, offset=offset, length=length, family=FAMILY, principal=principal
            )

        try:
            return await file_answers.send_file(request, open_file, name=path.rpartition("/")[2])
        except JobNotFound:
            raise JobNotFound(_no_share(uuid)) from None
        except (FileNotFound, InvalidRequest):
            raise FileNotFound(_no_file(path)) from None

    # Backend

    @documented(pixyz_shapes.TASK_META, refuses=(422,))
    async def task_meta(self, request: web.Request) -> web.Response:
        """Retrieve metadata for a backend task."""
        found = await job_outputs.with_result(self._client, await self._job(request), principal=principal_of(request))
        return json_response(pixyz_shapes.task_meta(found.job), headers=found.headers)

    # Development

    @documented(NULL, body=json_body(OBJECT, anything={"job": "4c5ced1c", "progress": 40}), refuses=(422,))
    async def callback(self, request: web.Request) -> web.Response:
        """Helper endpoint to test callbacks: print the items in the console."""
        try:
            infos = await bodies.read_json(request, bytes_max=CALLBACK_BYTES_MAX)
        except bodies.NotJson as error:
            raise _unprocessable(error.message) from None
        if not isinstance(infos, dict):
            raise _unprocessable("the body is no JSON object")
        logs.get().info("callback.received", infos=infos)
        return json_response(None)

    # What they share

    async def _job(self, request: web.Request) -> Job:
        uuid = _uuid(request)
        try:
            return await self._client.get(uuid, family=FAMILY, principal=principal_of(request))
        except JobNotFound:
            raise JobNotFound(f"Job '{uuid}' does not exist") from None

    async def _workload(self, name: str, principal: str) -> Workload:
        """Raises WorkloadNotFound, in the words of the real service."""
        try:
            if NAME.fullmatch(name):
                workload = await self._client.workloads.get(name, principal=principal)
                if workload.shown_to(FAMILY):
                    return workload
        except WorkloadNotFound:
            pass
        raise WorkloadNotFound(_no_process(name))

    async def _spec(self, form: Form, principal: str) -> JobSpec:
        """Make the job that a form asks for. Raises InvalidRequest."""
        params, given = pixyz_form.parse_params(form.params), pixyz_form.parse_config(form.config)
        if form.process != CUSTOM:
            try:
                await self._workload(form.process, principal)
            except WorkloadNotFound as error:
                raise InvalidRequest(error.message, field="process") from None
            config = pixyz_form.read_config(given)
            return pixyz_form.process_spec(form, params, config, self._labels(config.queue), principal)
        if form.script is None:
            raise InvalidRequest("'custom' process requires a 'script' file", field="script")
        config = pixyz_form.read_config(given)
        facts = await asyncio.to_thread(read_script, form.script.source, config.entrypoint)
        config = pixyz_form.read_config(pixyz_form.with_defaults(given, facts.defaults))
        stored = await self._client.files.put_bytes(form.script.source, principal=principal)
        script = File(path=f"script/{form.script.name}", digest=stored.digest, size_bytes=stored.size_bytes)
        return pixyz_form.script_spec(form, params, config, self._labels(config.queue), script, principal)

    def _labels(self, queue: str) -> dict[str, str]:
        return self._queues.get(queue, {})

    async def _check_path(self, uuid: str, path: str, principal: str) -> None:
        """Refuse a path that tries to leave the outputs, and what can be the name of no file."""
        if not pixyz_shapes.leaves_folder(path):
            if _shown(path) != path or not is_workspace_path(path):
                raise FileNotFound(_no_file(path))
            return
        # A file may have a name that looks like a trick, if the job has made it so.
        listed = await _of_job(uuid, self._client.files.outputs(uuid, family=FAMILY, principal=principal))
        if all(file.path != path for file in listed.files):
            raise InvalidRequest(f"SharePathInvalidError: Invalid file path 'outputs/{_shown(path)}'")


def _both_spellings(route: web.RouteDef) -> tuple[web.RouteDef, ...]:
    if route.path.endswith("+}"):
        return (route,)
    return route, web.RouteDef(route.method, route.path + "/", route.handler, route.kwargs)


async def _of_job(uuid: str, asked: Awaitable[Found]) -> Found:
    try:
        return await asked
    except JobNotFound:
        raise JobNotFound(_no_share(uuid)) from None


def _inner(jobs: tuple[Job, ...]) -> bytes:
    """The states of some jobs, as the inside of a JSON array."""
    return msgspec.json.encode([pixyz_shapes.job_state(job) for job in jobs])[1:-1]


def _uuid(request: web.Request) -> str:
    """Return the job's id in the form we write. Raises HttpRefused (422)."""
    text = request.match_info["job_uuid"]
    if _UUID.fullmatch(text) is None:
        raise _unprocessable("job_uuid is no valid UUID")
    digits = text.replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _unprocessable(message: str) -> HttpRefused:
    return HttpRefused(422, "invalid_request", message)


def _no_process(name: str) -> str:
    return f"Invalid process '{_shown(name)}'"


def _no_share(uuid: str) -> str:
    return f"SharePathNotFoundError: Job '{uuid}' does not exist"


def _no_file(path: str) -> str:
    return f"SharePathNotFoundError: File 'outputs/{_shown(path)}' not found"


def _shown(text: str) -> str:
    """Return *text* as it can stand in an answer, whatever bytes it was made of."""
    return text[:1000].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _render_error(refusal: Refusal) -> object:
    if refusal.code in EDGE_TEXTS:
        return {"detail": EDGE_TEXTS[refusal.code]}
    if refusal.status == 503:
        return {"detail": f"Service not available: {refusal.message}"}
    if refusal.status in MESSAGES:
        envelope = {"code": refusal.status, "message": MESSAGES[refusal.status], "details": refusal.message or None}
        return {"detail": envelope}
    return {"detail": refusal.message}
