"""Which worker a class of jobs gets, and which condition each of the others does not meet.

Pure. Order is priority, then age; ties between workers break by id, so the same input always gives
the same answer. One pass tries the head of each class until it finds no place, with the workers that
changed since it found none: its cost is classes x these workers plus what it places, never jobs x workers.
"""

import heapq
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from coordinator.capacity import ClassKey, PlacementClass, Worker
from coordinator.live import Job, Live
from coordinator.waits import waited_for
from hostler.errors import HostlerError
from hostler.pending import Code
from hostler.selectors import Selector, parse_selector
from hostler.workers import worker_facts

Assign = Callable[[Job, Worker, str], None]  # with why it is this worker

PROCESSES_MAX = 512  # attempts on one worker, jobs without a slot included


class Obstacle(NamedTuple):
    """One condition of a class that a worker does not meet."""

    code: Code
    text: str  # what is said of the worker
    about: str = ""  # the name of the label


REFUSED = Obstacle(Code.REFUSED, "has refused it")
REVOKED = Obstacle(Code.REVOKED, "was revoked")
QUARANTINED = Obstacle(Code.QUARANTINED, "is quarantined")
LEFT = Obstacle(Code.LEFT, "has left")
UNREACHABLE = Obstacle(Code.UNREACHABLE, "is unreachable")
DISK_FULL = Obstacle(Code.DISK_FULL, "has too little room on its disk")
DRAINED = Obstacle(Code.DRAINED, "is drained on request")
DRAINING = Obstacle(Code.DRAINING, "is draining")
NO_FREE_SLOT = Obstacle(Code.NO_FREE_SLOT, "has no free slot")
FULL = Obstacle(Code.PROCESSES, f"runs {PROCESSES_MAX} processes, its limit")
SENT_AHEAD = Obstacle(Code.SENT_AHEAD, "has jobs sent ahead, and gets more when half of them are over")


def obstacles(worker: Worker, wanted: ClassKey) -> Iterator[Obstacle]:
    """Everything that keeps *worker* from taking a job of this class now, what lasts longest first."""
    if worker.revoked:
        yield REVOKED
    if wanted.pin and worker.id != wanted.pin:
        yield Obstacle(Code.OTHER_WORKER, "is not the worker asked for")
    if wanted.barred and worker.id in wanted.barred:
        yield REFUSED
    for name, value in wanted.labels:
        if worker.labels.get(name) != value:
            yield Obstacle(Code.LABEL, f"does not have the label {name}={value}", name)
    if wanted.where and not _matches(worker, wanted.where):
        yield Obstacle(Code.WHERE, f"does not match {wanted.where}", wanted.where)
    if wanted.runtime not in worker.runtimes:
        yield Obstacle(Code.RUNTIME, f"has no runtime {wanted.runtime}")
    for ability in wanted.abilities:
        if ability not in worker.abilities:
            yield _unable(ability)
    if wanted.workload:
        if worker.workloads and not _takes(worker.workloads, wanted.workload):
            yield Obstacle(Code.WORKLOAD, f"does not take the workload {wanted.workload}")
    elif worker.named_only:
        yield Obstacle(Code.POLICY, "takes only named workloads")
    slots = wanted.slots
    if slots > worker.slots:
        yield Obstacle(Code.FEW_SLOTS, f"has fewer than {slots} {'slot' if slots == 1 else 'slots'}")
    yield from absences(worker)
    if 0 < slots <= worker.slots and worker.slots_used + slots > worker.window(wanted):
        yield NO_FREE_SLOT if slots == 1 else Obstacle(Code.NO_FREE_SLOT, f"has fewer than {slots} free slots")
    if len(worker.held) >= PROCESSES_MAX:
        yield FULL


def absences(worker: Worker) -> Iterator[Obstacle]:
    """Why a worker takes no new work of any kind."""
    if worker.quarantine and not worker.revoked:
        yield QUARANTINED
    elif worker.goodbye and not worker.revoked:
        yield LEFT
    if worker.drain is not None:
        yield DRAINED
    if not (worker.connected or worker.goodbye or worker.quarantine):
        yield UNREACHABLE
    if worker.disk_full and (worker.draining or worker.drain is not None):
        yield DISK_FULL
    elif worker.draining and worker.drain is None:
        yield DRAINING


def obstacle(worker: Worker, wanted: ClassKey) -> Obstacle | None:
    """Why *worker* does not take a job of this class now, by the first condition that it does not meet."""
    return next(obstacles(worker, wanted), None)


def _unable(ability: str) -> Obstacle:
    if ability == "hardened":
        return Obstacle(Code.HARDENED, "has no hardened start path")
    return Obstacle(Code.LIMIT, f"cannot enforce a {ability.replace('_', ' ')}")


def facts_of(worker: Worker) -> dict[str, str]:
    """What a selector of workers is held against."""
    return worker_facts(worker.labels, name=worker.name, host=worker.host, worker=worker.id)


def _matches(worker: Worker, where: str) -> bool:
    selector = selector_of(where)
    return selector is not None and selector.matches(facts_of(worker))


@lru_cache(maxsize=1024)
def selector_of(where: str) -> Selector | None:
    """What is meant; None when a newer version has accepted it, and it is no selector here."""
    try:
        return parse_selector(where, field="where")
    except HostlerError:
        return None


@lru_cache(maxsize=4096)
def _takes(patterns: tuple[str, ...], workload: str) -> bool:
    return any(fnmatchcase(workload, pattern) for pattern in patterns)


def wants_more(worker: Worker, wanted: ClassKey) -> bool:
    """Whether it pays to send work: refilled one for one, a prefetch would cost a message for each job."""
    return wanted.slots == 0 or worker.slots_used <= worker.slots + worker.prefetch.get(wanted, 0) // 2


class _Candidates:
    """The workers that take a class, the least loaded on top."""

    def __init__(self, live: Live, placement: PlacementClass) -> None:
        self._wanted = wanted = placement.key
        # Who has not changed since no one took the next job does not take it now.
        changed = live.worker_changes.since(placement.tried)
        pool = [live.workers[wanted.pin]] if wanted.pin in live.workers else changed
        # With its window, which stays while one pass goes on. The cheap questions first: under load most are full.
        self._heap = [
            (self._load(w), w.id, w, window)
            for w in pool
            if self._has_room(w, window := w.window(wanted)) and wants_more(w, wanted) and obstacle(w, wanted) is None
        ]
        heapq.heapify(self._heap)
        self._count = len(self._heap)

    def _load(self, worker: Worker) -> float:
        return worker.slots_used / worker.slots if self._wanted.slots and worker.slots else float(len(worker.held))

    def _has_room(self, worker: Worker, window: int) -> bool:
        # Of all obstacles, only these two can come up while one pass goes on.
        slots = self._wanted.slots
        if slots and worker.slots_used + slots > window:
            return False
        return len(worker.held) < PROCESSES_MAX

    def choice(self, worker: Worker) -> str:
        """Why this worker: for `explain`, in few bytes. It tells of the workers that had room as the pass began."""
        if self._wanted.pin:
            return "it asks for this worker"
        if self._count == 1:
            return "no other could take it"
        used = f"{worker.slots_used} of {worker.slots} slots taken" if self._wanted.slots else _jobs(worker)
        return f"of {self._count} that could take it the least loaded, {used}"

    def best(self) -> Worker | None:
        """The worker to take, or None. An entry whose worker was loaded since is put back with its new load."""
        while self._heap:
            load, _, worker, window = self._heap[0]
            if not self._has_room(worker, window):
                heapq.heappop(self._heap)
            elif len(self._heap) > 1 and (now := self._load(worker)) != load:
                heapq.heapreplace(self._heap, (now, worker.id, worker, window))
            else:
                return worker
        return None


def _jobs(worker: Worker) -> str:
    return "with 1 job" if len(worker.held) == 1 else f"with {len(worker.held)} jobs"


def place(live: Live, assign: Assign, *, limit: int) -> int:
    """Give waiting jobs to workers through *assign* (which must apply the change), at most *limit*.

    Returns how many were placed.
    """
    heads = [(*p.heap[0], i, p) for i, p in enumerate(live.heads()) if p.heap]
    heapq.heapify(heads)
    candidates: dict[ClassKey, _Candidates] = {}
    placed = 0
    while heads and placed < limit:
        _, _, rank, placement = heapq.heappop(heads)
        pool = candidates.get(placement.key)
        if pool is None:
            pool = candidates[placement.key] = _Candidates(live, placement)
        placed += _place_run(live, placement, pool, heads, assign, limit - placed)
        if pool.best() is None:
            placement.tried = live.worker_changes.count
        elif live.head(placement) is not None:
            heapq.heappush(heads, (*placement.heap[0], rank, placement))
    return placed


def _place_run(
    live: Live,
    placement: PlacementClass,
    pool: _Candidates,
    others: list[tuple[int, int, int, PlacementClass]],
    assign: Assign,
    limit: int,
) -> int:
    """Place jobs of one class while its head comes before the heads of the others."""
    placed = 0
    while placed < limit:
        worker, job = pool.best(), live.head(placement)
        if worker is None or job is None or (others and others[0][:2] < placement.heap[0]):
            break
        why, waited = pool.choice(worker), waited_for(job)
        assign(job, worker, f"{why}; while it waited: {waited}" if waited else why)
        placed += 1
    return placed
