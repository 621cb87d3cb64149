"""Streams that are open when their key is gone: they end, and nobody else's do."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from coordinator.rpc import guard
from hostler.client import Client
from hostler.errors import Unauthenticated
from hostler.v1 import jobs_pb2
from tests.access.calls import OPEN_S, end_after_reading, start
from tests.support.builders import a_spec
from tests.support.fake_worker import FakeWorker

PROMISED_S = 30.0
SOON_S = 10.0
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than outside tests."""
    assert guard.SWEEP_S < PROMISED_S / 2
    monkeypatch.setattr(guard, "SWEEP_S", 0.05)


async def follow_everything(channel: Any, key: str, job: str) -> list[Any]:
    """Every kind of stream that stays open, on a running job."""
    feed = channel.stream_stream("/hostler.v1.Jobs/Feed")(timeout=60, metadata=(("x-api-key", key),))
    await feed.write(jobs_pb2.FeedRequest(id=job).SerializeToString())
    return [feed, *follow(channel, key, job)]


def follow(channel: Any, key: str, job: str) -> list[Any]:
    """Those of them of which a job may have several: who feeds it takes its input over from whoever did."""
    return [
        start(channel, "Jobs/Watch", key, timeout_s=60),
        start(channel, "Jobs/Wait", key, timeout_s=60, ids=[job]),
        start(channel, "Jobs/ReadLog", key, timeout_s=60, id=job, follow=True),
        start(channel, "Jobs/ReadOutput", key, timeout_s=60, id=job, path="out"),
    ]


@pytest.fixture
async def running(local: Client, worker: FakeWorker) -> AsyncIterator[str]:
    """A running job that reads its standard input, of ada's."""
    made = await local.access.create_key("first", owner="ada", scopes=["developer"])
    spec = a_spec()
    job = await local.submit_one(replace(spec, work=replace(spec.work, stdin=True)), principal=f"key:{made.key.id}")
    (key,) = await worker.takes()
    await worker.report_started(key)
    yield job


async def test_a_revoked_key_ends_every_open_stream_of_its_own(port: Any, local: Client, running: str) -> None:
    """With the same status as a new call; the streams of another key go on."""
    gone = await local.access.create_key("gone", owner="ada", scopes=["developer"])
    good = await local.access.create_key("good", owner="ada", scopes=["developer"])
    streams = await follow_everything(port, gone.text, running)
    others = follow(port, good.text, running)
    ends = [asyncio.create_task(end_after_reading(stream, stream=True)) for stream in streams]
    await asyncio.sleep(OPEN_S)  # nothing ends by itself meanwhile
    assert not any(end.done() for end in ends)

    await local.access.revoke_key(gone.key.id)

    async with asyncio.timeout(SOON_S):
        assert {(await end).code for end in ends} == {UNAUTHENTICATED}
    assert not any(other.done() for other in others)
    for other in others:
        other.cancel()


async def test_an_expired_key_ends_its_streams(port: Any, local: Client, running: str) -> None:
    """Nobody has to revoke it."""
    made = await local.access.create_key("short", owner="ada", scopes=["developer"], expires_in_s=1.5)
    watch = start(port, "Jobs/Watch", made.text, timeout_s=60)

    async with asyncio.timeout(SOON_S):
        assert (await end_after_reading(watch, stream=True)).code is UNAUTHENTICATED


async def test_a_stream_for_somebody_ends_when_his_key_is_gone(local: Client, running: str) -> None:
    """Also on a gateway's connection, whose own right stays."""
    made = await local.access.create_key("of a caller", owner="ada", scopes=["viewer"])

    async def follow() -> None:
        async for _ in local.read_log(running, follow=True, principal=f"key:{made.key.id}"):
            pass

    following = asyncio.create_task(follow())
    await asyncio.sleep(OPEN_S)
    assert not following.done()
    await local.access.revoke_key(made.key.id)

    async with asyncio.timeout(SOON_S):
        with pytest.raises(Unauthenticated):
            await following
    assert await local.get(running)


async def test_a_long_stop_ends_too(port: Any, local: Client, running: str) -> None:
    """Every call that waits is one that is open."""
    made = await local.access.create_key("stopper", owner="ada", scopes=["developer"])
    stop = start(port, "Jobs/Stop", made.text, timeout_s=60, id=running, wait_s=50)
    await asyncio.sleep(OPEN_S)
    assert not stop.done()

    await local.access.revoke_key(made.key.id)

    async with asyncio.timeout(SOON_S):
        assert await stop.code() is UNAUTHENTICATED
