"""Calls of the Infernet API for tests: containers, requests, and gateways with callers of several addresses."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from hostler.client import Client
from hostler.jobs import Container, Job, PastAttempt
from hostler.lifecycle import Outcome, State
from hostler.settings import load
from hostler.workloads import Runtime, Workload
from http_gateway.app import make_app, serve
from http_gateway.callers import UNSAID
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import WORKER, FakeCoordinator, an_end, running

UNKNOWN = "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"
HELLO = "hello, world!, your input was: "


def container(name: str, **changes: Any) -> Workload:
    """A container of the family."""
    fields: dict[str, Any] = {
        "name": name,
        "runtime": Runtime.CONTAINER,
        "container": Container(image=f"example/{name}:1"),
        "documentation": f"The container {name}.\n\nMore about it.",
        "families": ("infernet",),
    }
    return Workload(**(fields | changes))


CONTAINERS = (
    container("echo"),
    container("inner", external=False),
    container("prover", proofs=True),
    container("fenced", allowed_networks=("10.0.0.0/8",)),
    container("open", allowed_networks=("10.0.0.0/8", "127.0.0.0/8", "nonsense")),
)


def a_request(*names: str, **changes: Any) -> dict[str, Any]:
    """A job request."""
    return {"containers": list(names or ("echo",)), "data": {"input": "x"}, **changes}


async def a_job(gateway: Caller, *names: str, **changes: Any) -> str:
    """Create a job and return its id."""
    answer = await gateway.post("/api/jobs", a_request(*names, **changes))
    assert answer.status == 200, answer.text
    assert set(answer.json) == {"id"}
    name: str = answer.json["id"]
    return name


async def the_result(gateway: Caller, name: str, **query: str) -> dict[str, Any]:
    """The one result of an id."""
    answer = await gateway.get("/api/jobs", params={"id": name, **query})
    assert (answer.status, len(answer.json)) == (200, 1), answer.text
    result: dict[str, Any] = answer.json[0]
    return result


def advanced(job: Job, *results: bytes, **digests: str) -> Job:
    """What becomes of a chain whose first stages have ended with these results; ``s0=digest`` is a stored one."""
    past = tuple(
        PastAttempt(
            stage=stage,
            attempt=1,
            worker=WORKER,
            outcome=Outcome.SUCCEEDED,
            end=an_end(result=result, result_digest=digests.get(f"s{stage}", "")),
        )
        for stage, result in enumerate(results)
    )
    made = running(job)
    return Job(id=job.id, spec=job.spec, state=State.RUNNING, stage=len(results), past=past, worker=made.worker)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that is reached from several addresses."""

    url: str
    sessions: dict[str, aiohttp.ClientSession]

    def caller(self, address: str = "127.0.0.1") -> Caller:
        """A caller whose connections come from *address*."""
        if address not in self.sessions:
            connector = aiohttp.TCPConnector(local_addr=(address, 0), family=socket.AF_INET)
            self.sessions[address] = aiohttp.ClientSession(connector=connector)
        return Caller(self.url, self.sessions[address])


@asynccontextmanager
async def open_gateway(
    coordinator: FakeCoordinator, tmp_path: Path, *, options: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Gateway]:
    """A gateway with settings of its own; *options* are those of the application."""
    async with (
        Client(coordinator.address, principal=UNSAID) as client,
        serve(make_app(client, load(data_dir=tmp_path, **settings), **(options or {})), "127.0.0.1", 0) as url,
    ):
        gateway = Gateway(url, {})
        try:
            yield gateway
        finally:
            for session in gateway.sessions.values():
                await session.close()
