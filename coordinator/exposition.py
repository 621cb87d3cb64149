"""The coordinator's measurements as text, in the format of Prometheus.

Only names that begin with ``hostler_``: the gateway puts its own ``http_``, ``python_`` and
``process_`` names in front of this text, and no name may appear twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from coordinator.live import Live
from coordinator.measures import FAMILIES_MAX, OTHER_FAMILY, RUN_BOUNDS_S, Measures
from hostler.lifecycle import State
from hostler.metrics import Distribution
from hostler.workers import WorkerState

SHOWN_STATES = (State.QUEUED, State.ASSIGNED, State.RUNNING, State.STOPPING)


def render(measures: Measures, live: Live, *, blob_bytes: int, now_us: int) -> bytes:
    """Return the text; see `coordinator.metrics.Metrics.text`."""
    registry = CollectorRegistry()
    registry.register(_Scrape(measures=measures, live=live, blob_bytes=blob_bytes, now_us=now_us))
    return generate_latest(registry)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scrape(Collector):
    """Everything as it stands at one moment."""

    measures: Measures
    live: Live
    blob_bytes: int
    now_us: int

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from self._jobs()
        yield from self._workers()
        yield from self._store()

    def _jobs(self) -> Iterator[Metric]:
        # By the state's number, and not by (state, family): the hash of an enum member is computed in Python.
        families: list[dict[str, int]] = [{} for _ in range(max(State) + 1)]
        oldest_us = self.now_us
        queued = State.QUEUED
        for job in self.live.jobs.values():
            counts = families[job.state]
            counts[job.family] = counts.get(job.family, 0) + 1
            if job.state is queued and job.queued_at_us < oldest_us:
                oldest_us = job.queued_at_us
        jobs = GaugeMetricFamily("hostler_jobs", "Jobs that are not over.", labels=("state", "family"))
        for state in SHOWN_STATES:
            for family, count in sorted(_bounded(families[state]).items()):
                jobs.add_metric((state.word, family), count)
        yield jobs
        yield GaugeMetricFamily(
            "hostler_queue_age_seconds", "How long the oldest waiting job has waited.", (self.now_us - oldest_us) / 1e6
        )
        finished = CounterMetricFamily("hostler_jobs_finished", "Jobs that ended.", labels=("outcome", "family"))
        runs: dict[str, Distribution] = {}
        for (outcome, family), ended in sorted(self.measures.ended.items()):
            finished.add_metric((outcome, family), ended.count)
            runs.setdefault(outcome, Distribution(RUN_BOUNDS_S)).add(ended.runs)
        yield finished
        yield _histogram(
            "hostler_dispatch_seconds", "From a job's acceptance to the start of its program.", self.measures.dispatch
        )
        ran = HistogramMetricFamily(
            "hostler_run_seconds", "From the start of a program to its end.", labels=("outcome",)
        )
        for outcome, run in runs.items():
            ran.add_metric((outcome,), run.buckets(), run.total)
        yield ran

    def _workers(self) -> Iterator[Metric]:
        states = dict.fromkeys(WorkerState, 0)
        slots = used = 0
        for worker in self.live.workers.values():
            states[worker.state] += 1
            if worker.connected:
                slots += worker.slots
                used += worker.slots_used
        workers = GaugeMetricFamily("hostler_workers", "Workers that are known.", labels=("state",))
        for state, count in states.items():
            workers.add_metric((state.value,), count)
        yield workers
        yield GaugeMetricFamily("hostler_slots", "Slots of the connected workers.", slots)
        yield GaugeMetricFamily(
            "hostler_slots_used", "Slots that assigned jobs take on connected workers, prefetched ones included.", used
        )

    def _store(self) -> Iterator[Metric]:
        measures = self.measures
        yield _histogram("hostler_commit_seconds", "How long commits of the store took.", measures.commits)
        yield _histogram("hostler_commit_changes", "How many changes were committed together.", measures.commit_changes)
        yield CounterMetricFamily(
            "hostler_log_bytes", "Bytes of job output, frames included, taken from workers.", measures.log_bytes
        )
        yield GaugeMetricFamily("hostler_blob_bytes", "Bytes that stored files take.", self.blob_bytes)


def _histogram(name: str, documentation: str, counted: Distribution) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, documentation, counted.buckets(), counted.total)


def _bounded(counts: dict[str, int]) -> dict[str, int]:
    """Put families beyond the bound together."""
    found: dict[str, int] = {}
    for family, count in counts.items():
        name = family if len(found) < FAMILIES_MAX else OTHER_FAMILY
        found[name] = found.get(name, 0) + count
    return found
