"""Takes the measurements, in rounds: whatever else the machine does hits all contestants alike.

A round runs each measurement for each contestant in turn, another one first each time, with the C loop between. What
is compared later are values of one round, and with the C loop's just before and just after.
"""

import contextlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

from benchmarks.clusters import AGENT, COORDINATOR, GATEWAY, SPAWNING, WARM_UP_JOBS, Cluster, Product, Prototype
from benchmarks.processes import ignore_interrupts, run_to_end
from benchmarks.yardsticks import TRUE, CLoop, Throughput, tiny, xargs

TARGETS: Final = ("P1", "P2", "P3", "P4", "P5", "P8", "P10")

# Contestants.
C_LOOP: Final = "C loop"
XARGS: Final = "xargs -P2"
BARE: Final = "bare subprocess.run"
PRODUCT: Final = "product"
PROTOTYPE: Final = "prototype"
NO_OVERLAP: Final = "prototype, no overlap"

# Quantities.
BATCH: Final = "jobs/s, batches of 200"
SINGLE: Final = "jobs/s, one POST a job"
TINY: Final = "jobs/s of a program without libc, batches of 200"
LIMIT_OF_BATCH: Final = "C loop's jobs/s around batches of 200"
LIMIT_OF_SINGLE: Final = "C loop's jobs/s around one POST a job"
LIMIT_OF_TINY: Final = "C loop's jobs/s of a program without libc"
LIMIT_CPU_OF_BATCH: Final = "C loop's CPU us around batches of 200"
P50: Final = "p50 ms"
P99: Final = "p99 ms"
CPU: Final = "CPU us a job, the job included"
PSS: Final = "PSS MB"
PSS_OF_WORKER: Final = "PSS MB of a further worker"
CPU_OF_BATCH: Final = "200 a POST"
CPU_OF_SINGLE: Final = "one a POST"
CPU_OF_TINY: Final = "200 a POST, no libc"

LIMIT_S: Final = 120.0
TINY_LIMIT_JOBS: Final = 10_000  # at least; the C loop does 2,000 in a tenth of a second, which says little


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured, and how much of it."""

    rounds: int = 5
    jobs: int = 2000
    samples: int = 300
    only: frozenset[str] = frozenset(TARGETS)
    place: Path | None = None  # where the data directories are made; None: the temporary directory

    def asks(self, *targets: str) -> bool:
        """Say whether one of *targets* is wanted."""
        return not self.only.isdisjoint(targets)


class Series:
    """All values measured: one a round, by contestant and quantity; and CPU by component."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.cpu_us: dict[tuple[str, str, str], list[float]] = defaultdict(list)  # contestant, what, component

    def add(self, contestant: str, quantity: str, value: float) -> None:
        """Note a value of this round."""
        self.values[contestant, quantity].append(value)

    def of(self, contestant: str, quantity: str) -> list[float]:
        """The values of all rounds; empty when it was not measured."""
        return self.values.get((contestant, quantity), [])

    def cpu_of(self, contestant: str, what: str) -> dict[str, list[float]]:
        """CPU us a job of all rounds, by component."""
        return {part: values for (who, of, part), values in self.cpu_us.items() if (who, of) == (contestant, what)}


def measure(options: Options, say: Callable[[str], None]) -> Series:
    """Start everything, measure, and end everything, also when interrupted.

    Raises:
        BenchError: something could not be measured.
        KeyboardInterrupt: told to end; nothing is left then either.
    """
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="hb-", dir=options.place))
        place = Path(scratch)
        session = Session(options, CLoop(place), tiny(place) if options.asks("P4") else TRUE, say)
        try:
            say("starting")
            session.clusters.append(stack.enter_context(session.product(place)))
            if options.asks("P10"):
                for overlap in (True, False):
                    session.clusters.append(stack.enter_context(Prototype(place, overlap=overlap)))
            for number in range(options.rounds):
                session.round(number)
            session.measure_further_worker()
        finally:
            ignore_interrupts()
            say("ending")
        return session.series


class Session:
    """The running contestants, and what was measured of them."""

    def __init__(self, options: Options, loop: CLoop, tiny_program: str, say: Callable[[str], None]) -> None:
        self.series = Series()
        self.clusters: list[Cluster] = []
        self._options = options
        self._loop = loop
        self._tiny = tiny_program
        self._say = say

    def product(self, place: Path) -> Product:
        """Prepare the product."""
        self._product = Product(place)
        return self._product

    def round(self, number: int) -> None:
        """Measure everything once."""
        options = self._options
        turn = number % len(self.clusters)
        order = self.clusters[turn:] + self.clusters[:turn]
        if options.asks("P1", "P3", "P8", "P10"):
            self._batches(number, order)
        if options.asks("P2"):
            self._singles(number, order)
        if options.asks("P4"):
            self._tinies(number)
        if options.asks("P5"):
            self._latencies(number, order)
        if options.asks("P8"):
            self.series.add(PRODUCT, PSS, self._product.pss_mb(COORDINATOR, GATEWAY, AGENT, SPAWNING))

    def _batches(self, number: int, order: list[Cluster]) -> None:
        limits = [self._limit(number)]
        for cluster in order:
            self._rate(number, cluster, "batch", self._options.jobs, BATCH, CPU_OF_BATCH)
            limits.append(self._limit(number))
            self._add_limit(cluster.name, LIMIT_OF_BATCH, limits)
        if self._options.asks("P1"):
            self._tell(number, XARGS)
            rate, cpu_us = xargs(self._options.jobs, timeout_s=LIMIT_S)
            limits.append(self._limit(number))
            self._add_limit(XARGS, LIMIT_OF_BATCH, limits)
            self.series.add(XARGS, BATCH, rate)
            self.series.add(XARGS, CPU, cpu_us)
        self.series.add(C_LOOP, BATCH, mean(limit.jobs_per_s for limit in limits))
        self.series.add(C_LOOP, CPU, mean(limit.cpu_us for limit in limits))

    def _singles(self, number: int, order: list[Cluster]) -> None:
        limits = [self._limit(number)]
        for cluster in order:
            self._rate(number, cluster, "single", max(1, self._options.jobs // 2), SINGLE, CPU_OF_SINGLE)
            limits.append(self._limit(number))
            self._add_limit(cluster.name, LIMIT_OF_SINGLE, limits)

    def _tinies(self, number: int) -> None:
        limits = [self._limit(number, self._tiny)]
        self._rate(number, self._product, "batch", self._options.jobs, TINY, CPU_OF_TINY, self._tiny)
        limits.append(self._limit(number, self._tiny))
        self._add_limit(PRODUCT, LIMIT_OF_TINY, limits)
        self._add_limit(C_LOOP, TINY, limits)

    def _add_limit(self, contestant: str, quantity: str, limits: list[Throughput]) -> None:
        """Note what the C loop did just before and just after what was measured last."""
        self.series.add(contestant, quantity, mean(limit.jobs_per_s for limit in limits[-2:]))
        if quantity == LIMIT_OF_BATCH:
            self.series.add(contestant, LIMIT_CPU_OF_BATCH, mean(limit.cpu_us for limit in limits[-2:]))

    def _latencies(self, number: int, order: list[Cluster]) -> None:
        samples = self._options.samples
        self._tell(number, BARE)
        bare = [sys.executable, "-m", "benchmarks.load", "bare", "latency", f"--jobs={samples}"]
        figures = {BARE: json.loads(run_to_end(bare, timeout_s=LIMIT_S + samples))}
        for cluster in order:
            self._tell(number, f"{cluster.name}, latency")
            figures[cluster.name] = cluster.load("latency", samples).figures
        for name, measured in figures.items():
            self.series.add(name, P50, measured["p50_ms"])
            self.series.add(name, P99, measured["p99_ms"])

    def _rate(
        self, number: int, cluster: Cluster, what: str, jobs: int, quantity: str, cpu_of: str, program: str = TRUE
    ) -> None:
        self._tell(number, f"{cluster.name}, {quantity}")
        load = cluster.load(what, jobs, program=program)
        self.series.add(cluster.name, quantity, load.figures["jobs_per_s"])
        for component, cpu_us in load.cpu_us.items():
            self.series.cpu_us[cluster.name, cpu_of, component].append(cpu_us)

    def measure_further_worker(self) -> None:
        """Start a second worker, have it run what warmed the first one up, and see what it adds."""
        if not self._options.asks("P8"):
            return
        self._say("a further worker")
        before = self._product.pss_mb(AGENT, SPAWNING)
        self._product.load("batch", WARM_UP_JOBS, worker=self._product.add_worker())
        self.series.add(PRODUCT, PSS_OF_WORKER, self._product.pss_mb(AGENT, SPAWNING) - before)

    def _limit(self, number: int, program: str = TRUE) -> Throughput:
        self._tell(number, C_LOOP)
        jobs = max(2 if program == TRUE else TINY_LIMIT_JOBS, self._options.jobs)
        return self._loop.run(jobs, timeout_s=LIMIT_S, program=program)

    def _tell(self, number: int, what: str) -> None:
        self._say(f"round {number + 1} of {self._options.rounds}: {what}")


def contestants(series: Series) -> Iterator[str]:
    """Those that were measured, in the order of the table."""
    measured = {contestant for contestant, _ in series.values}
    return (name for name in (C_LOOP, XARGS, BARE, PROTOTYPE, NO_OVERLAP, PRODUCT) if name in measured)
