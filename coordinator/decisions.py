"""What follows from an event: changes to make true, and effects to perform once they are durable.

Pure: reads the live set, touches nothing. `Engine` applies the changes at once, commits them with
the batch, and performs the effects in order after the commit.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from coordinator.capacity import Worker
from coordinator.changes import (
    KEEP,
    PLAIN,
    Assigned,
    Chain,
    Change,
    Due,
    EpochRaised,
    JobQueued,
    LogLost,
    Losses,
    Quarantined,
    Returned,
    Started,
    StopRequested,
    Unkillable,
    WorkerLeft,
    WorkerSeen,
)
from coordinator.drains import due_drains
from coordinator.effects import (
    Acknowledge,
    Answer,
    AttachSession,
    DropSession,
    Effect,
    SendRecall,
    SendSignal,
    SendStart,
    SendStop,
    Tell,
    Wait,
)
from coordinator.ends import RETRY_S_MAX, attempt_over, concluded
from coordinator.ends import lost as loss
from coordinator.events import Hello, Report
from coordinator.instant import Instant
from coordinator.live import Job, Live, TrailingLog
from coordinator.losses import silent_workers
from coordinator.placement import absences
from coordinator.quarantine import reason_against
from coordinator.recalls import recalls
from coordinator.refusals import refused
from coordinator.start_deadlines import is_too_late, late_starts, started_too_late
from coordinator.successors import fences_anew, owner_of_missed, word_on_another
from coordinator.waits import waited_for
from hostler.errors import (
    HostlerError,
    InvalidRequest,
    JobNotFound,
    KeyConflict,
    NotRunning,
    Overloaded,
    PermissionDenied,
    Unavailable,
    WorkerNotFound,
)
from hostler.ids import AttemptKey
from hostler.lifecycle import Outcome, State


class Decision(NamedTuple):
    """Changes in order, and effects in order."""

    changes: list[Change]
    effects: list[Effect]


class Submission(NamedTuple):
    """One item of a submit call, parsed and checked by itself (`error` says what was wrong)."""

    error: HostlerError | None
    id: str
    owner: str
    family: str
    name: str
    key: str
    digest: bytes
    pin: str
    labels: tuple[tuple[str, str], ...]
    priority: int
    slots: int
    work: bytes
    runtime: str = "command"
    workload: str = ""
    workload_version: int = 0
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()  # digests of stored bytes
    secrets: tuple[tuple[str, str], ...] = ()
    chain: Chain | None = None
    start_within_s: float = 0.0
    abilities: tuple[str, ...] = ()
    losses: Losses = KEEP
    where: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    retry_of: str = ""
    asked: bytes = b""

    def with_id(self, job_id: str) -> "Submission":
        """Return the same for another job."""
        return Submission(self.error, job_id, *self[2:])


_PLAIN = tuple(Submission._field_defaults.values())  # what a command has there that is nothing else
_SHARED = tuple(name for name in Submission._field_defaults if name != "start_within_s")  # with `JobQueued`


# Requests


def on_submit(live: Live, items: Sequence[Submission], reply: Any, now: Instant, *, max_queued: int) -> Decision:
    """Accept what can be accepted, in order; the reply gets an id or an error for each item."""
    changes: list[Change] = []
    results: list[str | HostlerError] = []
    number = live.next_number
    room = max_queued - live.queued
    keys: dict[tuple[str, str], tuple[str, bytes]] = {}
    for item in items:
        error = item.error
        found = (keys.get((item.owner, item.key)) or _live_key(live, item.owner, item.key)) if item.key else None
        if found is not None:
            # Before anything that is wrong with it today: a repetition gives the same job, also while its worker is
            # away, and after its workload was removed.
            same = found[1] == item.digest
            results.append(found[0] if same else error or KeyConflict(CONFLICT.format(item.key), field="key"))
            continue
        error = error or _not_for_its_worker(live, item)
        if error is None and len(changes) >= room:
            error = Overloaded(f"{max_queued} jobs are waiting already; try again later", retry_after_s=5)
        if error is not None:
            results.append(error)
            continue
        if item.key:
            keys[item.owner, item.key] = (item.id, item.digest)
        changes.append(_queued(number, item, now))
        results.append(item.id)
        number += 1
    return Decision(changes, [Answer(reply, results)])


def _queued(number: int, item: Submission, now: Instant) -> JobQueued:
    change = JobQueued._make((number, *item[1:12], now.wall_us, *PLAIN))
    if item[12:] == _PLAIN:
        return change
    return change._replace(
        **{name: getattr(item, name) for name in _SHARED},
        start_by_us=now.wall_us + round(item.start_within_s * 1e6) if item.start_within_s else 0,
    )


CONFLICT = "the key {!r} was used before with another job; use a new key, or send the same job"


def _live_key(live: Live, owner: str, key: str) -> tuple[str, bytes] | None:
    number = live.keys.get((owner, key))
    return None if number is None else (live.jobs[number].id, live.jobs[number].digest)


def _not_for_its_worker(live: Live, item: Submission) -> HostlerError | None:
    if not item.pin:
        return None
    worker = live.workers.get(item.pin)
    if worker is None:
        text = f"no worker has the id {item.pin[:100]!r}; a job names its worker by id, which hostler workers shows"
        return WorkerNotFound(text, field="worker")
    if worker.revoked:
        text = f"worker {worker.name} was revoked, and takes no job any more; its host may have joined again since"
        return WorkerNotFound(text, field="worker")
    if item.slots:
        return None
    # A job without a slot starts at once or not at all, so its worker must be there, and take new work.
    if not worker.connected:
        return WorkerNotFound(
            f"worker {item.pin} is not connected; a job without a slot waits for none", field="worker"
        )
    absence = next(absences(worker), None)
    if absence is not None:
        why = worker.drain.reason if worker.drain is not None else worker.draining_reason
        text = f"worker {worker.name} takes no new work: it {absence.text}"
        return InvalidRequest(f"{text}: {why}" if why else text, field="worker")
    return None


def on_stop(live: Live, job_id: str, grace_s: float, by: str, waiter: Any, now: Instant) -> Decision:
    """Ask for the end of a live job; *waiter* is told its progress once it is final."""
    job = live.job(job_id)
    if job is None:
        return Decision([], [Answer(waiter, JobNotFound(f"job {job_id} not found"))])
    if job.state is State.QUEUED:
        again = "another attempt did not begin" if job.retried else "it never ran"
        why = waited_for(job)
        evidence = f"stopped by {by} while it was waiting; {again}{f'; it waited then: {why}' if why else ''}"
        ended = concluded(job, Outcome.STOPPED, "stop", evidence, now)
        return Decision([ended], [Wait(waiter, job.number, State.FINISHED)])
    change = StopRequested(job.number, job.attempt_key, grace_s, by, now.wall_us)
    wait = Wait(waiter, job.number, State.FINISHED)
    return Decision([change], [wait, SendStop(job.worker, job.sequence, job.attempt_key, grace_s)])


def on_wait(
    live: Live, job_ids: Sequence[str], until: State, waiter: Any, sees: Callable[[str], bool] | None = None
) -> Decision:
    """Tell *waiter* of each live job when it is as far as *until*; the reply lists the ids that are not live.

    A job of an owner whom the caller does not see counts as one of those.
    """
    effects: list[Effect] = []
    absent: list[str] = []
    for job_id in job_ids:
        job = live.job(job_id)
        if job is None or (sees is not None and not sees(job.owner)):
            absent.append(job_id)
        elif reached(job, until):
            effects.append(Tell(waiter, job.progress()))
        else:
            effects.append(Wait(waiter, job.number, until))
    effects.append(Answer(waiter, absent))
    return Decision([], effects)


def reached(job: Job, until: State) -> bool:
    """Whether a live job has come as far as a waiter wants."""
    return job.started_at_us > 0 and until is not State.FINISHED


def on_signal(live: Live, job_id: str, signal: int, reply: Any, alone: bool = False) -> Decision:
    """Pass a signal on to the main process of a running job, *alone* or with its process group; its worker answers."""
    job = live.job(job_id)
    if job is None:
        return Decision([], [Answer(reply, NotRunning(f"job {job_id} is over, so it takes no signal"))])
    if job.started_at_us == 0:
        return Decision(
            [], [Answer(reply, NotRunning(f"job {job_id} is {job.state.word}; only a running job takes a signal"))]
        )
    worker = live.workers.get(job.worker)
    if worker is None or not worker.connected:
        text = f"the worker of job {job_id} cannot be reached; the signal was not sent"
        return Decision([], [Answer(reply, Unavailable(text, field="worker"))])
    return Decision([], [SendSignal(job.worker, job.attempt_key, signal, alone, reply)])


# Workers


def on_hello(live: Live, hello: Hello, session: Any, now: Instant) -> Decision:
    """Reconcile a worker's inventory with what is assigned to it, before any new work."""
    known = live.workers.get(hello.worker)
    if known is not None and (reason := suspicion(live, hello, now)):
        return _refused(known, reason, session)
    changes: list[Change] = [EpochRaised(hello.epoch + 1)] if hello.epoch > live.epoch else []
    effects: list[Effect] = []
    if known is not None and known.connected:
        effects.append(DropSession(hello.worker, superseded=True))
    sequence = max(hello.mark, known.sequence if known else 0)
    changes.append(
        WorkerSeen(
            hello.worker,
            hello.name,
            hello.host,
            hello.version,
            hello.labels,
            hello.slots,
            hello.boot_id,
            hello.journal_id,
            hello.generation,
            sequence,
            hello.session,
            now.wall_us,
            hello.runtimes,
            hello.workloads,
            hello.abilities,
            hello.instance,
            now.monotonic_s,
            hello.policy,
            hello.named_only,
        )
    )
    changes += fences_anew(live, hello, now)
    amnesia = known is not None and (known.boot_id, known.journal_id) != (hello.boot_id, hello.journal_id)
    verdicts, stops, starts = _reconcile(live, known, hello, amnesia, changes, now)
    # The worker refuses everything up to the mark: what is sent again must be above it, in order.
    starts.sort(key=lambda start: start.sequence)
    mark = starts[0].sequence - 1 if starts else sequence
    effects.append(AttachSession(hello.worker, session, mark, verdicts))
    effects.extend(stops)
    effects.extend(starts)
    return Decision(changes, effects)


def suspicion(live: Live, hello: Hello, now: Instant) -> str:
    """Why whoever says this hello would be refused, and its worker put under quarantine; empty: nothing is wrong."""
    known = live.workers.get(hello.worker)
    if known is None:
        return ""
    held = (live.jobs[number] for number in known.held.values())
    return reason_against(known, hello, now, max((job.sequence for job in held if job.started_at_us), default=0))


def _refused(known: Worker, reason: str, session: Any) -> Decision:
    """Put a worker under quarantine, if it is not yet; whoever speaks for it now is heard no more either."""
    text = (
        f"worker {known.id} is quarantined: {reason}; end all but one of its agents, then: hostler workers release"
        f" {known.id} (a restored or copied data directory must be removed, its agent then joins as a new worker)"
    )
    error = PermissionDenied(f"worker {known.id} was revoked: {known.reason}" if known.revoked else text)
    changes: list[Change] = [] if known.quarantine else [Quarantined(known.id, reason)]
    effects: list[Effect] = [Answer(session, error)]
    if known.connected:
        effects.append(DropSession(known.id, superseded=False))
    return Decision(changes, effects)


def _reconcile(
    live: Live, known: Worker | None, hello: Hello, amnesia: bool, changes: list[Change], now: Instant
) -> tuple[list[tuple[AttemptKey, str, int]], list[SendStop], list[SendStart]]:
    held = dict(hello.inventory)
    verdicts: list[tuple[AttemptKey, str, int]] = []
    stops: list[SendStop] = []
    starts: list[SendStart] = []
    for key, number in known.held.items() if known else ():
        job = live.jobs[number]
        if amnesia:
            evidence = f"host {hello.host} was restarted, or its journal replaced; how the program ended is unknown"
            restarted = known is not None and known.boot_id != hello.boot_id
            changes.append(loss(job, "host_restarted", evidence, now, fenced=restarted))
        elif key in held:
            verdicts.append((key, "keep", job.placement.key.slots))
            if job.stop_grace_s is not None:
                stops.append(SendStop(job.worker, job.sequence, key, job.stop_grace_s))
        elif _never_arrived(job, hello) and not is_too_late(job, now):
            starts.append(_start(job, key))
        else:
            changes.append(_came_back(job, "it never arrived at its worker", now))
    for log in live.trailing.values():
        # A log that its worker no longer holds will never be complete.
        if log.worker == hello.worker and log.key not in held:
            changes.append(_log_lost(log))
    for key, state in held.items():
        if known is None or key not in known.held or amnesia:
            verdicts.append((key, _verdict(live, hello, key, state), 0))
    return verdicts, stops, starts


def _never_arrived(job: Job, hello: Hello) -> bool:
    """Whether the Start of an attempt that nobody stops is to be sent again: nothing above the mark was ever accepted.

    Of one that was started another copy of the directory knew, which is gone since the worker was released from
    quarantine.
    """
    return job.sequence > hello.mark and job.stop_grace_s is None and not job.started_at_us


def _verdict(live: Live, hello: Hello, key: AttemptKey, state: str) -> str:
    """What becomes of an attempt that is over here, or was never here: it is kept until its log has arrived."""
    log = live.trailing.get(key)
    if log is not None and log.worker == hello.worker:
        return "keep"
    if state == "ended" and owner_of_missed(live, hello.worker, hello.journal_id, key):
        return "keep"  # it was lost, and now its end can be heard
    return "forget" if state == "ended" else "kill"


def _log_lost(log: TrailingLog) -> LogLost:
    return LogLost(log.number, log.key, log.ledger_bytes - log.log_position, log.past)


def _came_back(job: Job, reason: str, now: Instant) -> Change:
    if job.started_at_us:
        # Not to be believed after its own word that it started: running it again could run it twice.
        evidence = f"its worker had started it and then no longer knew it ({reason}); how it ended is unknown"
        return concluded(job, Outcome.LOST, "supervisor_died", evidence, now)
    if job.stop_grace_s is not None:
        evidence = f"stopped by {job.stop_by} before it was started; it never ran"
        return concluded(job, Outcome.STOPPED, "stop", evidence, now)
    if is_too_late(job, now):
        return started_too_late(job, now)
    return Returned(job.number, job.attempt_key, reason, now.wall_us, worker=job.worker)


def on_worker_left(live: Live, worker_id: str, session: str, goodbye: bool, now: Instant) -> Decision:
    """A control stream ended. Nothing is concluded about its jobs yet."""
    worker = live.workers.get(worker_id)
    if worker is None or worker.session != session:
        return Decision([], [])
    return Decision(
        [WorkerLeft(worker_id, goodbye, now.wall_us, now.monotonic_s)], [DropSession(worker_id, superseded=False)]
    )


def on_reports(live: Live, worker_id: str, session: str, reports: Sequence[Report], now: Instant) -> Iterator[Decision]:
    """Take the reports of one message in order; each is decided on what the one before it changed.

    A stream that another one has taken the place of is not heard any more: its worker says everything again there.
    """
    worker = live.workers.get(worker_id)
    if worker is None or worker.session != session:
        return
    for report in reports:
        yield on_report(live, worker_id, report, now)


def on_report(live: Live, worker_id: str, report: Report, now: Instant) -> Decision:
    """Move the attempt a report speaks of, if it is this worker's current one; else have it forgotten."""
    job = live.current(report.key)
    if job is None or job.worker != worker_id:
        late = list(word_on_another(live, worker_id, report, now))
        return Decision(late, [Acknowledge(worker_id, report.key)])
    if report.never_ran:
        return _on_never_ran(live, job, worker_id, report, now)
    if report.end is not None:
        return Decision([*attempt_over(job, report, now)], [Acknowledge(worker_id, report.key)])
    changes: list[Change] = []
    if report.started_at_us and not job.started_at_us:
        changes.append(Started(job.number, report.key, report.started_at_us, now.wall_us))
    if report.survivors and report.survivors != job.survivors:
        changes.append(Unkillable(job.number, report.key, report.survivors, now.wall_us))
    return Decision(changes, [])


def _on_never_ran(live: Live, job: Job, worker_id: str, report: Report, now: Instant) -> Decision:
    if report.refusal and job.stop_grace_s is None and not job.started_at_us:
        change: Change = refused(live, job, worker_id, report, now)
    else:
        change = _came_back(job, report.refusal or "the worker proved that it never ran", now)
    return Decision([change], [Acknowledge(worker_id, report.key)])


def on_tick(live: Live, now: Instant, *, lost_after: Callable[[str], float], lease_s: float) -> Decision:
    """End as lost what hangs on workers that stayed away too long, and let attempts begin that are due.

    *lost_after* says for an API family after how many seconds without its worker a job is lost, and *lease_s* how
    long a worker's lease lasts.
    """
    losses = list(silent_workers(live, now, lost_after=lost_after, lease_s=lease_s))
    lost = {change.number for change in losses}
    changes: list[Change] = [*losses]
    for log in live.trailing.values():
        if _log_is_gone(live, log, now, lost_after("")):
            changes.append(_log_lost(log))
    ended, recalled = late_starts(live, now, lost)
    changes += ended
    effects: list[Effect] = [*recalled]
    effects.extend(SendRecall(worker, key) for worker, key in recalls(live, now.wall_us))
    effects.extend(due_drains(live, now))
    for number in live.delayed:
        # A clock that was set back may not keep a job waiting.
        if not now.wall_us < live.jobs[number].due_at_us <= now.wall_us + RETRY_S_MAX * 1e6:
            changes.append(Due(number))
    return Decision(changes, effects)


def _log_is_gone(live: Live, log: TrailingLog, now: Instant, lost_after_s: float) -> bool:
    worker = live.workers.get(log.worker)
    if worker is None:
        return True
    return not worker.connected and worker.left_at_s is not None and now.monotonic_s - worker.left_at_s > lost_after_s


def assignment(job: Job, worker: Worker, now: Instant, why: str = "") -> tuple[Assigned, SendStart]:
    """Give *job* to *worker*: the next attempt, the worker's next sequence; *why* to this one."""
    key = AttemptKey(job.id, job.stage, job.attempt + 1)
    sequence = worker.sequence + 1
    return (
        Assigned(job.number, key, worker.id, sequence, now.wall_us, why),
        _send_start(job, worker.id, sequence, key),
    )


def _start(job: Job, key: AttemptKey) -> SendStart:
    return _send_start(job, job.worker, job.sequence, key)


def _send_start(job: Job, worker: str, sequence: int, key: AttemptKey) -> SendStart:
    placed = job.placement.key
    start_by_us = 0 if job.retried or job.stage else job.start_by_us
    return SendStart(
        worker, job.number, sequence, key, placed.slots, job.work, job.secrets, placed.workload, start_by_us
    )
