"""``GET /v1/events`` and ``GET /v1/jobs/{id}/events``: each transition once, resumed exactly; and filters of lists."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
import pytest

from http_gateway import live_streams
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator, finished
from tests.gateway.test_native import UNKNOWN, submitted

KINDS = ("queued", "assigned", "started", "ended")


class Event(NamedTuple):
    """One server-sent event, as a browser gets it."""

    name: str
    id: str  # the last one that was said, also by what is no event
    data: str


async def events_of(response: aiohttp.ClientResponse, last: str = "") -> AsyncIterator[Event]:
    """Read events by the rules of EventSource."""
    name, data = "", ""
    async for line in response.content:
        text = line.decode().rstrip("\n")
        field, _, value = text.partition(": ")
        if field == "id":
            last = value
        elif field == "event":
            name = value
        elif field == "data":
            data = value
        elif not text:
            if data:
                yield Event(name, last, data)
            else:
                yield Event("", last, "")
            name, data = "", ""


async def read(
    gateway: Caller, path: str, *, last: str = "", count: int = 0, begun: asyncio.Event | None = None
) -> list[Event]:
    """Read a stream to its end, or so many events of it; *begun* is set once the first one is there."""
    found: list[Event] = []
    headers = {"Last-Event-ID": last} if last else {}
    async with asyncio.timeout(20), gateway.session.get(gateway.url + path, headers=headers) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        async for event in events_of(response):
            if event.name:
                found.append(event)
                if begun is not None:
                    begun.set()
            if count and len(found) == count:
                break
    return found


async def reading_of(gateway: Caller, job: str) -> asyncio.Task[list[Event]]:
    """Begin to read a job's events, and return when the first one has come."""
    begun = asyncio.Event()
    reading = asyncio.create_task(read(gateway, f"/v1/jobs/{job}/events", begun=begun))
    async with asyncio.timeout(20):
        await begun.wait()
    return reading


async def test_the_events_of_a_job_end_with_it(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Those that were and those that come, with their numbers; the last event says that nothing follows."""
    job, other = await submitted(gateway), await submitted(gateway)
    await coordinator.happen(job, "queued", "assigned")
    await coordinator.happen(other, "queued")
    reading = asyncio.create_task(read(gateway, f"/v1/jobs/{job}/events"))
    await coordinator.happen(job, "started", "ended")
    live = await reading
    await coordinator.move(job, finished)

    assert [event.name for event in live] == [*KINDS, "end"]
    assert [event.id for event in live] == ["3", "6", "12", "15", "15"]
    assert f'"job":"{job}"' in live[0].data and '"number":3' in live[0].data
    assert await read(gateway, f"/v1/jobs/{job}/events") == live


@pytest.mark.parametrize("seen", [0, 1, 2, 3, 4])
async def test_a_reader_resumes_with_what_it_has_not_seen(
    gateway: Caller, coordinator: FakeCoordinator, seen: int
) -> None:
    """By Last-Event-ID or by after, wherever it broke off; also when it has seen everything."""
    coordinator.on_submit = finished
    job = await submitted(gateway)
    await coordinator.happen(job, *KINDS)
    whole = await read(gateway, f"/v1/jobs/{job}/events")
    last = whole[seen - 1].id if seen else "0"

    assert await read(gateway, f"/v1/jobs/{job}/events", last=last) == whole[seen:]
    assert await read(gateway, f"/v1/jobs/{job}/events?after={last}") == whole[seen:]


async def test_the_events_of_all_jobs_begin_now(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """A reader that loses the stream before its first event comes back to the same place."""
    job = await submitted(gateway)
    await coordinator.happen(job, "queued")
    async with asyncio.timeout(20), gateway.session.get(f"{gateway.url}/v1/events") as response:
        events = events_of(response)
        start = await anext(events)
    await coordinator.happen(job, "assigned", "started")

    resumed = await read(gateway, "/v1/events", last=start.id, count=2)

    assert (start.name, start.id) == ("", "3")
    assert [event.name for event in resumed] == ["assigned", "started"]
    assert [event.name for event in await read(gateway, "/v1/events?after=0", count=3)] == list(KINDS[:3])


async def test_a_restart_of_the_coordinator_is_bridged(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Without a gap and without an event twice."""
    job = await submitted(gateway)
    await coordinator.happen(job, "queued")
    reading = await reading_of(gateway, job)
    await coordinator.stop()
    await coordinator.happen(job, "assigned")
    await coordinator.start()
    await coordinator.happen(job, "started", "ended")

    assert [event.name for event in await reading] == [*KINDS, "end"]


async def test_a_restart_is_bridged_however_quiet_it_was_before(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a coordinator may be away counts from when it went, and not from the last event."""
    monkeypatch.setattr(live_streams, "AWAY_S", 1.0)
    job = await submitted(gateway)
    await coordinator.happen(job, "queued")
    reading = await reading_of(gateway, job)
    await asyncio.sleep(1.2)  # longer than it may be away
    await coordinator.stop()
    await coordinator.start()
    await coordinator.happen(job, "assigned", "started", "ended")

    assert [event.name for event in await reading] == [*KINDS, "end"]


async def test_a_stream_that_breaks_off_has_no_end(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the coordinator stays away."""
    monkeypatch.setattr(live_streams, "AWAY_S", 0.2)
    job = await submitted(gateway)
    await coordinator.happen(job, "queued")
    reading = await reading_of(gateway, job)
    await coordinator.stop()

    assert [event.name for event in await reading] == ["queued"]


async def test_who_waits_is_told_that_the_stream_lives(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a comment, as streams of logs are."""
    monkeypatch.setattr(live_streams, "PING_S", 0.05)
    async with asyncio.timeout(20), gateway.session.get(f"{gateway.url}/v1/events") as response:
        while await response.content.readline() != b": ping\n":
            pass


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 30, str(1 << 63)])
async def test_what_is_no_number_of_an_event_is_refused(gateway: Caller, after: str) -> None:
    """In the query and in the header."""
    by_query = await gateway.get(f"/v1/events?after={after}")
    by_header = await gateway.get("/v1/events", headers={"Last-Event-ID": after})

    assert (by_query.status, by_query.json["error"]["field"]) == (400, "after")
    assert (by_header.status, by_header.json["error"]["field"]) == (400, "Last-Event-ID")


async def test_a_number_beyond_the_newest_event_is_refused(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Before a stream begins: a reader from before a restore would wait for ever. The newest number goes on."""
    job = await submitted(gateway)
    await coordinator.happen(job, "queued")
    for path in ("/v1/events", f"/v1/jobs/{job}/events"):
        by_query = await gateway.get(f"{path}?after=4")
        by_header = await gateway.get(path, headers={"Last-Event-ID": "99999999"})

        assert (by_query.status, by_query.json["error"]["field"]) == (400, "after")
        assert (by_header.status, by_header.json["error"]["field"]) == (400, "Last-Event-ID")
        assert "the newest has the number 3;" in by_query.json["error"]["message"]
    await coordinator.happen(job, "ended")
    assert [event.name for event in await read(gateway, f"/v1/jobs/{job}/events?after=3")] == ["ended", "end"]


async def test_an_unknown_job_has_no_events(gateway: Caller) -> None:
    """404, as JSON."""
    assert (await gateway.get(f"/v1/jobs/{UNKNOWN}/events")).status == 404
    assert (await gateway.get("/v1/jobs/x/events")).status == 404


async def test_a_bad_filter_is_400_with_the_place(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Said by the gateway; a good one goes to the coordinator."""
    answer = await gateway.get("/v1/jobs", params={"filter": "batch in (7"})

    assert answer.status == 400
    assert answer.json["error"]["field"] == "filter"
    assert "character 12" in answer.json["error"]["message"]
    assert (await gateway.get("/v1/jobs", params={"filter": "batch = 7"})).status == 200


async def test_a_finished_job_is_submitted_again(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """The answer names the new one; one that is not over is 425, an unknown one 404."""
    running = await submitted(gateway)
    coordinator.on_submit = finished
    job = await submitted(gateway, tags={"a": "b"}, where="zone = a")

    answer = await gateway.post(f"/v1/jobs/{job}/retry")
    shown = await gateway.get(f"/v1/jobs/{answer.json['id']}")

    assert (answer.status, answer.json["retry_of"]) == (200, job)
    assert (shown.json["retry_of"], shown.json["tags"], shown.json["where"]) == (job, {"a": "b"}, "zone = a")
    assert (await gateway.post(f"/v1/jobs/{running}/retry")).status == 425
    assert (await gateway.post(f"/v1/jobs/{UNKNOWN}/retry")).status == 404
    assert (await gateway.post(f"/v1/jobs/{job}/retry", {"x": 1})).status == 400
