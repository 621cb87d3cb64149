"""What asks for a place and what has one: classes of waiting jobs, and workers.

Pure. Owned by `coordinator.live.Live`; only `Live.apply` changes them.
"""

import heapq
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from coordinator.changes import Drain
from coordinator.places import Replaced
from hostler.ids import AttemptKey
from hostler.workers import WorkerState

REVOKED = "revoked"  # a quarantine that nobody ends: its certificates were revoked
REVOKED_TEXT = "its host may join again with a new invitation, as another worker"
RUN_TIMES_KEPT = 20  # results of a class on a worker between two looks at its prefetch


class ClassKey(NamedTuple):
    """Jobs that ask for the same thing: they share one queue and one placement decision."""

    pin: str
    labels: tuple[tuple[str, str], ...]
    slots: int
    runtime: str = "command"
    workload: str = ""
    abilities: tuple[str, ...] = ()
    where: str = ""  # a selector over the worker, as it was written
    barred: tuple[str, ...] = ()  # workers that have refused it, sorted


class Seen(NamedTuple):
    """What the jobs of a class waited for when they were looked at (`coordinator.waits`)."""

    at_s: float = 0.0
    newest: int = 0  # the newest job then
    text: str = ""


NOT_SEEN = Seen()


class PlacementClass:
    """The queue of one class: highest priority first, then oldest."""

    __slots__ = ("heap", "key", "seen", "tried", "waiting")

    def __init__(self, key: ClassKey) -> None:
        self.key = key
        self.heap: list[tuple[int, int]] = []  # (-priority, number); entries of jobs that left are stale
        self.waiting = 0
        self.seen = NOT_SEEN
        self.tried = 0  # changes of workers after which none took its next job

    def push(self, priority: int, number: int) -> None:
        """Queue a job."""
        heapq.heappush(self.heap, (-priority, number))
        self.waiting += 1


class Worker:
    """One known worker. Owned by `Live`; only `Live.apply` changes it."""

    __slots__ = (
        "abilities",
        "boot_id",
        "connected",
        "disk_full",
        "drain",
        "draining",
        "draining_reason",
        "generation",
        "goodbye",
        "held",
        "host",
        "id",
        "instance",
        "journal_id",
        "labels",
        "left_at_s",
        "name",
        "named_only",
        "policy",
        "prefetch",
        "quarantine",
        "replaced",
        "run_times",
        "runtimes",
        "seen_at_us",
        "sequence",
        "session",
        "slots",
        "slots_used",
        "version",
        "workloads",
    )

    def __init__(self, worker_id: str) -> None:
        self.id = worker_id
        self.name = self.host = self.version = self.boot_id = self.journal_id = self.session = ""
        self.labels: dict[str, str] = {}
        self.runtimes: tuple[str, ...] = ()
        self.workloads: tuple[str, ...] = ()  # patterns; empty: all
        self.abilities: tuple[str, ...] = ()
        self.policy = ""  # the mode of its own policy, as it says
        self.named_only = False  # and so it refuses whatever names no workload
        self.instance = ""  # of the agent heard last; empty: not since this coordinator started
        self.replaced = Replaced()  # where agents spoke for it before
        self.drain: Drain | None = None  # somebody asked for it to be emptied
        self.draining_reason = ""
        self.quarantine = ""  # why nobody is heard as this worker; empty: it is heard
        self.slots = 0
        self.generation = 0
        self.sequence = 0  # of the latest assignment
        self.connected = self.draining = self.disk_full = self.goodbye = False
        self.left_at_s: float | None = None  # None: connected, or not seen since this coordinator started
        self.seen_at_us = 0
        self.held: dict[AttemptKey, int] = {}  # attempts assigned and not ended -> job number
        self.slots_used = 0
        self.run_times: dict[ClassKey, list[float]] = {}
        self.prefetch: dict[ClassKey, int] = {}

    @property
    def revoked(self) -> bool:
        """Whether nobody is ever heard as this worker again."""
        return self.quarantine == REVOKED

    @property
    def state(self) -> WorkerState:
        """How it is shown."""
        if self.quarantine:
            return WorkerState.REVOKED if self.revoked else WorkerState.QUARANTINED
        if self.connected:
            if self.drain is not None:
                return WorkerState.DRAINING if self.held else WorkerState.DRAINED
            return WorkerState.DRAINING if self.draining else WorkerState.CONNECTED
        return WorkerState.GONE if self.goodbye else WorkerState.UNREACHABLE

    @property
    def reason(self) -> str:
        """Why it is in that state, where there is more to say than the state does."""
        if self.quarantine:
            return REVOKED_TEXT if self.revoked else self.quarantine
        if self.drain is not None:
            return self.drain.reason or "drained on request"
        return self.draining_reason

    def remember_run_time(self, placement: ClassKey, run_s: float) -> None:
        """Note how long a job of a class ran here; every 20 results say anew what prefetch is earned.

        Nothing until 20 results are known; then as many as fill 200 ms, at most 256: the next of them are there long
        before these have run, so that orders and results travel many to a message (docs/decisions/0007).
        """
        times = self.run_times.get(placement)
        if times is None:
            times = self.run_times[placement] = []
        times.append(run_s)
        if len(times) >= RUN_TIMES_KEPT:
            typical_s = max(median(times), 1e-4)
            self.prefetch[placement] = min(256, int(self.slots * 0.2 / typical_s))
            times.clear()

    def window(self, placement: ClassKey) -> int:
        """How many slots may be assigned here for this class: the slots, and the prefetch it has earned."""
        return self.slots + self.prefetch.get(placement, 0)


class WorkerChanges:
    """Which workers changed after which: what was once found out about all needs a new look only at these.

    Of each worker its latest change is kept, so this grows with workers and not with what happens to them.
    """

    __slots__ = ("_latest", "_newest", "count")

    def __init__(self) -> None:
        self.count = 0  # changes so far
        self._newest: Worker | None = None
        self._latest: dict[Worker, int] = {}  # the count at the latest change of each, in this order

    def note(self, worker: Worker) -> None:
        """Something that placement may ask about has changed, or the worker is new."""
        self.count += 1
        if worker is not self._newest:
            self._latest.pop(worker, None)
            self._newest = worker
        self._latest[worker] = self.count

    def since(self, count: int) -> Iterator[Worker]:
        """The workers that changed after so many changes, the latest first; after 0: all."""
        for worker, latest in reversed(self._latest.items()):
            if latest <= count:
                return
            yield worker
