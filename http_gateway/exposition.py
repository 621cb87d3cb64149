"""The gateway's measurements as text, in the format of Prometheus.

The ``http_`` names are those of the PiXYZ server, so that its dashboards go on working; the
``python_`` and ``process_`` names are the usual ones, of the gateway's process.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from hostler.metrics import Distribution
from http_gateway.measures import DURATION_BOUNDS_S, HttpMeasures


class Exposition:
    """Renders one gateway's measurements again and again."""

    def __init__(self, measures: HttpMeasures) -> None:
        self._registry = CollectorRegistry()
        GCCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        ProcessCollector(registry=self._registry)
        self._registry.register(_Requests(measures))

    def render(self) -> bytes:
        """Return the text, as it stands now."""
        return generate_latest(self._registry)


class _Requests(Collector):
    def __init__(self, measures: HttpMeasures) -> None:
        self._measures = measures

    def collect(self) -> Iterator[Metric]:
        """Yield the ``http_`` families."""
        total = CounterMetricFamily(
            "http_requests",
            "Total number of requests by method, status and handler.",
            labels=("handler", "method", "status"),
        )
        sizes: dict[str, list[int]] = {}  # handler: requests, their bytes, the answers' bytes
        durations: dict[tuple[str, str], Distribution] = {}
        for (handler, method, status), row in sorted(self._measures.rows.items()):
            total.add_metric((handler, method, f"{status}xx"), row.count)
            size = sizes.setdefault(handler, [0, 0, 0])
            size[0] += row.count
            size[1] += row.request_bytes
            size[2] += row.response_bytes
            durations.setdefault((handler, method), Distribution(DURATION_BOUNDS_S)).add(row.durations)
        yield total
        yield from _summaries(sizes)
        fine = self._measures.fine
        yield HistogramMetricFamily(
            "http_request_duration_highr_seconds",
            "Latency with many buckets but no API specific labels.",
            fine.buckets(),
            fine.total,
        )
        latency = HistogramMetricFamily(
            "http_request_duration_seconds",
            "Latency with only few buckets by handler and method.",
            labels=("handler", "method"),
        )
        for names, counted in durations.items():
            latency.add_metric(names, counted.buckets(), counted.total)
        yield latency


def _summaries(sizes: dict[str, list[int]]) -> Iterator[Metric]:
    requests = SummaryMetricFamily(
        "http_request_size_bytes", "Content length of requests by handler, as their heads say.", labels=("handler",)
    )
    responses = SummaryMetricFamily(
        "http_response_size_bytes", "Content length of answers by handler, as their heads say.", labels=("handler",)
    )
    for handler, (count, request_bytes, response_bytes) in sizes.items():
        requests.add_metric((handler,), count, request_bytes)
        responses.add_metric((handler,), count, response_bytes)
    yield requests
    yield responses
