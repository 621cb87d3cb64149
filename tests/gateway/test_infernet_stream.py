"""`POST /api/jobs/stream` of the Infernet node: the id alone, then the output as it comes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hostler.frames import ERR, OUT
from hostler.ids import is_uuid
from hostler.jobs import LogStatus
from hostler.lifecycle import Outcome, State
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator, finished
from tests.gateway.infernet_calls import CONTAINERS, a_request, open_gateway
from tests.support.waiting import eventually

PATH = "/api/jobs/stream"


@pytest.fixture(autouse=True)
def containers(coordinator: FakeCoordinator) -> None:
    """What the coordinator knows."""
    coordinator.workloads.add(*CONTAINERS)


@asynccontextmanager
async def streaming(
    gateway: Caller, *names: str, path: str = PATH, **changes: Any
) -> AsyncIterator[tuple[str, aiohttp.ClientResponse]]:
    """A stream whose id was read."""
    body = a_request(*names, **changes)
    async with gateway.session.post(gateway.url + path, json=body) as response:
        assert response.status == 200
        first, _ = await response.content.readchunk()
        name = first.decode().removesuffix("\n")
        assert is_uuid(name), first
        yield name, response


async def test_post_stream_is_200_and_the_id_of_the_job_then_its_output_as_it_comes(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Each piece when it is there, bytes as they are, standard output alone; the stream ends with the job."""
    for path in (PATH, "/infernet" + PATH):
        async with streaming(gateway, path=path) as (name, response):
            assert response.headers["Transfer-Encoding"] == "chunked"
            for piece in (b"one\n", b"\xff\x00\xfe", b"{}"):
                await coordinator.write(name, (ERR, b"noise"), (OUT, piece))
                assert await response.content.readany() == piece
            await coordinator.move(name, finished)
            assert await response.read() == b""
        assert coordinator.readers == 0


async def test_the_first_network_chunk_holds_only_the_id_line(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Whatever else were in it would become part of the id; also when the output is there at once."""
    coordinator.on_submit = lambda job: finished(job)
    body = json.dumps(a_request()).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
    for _ in range(5):
        coordinator.hold.clear()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + body)
        coordinator.hold.set()
        async with asyncio.timeout(20):
            read = await reader.readuntil(b"\r\n\r\n")
            assert read.startswith(b"HTTP/1.1 200 ")
            first = await reader.read(65536)
            size, _, rest = first.partition(b"\r\n")
            assert (int(size, 16), len(rest)) == (37, 39), first
            name = rest[:36].decode()
            assert (is_uuid(name), rest[36:]) == (True, b"\n\r\n")
            assert (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()


async def test_an_output_that_is_there_at_once_waits_until_the_id_was_taken(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """As the published client reads: the first piece of the network is the id."""

    def at_once(job: Any) -> Any:
        job = finished(job, result=b"")
        return replace(job, log_status=LogStatus.ARRIVING)

    coordinator.on_submit = at_once
    writing = asyncio.create_task(_write_when_accepted(coordinator, b"x" * 60_000))
    async with gateway.session.post(gateway.url + PATH, json=a_request()) as response:
        pieces = [piece async for piece in response.content.iter_any()]
    name = await writing
    assert pieces[0] == f"{name}\n".encode()
    assert b"".join(pieces[1:]) == b"x" * 60_000


async def _write_when_accepted(coordinator: FakeCoordinator, output: bytes) -> str:
    name = await coordinator.accepted.get()
    await coordinator.write(name, (OUT, output))
    await coordinator.move(name, lambda job: replace(job, log_status=LogStatus.COMPLETE))
    return name


async def test_only_the_first_container_runs_and_only_once(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It is told that its output is streamed; what was sent cannot be taken back, so nothing is tried again."""
    async with streaming(gateway, "echo", "inner", requires_proof=False) as (name, _):
        spec = coordinator.jobs[name].spec
        assert [stage.workload for stage in spec.stages] == ["echo"]
        assert (spec.family, spec.owner, spec.name, spec.retries) == ("infernet", "local", "echo", 0)
        assert spec.work.env == {
            "HOSTLER_SERVICE_SOURCE": "1",
            "HOSTLER_SERVICE_DESTINATION": "2",
            "HOSTLER_SERVICE_REQUIRES_PROOF": "false",
        }
        assert json.loads(spec.params) == {"input": "x"}
        await coordinator.move(name, finished)


async def test_after_a_container_failure_the_stream_simply_ends(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """The status is 200 still; the result says that it has failed."""
    async with streaming(gateway) as (name, response):
        await coordinator.write(name, (OUT, b"half"))
        await coordinator.move(name, lambda job: finished(job, Outcome.FAILED, exit_code=3, evidence="no more"))
        assert await response.read() == b"half"
    answer = await gateway.get("/api/jobs", params={"id": name})
    assert answer.json == [{"id": name, "status": "failed", "result": {"container": "echo", "error": "no more"}}]


async def test_a_caller_who_hangs_up_ends_the_job(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """As in the real node, where it ends the call of the container; here the job says so too."""
    async with streaming(gateway) as (name, response):
        await coordinator.write(name, (OUT, b"x"))
        response.close()
    await eventually(lambda: coordinator.jobs[name].state is State.FINISHED, "the job is stopped")
    assert coordinator.jobs[name].outcome is Outcome.STOPPED
    await eventually(lambda: coordinator.readers == 0, "nobody reads the log any more")


async def test_a_caller_who_hangs_up_while_the_job_is_submitted_ends_it_too(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Nobody knows its id."""
    coordinator.hold.clear()
    calling = asyncio.create_task(gateway.session.post(gateway.url + PATH, json=a_request()))
    await eventually(lambda: coordinator.submitting == 1, "the submission has left")
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    coordinator.hold.set()
    await eventually(lambda: any(job.outcome is Outcome.STOPPED for job in coordinator.jobs.values()), "it is stopped")


async def test_a_gateway_that_ends_breaks_the_stream_off_and_lets_the_job_run(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Jobs outlive the gateway, and half an output is not taken for the whole."""
    async with aiohttp.ClientSession() as session:  # its end is not to come before the gateway's
        async with open_gateway(coordinator, tmp_path) as gateway:
            response = await session.post(gateway.url + PATH, json=a_request())
            name = (await response.content.readany()).decode().strip()
            reading = asyncio.create_task(response.read())
            await eventually(lambda: coordinator.readers == 1, "the log is read")
        with pytest.raises(aiohttp.ClientError):
            await reading
    assert (coordinator.jobs[name].state, coordinator.graces) == (State.RUNNING, [])


async def test_a_restart_of_the_coordinator_is_bridged(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """The output goes on where it broke off."""
    async with streaming(gateway) as (name, response):
        await coordinator.write(name, (OUT, b"one "))
        assert await response.content.readany() == b"one "
        await coordinator.stop()
        await coordinator.write(name, (OUT, b"two"))
        await coordinator.start()
        await coordinator.move(name, finished)
        assert await response.read() == b"two"


async def test_an_output_whose_rest_is_lost_breaks_off(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It is not taken for the whole."""
    async with streaming(gateway) as (name, response):
        await coordinator.move(
            name,
            lambda job: replace(finished(job, Outcome.LOST), log_status=LogStatus.LOST, log_lost_bytes=7),
        )
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
