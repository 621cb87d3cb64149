"""What the coordinator counts of itself, at a cost that the engine does not feel.

`Measures` is told of commits, ends and log bytes as they happen and keeps plain counters. One event
loop owns it.
"""

from hostler.metrics import Distribution

FAMILIES_MAX = 50  # families told apart; a submitter chooses the word, and must not fill our memory with series
OTHER_FAMILY = "other"

DISPATCH_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
RUN_BOUNDS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
COMMIT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
COMMIT_BOUNDS_CHANGES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 20_000)


class EndedJobs:
    """Jobs of one family that ended in one way."""

    __slots__ = ("count", "runs")

    def __init__(self) -> None:
        self.count = 0
        self.runs = Distribution(RUN_BOUNDS_S)  # of those whose program ran


class Measures:
    """The counters; all begin at zero with the process."""

    __slots__ = ("_families", "commit_changes", "commits", "dispatch", "ended", "log_bytes")

    def __init__(self) -> None:
        self._families: set[str] = set()
        self.commits = Distribution(COMMIT_BOUNDS_S)
        self.commit_changes = Distribution(COMMIT_BOUNDS_CHANGES)
        self.dispatch = Distribution(DISPATCH_BOUNDS_S)
        self.ended: dict[tuple[str, str], EndedJobs] = {}  # by outcome and family
        self.log_bytes = 0

    def observe_commit(self, seconds: float, changes: int) -> None:
        """A commit of *changes* changes took *seconds*."""
        self.commits.observe(seconds)
        self.commit_changes.observe(changes)

    def observe_ended(
        self, queued_at_us: int, started_at_us: int, ended_at_us: int, outcome_word: str, family: str
    ) -> None:
        """A job has finished; *started_at_us* is 0 when its program never ran, *queued_at_us* when others ran before.

        Start and end are the worker's times: where its clock is behind ours, a wait counts as none.
        """
        ended = self.ended.get((outcome_word, family)) or self._first(outcome_word, family)
        ended.count += 1
        if started_at_us:
            waited_us, ran_us = started_at_us - queued_at_us, ended_at_us - started_at_us
            if queued_at_us:
                self.dispatch.observe(waited_us / 1e6 if waited_us > 0 else 0.0)
            ended.runs.observe(ran_us / 1e6 if ran_us > 0 else 0.0)

    def observe_log_bytes(self, log_bytes: int) -> None:
        """So many bytes of ledgers were taken from workers."""
        self.log_bytes += log_bytes

    def _first(self, outcome_word: str, family: str) -> "EndedJobs":
        if family not in self._families and len(self._families) >= FAMILIES_MAX:
            family = OTHER_FAMILY
        self._families.add(family)
        return self.ended.setdefault((outcome_word, family), EndedJobs())
