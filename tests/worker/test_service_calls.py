"""Calls of services that somebody else runs: what is sent, how the answer is read, and how each way to fail is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from hostler.jobs import Container, File, Service, Work
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually
from tests.worker.whole_worker import Worker
from worker_agent.results import RESULT_BYTES_MAX


class FakeService:
    """A service on this host that gives one answer, byte by byte as a test wants it."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[tuple[str, bytes]] = []  # head and body
        self.go_on = asyncio.Event()  # after the first half of the answer, when it has two
        self.url = ""
        self._server: asyncio.Server

    async def come(self) -> None:
        """Serve."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/base/"

    async def go(self) -> None:
        """Serve no more."""
        self.go_on.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lengths = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        self.asked.append((head, await reader.readexactly(int(lengths[0]))))
        first, _, second = self.answer.partition(b"||")
        writer.write(first)
        await writer.drain()
        if second:
            await self.go_on.wait()
            writer.write(second)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def a_service(answer: bytes) -> AsyncIterator[FakeService]:
    """A service that serves."""
    made = FakeService(answer)
    await made.come()
    try:
        yield made
    finally:
        await made.go()


def http(body: bytes, *, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """A whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def call(url: str, params: bytes = b"{}", **options: Any) -> Work:
    """A call of a service elsewhere."""
    service = Service(name="s", version=1, url=url, **options)
    return Work(service=service, files=(File(path="params.json", content=params),))


async def test_a_call_sends_the_parameters_as_they_came_and_the_answer_is_the_result(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """With the token, source, destination and proof that its caller set; numbers are not rounded."""
    async with a_service(http(b' {"big": 12345678901234567890.10} ')) as service:
        key = bench.key("a")
        env = {"MY_TOKEN": "t0k", "HOSTLER_SERVICE_SOURCE": "0", "HOSTLER_SERVICE_REQUIRES_PROOF": "true"}
        work = call(service.url, b'{"n": 1.000000000000000000001}', token_variable="MY_TOKEN")
        coordinator.start(key, replace(work, env=env))

        report = await coordinator.over(key)

        assert report.end.exit_code == 0, report
        assert report.end.result == b'{"big": 12345678901234567890.10}'
        ((head, body),) = service.asked
        assert head.startswith("POST /base/service_output HTTP/1.1\r\n")
        assert "Authorization: Bearer t0k\r\n" in head
        assert "Content-Type: application/json\r\n" in head
        assert b'"data": {"n": 1.000000000000000000001}' in body
        wanted = {"source": 0, "destination": 1, "requires_proof": True}
        assert {name: value for name, value in json.loads(body).items() if name != "data"} == wanted


@pytest.mark.parametrize(
    ("answer", "options", "result", "message"),
    [
        (http(b'{"code": "400"}', status="500 Oh"), {}, b'{"code": "400"}', ""),
        (http(b'{"no": 1}', status="500 Oh"), {"check_status": True}, b"", 'HTTP 500: {"no": 1}'),
        (http(b"", status="404 Gone"), {"check_status": True}, b"", "HTTP 404: Gone"),
        (http(b"[1", kind="application/json"), {}, b"", "[1"),
        (http(b"[NaN]", kind="application/json"), {}, b"", "[NaN]"),
        (http(b"", kind="application/json"), {}, b"null", ""),
        (http(b'"\xe4"', kind="application/ld+json; charset=latin-1"), {}, '"ä"'.encode(), ""),
        (http(b"{}", kind="text/html"), {}, b"", "Attempt to decode JSON with unexpected mimetype: text/html"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{}", {}, b"", "the service"),
        (b"hello", {}, b"", "the call of the service failed: "),
        (b"", {}, b"", "the call of the service failed: "),
    ],
)
async def test_an_answer_is_read_as_infernet_reads_it(
    worker: Worker,
    bench: Bench,
    coordinator: FakeCoordinator,
    answer: bytes,
    options: dict[str, Any],
    result: bytes,
    message: str,
) -> None:
    """Its status does not count unless asked for; what is no JSON is told in its own words."""
    async with a_service(answer) as service:
        key = bench.key("a")
        coordinator.start(key, call(service.url, **options))

        report = await coordinator.over(key)

        assert report.end.result == result
        assert report.end.exit_code == (0 if result else 1)
        assert report.end.failure.message.startswith(message)
        assert bool(report.end.failure.message) == bool(message)


async def test_a_service_that_is_not_there_is_told_so(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """In the words that callers of Infernet know."""
    async with a_service(b"") as service:
        url = service.url
    key = bench.key("a")
    coordinator.start(key, call(url))

    report = await coordinator.over(key)

    assert report.end.failure.message == f"Cannot connect to host {url.split('/')[2]}"
    assert (report.end.failure.type, report.end.exit_code) == ("ServiceError", 1)


async def test_a_call_without_an_answer_ends_at_the_deadline(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job's, or the call's own when the job has none: a sentence says so."""
    monkeypatch.setattr("worker_agent.services.CALL_S", 0.5)
    async with a_service(b"HTTP/1.1 200 OK\r\n||late") as service:
        own, jobs = bench.key("a"), bench.key("b")
        coordinator.start(own, call(service.url))
        coordinator.start(jobs, replace(call(service.url), timeout_s=0.5, grace_s=0.0))

        assert (await coordinator.over(own)).end.failure.message == "the service did not answer within 0.5 s"
        assert (await coordinator.over(jobs)).end.cause == "timeout"


async def test_a_stream_leaves_as_it_comes_and_its_text_is_the_result(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """The first bytes are in the log before the last ones are sent."""
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none \r\n||5\r\n\xc3\xa4two\r\n0\r\n\r\n"
    async with a_service(answer) as service:
        key = bench.key("a")
        coordinator.start(key, replace(call(service.url), env={"HOSTLER_SERVICE_DESTINATION": "2"}))
        await eventually(lambda: coordinator.log(key) == "one ", "the first half")
        service.go_on.set()

        report = await coordinator.over(key)

        assert coordinator.log(key) == "one ätwo"
        assert json.loads(report.end.result) == {"output": "one ätwo"}


async def test_a_stream_that_is_an_error_fails(worker: Worker, bench: Bench, coordinator: FakeCoordinator) -> None:
    """Of a stream the status counts."""
    async with a_service(http(b"not today", status="503 Busy", kind="text/plain")) as service:
        key = bench.key("a")
        coordinator.start(key, replace(call(service.url), env={"HOSTLER_SERVICE_DESTINATION": "2"}))

        report = await coordinator.over(key)

        assert report.end.failure.message == "HTTP 503: not today"
        assert coordinator.log(key) == "HTTP 503: not today\n"  # on standard error, nothing on the stream


async def test_a_large_answer_is_stored(worker: Worker, bench: Bench, coordinator: FakeCoordinator) -> None:
    """And named by its digest; one that is too large fails."""
    large = b'"' + b"x" * 1_000_000 + b'"'
    async with a_service(http(large)) as service:
        key = bench.key("a")
        coordinator.start(key, call(service.url))

        report = await coordinator.over(key)

        assert (report.end.result, report.end.result_bytes) == (b"", len(large))
        assert coordinator.blobs[report.end.result_digest] == large
    async with a_service(http(b" " * (RESULT_BYTES_MAX + 1))) as service:
        key = bench.key("b")
        coordinator.start(key, call(service.url))

        report = await coordinator.over(key)

        assert report.end.failure.message == f"the service's answer is longer than {RESULT_BYTES_MAX} bytes"


async def test_a_container_without_podman_was_not_started(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """A worker without podman offers no containers; an attempt that comes all the same is told why."""
    alone, served = bench.key("a"), bench.key("b")
    container = Container(image="localhost/x:1")
    coordinator.start(alone, Work(container=container))
    coordinator.start(served, Work(service=Service(name="s", version=1, container=container)))

    for key in (alone, served):
        report = await coordinator.over(key)
        assert (report.end.cause, report.end.started_at_us) == ("not_started", 0)
        assert "podman cannot be used on this worker: " in report.end.error
    assert "container" not in coordinator.hellos[0].runtimes
