"""``GET /v1/jobs/{id}/log``: events with positions, plain bytes, resumption, and what happens when things end."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hostler.client import Client
from hostler.frames import ERR, GAP, HEADER_BYTES, OUT, gap_payload
from hostler.jobs import Job, LogStatus
from hostler.settings import load
from http_gateway import live_streams
from http_gateway.app import make_app, serve
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator, finished
from tests.gateway.test_native import UNKNOWN, submitted

AT = "2026-09-21T14:13:20.000000Z"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; a comment has the name ``:``."""

    name: str
    id: str
    content: Any


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Read server-sent events as a browser does."""
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text.startswith(":"):
            yield Event(":", "", text[1:].strip())
        elif text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
            fields = {}


async def read(gateway: Caller, path: str, **options: Any) -> list[Event]:
    """Read a whole stream."""
    async with gateway.session.get(gateway.url + path, **options) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        return [event async for event in events_of(response)]


async def with_log(gateway: Caller, coordinator: FakeCoordinator, *frames: tuple[int, bytes]) -> str:
    """Make a finished job with a log."""
    job = await submitted(gateway)
    await coordinator.write(job, *frames)
    await coordinator.move(job, finished)
    return job


async def test_a_log_comes_as_out_err_gap_and_end_with_positions_as_ids(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The id is STAGE.ATTEMPT.POSITION, that behind the event; bytes that are no UTF-8 come in base64."""
    frames = ((OUT, b"one\n"), (ERR, "zwei ä\r\n".encode()), (OUT, b"\xff\x00"), (GAP, gap_payload(5, 6)))
    job = await with_log(gateway, coordinator, *frames)

    events = await read(gateway, f"/v1/jobs/{job}/log")

    ends, at = [], 0
    for _, payload in frames:
        at += HEADER_BYTES + len(payload)
        ends.append(f"0.1.{at}")
    assert events == [
        Event("out", ends[0], {"at": AT, "text": "one\n"}),
        Event("err", ends[1], {"at": AT, "text": "zwei ä\r\n"}),
        Event("out", ends[2], {"at": AT, "base64": base64.b64encode(b"\xff\x00").decode()}),
        Event("gap", ends[3], {"at": AT, "dropped": 11, "out": 5, "err": 6}),
        Event("end", ends[3], {"status": "complete", "bytes": 15, "lost_bytes": 0}),
    ]


async def test_a_reader_resumes_at_any_id_it_has_seen(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """By ``from``, by Last-Event-ID (which wins), and by the position alone."""
    job = await with_log(gateway, coordinator, *((OUT, b"%d\n" % n) for n in range(10)))
    path = f"/v1/jobs/{job}/log"
    whole = await read(gateway, path)

    for seen in range(len(whole)):
        rest = whole[seen + 1 :]
        at = whole[seen].id
        assert [e.id for e in (await read(gateway, f"{path}?from={at}"))[:-1]] == [e.id for e in rest[:-1]]
        header = {"Last-Event-ID": at}
        assert (await read(gateway, f"{path}?from=0", headers=header))[:-1] == rest[:-1]
        assert (await read(gateway, f"{path}?from={at.split('.')[2]}"))[:-1] == rest[:-1]


@pytest.mark.parametrize(
    "query",
    ["from=x", "from=-1", "from=1.2", "from=1e3", "from=%s" % (10**19), "follow=maybe", "raw=all", "stage=x", "f=1"],
)
async def test_a_log_parameter_that_means_nothing_is_400(
    gateway: Caller, coordinator: FakeCoordinator, query: str
) -> None:
    """As JSON: the stream has not begun."""
    job = await with_log(gateway, coordinator)

    assert (await gateway.get(f"/v1/jobs/{job}/log?{query}")).status == 400


async def test_an_attempt_that_is_not_there_is_404(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """And so is a job that is not there."""
    job = await with_log(gateway, coordinator)

    for path in (f"/v1/jobs/{job}/log?attempt=2", f"/v1/jobs/{job}/log?stage=1", f"/v1/jobs/{UNKNOWN}/log"):
        assert (await gateway.get(path)).status == 404


async def test_follow_goes_on_until_the_log_is_complete(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Each event comes when it is written; without ``follow`` the stream ends with what is there."""
    job = await submitted(gateway)
    await coordinator.write(job, (OUT, b"a"))
    now = await read(gateway, f"/v1/jobs/{job}/log")
    async with gateway.session.get(f"{gateway.url}/v1/jobs/{job}/log?follow=true") as response:
        events = events_of(response)
        first = await anext(events)
        await coordinator.write(job, (ERR, b"b"))
        second = await anext(events)
        await coordinator.move(job, finished)
        rest = [event async for event in events]

    assert [e.name for e in now] == ["out", "end"]
    assert now[-1].content["status"] == "arriving"
    assert (first.content["text"], second.name) == ("a", "err")
    assert [(e.name, e.content["status"]) for e in rest] == [("end", "complete")]


async def test_a_quiet_stream_says_that_it_lives(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a comment, every 15 seconds; here, sooner."""
    monkeypatch.setattr(live_streams, "PING_S", 0.02)
    job = await submitted(gateway)

    async with gateway.session.get(f"{gateway.url}/v1/jobs/{job}/log?follow=1") as response:
        assert await anext(events_of(response)) == Event(":", "", "ping")


async def test_a_lost_rest_is_said_at_the_end(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Loss is never silent."""
    job = await with_log(gateway, coordinator, (OUT, b"abc"))
    await coordinator.move(job, lambda j: replace(j, log_status=LogStatus.LOST, log_lost_bytes=77))

    events = await read(gateway, f"/v1/jobs/{job}/log")

    assert events[-1].content == {"status": "lost", "bytes": 3, "lost_bytes": 77}


async def test_a_log_that_expired_says_so(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """As events by their end; plain bytes would look like an empty log."""
    job = await submitted(gateway)
    await coordinator.move(job, lambda j: replace(finished(j), log_status=LogStatus.EXPIRED, log_position=100))

    events = await read(gateway, f"/v1/jobs/{job}/log?follow=1")
    assert [(event.name, event.content) for event in events] == [
        ("end", {"status": "expired", "bytes": 0, "lost_bytes": 0})
    ]
    async with gateway.session.get(f"{gateway.url}/v1/jobs/{job}/log?raw=out") as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (404, "file_not_found")
        assert "its time was over" in error["message"]


@pytest.mark.parametrize(("raw", "body"), [("out", b"a\xffc"), ("err", b"B\n"), ("both", b"aB\n\xffc")])
async def test_plain_bytes_are_the_bytes_and_nothing_else(
    gateway: Caller, coordinator: FakeCoordinator, raw: str, body: bytes
) -> None:
    """What bytes cannot say is in the headers."""
    job = await with_log(
        gateway, coordinator, (OUT, b"a"), (ERR, b"B\n"), (GAP, gap_payload(5, 6)), (OUT, b"\xff"), (OUT, b"c")
    )

    async with gateway.session.get(f"{gateway.url}/v1/jobs/{job}/log?raw={raw}") as response:
        assert response.content_type == "application/octet-stream"
        assert response.headers["Hostler-Log-Status"] == "complete"
        assert response.headers["Hostler-Dropped-Bytes"] == "0"
        assert await response.read() == body


async def test_a_long_log_comes_back_whole(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """In many chunks; also while it is followed."""
    pieces = [bytes([n % 251]) * 40_000 for n in range(200)]
    job = await with_log(gateway, coordinator, *((OUT, piece) for piece in pieces))

    for query in ("raw=out", "raw=both&follow=1"):
        async with gateway.session.get(f"{gateway.url}/v1/jobs/{job}/log?{query}") as response:
            assert await response.read() == b"".join(pieces)


async def test_a_reader_that_leaves_frees_the_coordinators_stream(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """At once, not when the next byte of output comes."""
    job = await submitted(gateway)

    async with gateway.session.get(f"{gateway.url}/v1/jobs/{job}/log?follow=1") as response:
        assert response.status == 200
        await _until_readers(coordinator, 1)
        response.close()
    await _until_readers(coordinator, 0)


async def test_a_follower_survives_a_restart_of_the_coordinator(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It goes on at its position: nothing twice, nothing left out."""
    job = await submitted(gateway)
    await coordinator.write(job, (OUT, b"a"))
    async with gateway.session.get(f"{gateway.url}/v1/jobs/{job}/log?raw=out&follow=1") as response:
        first = await response.content.readexactly(1)
        await coordinator.stop()
        await coordinator.write(job, (OUT, b"b"))
        await coordinator.move(job, finished)
        await coordinator.start()
        rest = await response.content.read()

    assert first + rest == b"ab"


@pytest.mark.parametrize("lost_bytes", [10, 0])
async def test_a_stream_without_an_end_breaks_off_when_the_log_is_lost_meanwhile(
    gateway: Caller, coordinator: FakeCoordinator, lost_bytes: int
) -> None:
    """Plain bytes must never look like the whole when they are not; 0: nobody knows how many are missing."""
    job = await submitted(gateway)
    await coordinator.write(job, (OUT, b"a"))

    def lose(found: Job) -> Job:
        return replace(finished(found), log_status=LogStatus.LOST, log_lost_bytes=lost_bytes)

    async with gateway.session.get(f"{gateway.url}/v1/jobs/{job}/log?raw=out&follow=1") as response:
        assert await response.content.readexactly(1) == b"a"
        await coordinator.move(job, lose)
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()


async def test_a_gateway_that_ends_closes_its_streams_promptly_and_without_an_end(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """A browser then comes back by itself; plain bytes break off."""
    async with Client(coordinator.address) as client, aiohttp.ClientSession() as session:
        async with serve(make_app(client, load(data_dir=tmp_path)), "127.0.0.1", 0) as url:
            job = await submitted(Caller(url, session))
            await coordinator.write(job, (OUT, b"a"))
            events = await session.get(f"{url}/v1/jobs/{job}/log?follow=1")
            plain = await session.get(f"{url}/v1/jobs/{job}/log?follow=1&raw=both")
            assert await plain.content.readexactly(1) == b"a"
            began = asyncio.get_running_loop().time()
        took_s = asyncio.get_running_loop().time() - began
        names = [event.name async for event in events_of(events)]
        with pytest.raises(aiohttp.ClientError):
            await plain.content.read()
        events.close()
        plain.close()

    assert names == ["out"]
    assert took_s < 2.0


async def test_another_method_on_a_log_is_405(gateway: Caller) -> None:
    """HEAD too: it would follow without a reader."""
    async with gateway.session.head(f"{gateway.url}/v1/jobs/{UNKNOWN}/log") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET")


async def _until_readers(coordinator: FakeCoordinator, number: int) -> None:
    async with asyncio.timeout(10):
        while coordinator.readers != number:  # noqa: ASYNC110  # a plain counter, in one place
            await asyncio.sleep(0.01)
