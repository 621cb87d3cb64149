"""The native API's files and workloads, also below ``/v1``.

POST   /v1/files                           store the body's bytes -> {"digest", "size_bytes"}
GET    /v1/jobs/{id}/outputs               what a job has put out
GET    /v1/jobs/{id}/outputs/archive       all of it as one zip, once the job is over
GET    /v1/jobs/{id}/outputs/files/{path}  one file, with ranges and a tag; also while the job runs
GET    /v1/jobs/{id}/result                the JSON a job has left, however large; ?stage=N that of a stage
GET    /v1/workloads                       the newest version of each
POST   /v1/workloads                       register definitions, all or none
GET    /v1/workloads/{name}                one; ?version=N an older one
DELETE /v1/workloads/{name}                let no new job name it
errors                                     {"error": {"code", "message", "field"}}

``docs/http-api.md`` is the reference.
"""

from contextlib import AbstractAsyncContextManager

from aiohttp import web

from hostler.client import Client
from hostler.errors import FileNotFound, TooLarge, WorkloadNotFound
from hostler.files_client import Reading
from hostler.jobs import STAGES_MAX
from hostler.shape import outputs_shape, result_bytes, workload_shape
from hostler.stages import end_of_stage
from hostler.workloads import NAME
from http_gateway import native_answers as answers
from http_gateway import native_parameters as parameters
from http_gateway.api import CODED_ERROR, Api, coded_error, json_response
from http_gateway.callers import principal_of
from http_gateway.file_answers import send_archive, send_file
from http_gateway.large_bodies import LargeBodies
from http_gateway.native_bodies import Request, WorkloadItem, validated, workload_items
from http_gateway.operations import ANY, BYTES, OBJECT, Answer, Body, documented, json_body, raw, whole_between
from http_gateway.streamed_json import StreamedJson
from http_gateway.uploads import let_wait, pieces_of

WORKLOADS_MAX = 1000
VERSION_MAX = (1 << 31) - 1
FILE = {200: raw(), 206: raw(text="the range that was asked for"), 304: Answer(media=(), text="it is what you have")}
FILE_REFUSALS = (404, 416)


class WorkloadsBody(Request):
    """The body of POST /v1/workloads; its items are checked one by one."""

    workloads: list[object]


class NativeFiles:
    """The endpoints of ``/v1`` about files and workloads."""

    def __init__(self, client: Client, large_bodies: LargeBodies, *, upload_bytes_max: int) -> None:
        self._client = client
        self._upload_bytes_max = upload_bytes_max
        self._large_bodies = large_bodies

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name="native_files",
            prefixes=("/v1",),
            owns=(),  # what is below /v1 is the native API's
            routes=(
                web.post("/files", self.put, expect_handler=let_wait),
                web.get("/jobs/{id}/outputs", self.outputs),
                web.get("/jobs/{id}/outputs/archive", self.archive),
                web.get("/jobs/{id}/outputs/files/{path:[\\s\\S]+}", self.output),
                web.get("/jobs/{id}/result", self.result),
                web.get("/workloads", self.workloads),
                web.post("/workloads", self.apply),
                web.get("/workloads/{name}", self.workload),
                web.delete("/workloads/{name}", self.remove),
            ),
            render_error=coded_error,
            error_schema=CODED_ERROR,
        )

    @documented(
        {201: Answer(schema=answers.STORED, text="the bytes are on the disk")},
        body=Body(schema=ANY, media=(BYTES,), required=False),
    )
    async def put(self, request: web.Request) -> web.Response:
        """Store the body's bytes, whatever they are; jobs name them by their digest."""
        parameters.check_names(request)
        pieces = await pieces_of(request, bytes_max=self._upload_bytes_max)
        stored = await self._client.files.put(
            pieces, size_bytes=request.content_length or 0, principal=principal_of(request)
        )
        return json_response({"digest": stored.digest, "size_bytes": stored.size_bytes}, status=201)

    @documented(answers.OUTPUTS)
    async def outputs(self, request: web.Request) -> web.Response:
        """List what a job has put out, or what a running one has by now."""
        parameters.check_names(request)
        found = await self._client.files.outputs(parameters.job_id(request), principal=principal_of(request))
        return json_response(outputs_shape(found))

    @documented(FILE | {200: raw(text="a zip")}, refuses=(*FILE_REFUSALS, 425))
    async def archive(self, request: web.Request) -> web.StreamResponse:
        """Send every kept file as one zip."""
        parameters.check_names(request)
        job = parameters.job_id(request)
        async with self._client.files.read_archive(job, principal=principal_of(request)) as reading:
            return await send_archive(request, reading, name=f"{job}.zip")

    @documented(FILE, refuses=FILE_REFUSALS)
    async def output(self, request: web.Request) -> web.StreamResponse:
        """Send one file."""
        parameters.check_names(request)
        job, path, principal = parameters.job_id(request), parameters.output_path(request), principal_of(request)

        def open_file(offset: int, length: int) -> AbstractAsyncContextManager[Reading]:
            return self._client.files.read_output(job, path, offset=offset, length=length, principal=principal)

        return await send_file(request, open_file, name=path.rpartition("/")[2])

    @documented(
        Answer(text="any JSON, as the program has left it"),
        query={"stage": whole_between(0, STAGES_MAX)},
        refuses=(404,),
    )
    async def result(self, request: web.Request) -> web.StreamResponse:
        """Send the JSON that a job, or one stage of a chain, has left as its result."""
        parameters.check_names(request, "stage")
        principal = principal_of(request)
        job = await self._client.get(parameters.job_id(request), principal=principal)
        named = bool(request.query.get("stage"))
        end = end_of_stage(job, parameters.number(request, "stage", most=STAGES_MAX, otherwise=0) if named else None)
        if end is None or not result_bytes(end):
            raise FileNotFound(f"job {job.id} has left no result there" + (" yet" if end is None else ""))
        answer = StreamedJson(request)
        if not end.result_digest:
            await answer.add(end.result)
            return await answer.end()
        async with self._client.files.read(end.result_digest, principal=principal) as reading:
            async for piece in reading.pieces:
                await answer.add(piece)
            return await answer.end()

    @documented(answers.WORKLOADS)
    async def workloads(self, request: web.Request) -> web.Response:
        """List the newest version of every workload."""
        parameters.check_names(request)
        found = await self._client.workloads.list(principal=principal_of(request))
        return json_response({"workloads": [workload_shape(workload) for workload in found]})

    @documented(
        answers.APPLIED,
        body=json_body(
            WorkloadsBody,
            items={"workloads": WorkloadItem},
            a_command={"workloads": [{"name": "count", "argv": ["sh", "-c", "wc -l inputs/*"], "timeout_s": 60}]},
        ),
        refuses=(404,),
    )
    async def apply(self, request: web.Request) -> web.Response:
        """Register definitions, all or none."""
        parameters.check_names(request)
        async with self._large_bodies.json_of(request) as asked:
            body = validated(WorkloadsBody, asked)
            if len(body.workloads) > WORKLOADS_MAX:
                raise TooLarge(f"{len(body.workloads)} workloads; at most {WORKLOADS_MAX} at once", field="workloads")
            applied = await self._client.workloads.apply(
                workload_items(body.workloads), principal=principal_of(request)
            )
        results = [{"name": one.name, "version": one.version, "changed": one.changed} for one in applied]
        return json_response({"workloads": results})

    @documented(answers.WORKLOAD, query={"version": whole_between(0, VERSION_MAX)})
    async def workload(self, request: web.Request) -> web.Response:
        """Show one definition."""
        parameters.check_names(request, "version")
        version = parameters.number(request, "version", most=VERSION_MAX, otherwise=0)
        principal = principal_of(request)
        found = await self._client.workloads.get(_workload(request), version=version, principal=principal)
        return json_response(workload_shape(found))

    @documented(OBJECT)
    async def remove(self, request: web.Request) -> web.Response:
        """Let no new job name a workload; jobs that were accepted run on."""
        parameters.check_names(request)
        await self._client.workloads.remove(_workload(request), principal=principal_of(request))
        return json_response({})


def _workload(request: web.Request) -> str:
    name = request.match_info["name"]
    if NAME.fullmatch(name) is None:
        raise WorkloadNotFound("no workload can have this name", field="name")
    return name
