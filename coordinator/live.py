"""The live set: every job that is not over, every worker, and the queues, in memory.

Pure. `Live.apply` is the only mutator. A job leaves when it is finished and its log is complete or
lost; from then on it is read from the store. Jobs and workers here never leave ``coordinator``.
"""

import heapq
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

from coordinator.changes import (
    LEDGER_UNKNOWN,
    Assigned,
    Change,
    Ended,
    JobQueued,
    LogLost,
    LogStored,
    Returned,
    Started,
    StopRequested,
    Unkillable,
    WorkerDraining,
    WorkerLeft,
    WorkerSeen,
)
from hostler.ids import AttemptKey, JobId
from hostler.jobs import Progress
from hostler.lifecycle import Event, Outcome, State, advance

WORK_KEPT_BYTES_MAX = 1024  # larger specs stay in the store and are read at dispatch
RUN_TIMES_KEPT = 20  # results of a class on a worker between two looks at its prefetch


class ClassKey(NamedTuple):
    """Jobs that ask for the same thing: they share one queue and one placement decision."""

    pin: str
    labels: tuple[tuple[str, str], ...]
    slots: int


class PlacementClass:
    """The queue of one class: highest priority first, then oldest."""

    __slots__ = ("heap", "key", "waiting")

    def __init__(self, key: ClassKey) -> None:
        self.key = key
        self.heap: list[tuple[int, int]] = []  # (-priority, number); entries of jobs that left are stale
        self.waiting = 0

    def push(self, job: "Job") -> None:
        """Queue a job."""
        heapq.heappush(self.heap, (-job.priority, job.number))
        self.waiting += 1


class Job:
    """One live job. Owned by `Live`; only `Live.apply` changes it."""

    __slots__ = (
        "assigned_at_us",
        "attempt",
        "cause",
        "digest",
        "ended_at_us",
        "error",
        "exit_code",
        "family",
        "id",
        "key",
        "ledger_bytes",
        "log_position",
        "number",
        "outcome",
        "owner",
        "placement",
        "priority",
        "queued_at_us",
        "sequence",
        "signal",
        "stage",
        "started_at_us",
        "state",
        "stop_by",
        "stop_grace_s",
        "survivors",
        "version",
        "work",
        "worker",
    )

    def __init__(self, queued: JobQueued, placement: PlacementClass) -> None:
        self.number = queued.number
        self.id = JobId(queued.id)
        self.owner = queued.owner
        self.family = queued.family
        self.key = queued.key
        self.digest = queued.digest
        self.placement = placement
        self.priority = queued.priority
        self.work: bytes | None = queued.work if len(queued.work) <= WORK_KEPT_BYTES_MAX else None
        self.state = State.QUEUED
        self.outcome = Outcome.NONE
        self.stage = 0
        self.attempt = queued.attempt
        self.worker = ""
        self.sequence = 0
        self.stop_grace_s: float | None = None
        self.stop_by = ""
        self.survivors: tuple[tuple[int, str], ...] = ()
        self.queued_at_us = queued.at_us
        self.assigned_at_us = 0
        self.started_at_us = 0
        self.ended_at_us = 0
        self.exit_code: int | None = None
        self.signal = ""
        self.cause = ""
        self.error = ""
        self.ledger_bytes = -1  # not known before the end
        self.log_position = 0
        self.version = 1

    @property
    def attempt_key(self) -> AttemptKey:
        """The name of the current attempt."""
        return AttemptKey(self.id, self.stage, self.attempt)

    def progress(self) -> Progress:
        """What a waiter is told."""
        return Progress(self.id, self.state, self.outcome, self.exit_code, self.signal, self.cause, self.error)


class Worker:
    """One known worker. Owned by `Live`; only `Live.apply` changes it."""

    __slots__ = (
        "boot_id",
        "connected",
        "draining",
        "generation",
        "goodbye",
        "held",
        "host",
        "id",
        "journal_id",
        "labels",
        "left_at_s",
        "name",
        "prefetch",
        "run_times",
        "seen_at_us",
        "sequence",
        "session",
        "slots",
        "slots_used",
        "version",
    )

    def __init__(self, worker_id: str) -> None:
        self.id = worker_id
        self.name = self.host = self.version = self.boot_id = self.journal_id = self.session = ""
        self.labels: dict[str, str] = {}
        self.slots = 0
        self.generation = 0
        self.sequence = 0  # of the latest assignment
        self.connected = self.draining = self.goodbye = False
        self.left_at_s: float | None = None  # None: connected, or not seen since this coordinator started
        self.seen_at_us = 0
        self.held: dict[AttemptKey, int] = {}  # attempts assigned and not ended -> job number
        self.slots_used = 0
        self.run_times: dict[ClassKey, list[float]] = {}
        self.prefetch: dict[ClassKey, int] = {}

    def remember_run_time(self, placement: ClassKey, run_s: float) -> None:
        """Note how long a job of a class ran here; every 20 results say anew what prefetch is earned.

        Nothing until 20 results are known; then as many as fill 50 ms, at most 256.
        """
        times = self.run_times.setdefault(placement, [])
        times.append(run_s)
        if len(times) >= RUN_TIMES_KEPT:
            typical_s = max(median(times), 1e-4)
            self.prefetch[placement] = min(256, int(self.slots * 0.05 / typical_s))
            times.clear()

    def window(self, placement: ClassKey) -> int:
        """How many slots may be assigned here for this class: the slots, and the prefetch it has earned."""
        return self.slots + self.prefetch.get(placement, 0)


class Live:
    """Everything the coordinator decides from."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.numbers: dict[str, int] = {}  # job id -> number
        self.keys: dict[tuple[str, str], int] = {}  # (owner, idempotency key) -> number
        self.classes: dict[ClassKey, PlacementClass] = {}
        self.workers: dict[str, Worker] = {}
        self.trailing: dict[int, None] = {}  # numbers of finished jobs whose log still arrives, oldest end first
        self.next_number = 1
        self.queued = 0
        self._appliers: dict[type, Callable[..., None]] = {
            JobQueued: self._job_queued,
            Assigned: self._assigned,
            Returned: self._returned,
            Started: self._started,
            StopRequested: self._stop_requested,
            Unkillable: self._unkillable,
            Ended: self._ended,
            LogStored: self._log_stored,
            LogLost: self._log_lost,
            WorkerSeen: self._worker_seen,
            WorkerLeft: self._worker_left,
            WorkerDraining: self._worker_draining,
        }

    def apply(self, change: Change) -> None:
        """Make *change* true. The only mutator; decided changes are legal, an illegal one raises."""
        self._appliers[type(change)](change)

    def job(self, job_id: str) -> Job | None:
        """The live job of this id."""
        number = self.numbers.get(job_id)
        return None if number is None else self.jobs[number]

    def current(self, key: AttemptKey) -> Job | None:
        """The live job whose current attempt is *key* and is on a worker."""
        job = self.job(key.job)
        if job is None or not State.QUEUED < job.state < State.FINISHED:
            return None
        return job if job.attempt == key.attempt and job.stage == key.stage else None

    def heads(self) -> Iterator[PlacementClass]:
        """Every class that has waiting jobs, its heap's head being a job that waits."""
        for placement in self.classes.values():
            if placement.waiting:
                self._clean(placement)
                yield placement

    def _clean(self, placement: PlacementClass) -> None:
        heap = placement.heap
        while heap:
            job = self.jobs.get(heap[0][1])
            if job is not None and job.state is State.QUEUED:
                return
            heapq.heappop(heap)

    def head(self, placement: PlacementClass) -> Job | None:
        """The next waiting job of a class."""
        self._clean(placement)
        return self.jobs[placement.heap[0][1]] if placement.heap else None

    # Changes of jobs

    def _job_queued(self, change: JobQueued) -> None:
        key = ClassKey(change.pin, change.labels, change.slots)
        placement = self.classes.get(key)
        if placement is None:
            placement = self.classes[key] = PlacementClass(key)
        job = Job(change, placement)
        self.jobs[change.number] = job
        self.numbers[change.id] = change.number
        if change.key:
            self.keys[change.owner, change.key] = change.number
        self.next_number = max(self.next_number, change.number + 1)
        self.queued += 1
        placement.push(job)

    def _step(self, change: Assigned | Returned | Started | StopRequested | Ended, event: Event) -> Job:
        job = self.jobs[change.number]
        job.state = advance(job.state, event)
        job.version += 1
        return job

    def _leave_queue(self, job: Job) -> None:
        self.queued -= 1
        placement = job.placement
        placement.waiting -= 1
        if not placement.waiting:  # a class costs nothing while nobody waits in it
            placement.heap.clear()
            self.classes.pop(placement.key, None)

    def _assigned(self, change: Assigned) -> None:
        job = self._step(change, Event.ASSIGNED)
        self._leave_queue(job)
        job.stage, job.attempt = change.key.stage, change.key.attempt
        job.worker, job.sequence, job.assigned_at_us = change.worker, change.sequence, change.at_us
        worker = self.workers[change.worker]
        worker.sequence = max(worker.sequence, change.sequence)
        worker.held[change.key] = job.number
        worker.slots_used += job.placement.key.slots

    def _release(self, job: Job) -> Worker | None:
        worker = self.workers.get(job.worker)
        if worker is not None and worker.held.pop(job.attempt_key, None) is not None:
            worker.slots_used -= job.placement.key.slots
        return worker

    def _returned(self, change: Returned) -> None:
        job = self._step(change, Event.RETURNED)
        self._release(job)
        job.worker, job.sequence, job.assigned_at_us = "", 0, 0
        self.queued += 1
        # The class may have been dropped while it had no waiting job.
        job.placement = self.classes.setdefault(job.placement.key, job.placement)
        job.placement.push(job)

    def _started(self, change: Started) -> None:
        job = self._step(change, Event.STARTED)
        job.started_at_us = change.started_at_us

    def _stop_requested(self, change: StopRequested) -> None:
        job = self._step(change, Event.STOP_REQUESTED)
        job.stop_grace_s = change.grace_s
        job.stop_by = change.by

    def _unkillable(self, change: Unkillable) -> None:
        job = self.jobs[change.number]
        job.survivors = change.survivors
        job.version += 1

    def _ended(self, change: Ended) -> None:
        queued = self.jobs[change.number].state is State.QUEUED
        job = self._step(change, Event.ENDED)
        if queued:
            self._leave_queue(job)
        worker = self._release(job)
        if worker is not None and 0 < change.started_at_us <= change.ended_at_us:
            worker.remember_run_time(job.placement.key, (change.ended_at_us - change.started_at_us) / 1e6)
        job.outcome, job.exit_code, job.signal = change.outcome, change.exit_code, change.signal
        job.cause, job.error = change.cause, change.error
        job.started_at_us = change.started_at_us
        job.ended_at_us = change.ended_at_us
        job.ledger_bytes = job.log_position if change.ledger_bytes == LEDGER_UNKNOWN else change.ledger_bytes
        job.survivors = ()
        if change.ledger:
            job.log_position = change.ledger_bytes
        self._forget_when_over(job)

    def _log_stored(self, change: LogStored) -> None:
        job = self.jobs[change.number]
        job.log_position = change.position
        self._forget_when_over(job)

    def _log_lost(self, change: LogLost) -> None:
        job = self.jobs[change.number]
        job.ledger_bytes = job.log_position
        self._forget_when_over(job)

    def _forget_when_over(self, job: Job) -> None:
        if job.state is not State.FINISHED:
            return
        if job.log_position < job.ledger_bytes:
            self.trailing[job.number] = None
            return
        self.trailing.pop(job.number, None)
        del self.jobs[job.number], self.numbers[job.id]
        if job.key:
            self.keys.pop((job.owner, job.key), None)

    # Changes of workers

    def _worker_seen(self, change: WorkerSeen) -> None:
        worker = self.workers.get(change.id)
        if worker is None:
            worker = self.workers[change.id] = Worker(change.id)
        worker.name, worker.host, worker.version = change.name, change.host, change.version
        worker.labels, worker.slots = dict(change.labels), change.slots
        worker.boot_id, worker.journal_id, worker.generation = change.boot_id, change.journal_id, change.generation
        worker.sequence = max(worker.sequence, change.sequence)
        worker.session = change.session
        worker.connected = bool(change.session)
        worker.draining = worker.goodbye = False
        worker.left_at_s = None
        worker.seen_at_us = change.at_us

    def _worker_left(self, change: WorkerLeft) -> None:
        worker = self.workers[change.id]
        worker.connected = False
        worker.session = ""
        worker.goodbye = change.goodbye
        worker.seen_at_us = change.at_us
        worker.left_at_s = change.at_s

    def _worker_draining(self, change: WorkerDraining) -> None:
        self.workers[change.id].draining = change.draining
