"""What `hostler top` shows, as numbers: how much of a processor each job takes, and what that makes for each worker.

Workers say every five seconds what the trees of their jobs have used so far. What a job takes now is the difference of
what it had used at two of these times. Pure.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from hostler.jobs import Job
from hostler.workers import Worker, WorkerState

WINDOW_US = 17_000_000  # cpu time is of the last three or four samples: one look more or less then matters little
SAMPLED_WITHIN_US = 6_500_000
RATE_WINDOW_US = 60_000_000
RATE_FROM_US = 10_000_000  # of less time nothing can be said
POINTS_MAX = 80
ANSWERING = (WorkerState.CONNECTED, WorkerState.DRAINING)
SORTINGS = ("cpu", "memory", "age", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLoad:
    """A job that runs, and what it takes."""

    job: Job
    cpu_percent: float | None = None  # 100: one processor; None: nothing is known yet
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """A worker, and what the jobs take that run there."""

    worker: Worker
    cpu_percent: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A cluster at one moment."""

    at_us: int
    version: str = ""
    started_at_us: int = 0
    queued: int = 0
    running: int = 0
    ended_a_minute: float | None = None
    workers: tuple[WorkerLoad, ...] = ()  # the busiest first
    jobs: tuple[JobLoad, ...] = ()
    ended: tuple[Job, ...] = ()  # the newest end first

    @property
    def slots(self) -> int:
        """Of workers that are connected."""
        return sum(one.worker.slots for one in self.workers if one.worker.state in ANSWERING)

    @property
    def slots_used(self) -> int:
        """How many jobs have been given to workers and have not ended."""
        return sum(one.worker.running for one in self.workers)


@dataclass(slots=True)
class _Used:
    """What an attempt had used, at the looks that found it changed."""

    attempt: int
    was_empty: bool = False  # a look has found no sample: then the first one is as old as the look that finds it
    of_first_look: bool = False  # the only point may be older than its look
    points: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=8))


class Differences:
    """Remembers earlier looks, of jobs that still run."""

    def __init__(self) -> None:
        self._used: dict[str, _Used] = {}
        self._ends: deque[tuple[int, float]] = deque(maxlen=POINTS_MAX)

    def loads(self, jobs: Iterable[Job], now_us: int) -> tuple[JobLoad, ...]:
        """What each of these jobs takes now; those that are not among them are forgotten."""
        kept: dict[str, _Used] = {}
        found = []
        for job in jobs:
            before = self._used.get(job.id)
            used = before if before is not None and before.attempt == job.attempt else _Used(job.attempt)
            kept[job.id] = used
            found.append(self._load(job, used, now_us))
        self._used = kept
        return tuple(found)

    def _load(self, job: Job, used: _Used, now_us: int) -> JobLoad:
        if job.usage is None:
            used.was_empty = True
            return JobLoad(job=job)
        cpu_s = job.usage.cpu_user_s + job.usage.cpu_system_s
        # A sample that is like the one before is not seen; that one must have come by now is.
        if not used.points or used.points[-1][1] != cpu_s or now_us - used.points[-1][0] > SAMPLED_WITHIN_US:
            if used.points and used.of_first_look:
                used.points.clear()
                used.was_empty = True
            used.of_first_look = not used.points and not used.was_empty
            used.points.append((now_us, cpu_s))
        while len(used.points) > 2 and now_us - used.points[1][0] > WINDOW_US:
            used.points.popleft()
        return JobLoad(job=job, cpu_percent=_percent(job, used), memory_bytes=job.usage.memory_bytes_max)

    def ended_a_minute(self, ended: float | None, now_us: int, started_at_us: int) -> float | None:
        """How many jobs end in a minute: of the last one, or of all the time of the coordinator at the first look."""
        if ended is None:
            return None
        if self._ends and ended < self._ends[-1][1]:
            self._ends.clear()  # it was restarted and counts anew
        self._ends.append((now_us, ended))
        while len(self._ends) > 2 and now_us - self._ends[1][0] > RATE_WINDOW_US:
            self._ends.popleft()
        since_us, before = self._ends[0]
        if now_us - since_us < RATE_FROM_US:
            since_us, before = started_at_us, 0.0
        return (ended - before) / max(1.0, (now_us - since_us) / 1e6) * 60


def _percent(job: Job, used: _Used) -> float | None:
    first, last = used.points[0], used.points[-1]
    if len(used.points) == 1:  # of all its time until then
        span_us = last[0] - job.started_at_us if job.started_at_us else 0
        return max(0.0, 100 * last[1] / (span_us / 1e6)) if span_us > 0 else None
    return max(0.0, 100 * (last[1] - first[1]) / ((last[0] - first[0]) / 1e6))


def worker_loads(workers: Iterable[Worker], jobs: Iterable[JobLoad]) -> tuple[WorkerLoad, ...]:
    """What the jobs of each worker take together; the busiest worker first."""
    loads = {worker.id: WorkerLoad(worker=worker) for worker in workers}
    for one in jobs:
        load = loads.get(one.job.worker)
        if load is not None and one.cpu_percent is not None:
            loads[one.job.worker] = replace(
                load,
                cpu_percent=(load.cpu_percent or 0.0) + one.cpu_percent,
                memory_bytes=(load.memory_bytes or 0) + (one.memory_bytes or 0),
            )
    return tuple(
        sorted(loads.values(), key=lambda one: (-(one.cpu_percent or 0), -one.worker.running, one.worker.name))
    )


def arranged(jobs: Sequence[JobLoad], sorting: str) -> list[JobLoad]:
    """The jobs in the order of a sorting; the largest first, names from A."""
    if sorting == "memory":
        return sorted(jobs, key=lambda one: (-(one.memory_bytes or 0), one.job.id))
    if sorting == "age":
        return sorted(jobs, key=lambda one: (one.job.started_at_us or one.job.assigned_at_us, one.job.id))
    if sorting == "name":
        return sorted(jobs, key=lambda one: (one.job.spec.name, one.job.id))
    return sorted(jobs, key=lambda one: (-(one.cpu_percent or 0.0), -(one.memory_bytes or 0), one.job.id))


def ends_in(text: bytes) -> float | None:
    """How many jobs have ended since the coordinator's start, from its measurements; None: they do not say."""
    numbers = [
        float(line.rsplit(b" ", 1)[1]) for line in text.splitlines() if line.startswith(b"hostler_jobs_finished_total")
    ]
    return sum(numbers) if numbers else None
