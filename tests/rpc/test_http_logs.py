"""``GET /v1/jobs/{id}/log`` of jobs with several attempts and stages: which of their logs is sent, and from where."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from hostler.client import Client
from hostler.ids import AttemptKey
from hostler.jobs import JobSpec, Stage, Work
from hostler.settings import load
from hostler.workloads import ResultFrom, Stdin, Workload
from http_gateway.app import make_app, serve
from tests.support.builders import some_frames
from tests.support.fake_worker import FakeWorker


class Event(NamedTuple):
    """One server-sent event."""

    name: str
    id: str
    content: dict[str, Any]


class Log:
    """The log of one job, over HTTP."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def events(self, job: str, query: str = "", *, last: str = "", most: int = 1000) -> list[Event]:
        """Read to the end of the stream, or so many and break it off; *last* is the id of the last event seen."""
        headers = {"Last-Event-ID": last} if last else {}
        found: list[Event] = []
        fields: dict[str, str] = {}
        async with self._session.get(f"{self._url}/v1/jobs/{job}/log?{query}", headers=headers) as response:
            assert response.status == 200
            async for line in response.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "event" in fields:
                    found.append(Event(fields["event"], fields["id"], json.loads(fields["data"])))
                    fields = {}
                if len(found) == most:
                    break
        return found

    async def text(self, job: str, query: str = "", **options: Any) -> str:
        """Read the output of a whole stream."""
        events = await self.events(job, query, **options)
        assert events[-1].name == "end"
        return "".join(event.content["text"] for event in events[:-1])

    async def first_id(self, job: str, query: str) -> str:
        """The id with which a stream begins; it is broken off there."""
        async with self._session.get(f"{self._url}/v1/jobs/{job}/log?{query}") as response:
            head = (await response.content.readuntil(b"\n\n")).decode()
        return dict(line.split(": ") for line in head.split("\n") if line)["id"]

    async def status(self, job: str, query: str) -> int:
        """The status of an answer."""
        async with self._session.get(f"{self._url}/v1/jobs/{job}/log?{query}") as response:
            return response.status

    async def refusal(self, job: str, query: str, *, last: str = "") -> tuple[int, str, str]:
        """Status, code and field of an error."""
        headers = {"Last-Event-ID": last} if last else {}
        async with self._session.get(f"{self._url}/v1/jobs/{job}/log?{query}", headers=headers) as response:
            error = (await response.json())["error"]
            return response.status, error["code"], error["field"]


@pytest.fixture
async def log(client: Client, data_dir: Path) -> AsyncIterator[Log]:
    """A gateway in front of the coordinator."""
    app = make_app(client, load(data_dir=data_dir))
    async with serve(app, "127.0.0.1", 0) as url, aiohttp.ClientSession() as session:
        yield Log(url, session)


async def a_chain(client: Client, worker: FakeWorker) -> str:
    """A chain of three: its first stage was tried twice, and each attempt said which one it is."""
    stages = [
        Workload(name=name, argv=(name,), stdin=Stdin.PARAMS, result=ResultFrom.STDOUT, retries=1)
        for name in ("one", "two", "three")
    ]
    await client.workloads.apply(stages)
    job = await client.submit_one(
        JobSpec(work=Work(), params="{}", stages=tuple(Stage(workload=w.name) for w in stages))
    )
    await attempt(worker, 1, b"0.1\n", exit_code=7)
    for count, name in ((2, b"0.2\n"), (3, b"1.1\n"), (4, b"2.1\n")):
        await attempt(worker, count, name, result=b"1")
    assert await client.wait_one(job, timeout_s=10)
    return job


async def attempt(worker: FakeWorker, count: int, *texts: bytes, **end: Any) -> AttemptKey:
    """The worker's attempt number *count* ends, and has said *texts*."""
    key = (await worker.takes(count))[-1]
    await worker.report_started(key)
    await worker.report_ended(key, ledger=frames_of(texts), **end)
    return key


def frames_of(texts: Sequence[bytes]) -> bytes:
    """The ledger with these pieces of output."""
    return b"".join(map(some_frames, texts))


@pytest.mark.parametrize("follow", ["", "&follow=1"])
async def test_a_stage_alone_means_its_last_attempt(client: Client, worker: FakeWorker, log: Log, follow: str) -> None:
    """Not the current stage; also a follower gets that attempt's log and no other."""
    job = await a_chain(client, worker)

    assert [await log.text(job, f"stage={stage}{follow}") for stage in range(3)] == ["0.2\n", "1.1\n", "2.1\n"]
    assert await log.text(job, f"stage=0&attempt=1{follow}") == "0.1\n"
    assert await log.text(job, follow) == "2.1\n"


async def test_a_place_in_a_stage_without_an_attempt_means_its_last_attempt(
    client: Client, worker: FakeWorker, log: Log
) -> None:
    """And a follower of none in particular goes on with those after it."""
    job = await a_chain(client, worker)

    assert [await log.text(job, f"from={stage}.0.0") for stage in range(3)] == ["0.2\n", "1.1\n", "2.1\n"]
    assert await log.text(job, "from=0.0.0&follow=1") == "0.2\n1.1\n2.1\n"


async def test_the_attempts_of_each_stage_are_counted_for_themselves(
    client: Client, worker: FakeWorker, log: Log
) -> None:
    """A later stage with fewer attempts hides none of an earlier one, and one that never was is 404."""
    job = await a_chain(client, worker)

    assert await log.text(job, "stage=0&attempt=2") == "0.2\n"
    assert [await log.status(job, query) for query in ("stage=0&attempt=3", "stage=1&attempt=2", "stage=3")] == [
        404
    ] * 3


async def test_a_follower_resumes_in_the_attempt_it_was_in_and_goes_on_with_those_after_it(
    client: Client, worker: FakeWorker, log: Log
) -> None:
    """By the id of any event it saw, whichever attempt is the current one by then: nothing twice, nothing left out."""
    job = await client.submit_one(JobSpec(work=Work(argv=("x",)), retries=1))
    await attempt(worker, 1, b"one\n", b"two\n", exit_code=7)
    before = await log.events(job, "follow=1", most=1)
    await attempt(worker, 2, b"a longer one\n", b"a longer two\n")
    assert await client.wait_one(job, timeout_s=10)

    rest = await log.events(job, "follow=1", last=before[-1].id)

    said = [event.content["text"] for event in before + rest[:-1]]
    assert said == ["one\n", "two\n", "a longer one\n", "a longer two\n"]
    ends = [len(frames_of([b"one\n"])), len(frames_of([b"one\n", b"two\n"]))]
    ends += [len(frames_of([b"a longer one\n"])), len(frames_of([b"a longer one\n", b"a longer two\n"]))]
    places = [f"0.{number}.{end}" for number, end in zip((1, 1, 2, 2), ends, strict=True)]
    assert [event.id for event in before + rest] == [*places, places[-1]]
    for seen, place in enumerate(places):
        assert await log.text(job, "follow=1", last=place) == "".join(said[seen + 1 :])
        assert await log.text(job, f"from={place}&follow=1") == "".join(said[seen + 1 :])


async def test_a_follower_resumes_in_the_stage_it_was_in(client: Client, worker: FakeWorker, log: Log) -> None:
    """And goes on with the stages after it."""
    job = await a_chain(client, worker)
    whole = await log.events(job, "from=0.1.0&follow=1")
    said = [event.content["text"] for event in whole[:-1]]
    assert said == ["0.1\n", "0.2\n", "1.1\n", "2.1\n"]

    for seen, event in enumerate(whole):
        assert await log.text(job, "follow=1", last=event.id) == "".join(said[seen + 1 :])


async def test_who_chose_an_attempt_stays_in_it(client: Client, worker: FakeWorker, log: Log) -> None:
    """Also when it resumes; so does a reader that does not follow."""
    job = await client.submit_one(JobSpec(work=Work(argv=("x",)), retries=1))
    await attempt(worker, 1, b"one\n", b"two\n", exit_code=7)
    await attempt(worker, 2, b"three\n", b"four\n")
    assert await client.wait_one(job, timeout_s=10)
    (seen,) = await log.events(job, "attempt=1", most=1)

    assert await log.text(job, "attempt=1&follow=1", last=seen.id) == "two\n"
    assert await log.text(job, "stage=0&follow=1", last=seen.id) == "two\n"
    assert await log.text(job, last=seen.id) == "two\n"


async def test_a_position_alone_is_one_of_the_attempt_that_is_chosen(
    client: Client, worker: FakeWorker, log: Log
) -> None:
    """Of the current one where none is."""
    job = await client.submit_one(JobSpec(work=Work(argv=("x",)), retries=1))
    await attempt(worker, 1, b"a1\n", b"b1\n", exit_code=7)
    await attempt(worker, 2, b"a2\n", b"b2\n")
    assert await client.wait_one(job, timeout_s=10)
    half = len(frames_of([b"a1\n"]))

    assert await log.text(job, f"from={half}&follow=1") == "b2\n"
    assert await log.text(job, f"from={half}&attempt=1&follow=1") == "b1\n"


async def test_a_stream_that_is_lost_before_its_first_event_is_resumed_where_it_began(
    client: Client, worker: FakeWorker, log: Log
) -> None:
    """Also when the attempt has said something and another one runs by then."""
    job = await client.submit_one(JobSpec(work=Work(argv=("x",)), retries=1))
    (key,) = await worker.takes()
    await worker.report_started(key)
    seen = await log.first_id(job, "follow=1")
    await worker.report_ended(key, ledger=frames_of([b"one\n"]), exit_code=7)
    await attempt(worker, 2, b"two\n")
    assert await client.wait_one(job, timeout_s=10)

    assert await log.text(job, "follow=1", last=seen) == "one\ntwo\n"


@pytest.mark.parametrize("query", ["", "follow=1", "raw=out", "raw=both&follow=1"])
async def test_a_place_beyond_a_log_is_400(client: Client, worker: FakeWorker, log: Log, query: str) -> None:
    """Of an attempt that is over and of one that runs; as JSON, for the stream has not begun."""
    job = await client.submit_one(JobSpec(work=Work(argv=("x",)), retries=1))
    assert await log.refusal(job, f"from=1&{query}") == (400, "invalid_request", "from")
    await attempt(worker, 1, b"a longer one\n", exit_code=7)
    past, key = len(frames_of([b"a longer one\n"])), (await worker.takes(2))[-1]
    await worker.report_started(key)
    await worker.open_push()
    await worker.push(key, 0, frames_of([b"two\n"]))
    await worker.stored(key, held := len(frames_of([b"two\n"])))

    places = [f"0.1.{past + 1}", f"0.2.{held + 1}", "0.2.999999"]
    for place in places:
        assert await log.refusal(job, f"from={place}&{query}") == (400, "invalid_request", "from")
        assert await log.refusal(job, query, last=place) == (400, "invalid_request", "Last-Event-ID")
    assert await log.refusal(job, f"from={held + 1}&{query}") == (400, "invalid_request", "from")
    assert await log.refusal(job, f"attempt=1&from={past + 1}&{query}") == (400, "invalid_request", "from")
    assert await log.text(job, f"from=0.1.{past}") == await log.text(job, f"from=0.2.{held}") == ""
