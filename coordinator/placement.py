"""Which worker a class of jobs gets, or every reason why none.

Pure. Order is priority, then age; ties between workers break by id, so the same input always gives
the same answer. One pass tries the head of each class until it finds no place: its cost is
classes x workers plus what it places, never jobs x workers.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache

from coordinator.capacity import ClassKey, PlacementClass, Worker
from coordinator.live import Job, Live
from hostler.errors import HostlerError
from hostler.selectors import Selector, parse_selector

NO_FREE_SLOT = "has no free slot"
PROCESSES_MAX = 512  # attempts on one worker, jobs without a slot included


def obstacle(worker: Worker, wanted: ClassKey) -> str:
    """Why *worker* does not take a job of this class now; empty when it does.

    The words are the reason codes of ``explain``: each way to say no has one.
    """
    if wanted.pin and worker.id != wanted.pin:
        return "is not the worker asked for"
    for name, value in wanted.labels:
        if worker.labels.get(name) != value:
            return f"does not have the label {name}={value}"
    if wanted.where and not _matches(worker, wanted.where):
        return f"does not match {wanted.where}"
    if wanted.runtime not in worker.runtimes:
        return f"has no runtime {wanted.runtime}"
    for ability in wanted.abilities:
        if ability not in worker.abilities:
            return f"has no ability {ability}"
    if wanted.workload and worker.workloads and not _takes(worker.workloads, wanted.workload):
        return f"does not take the workload {wanted.workload}"
    if worker.quarantine:
        return "is quarantined"
    if worker.goodbye:
        return "has left"
    if not worker.connected:
        return "is unreachable"
    if worker.draining or worker.drain is not None:
        return "is draining"
    if wanted.slots > worker.slots:
        return f"has fewer than {wanted.slots} slots"
    if wanted.slots and worker.slots_used + wanted.slots > worker.window(wanted):
        return NO_FREE_SLOT
    if len(worker.held) >= PROCESSES_MAX:
        return f"runs {PROCESSES_MAX} processes, its limit"
    return ""


def facts_of(worker: Worker) -> dict[str, str]:
    """What a selector of workers is held against; a label that is called as one of these is not seen."""
    return {**worker.labels, "name": worker.name, "host": worker.host, "id": worker.id}


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


def reasons(live: Live, wanted: ClassKey) -> tuple[str, ...]:
    """Every reason why no worker takes this class, with how many workers it rejects."""
    if not live.workers:
        return ("no worker has ever joined; start one with: hostler worker",)
    if wanted.pin and wanted.pin in live.workers:
        why = obstacle(live.workers[wanted.pin], wanted)
        return (f"the worker asked for {why}",) if why else ()
    counts = Counter(why for worker in live.workers.values() if (why := obstacle(worker, wanted)))
    if sum(counts.values()) < len(live.workers):
        return ()
    return tuple(
        f"{number} {'worker' if number == 1 else 'workers'}: {why}"
        for why, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _wants_more(worker: Worker, wanted: ClassKey) -> bool:
    """Whether it pays to send work: refilled one for one, a prefetch would cost a message for each job."""
    return wanted.slots == 0 or worker.slots_used <= worker.slots + worker.prefetch.get(wanted, 0) // 2


class _Candidates:
    """The workers that take a class, the least loaded on top."""

    def __init__(self, live: Live, wanted: ClassKey) -> None:
        self._wanted = wanted
        pool = [live.workers[wanted.pin]] if wanted.pin in live.workers else list(live.workers.values())
        self._heap = [(self._load(w), w.id, w) for w in pool if _wants_more(w, wanted) and not obstacle(w, wanted)]
        heapq.heapify(self._heap)

    def _load(self, worker: Worker) -> float:
        return worker.slots_used / worker.slots if self._wanted.slots and worker.slots else float(len(worker.held))

    def _has_room(self, worker: Worker) -> bool:
        # Of all obstacles, only these two can come up while one pass goes on.
        slots = self._wanted.slots
        if slots and worker.slots_used + slots > worker.window(self._wanted):
            return False
        return len(worker.held) < PROCESSES_MAX

    def best(self) -> Worker | None:
        """The worker to take, or None. An entry whose worker was loaded since is put back with its new load."""
        while self._heap:
            load, _, worker = self._heap[0]
            now = self._load(worker)
            if not self._has_room(worker):
                heapq.heappop(self._heap)
            elif now != load:
                heapq.heapreplace(self._heap, (now, worker.id, worker))
            else:
                return worker
        return None


def place(live: Live, assign: Callable[[Job, Worker], None], *, limit: int) -> int:
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
            pool = candidates[placement.key] = _Candidates(live, placement.key)
        placed += _place_run(live, placement, pool, heads, assign, limit - placed)
        if pool.best() is not None and live.head(placement) is not None:
            heapq.heappush(heads, (*placement.heap[0], rank, placement))
    return placed


def _place_run(
    live: Live,
    placement: PlacementClass,
    pool: _Candidates,
    others: list[tuple[int, int, int, PlacementClass]],
    assign: Callable[[Job, Worker], None],
    limit: int,
) -> int:
    """Place jobs of one class while its head comes before the heads of the others."""
    placed = 0
    while placed < limit:
        worker, job = pool.best(), live.head(placement)
        if worker is None or job is None or (others and others[0][:2] < placement.heap[0]):
            break
        assign(job, worker)
        placed += 1
    return placed
