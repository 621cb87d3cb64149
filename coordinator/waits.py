"""What jobs wait for, seen from time to time, so that it is known also when their wait is over.

Pure. A moment after a job has got its worker nothing tells any more why none had taken it before. So once in a while
some classes of waiting jobs are looked at, those first that were not for the longest time, and their jobs keep what was
seen last. A job that waited for less than that has nothing to tell.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from coordinator.capacity import ClassKey, PlacementClass, Seen
from coordinator.live import Job, Live
from hostler.pending import Reason

WORKERS_MAX: Final = 2000  # looked at in one moment, for all classes together: each takes some microseconds
REASONS_TOLD_MAX: Final = 3


def look(live: Live, reasons_of: Callable[[ClassKey], Sequence[Reason]], now_s: float) -> None:
    """See what classes of waiting jobs wait for: as many as the number of workers allows, and at least one."""
    count = max(1, WORKERS_MAX // max(1, len(live.workers)))
    for placement in heapq.nsmallest(count, live.heads(), key=_seen_at_s):
        reasons = reasons_of(placement.key)
        placement.seen = Seen(now_s, live.next_number - 1, told(reasons))


def _seen_at_s(placement: PlacementClass) -> float:
    return placement.seen.at_s


def waited_for(job: Job) -> str:
    """What a job that waits, or waited until now, was seen to wait for before its first attempt; empty: not known.

    Later attempts may have come into the queue after the look, and their jobs are older than that.
    """
    seen = job.placement.seen
    return seen.text if job.number <= seen.newest and not (job.attempt or job.stage) else ""


def told(reasons: Iterable[Reason]) -> str:
    """The first of the reasons, in one line."""
    first, *others = [why.text for why in reasons] or [""]
    more = ", and more" if len(others) >= REASONS_TOLD_MAX else ""
    return ", ".join((first, *others[: REASONS_TOLD_MAX - 1])) + more
