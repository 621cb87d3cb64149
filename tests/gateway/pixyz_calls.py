"""Calls of the PiXYZ API for tests: a gateway with settings of its own, forms, and jobs of the family."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from hostler.client import Client
from hostler.jobs import Job
from hostler.settings import load
from hostler.workloads import Workload
from http_gateway.app import make_app, serve
from http_gateway.callers import UNSAID
from tests.gateway.conftest import Answer, Caller
from tests.gateway.fake_coordinator import FakeCoordinator

UNKNOWN = "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"
SLEEP = Workload(name="sleep", documentation="Sleep for a while.", argv=("sleep", "1"))
SCRIPT = b"from pixyz_worker.script import *\n\ndef main(pc, params):\n    return 1\n"
BOUNDARY = "-----------------------------b"

Field = tuple[str, bytes] | tuple[str, bytes, str]


def envelope(code: int, message: str, details: str | None) -> dict[str, Any]:
    """The document's form of an error."""
    return {"detail": {"code": code, "message": message, "details": details}}


def multipart(*fields: Field) -> bytes:
    """A form out of (name, content) and (name, content, file name)."""
    body = b""
    for name, content, *filename in fields:
        more = f'; filename="{filename[0]}"' if filename else ""
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


async def post_form(gateway: Caller, *fields: Field, path: str = "/jobs", **headers: str) -> Answer:
    """POST a form in multipart."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **headers}
    return await gateway.call("POST", path, data=io.BytesIO(multipart(*fields)), headers=headers)


async def a_job(gateway: Caller, coordinator: FakeCoordinator, becomes: Any = None, **fields: str) -> str:
    """Submit a job of the process sleep, let it become what *becomes* says, and return its uuid."""
    coordinator.workloads.add(SLEEP)
    coordinator.on_submit = becomes or (lambda job: job)
    sent = {"process": "sleep", **fields}
    answer = await post_form(gateway, *((name, text.encode()) for name, text in sent.items()))
    assert answer.status == 200, answer.text
    uuid = answer.json["uuid"]
    assert isinstance(uuid, str)
    return uuid


def the_job(coordinator: FakeCoordinator) -> Job:
    """The one job that was accepted."""
    (job,) = coordinator.jobs.values()
    return job


@asynccontextmanager
async def open_gateway(
    coordinator: FakeCoordinator, tmp_path: Path, *, secured: bool = False, **settings: Any
) -> AsyncIterator[Caller]:
    """A gateway with settings of its own; a *secured* one asks everybody for a key."""
    async with (
        Client(coordinator.address, principal=UNSAID) as client,
        serve(make_app(client, load(data_dir=tmp_path, **settings), secured=secured), "127.0.0.1", 0) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Caller(url, session)
