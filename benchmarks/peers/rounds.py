"""Measures the product and its peers in turn: each peer between two measurements of the product.

A peer runs only while it is measured, for what idles takes time too. The C loop runs just before and just after
everything.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

from benchmarks.clusters import WARM_UP_JOBS, Product
from benchmarks.peers.contestants import CONTESTANTS, Contestant
from benchmarks.peers.driver import Driver
from benchmarks.peers.installation import install
from benchmarks.peers.job import SLOTS
from benchmarks.processes import BenchError, ignore_interrupts
from benchmarks.rounds import C_LOOP, PRODUCT, Series
from benchmarks.yardsticks import CLoop, xargs

# Quantities.
RATE: Final = "jobs/s"
LIMIT: Final = "C loop's jobs/s around it"
OURS: Final = "product's jobs/s around it"

LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured, and how much of it."""

    rounds: int = 3
    jobs: int = 2000
    peers: Sequence[Contestant] = CONTESTANTS
    place: Path | None = None  # where the data directories are made; None: the temporary directory


class Results:
    """What was measured, and what could not be."""

    def __init__(self) -> None:
        self.series = Series()
        self.versions: dict[str, str] = {}  # by contestant
        self.left_out: dict[str, str] = {}  # why, by contestant


def measure(options: Options, say: Callable[[str], None]) -> Results:
    """Install what is missing, measure, and end everything, also when interrupted. A peer that fails is left out.

    Raises:
        BenchError: the product, or the C loop, could not be measured.
        KeyboardInterrupt: told to end; nothing is left then either.
    """
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hb-", dir=options.place)))
        session = Session(options, place, say)
        try:
            session.install()
            say("starting")
            session.product = stack.enter_context(Product(place, slots=SLOTS))
            for number in range(options.rounds):
                session.round(number)
        finally:
            ignore_interrupts()
            say("ending")
        return session.results


class Session:
    """The running product, and what was measured."""

    product: Product

    def __init__(self, options: Options, place: Path, say: Callable[[str], None]) -> None:
        self.results = Results()
        self._options = options
        self._place = place
        self._say = say
        self._loop = CLoop(place)

    def install(self) -> None:
        """Install what the peers need; one that cannot be installed is left out."""
        for peer in self._options.peers:
            with self._left_out_when_it_fails(peer):
                install(peer.python, peer.debian)

    def round(self, number: int) -> None:
        """Measure every peer once, and the product around each."""
        turn = number % len(self._options.peers)
        ours = [self._rate_of_product(number)]
        for peer in [*self._options.peers[turn:], *self._options.peers[:turn]]:
            if peer.name in self.results.left_out:
                continue
            self._tell(number, peer.name)
            with self._left_out_when_it_fails(peer):
                self._measure(peer)
            ours.append(self._rate_of_product(number))
            if peer.name not in self.results.left_out:
                self.results.series.add(peer.name, OURS, mean(ours[-2:]))

    @contextlib.contextmanager
    def _left_out_when_it_fails(self, peer: Contestant) -> Iterator[None]:
        try:
            yield
        except BenchError as error:
            self.results.left_out[peer.name] = str(error)

    def _measure(self, peer: Contestant) -> None:
        jobs = self._options.jobs
        if not peer.module:
            self._within_limits(peer.name, lambda: xargs(jobs, timeout_s=LIMIT_S).jobs_per_s)
            return
        with Driver(peer.name, peer.argv, self._place) as driver:
            self.results.versions[peer.name] = driver.version
            driver.run(WARM_UP_JOBS)
            self._within_limits(peer.name, lambda: driver.run(jobs))

    def _rate_of_product(self, number: int) -> float:
        self._tell(number, PRODUCT)
        jobs = self._options.jobs
        return self._within_limits(PRODUCT, lambda: self.product.load("batch", jobs).figures["jobs_per_s"])

    def _within_limits(self, contestant: str, measured: Callable[[], float]) -> float:
        """Note the rate that is *measured*, and what the C loop does just before and just after; return the rate."""
        before = self._limit()
        rate = measured()
        limit = mean((before, self._limit()))
        self.results.series.add(contestant, RATE, rate)
        self.results.series.add(contestant, LIMIT, limit)
        return rate

    def _limit(self) -> float:
        rate = self._loop.run(self._options.jobs, timeout_s=LIMIT_S).jobs_per_s
        self.results.series.add(C_LOOP, RATE, rate)
        return rate

    def _tell(self, number: int, what: str) -> None:
        self._say(f"round {number + 1} of {self._options.rounds}: {what}")
