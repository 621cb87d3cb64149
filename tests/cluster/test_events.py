"""Readers of events come back while coordinator and gateway are killed; each has every transition once, in order.

They come by gRPC, by server-sent events as a browser does (all jobs, and one job), and by ``jobs --watch`` in a pipe.
At the end what each has is compared with the whole.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from hostler.client import Client
from hostler.endpoint import coordinator_address, read_gateway
from hostler.jobs import JobEvent, JobQuery
from tests.cluster.real_cluster import RealCluster, shell, until

JOBS = 120
KILLS = 6
PATIENCE_S = 120.0  # a busy machine takes long to start programs


async def by_grpc(cluster: RealCluster, seen: list[int]) -> None:
    """A patient client: it comes back by itself."""
    async with Client(coordinator_address(cluster.settings), patience_s=PATIENCE_S) as client:
        async for event in client.watch(after=0):
            seen.append(event.number)


async def by_http(cluster: RealCluster, path: str, seen: list[int]) -> None:
    """As a browser: with the id of the last event it saw, to whichever gateway there is; until ``end``."""
    async with aiohttp.ClientSession() as session:
        while True:
            headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with session.get(f"{read_gateway(cluster.directory)}{path}", headers=headers) as answer:
                    if answer.status == 200 and await _read(answer, seen):
                        return
            await asyncio.sleep(0.05)


async def _read(answer: aiohttp.ClientResponse, seen: list[int]) -> bool:
    """Take what comes; says whether the stream told its end."""
    name = ""
    async for line in answer.content:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data" and name == "end":
            return True
        elif field == "data":
            seen.append(json.loads(value)["number"])
    return False


async def by_command(cluster: RealCluster, seen: list[int]) -> None:
    """``hostler jobs --watch``, which comes back to the coordinator by itself, and is killed itself now and then."""
    environment = os.environ | {"HOSTLER_DATA_DIR": str(cluster.directory)}
    while True:
        after = str(seen[-1] if seen else 0)
        argv = [sys.executable, "-m", "hostler.cli.main", "jobs", "--watch", "--json", "--after", after]
        process = await asyncio.create_subprocess_exec(
            *argv, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        try:
            for _ in range(200):
                line = await process.stdout.readline()
                if not line.endswith(b"\n"):
                    break
                seen.append(json.loads(line)["number"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def whole(cluster: RealCluster) -> list[JobEvent]:
    """Every transition there was."""
    return [event async for event in cluster.client.watch(once=True)]


@contextlib.asynccontextmanager
async def reading(*readers: "asyncio.Task[None]") -> AsyncIterator[None]:
    """End what reads with the body."""
    try:
        yield
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def in_its_middle(cluster: RealCluster, seen: dict[str, list[int]]) -> None:
    """Submit a part of the jobs; return when readers have had some of what happens to them, and not all."""
    before = {name: len(seen[name]) for name in ("grpc", "http")}
    await cluster.client.submit([shell("sleep 0.05") for _ in range(JOBS // KILLS)])

    async def some_seen() -> bool:
        return all(len(seen[name]) >= count + JOBS // KILLS for name, count in before.items())

    await until(some_seen, "as many transitions as there are new jobs", PATIENCE_S)


@pytest.mark.timeout(400)
async def test_every_reader_has_every_transition_once(cluster: RealCluster) -> None:
    """Also while the coordinator and the gateway are killed with SIGKILL in the middle of their streams."""
    await cluster.up(slots=4)
    one = await cluster.client.submit_one(shell("sleep 20; exit 3", retries=2))
    seen: dict[str, list[int]] = {name: [] for name in ("grpc", "http", "command", "one")}
    readers = [
        asyncio.create_task(by_grpc(cluster, seen["grpc"])),
        asyncio.create_task(by_http(cluster, "/v1/events?after=0", seen["http"])),
        asyncio.create_task(by_command(cluster, seen["command"])),
        asyncio.create_task(by_http(cluster, f"/v1/jobs/{one}/events", seen["one"])),
    ]
    async with reading(*readers):
        for kill in range(KILLS):
            await in_its_middle(cluster, seen)
            part = ("coordinator", "gateway")[kill % 2]
            cluster.end(part, signal.SIGKILL)
            cluster.start(part)
            if part == "coordinator":
                await cluster.connected(1)
            else:
                await cluster.gateway_again()
        await cluster.client.stop(one, grace_s=0)

        async def all_over() -> bool:
            pages = cluster.client.find_brief(JobQuery(filter="state != finished"))
            return not [job async for page in pages for job in page]

        await until(all_over, "the end of every job", PATIENCE_S)
        events = await whole(cluster)
        numbers = [event.number for event in events]

        async def all_seen() -> bool:
            return all(seen[name] and seen[name][-1] >= numbers[-1] for name in ("grpc", "http", "command"))

        await until(all_seen, "the last transition at every reader", PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            await readers[3]

    assert len({event.job for event in events}) == JOBS + 1
    for name in ("grpc", "http", "command"):
        assert seen[name] == numbers, name
    assert seen["one"] == [event.number for event in events if event.job == one]
