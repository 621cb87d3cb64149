"""Rates of many callers, each with a bucket of its own, in a table of bounded size. Pure.

A bucket fills at the rate up to the burst, and each call takes one token. One that is not in the table is full; when
the table is full the bucket that was used longest ago goes, so that a million addresses cost what ten thousand do.
"""

from collections import OrderedDict

BUCKETS_MAX = 10_000


class TokenBuckets:
    """Says how long callers must wait."""

    def __init__(self, *, per_s: float, burst: float, buckets_max: int = BUCKETS_MAX) -> None:
        """Prepare buckets.

        Args:
            per_s: tokens that each gets in a second; 0: there is no limit.
            burst: tokens that each holds at most; 1 at least.
            buckets_max: how many are kept.
        """
        self._per_s = per_s
        self._burst = max(1.0, burst)
        self._buckets_max = buckets_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when there were so many

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, now_s: float) -> float:
        """Take a token and return 0, or return after how many seconds there is one."""
        if not self._per_s:
            return 0.0
        tokens = self._tokens(name, now_s)
        if tokens < 1:
            return (1 - tokens) / self._per_s
        self._buckets[name] = (tokens - 1, now_s)
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)
        return 0.0

    def wait_s(self, name: str, now_s: float) -> float:
        """Return after how many seconds there is a token, without taking it."""
        missing = 1 - self._tokens(name, now_s)
        return missing / self._per_s if self._per_s and missing > 0 else 0.0

    def _tokens(self, name: str, now_s: float) -> float:
        tokens, at_s = self._buckets.get(name, (self._burst, now_s))
        return min(self._burst, tokens + max(0.0, now_s - at_s) * self._per_s)
