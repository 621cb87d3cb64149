"""How often and how much: the counters that are cheap enough for every request and every commit.

Plain integers and lists; the text format of Prometheus is made of them when somebody asks
(`coordinator.exposition`, `http_gateway.exposition`). Each belongs to one event loop: nothing here is locked.
"""

from bisect import bisect_left


class Distribution:
    """How often values fell into each of some ranges, and their sum: a histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Prepare one; *bounds* are the inclusive upper ends of the ranges, ascending."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: above every bound
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: "Distribution") -> None:
        """Count everything that *other*, which has the same bounds, has counted."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def buckets(self) -> list[tuple[str, float]]:
        """The counts as Prometheus wants them: how many values are at most each bound, then all."""
        found: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            seen += count
            found.append((repr(float(bound)), seen))
        found.append(("+Inf", seen + self.counts[-1]))
        return found
