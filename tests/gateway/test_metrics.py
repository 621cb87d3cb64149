"""GET /metrics: the names that clients of the PiXYZ server know, and the coordinator's behind them."""

import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from hostler.errors import InternalError, PermissionDenied, Unavailable
from hostler.v1 import jobs_pb2
from http_gateway.apis import metrics
from http_gateway.measures import FINE_BOUNDS_S, HttpMeasures
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator

OURS = b"# HELP hostler_slots Slots.\n# TYPE hostler_slots gauge\nhostler_slots 4.0\n"


class MeasuredCoordinator(FakeCoordinator):
    """One that has measurements."""

    asked = 0

    async def Metrics(self, request: jobs_pb2.MetricsRequest, context: Any) -> jobs_pb2.MetricsResponse:
        """Tell them."""
        await self._check(context)
        self.asked += 1
        return jobs_pb2.MetricsResponse(text=OURS)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[MeasuredCoordinator]:
    """A fake coordinator that serves, in place of the ordinary one."""
    fake = MeasuredCoordinator(f"unix:{tmp_path}/c.sock")
    await fake.start()
    yield fake
    await fake.stop()


async def scraped(gateway: Caller, path: str = "/metrics") -> dict[str, Metric]:
    """Ask and parse; a name that appears twice is an error."""
    async with gateway.session.get(gateway.url + path) as response:
        text = await response.text()
        assert (response.status, response.headers["Content-Type"]) == (200, metrics.CONTENT_TYPE)
    families = list(text_string_to_metric_families(text))
    found = {family.name: family for family in families}
    assert len(found) == len(families)
    return found


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    """The one sample of this name with these labels."""
    (found,) = [s.value for f in families.values() for s in f.samples if s.name == sample and s.labels == labels]
    return found


async def test_requests_are_counted_by_the_template_of_their_route(gateway: Caller) -> None:
    """The status as a class; what no route takes is under `none`, so callers cannot make series."""
    job = (await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}]})).json["jobs"][0]["id"]
    for path in (f"/v1/jobs/{job}", "/v1/jobs/7", "/nothing/1", "/nothing/2", "/altron/discord/ping"):
        await gateway.get(path)
    await gateway.call("DELETE", "/v1/jobs")
    await gateway.call("PROPFIND", "/nothing")

    found = await scraped(gateway)

    def count(handler: str, method: str, status: str) -> float:
        return value(found, "http_requests_total", handler=handler, method=method, status=status)

    assert count("/v1/jobs", "POST", "2xx") == 1
    assert count("/v1/jobs/{id}", "GET", "2xx") == count("/v1/jobs/{id}", "GET", "4xx") == 1
    assert count("none", "GET", "4xx") == 2
    assert count("none", "DELETE", "4xx") == count("none", "OTHER", "4xx") == 1
    assert count("/altron/discord/ping", "GET", "2xx") == 1


async def test_the_names_are_those_of_the_pixyz_server(gateway: Caller) -> None:
    """With their labels and buckets, at the root and below /pixyz."""
    body = {"jobs": [{"argv": ["true"]}]}
    await gateway.post("/v1/jobs", body)
    await scraped(gateway, "/pixyz/metrics")

    found = await scraped(gateway, "/metrics/")

    types = {name: family.type for name, family in found.items() if name.startswith("http_")}
    assert types == {
        "http_requests": "counter",
        "http_request_size_bytes": "summary",
        "http_response_size_bytes": "summary",
        "http_request_duration_seconds": "histogram",
        "http_request_duration_highr_seconds": "histogram",
    }
    few = [
        s.labels["le"]
        for s in found["http_request_duration_seconds"].samples
        if s.name.endswith("_bucket") and s.labels["handler"] == "/v1/jobs"
    ]
    many = [s.labels for s in found["http_request_duration_highr_seconds"].samples if s.name.endswith("_bucket")]
    assert few == ["0.1", "0.5", "1.0", "+Inf"]
    assert [float(labels["le"]) for labels in many] == [*FINE_BOUNDS_S, float("inf")]
    assert len(FINE_BOUNDS_S) == 21
    assert value(found, "http_request_size_bytes_sum", handler="/v1/jobs") > 20
    assert value(found, "http_response_size_bytes_sum", handler="/v1/jobs") > 40
    assert value(found, "http_request_duration_seconds_count", handler="/v1/jobs", method="POST") == 1
    assert {"python_info", "process_resident_memory_bytes", "python_gc_collections"} <= found.keys()


async def test_the_coordinators_measurements_follow(gateway: Caller, coordinator: MeasuredCoordinator) -> None:
    """One question answers all callers of a second."""
    for _ in range(3):
        found = await scraped(gateway)

    assert value(found, "hostler_slots") == 4
    assert value(found, "hostler_coordinator_up") == 1
    assert coordinator.asked == 1


@pytest.mark.parametrize("error", [Unavailable("stopping"), InternalError("broken")])
async def test_without_the_coordinator_the_gateways_own_part_is_answered(
    gateway: Caller, coordinator: MeasuredCoordinator, error: Any
) -> None:
    """And it says that the rest is missing."""
    coordinator.refuse = error

    found = await scraped(gateway)

    assert value(found, "hostler_coordinator_up") == 0
    assert "http_requests" in found
    assert "hostler_slots" not in found


async def test_a_refusal_of_one_caller_is_not_kept_for_the_next(
    gateway: Caller, coordinator: MeasuredCoordinator
) -> None:
    """A key that was revoked a moment ago says nothing about the coordinator."""
    coordinator.refuse = PermissionDenied("not this one")
    assert value(await scraped(gateway), "hostler_coordinator_up") == 0
    coordinator.refuse = None

    assert value(await scraped(gateway), "hostler_coordinator_up") == 1


async def test_a_coordinator_that_does_not_answer_is_not_waited_for(
    gateway: Caller, coordinator: MeasuredCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever scrapes has a deadline of their own."""
    monkeypatch.setattr(metrics, "ANSWER_S", 0.1)
    await coordinator.stop()

    assert value(await scraped(gateway), "hostler_coordinator_up") == 0


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("br", False),
        ("gzip;q=0, br", False),
        ("gzip;q=0.0", False),
        ("", False),
    ],
)
async def test_the_answer_is_compressed_when_that_is_asked_for(gateway: Caller, asked: str, given: bool) -> None:
    """A weight of 0 is a no."""
    host = gateway.url.removeprefix("http://").encode()
    request = b"GET /metrics HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nAccept-Encoding: %s\r\n\r\n"

    head, _, body = (await gateway.raw(request % (host, asked.encode()))).partition(b"\r\n\r\n")

    assert (b"Content-Encoding: gzip" in head) is given
    assert b"python_info" in (gzip.decompress(body) if given else body)


def test_a_row_adds_up() -> None:
    """Bounds belong to their bucket, and each class of status has a row of its own."""
    measures = HttpMeasures()
    for status, seconds in ((200, 0.1), (204, 0.11), (500, 2.0)):
        measures.record("/x", "GET", status, request_bytes=2, response_bytes=3, seconds=seconds)

    row = measures.rows["/x", "GET", 2]
    assert (row.count, row.request_bytes, row.response_bytes) == (2, 4, 6)
    assert row.durations.buckets() == [("0.1", 1), ("0.5", 2), ("1.0", 2), ("+Inf", 2)]
    assert sum(measures.fine.counts) == 3
    assert measures.rows["/x", "GET", 5].count == 1
