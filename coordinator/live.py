"""The live set: every job that is not over, every worker, and the queues, in memory.

Pure. `Live.apply` is the only mutator. A job leaves when it is finished; from then on it is read from
the store. Logs of attempts that are over and still arrive are kept apart (`TrailingLog`). Nothing of
this ever leaves ``coordinator``.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator

from coordinator.access_live import LiveAccess
from coordinator.admissions import Admissions
from coordinator.capacity import ClassKey, PlacementClass, Worker, WorkerChanges
from coordinator.changes import (
    Assigned,
    Change,
    DrainAsked,
    Due,
    Ended,
    EpochRaised,
    FilesExpired,
    JobExpired,
    JobQueued,
    LateEnd,
    LogLost,
    LogsExpired,
    LogStored,
    LogTrails,
    Missed,
    Quarantined,
    RecordPut,
    Retried,
    Returned,
    StageEnded,
    Started,
    StopRequested,
    Unkillable,
    WorkerDraining,
    WorkerLeft,
    WorkerSeen,
    WorkloadApplied,
    WorkloadRemoved,
)
from coordinator.places import Place, Replaced
from hostler.ids import AttemptKey, JobId
from hostler.jobs import Progress
from hostler.lifecycle import Event, State, advance
from hostler.workloads import Workload

MISSED_CAUSES = frozenset({"worker_lost", "lease"})  # losses that were concluded while the worker was away
MISSED_MAX = 10_000
# A member is looked for by name whenever it is written as `State.QUEUED`, which costs as much as three of these steps.
QUEUED, ASSIGNED, STARTED, ENDED = State.QUEUED, Event.ASSIGNED, Event.STARTED, Event.ENDED
WORK_KEPT_BYTES_MAX = 1024  # larger specs stay in the store and are read at dispatch


class Job:
    """One live job. Owned by `Live`; only `Live.apply` changes it."""

    __slots__ = (
        "assigned_at_us",
        "attempt",
        "chain",
        "crashes",
        "digest",
        "due_at_us",
        "family",
        "id",
        "key",
        "log_position",
        "losses",
        "number",
        "owner",
        "placement",
        "priority",
        "queued_at_us",
        "retried",
        "retries",
        "retry_on",
        "secrets",
        "sequence",
        "stage",
        "start_by_us",
        "started_at_us",
        "state",
        "stop_by",
        "stop_grace_s",
        "survivors",
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
        self.state = QUEUED
        self.stage = queued.stage
        self.attempt = queued.attempt
        self.retries = queued.retries
        self.retry_on = queued.retry_on
        self.retried = queued.retried
        self.due_at_us = queued.due_at_us
        self.secrets = queued.secrets
        self.chain = queued.chain
        self.losses = queued.losses
        self.crashes = queued.crashes
        self.start_by_us = queued.start_by_us
        self.worker = ""
        self.sequence = 0
        self.stop_grace_s: float | None = None
        self.stop_by = ""
        self.survivors: tuple[tuple[int, str], ...] = ()
        self.queued_at_us = queued.at_us
        self.assigned_at_us = 0
        self.started_at_us = 0
        self.log_position = 0

    @property
    def attempt_key(self) -> AttemptKey:
        """The name of the current attempt."""
        return AttemptKey(self.id, self.stage, self.attempt)

    def progress(self) -> Progress:
        """What a waiter is told."""
        return Progress(self.id, self.state)


class TrailingLog:
    """The log of an attempt that is over, while it still arrives."""

    __slots__ = ("key", "ledger_bytes", "log_position", "number", "past", "worker")

    def __init__(
        self, number: int, key: AttemptKey, worker: str, log_position: int, ledger_bytes: int, *, past: bool
    ) -> None:
        self.number = number
        self.key = key
        self.worker = worker
        self.log_position = log_position
        self.ledger_bytes = ledger_bytes
        self.past = past  # another attempt followed it, or may have


class Live:
    """Everything the coordinator decides from."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.numbers: dict[str, int] = {}  # job id -> number
        self.keys: dict[tuple[str, str], int] = {}  # (owner, idempotency key) -> number
        self.classes: dict[ClassKey, PlacementClass] = {}
        self.workers: dict[str, Worker] = {}
        self.worker_changes = WorkerChanges()
        self.delayed: dict[int, None] = {}  # queued jobs whose next attempt is not due yet
        self.starts_due: dict[int, int] = {}  # number -> when its program must have started, until it has
        self.trailing: dict[AttemptKey, TrailingLog] = {}  # oldest end first
        self.missed: dict[AttemptKey, str] = {}  # lost attempts, with the worker that may still say how they ended
        self.workloads: dict[str, Workload] = {}  # the newest version of each that was not removed
        self.workload_versions: dict[str, int] = {}  # the highest there ever was
        self.admissions = Admissions()
        self.access = LiveAccess()
        self.next_number = 1
        self.epoch = 0  # under which this coordinator writes
        self.queued = 0
        self.open_by_family: Counter[str] = Counter()
        self._appliers: dict[type, Callable[..., None]] = {
            JobQueued: self._job_queued,
            Assigned: self._assigned,
            Returned: self._returned,
            Started: self._started,
            StopRequested: self._stop_requested,
            Unkillable: self._unkillable,
            Ended: self._ended,
            Retried: self._retried,
            StageEnded: self._stage_ended,
            Due: self._due,
            LogStored: self._log_stored,
            LogLost: self._log_lost,
            LogTrails: self._log_trails,
            WorkerSeen: self._worker_seen,
            WorkerLeft: self._worker_left,
            WorkerDraining: self._worker_draining,
            DrainAsked: self._drain_asked,
            Quarantined: self._quarantined,
            EpochRaised: self._epoch_raised,
            LateEnd: self._late_end,
            Missed: self._missed,
            WorkloadApplied: self._workload_applied,
            WorkloadRemoved: self._workload_removed,
            FilesExpired: lambda change: None,
            LogsExpired: lambda change: None,
            JobExpired: lambda change: None,
            RecordPut: lambda change: None,
            **self.admissions.appliers(),
            **self.access.appliers,
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
        number = self.numbers.get(key.job)
        if number is None:
            return None
        job = self.jobs[number]
        if job.attempt != key.attempt or job.stage != key.stage or job.state is QUEUED:
            return None
        return job

    def due_to_start(self, at_us: int) -> Iterator[int]:
        """Jobs that should have started by *at_us* and have not, oldest first."""
        return (number for number, due_us in self.starts_due.items() if due_us <= at_us)

    def log_of(self, key: AttemptKey) -> "Job | TrailingLog | None":
        """What holds the position of an attempt's log, while that log is wanted."""
        return self.trailing.get(key) or self.current(key)

    def heads(self) -> Iterator[PlacementClass]:
        """Every class that has waiting jobs, its heap's head being a job that waits."""
        for placement in self.classes.values():
            if placement.waiting:
                self.head(placement)
                yield placement

    def head(self, placement: PlacementClass) -> Job | None:
        """The next waiting job of a class, which is then the head of its heap."""
        heap = placement.heap
        while heap:
            job = self.jobs.get(heap[0][1])
            # It may wait again elsewhere: for the time of its next attempt, or in the class of its next stage.
            if (
                job is not None
                and job.state is QUEUED
                and job.placement is placement
                and job.number not in self.delayed
            ):
                return job
            heapq.heappop(heap)
        return None

    # Changes of jobs

    def _job_queued(self, change: JobQueued) -> None:
        wanted = (change.pin, change.labels, change.slots, change.runtime, change.workload, change.abilities)
        key = ClassKey(*wanted, change.where, change.barred)
        job = Job(change, self.classes.get(key) or PlacementClass(key))
        self.jobs[change.number] = job
        self.numbers[change.id] = change.number
        if change.key:
            self.keys[change.owner, change.key] = change.number
        if change.start_by_us:
            self.starts_due[change.number] = change.start_by_us
        self.open_by_family[change.family] += 1
        if change.number >= self.next_number:
            self.next_number = change.number + 1
        self._enter_queue(job)

    def _enter_queue(self, job: Job) -> None:
        self.queued += 1
        if job.due_at_us:
            self.delayed[job.number] = None
        else:
            self._push(job)

    def _push(self, job: Job) -> None:
        placement = job.placement
        if not placement.waiting:  # the class may have been dropped when its last one left
            job.placement = placement = self.classes.setdefault(placement.key, placement)
        placement.push(job.priority, job.number)

    def _leave_queue(self, job: Job) -> None:
        self.queued -= 1
        placement = job.placement
        if job.number in self.delayed:
            del self.delayed[job.number]
            return
        placement.waiting -= 1
        if not placement.waiting:  # a class costs nothing while nobody waits in it
            placement.heap.clear()
            self.classes.pop(placement.key, None)

    def _assigned(self, change: Assigned) -> None:
        job = self.jobs[change.number]
        job.state = advance(job.state, ASSIGNED)
        self._leave_queue(job)
        _, job.stage, job.attempt = change.key
        job.worker, job.sequence, job.assigned_at_us = change.worker, change.sequence, change.at_us
        worker = self._changing(change.worker)
        if change.sequence > worker.sequence:
            worker.sequence = change.sequence
        worker.held[change.key] = job.number
        worker.slots_used += job.placement.key.slots

    def _release(self, job: Job, key: AttemptKey) -> Worker | None:
        if job.worker not in self.workers:
            return None
        worker = self._changing(job.worker)
        if worker.held.pop(key, None) is not None:
            worker.slots_used -= job.placement.key.slots
        return worker

    def _returned(self, change: Returned) -> None:
        job = self.jobs[change.number]
        job.state = advance(job.state, Event.RETURNED)
        self._release(job, change.key)
        job.worker, job.sequence, job.assigned_at_us = "", 0, 0
        if change.barred:
            key = job.placement.key._replace(barred=change.barred)
            job.placement = self.classes.get(key) or PlacementClass(key)
        self._enter_queue(job)

    def _started(self, change: Started) -> None:
        job = self.jobs[change.number]
        job.state = advance(job.state, STARTED)
        job.started_at_us = change.started_at_us
        self.starts_due.pop(job.number, None)

    def _stop_requested(self, change: StopRequested) -> None:
        job = self.jobs[change.number]
        job.state = advance(job.state, Event.STOP_REQUESTED)
        job.stop_grace_s = change.grace_s
        job.stop_by = change.by

    def _unkillable(self, change: Unkillable) -> None:
        job = self.jobs[change.number]
        job.survivors = change.survivors

    def _ended(self, change: Ended) -> None:
        job = self.jobs[change.number]
        if job.state is QUEUED:
            self._leave_queue(job)
        job.state = advance(job.state, ENDED)
        self._attempt_over(job, change, past=False)
        del self.jobs[job.number], self.numbers[job.id]
        self.starts_due.pop(job.number, None)
        self.open_by_family[job.family] -= 1
        if not self.open_by_family[job.family]:  # a family is any word a caller says: none may stay for ever
            del self.open_by_family[job.family]
        if job.key:
            self.keys.pop((job.owner, job.key), None)

    def _retried(self, change: Retried) -> None:
        job = self.jobs[change.number]
        job.state = advance(job.state, Event.RETRIED)
        self._attempt_over(job, change, past=True)
        self._wait_again(job, stage=job.stage, attempt=job.attempt)
        job.retried += change.retries
        job.crashes += change.crashes
        job.due_at_us = change.due_at_us
        self._enter_queue(job)

    def _stage_ended(self, change: StageEnded) -> None:
        job = self.jobs[change.number]
        job.state = advance(job.state, Event.STAGE_ENDED)
        self._attempt_over(job, change, past=True)
        following = change.following
        self._wait_again(job, stage=job.stage + 1, attempt=0)
        job.retries, job.retry_on, job.secrets = following.retries, following.retry_on, following.secrets
        job.retried, job.losses = 0, following.losses
        job.work = following.work if len(following.work) <= WORK_KEPT_BYTES_MAX else None
        before = job.placement.key
        wanted = (following.labels, following.slots, following.runtime, following.workload, following.abilities)
        key = ClassKey(before.pin, *wanted, before.where)
        job.placement = self.classes.get(key) or PlacementClass(key)
        self._enter_queue(job)

    def _wait_again(self, job: Job, *, stage: int, attempt: int) -> None:
        """Forget the attempt that is over."""
        self.starts_due.pop(job.number, None)
        job.start_by_us = 0  # it was for the first
        job.stage, job.attempt = stage, attempt
        job.worker, job.sequence, job.assigned_at_us, job.started_at_us = "", 0, 0, 0
        job.log_position, job.survivors, job.due_at_us = 0, (), 0

    def _attempt_over(self, job: Job, change: Ended | Retried | StageEnded, *, past: bool) -> None:
        worker = self._release(job, change.key)
        if worker is not None and 0 < change.started_at_us <= change.ended_at_us:
            worker.remember_run_time(job.placement.key, (change.ended_at_us - change.started_at_us) / 1e6)
        if change.ledger_bytes < 0 and not isinstance(change, StageEnded) and change.cause in MISSED_CAUSES:
            self._miss(change.key, job.worker)
        held = change.ledger_bytes if change.ledger else job.log_position
        if held < change.ledger_bytes:
            log = TrailingLog(job.number, change.key, job.worker, held, change.ledger_bytes, past=past)
            self.trailing[change.key] = log

    def _miss(self, key: AttemptKey, worker: str) -> None:
        if len(self.missed) >= MISSED_MAX:
            del self.missed[next(iter(self.missed))]
        self.missed[key] = worker

    def _missed(self, change: Missed) -> None:
        self._miss(change.key, change.worker)

    def _late_end(self, change: LateEnd) -> None:
        del self.missed[change.key]

    def _due(self, change: Due) -> None:
        job = self.jobs[change.number]
        job.due_at_us = 0
        del self.delayed[change.number]
        self._push(job)

    def _log_stored(self, change: LogStored) -> None:
        log = self.log_of(change.key)
        assert log is not None
        log.log_position = change.position
        if isinstance(log, TrailingLog) and log.log_position >= log.ledger_bytes:
            del self.trailing[change.key]

    def _log_lost(self, change: LogLost) -> None:
        del self.trailing[change.key]

    def _log_trails(self, change: LogTrails) -> None:
        self.trailing[change.key] = TrailingLog(*change[:5], past=change.past)

    # Changes of workloads

    def _workload_applied(self, change: WorkloadApplied) -> None:
        workload = change.workload
        self.workloads[workload.name] = workload
        self.workload_versions[workload.name] = workload.version

    def _workload_removed(self, change: WorkloadRemoved) -> None:
        self.workloads.pop(change.name, None)
        self.workload_versions[change.name] = change.version

    # Changes of workers

    def _changing(self, worker_id: str) -> Worker:
        worker = self.workers[worker_id]
        self.worker_changes.note(worker)
        return worker

    def _worker_seen(self, change: WorkerSeen) -> None:
        if change.id not in self.workers:
            self.workers[change.id] = Worker(change.id)
        worker = self._changing(change.id)
        worker.name, worker.host, worker.version = change.name, change.host, change.version
        worker.labels, worker.slots = dict(change.labels), change.slots
        worker.runtimes, worker.workloads = change.runtimes, change.workloads
        before, place = Place(worker.journal_id, worker.boot_id), Place(change.journal_id, change.boot_id)
        worker.replaced = worker.replaced.seen(before, place, change.at_s)
        worker.boot_id, worker.journal_id, worker.generation = change.boot_id, change.journal_id, change.generation
        worker.sequence = max(worker.sequence, change.sequence)
        worker.abilities = change.abilities
        worker.policy, worker.named_only = change.policy, change.named_only
        worker.instance = change.instance
        worker.session = change.session
        worker.connected = bool(change.session)
        worker.draining = worker.disk_full = worker.goodbye = False
        worker.draining_reason = ""
        worker.left_at_s = None
        worker.seen_at_us = change.at_us

    def _worker_left(self, change: WorkerLeft) -> None:
        worker = self._changing(change.id)
        worker.connected = False
        worker.session = ""
        worker.goodbye = change.goodbye
        worker.seen_at_us = change.at_us
        worker.left_at_s = change.at_s

    def _worker_draining(self, change: WorkerDraining) -> None:
        worker = self._changing(change.id)
        worker.draining, worker.draining_reason = change.draining, change.reason
        worker.disk_full = change.disk_full

    def _drain_asked(self, change: DrainAsked) -> None:
        self._changing(change.id).drain = change.drain

    def _epoch_raised(self, change: EpochRaised) -> None:
        self.epoch = change.epoch

    def _quarantined(self, change: Quarantined) -> None:
        worker = self._changing(change.id)
        worker.quarantine = change.reason
        worker.instance, worker.replaced = "", Replaced()
        if not change.reason:
            worker.generation = 0  # whichever directory is left is the worker's from now on
