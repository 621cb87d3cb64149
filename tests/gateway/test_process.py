"""The gateway as a program: what it refuses to start with, what it publishes, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hostler.endpoint import read_gateway
from hostler.settings import load
from tests.gateway.fake_coordinator import FakeCoordinator

ROOT = Path(__file__).parents[2]


def arguments(data_dir: Path, **settings: Any) -> list[str]:
    """The command line that `up` uses."""
    given: dict[str, Any] = {"data_dir": data_dir, "http": "127.0.0.1:0", "log_format": "json"} | settings
    loaded = load(**given)
    return [sys.executable, "-m", "http_gateway", "--settings", loaded.to_json()]


@asynccontextmanager
async def running(command: list[str], **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A gateway that is killed at the end, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, **options
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def url_of(process: asyncio.subprocess.Process) -> str:
    """The URL that the gateway logs once it serves."""
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "gateway.started":
                url: str = event["url"]
                return url
    raise AssertionError("it ended before it served")


async def refusal_of(command: list[str]) -> str:
    """What a gateway that may not start says: a sentence, and what to do next; where its log is JSON, as an object."""
    async with running(command) as process, asyncio.timeout(30):
        out, err = await process.communicate()
        assert (process.returncode, out) == (2, b"")
        if err.startswith(b"{"):
            error = json.loads(err)["error"]
            assert error.keys() == {"code", "message", "hint"} and error["code"] == "invalid_request"
            return f"{error['message']}; {error['hint']}"
        sentence, following = err.decode().splitlines()
        assert sentence.startswith("hostler gateway: ") and following.startswith("  next: ")
        return f"{sentence}; {following.removeprefix('  next: ')}"


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("http", ["0.0.0.0:8080", "8080"])
async def test_a_bind_that_is_no_loopback_address_is_refused_with_what_to_do(
    tmp_path: Path, http: str, log_format: str
) -> None:
    """One sentence and what to do next on standard error, exit status 2."""
    assert "127.0.0.1:" in await refusal_of(arguments(tmp_path, http=http, log_format=log_format))


async def test_a_port_that_is_taken_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """As above."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = await refusal_of(arguments(tmp_path, http=f"127.0.0.1:{taken.getsockname()[1]}"))

    assert "address already in use" in said
    assert "--http 127.0.0.1:PORT" in said


async def test_settings_that_are_none_are_refused(tmp_path: Path) -> None:
    """As above."""
    assert "usage" in await refusal_of([sys.executable, "-m", "http_gateway", "--port", "1"])


async def test_the_loopback_address_it_listens_on_may_be_the_host_of_a_request_and_no_other_one(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """All of 127.0.0.0/8 can be listened on; whoever calls the published URL is heard."""
    command = arguments(tmp_path, coordinator=coordinator.address, http="127.0.0.2:0")
    async with running(command) as process, aiohttp.ClientSession() as session:
        url = await url_of(process)
        assert url.startswith("http://127.0.0.2:")
        assert await _health(session, url) == 200
        async with session.get(f"{url}/health", headers={"Host": "127.0.0.3"}) as response:
            assert response.status == 421


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_publishes_its_url_serves_and_ends_in_order_on_a_signal(
    coordinator: FakeCoordinator, tmp_path: Path, number: signal.Signals
) -> None:
    """Exit status 0, open streams closed promptly, nothing on standard output."""
    command = arguments(tmp_path / "data", coordinator=coordinator.address)
    async with running(command) as process, aiohttp.ClientSession() as session:
        url = await url_of(process)
        assert read_gateway(tmp_path / "data") == url
        async with session.post(f"{url}/v1/jobs", json={"jobs": [{"argv": ["true"]}]}) as response:
            job = (await response.json())["jobs"][0]["id"]
        async with session.get(f"{url}/v1/jobs/{job}/log?follow=1") as stream:
            process.send_signal(number)
            async with asyncio.timeout(3):
                assert b"event: end" not in await stream.read()
                out, err = await process.communicate()

    assert (process.returncode, out) == (0, b"")
    assert "gateway.stopped" in err.decode().splitlines()[-1]


async def test_on_the_coordinators_socket_it_needs_no_key_and_reads_none(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """There it speaks for local callers, which no key allows; a stale setting of the user must not take that away."""
    command = arguments(tmp_path, coordinator=coordinator.address, key_file=f"{tmp_path}/none")
    async with running(command) as process, aiohttp.ClientSession() as session:
        url = await url_of(process)
        async with session.get(f"{url}/v1/workers") as response:
            assert response.status == 200


async def test_at_an_address_a_key_file_of_no_use_is_refused(tmp_path: Path) -> None:
    """Also on loopback: there only its key lets a gateway speak for its callers."""
    said = await refusal_of(arguments(tmp_path, coordinator="127.0.0.1:7070", key_file=f"{tmp_path}/none"))

    assert "key_file" in said and "cannot be read" in said


async def test_at_an_address_without_a_key_it_does_not_start(tmp_path: Path) -> None:
    """Whoever called it would be taken for the user who runs it."""
    said = await refusal_of(arguments(tmp_path, coordinator="127.0.0.1:7070"))

    assert "needs key_file" in said and "data_dir" in said


async def test_the_end_of_the_parents_pipe_ends_it(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """However the parent ended."""
    reads, writes = os.pipe()
    try:
        command = arguments(tmp_path, coordinator=coordinator.address, parent_fd=reads)
        async with running(command, pass_fds=[reads]) as process:
            await url_of(process)
            os.close(writes)
            async with asyncio.timeout(10):
                await process.communicate()
            assert process.returncode == 0
    finally:
        os.close(reads)


async def test_without_a_coordinator_it_serves_and_says_so(tmp_path: Path) -> None:
    """503 until one is there: the order of starting does not matter."""
    command = arguments(tmp_path, coordinator=f"unix:{tmp_path}/later.sock")
    async with running(command) as process, aiohttp.ClientSession() as session:
        url = await url_of(process)
        async with session.get(f"{url}/health") as response:
            before = response.status
        later = FakeCoordinator(f"unix:{tmp_path}/later.sock")
        await later.start()
        try:
            async with asyncio.timeout(15):
                while (await _health(session, url)) != 200:  # noqa: ASYNC110  # only asking tells
                    await asyncio.sleep(0.1)
        finally:
            await later.stop()

    assert before == 503


async def _health(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(f"{url}/health") as response:
        return response.status
