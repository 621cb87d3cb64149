"""The native API's files and workloads, also below ``/v1``.

POST   /v1/files                           store the body's bytes -> {"digest", "size_bytes"}
GET    /v1/jobs/{id}/outputs               what a job has put out
GET    /v1/jobs/{id}/outputs/archive       all of it as one zip, once the job is over
GET    /v1/jobs/{id}/outputs/files/{path}  one file, with ranges and a tag; also while the job runs
GET    /v1/workloads                       the newest version of each
POST   /v1/workloads                       register definitions, all or none
GET    /v1/workloads/{name}                one; ?version=N an older one
DELETE /v1/workloads/{name}                let no new job name it
errors                                     {"error": {"code", "message", "field"}}
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import PurePosixPath
from typing import Annotated

from aiohttp import web
from pydantic import Field

from hostler.client import Client
from hostler.errors import InvalidRequest, JobNotFound, TooLarge
from hostler.files_client import Reading
from hostler.ids import is_uuid
from hostler.shape import outputs_shape, workload_shape
from http_gateway import bodies
from http_gateway.api import Api, HttpRefused, coded_error, json_response
from http_gateway.file_answers import send_archive, send_file
from http_gateway.models import Request, WorkloadItem, validated

STALL_S = 60.0  # a body of which nothing comes for so long has been given up
WORKLOADS_MAX = 1000


class WorkloadsBody(Request):
    """The body of POST /v1/workloads."""

    workloads: Annotated[list[WorkloadItem], Field(max_length=WORKLOADS_MAX)]


class NativeFiles:
    """The endpoints of ``/v1`` about files and workloads."""

    def __init__(self, client: Client, *, upload_bytes_max: int) -> None:
        self._client = client
        self._upload_bytes_max = upload_bytes_max

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name="native_files",
            prefixes=("/v1",),
            owns=(),  # what is below /v1 is the native API's
            routes=(
                web.post("/files", self.put),
                web.get("/jobs/{id}/outputs", self.outputs),
                web.get("/jobs/{id}/outputs/archive", self.archive),
                web.get("/jobs/{id}/outputs/files/{path:.+}", self.output),
                web.get("/workloads", self.workloads),
                web.post("/workloads", self.apply),
                web.get("/workloads/{name}", self.workload),
                web.delete("/workloads/{name}", self.remove),
            ),
            render_error=coded_error,
        )

    async def put(self, request: web.Request) -> web.Response:
        """Store the body's bytes, whatever they are; jobs name them by their digest."""
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise HttpRefused(415, "unsupported_encoding", "send the body as it is, without Content-Encoding")
        most, length = self._upload_bytes_max, request.content_length or 0
        if most and length > most:
            raise TooLarge(f"the file has {length} bytes; at most {most}")
        stored = await self._client.files.put(_pieces(request, most), size_bytes=length)
        return json_response({"digest": stored.digest, "size_bytes": stored.size_bytes}, status=201)

    async def outputs(self, request: web.Request) -> web.Response:
        """List what a job has put out, or what a running one has by now."""
        return json_response(outputs_shape(await self._client.files.outputs(_job_id(request))))

    async def archive(self, request: web.Request) -> web.StreamResponse:
        """Send every kept file as one zip."""
        job = _job_id(request)
        async with self._client.files.read_archive(job) as reading:
            return await send_archive(request, reading, name=f"{job}.zip")

    async def output(self, request: web.Request) -> web.StreamResponse:
        """Send one file."""
        job, path = _job_id(request), request.match_info["path"]
        if "\ufffd" in path or any("\ud800" <= c <= "\udfff" for c in path):
            raise InvalidRequest("the path is not UTF-8", field="path")

        def open_file(offset: int, length: int) -> AbstractAsyncContextManager[Reading]:
            return self._client.files.read_output(job, path, offset=offset, length=length)

        return await send_file(request, open_file, name=PurePosixPath(path).name)

    async def workloads(self, _: web.Request) -> web.Response:
        """List the newest version of every workload."""
        found = await self._client.workloads.list()
        return json_response({"workloads": [workload_shape(workload) for workload in found]})

    async def apply(self, request: web.Request) -> web.Response:
        """Register definitions, all or none."""
        body = validated(WorkloadsBody, await bodies.read_json(request, bytes_max=bodies.BATCH_BYTES_MAX))
        applied = await self._client.workloads.apply(item.workload() for item in body.workloads)
        results = [{"name": a.name, "version": a.version, "changed": a.changed} for a in applied]
        return json_response({"workloads": results})

    async def workload(self, request: web.Request) -> web.Response:
        """Show one definition."""
        text = request.query.get("version", "0")
        if not (text.isascii() and text.isdecimal() and len(text) < 9):
            raise InvalidRequest("version is a number", field="version")
        return json_response(
            workload_shape(await self._client.workloads.get(request.match_info["name"], version=int(text)))
        )

    async def remove(self, request: web.Request) -> web.Response:
        """Let no new job name a workload; jobs that were accepted run on."""
        await self._client.workloads.remove(request.match_info["name"])
        return json_response({})


async def _pieces(request: web.Request, bytes_max: int) -> AsyncIterator[bytes]:
    """The body as it arrives.

    Raises:
        TooLarge: it is longer than *bytes_max* (0: no limit).
        InvalidRequest: it broke off.
        HttpRefused: nothing came for too long.
    """
    size = 0
    try:
        while True:
            async with asyncio.timeout(STALL_S):
                piece = await request.content.readany()
            if not piece:
                return
            size += len(piece)
            if bytes_max and size > bytes_max:
                raise TooLarge(f"the file is longer than {bytes_max} bytes")
            yield piece
    except TimeoutError:
        raise HttpRefused(408, "body_timeout", f"nothing of the body came for {STALL_S:.0f} s") from None
    except web.RequestPayloadError as error:
        raise InvalidRequest("the body broke off or its framing is wrong") from error


def _job_id(request: web.Request) -> str:
    text = request.match_info["id"]
    if not is_uuid(text):
        raise JobNotFound("a job's id is a uuid in lower case, and this is none")
    return text
