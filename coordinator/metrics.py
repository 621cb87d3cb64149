"""What the coordinator measures of itself: counters as things happen, and the text when somebody asks.

Everything that is a state (jobs, workers, slots) is counted from the live set at that moment, so it
cannot drift from it. ``docs/metrics.md`` lists the names.
"""

from coordinator.live import Live
from coordinator.measures import Measures
from hostler.clock import Clock


class Metrics(Measures):
    """The counters, and the text made of them."""

    __slots__ = ("_clock",)

    def __init__(self, clock: Clock) -> None:
        """Begin at zero; *clock* tells how old the oldest waiting job is."""
        super().__init__()
        self._clock = clock

    def text(self, live: Live, blob_bytes: int) -> bytes:
        """Return everything in the text format of Prometheus (version 0.0.4, UTF-8).

        The cost grows with the jobs that are not over: about 0.15 s for a million of them.

        Args:
            live: the live set, as it is committed or about to be.
            blob_bytes: what the stored files take.
        """
        # Here and not above: it costs every coordinator 50 ms and 3 MB at its start, and the private one of a
        # `hostler run` is never asked.
        from coordinator.exposition import render

        return render(self, live, blob_bytes=blob_bytes, now_us=self._clock.wall_us())
