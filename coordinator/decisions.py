"""What follows from an event: changes to make true, and effects to perform once they are durable.

Pure: reads the live set, touches nothing. `Engine` applies the changes at once, commits them with
the batch, and performs the effects in order after the commit.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from coordinator.changes import (
    LEDGER_UNKNOWN,
    Assigned,
    Change,
    Ended,
    JobQueued,
    LogLost,
    Returned,
    Started,
    StopRequested,
    Unkillable,
    WorkerLeft,
    WorkerSeen,
)
from coordinator.effects import (
    Acknowledge,
    Answer,
    AttachSession,
    DropSession,
    Effect,
    SendSignal,
    SendStart,
    SendStop,
    Tell,
    Wait,
)
from coordinator.events import Hello, Report
from coordinator.live import Job, Live, Worker
from hostler.errors import (
    HostlerError,
    InvalidRequest,
    JobNotFound,
    KeyConflict,
    NotRunning,
    Overloaded,
    Unavailable,
    WorkerNotFound,
)
from hostler.ids import AttemptKey
from hostler.jobs import End
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_to_bytes


class Instant(NamedTuple):
    """The two times of a batch: one to show, one to measure with."""

    wall_us: int
    monotonic_s: float


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


OUTCOME_OF_CAUSE = {
    "signal": Outcome.FAILED,
    "stop": Outcome.STOPPED,
    "drain": Outcome.STOPPED,
    "timeout": Outcome.TIMED_OUT,
    "lease": Outcome.LOST,
    "not_started": Outcome.FAILED,
    "supervisor_died": Outcome.LOST,
    "host_restarted": Outcome.LOST,
    "worker_lost": Outcome.LOST,
}


def outcome_of(cause: str, exit_code: int | None) -> Outcome:
    """How an attempt ended, in one word, from its worker's evidence."""
    if cause == "exit":
        return Outcome.SUCCEEDED if exit_code == 0 else Outcome.FAILED
    return OUTCOME_OF_CAUSE.get(cause, Outcome.LOST)


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
        if error is None and item.key:
            # Before the worker is looked at: a repetition gives the same job, also while its worker is away.
            found = keys.get((item.owner, item.key)) or _live_key(live, item.owner, item.key)
            if found is not None:
                same = found[1] == item.digest
                results.append(found[0] if same else KeyConflict(CONFLICT.format(item.key), field="key"))
                continue
        error = error or _unknown_worker(live, item)
        if error is None and len(changes) >= room:
            error = Overloaded(f"{max_queued} jobs are waiting already; try again later", retry_after_s=5)
        if error is not None:
            results.append(error)
            continue
        if item.key:
            keys[item.owner, item.key] = (item.id, item.digest)
        changes.append(JobQueued(number, *item[1:], at_us=now.wall_us))
        results.append(item.id)
        number += 1
    return Decision(changes, [Answer(reply, results)])


CONFLICT = "the key {!r} was used before with another job; use a new key, or send the same job"


def _live_key(live: Live, owner: str, key: str) -> tuple[str, bytes] | None:
    number = live.keys.get((owner, key))
    return None if number is None else (live.jobs[number].id, live.jobs[number].digest)


def _unknown_worker(live: Live, item: Submission) -> HostlerError | None:
    if not item.pin:
        return None
    worker = live.workers.get(item.pin)
    # A job without a slot starts at once or not at all, so its worker must be there.
    if worker is None or (item.slots == 0 and not worker.connected):
        return WorkerNotFound("worker not found", field="worker")
    return None


def on_stop(live: Live, job_id: str, grace_s: float, by: str, waiter: Any, now: Instant) -> Decision:
    """Ask for the end of a live job; *waiter* is told its progress once it is final."""
    job = live.job(job_id)
    if job is None:
        return Decision([], [Answer(waiter, JobNotFound(f"job {job_id} not found"))])
    if job.state is State.FINISHED:
        return Decision([], [Tell(waiter, job.progress())])
    if job.state is State.QUEUED:
        evidence = f"stopped by {by} while it was waiting; it never ran"
        ended = _ended_here(job, Outcome.STOPPED, "stop", evidence, now)
        return Decision([ended], [Wait(waiter, job.number, State.FINISHED)])
    change = StopRequested(job.number, job.attempt_key, grace_s, by, now.wall_us)
    wait = Wait(waiter, job.number, State.FINISHED)
    return Decision([change], [wait, SendStop(job.worker, job.sequence, job.attempt_key, grace_s)])


def on_wait(live: Live, job_ids: Sequence[str], until: State, waiter: Any) -> Decision:
    """Tell *waiter* of each live job when it is as far as *until*; the reply lists the ids that are not live."""
    effects: list[Effect] = []
    absent: list[str] = []
    for job_id in job_ids:
        job = live.job(job_id)
        if job is None:
            absent.append(job_id)
        elif reached(job, until):
            effects.append(Tell(waiter, job.progress()))
        else:
            effects.append(Wait(waiter, job.number, until))
    effects.append(Answer(waiter, absent))
    return Decision([], effects)


def reached(job: Job, until: State) -> bool:
    """Whether a job has come as far as a waiter wants."""
    if job.state is State.FINISHED:
        return True
    return until is not State.FINISHED and job.started_at_us > 0


def on_signal(live: Live, job_id: str, signal: int, reply: Any) -> Decision:
    """Pass a signal on to the main process of a running job."""
    job = live.job(job_id)
    if job is None:
        return Decision([], [Answer(reply, NotRunning(f"job {job_id} is over or unknown"))])
    if job.started_at_us == 0 or job.state is State.FINISHED:
        return Decision(
            [], [Answer(reply, NotRunning(f"job {job_id} is {job.state.word}; only a running job takes a signal"))]
        )
    worker = live.workers.get(job.worker)
    if worker is None or not worker.connected:
        return Decision(
            [], [Answer(reply, Unavailable(f"the worker of job {job_id} cannot be reached; the signal was not sent"))]
        )
    return Decision([], [SendSignal(job.worker, job.attempt_key, signal), Answer(reply, None)])


# Workers


def on_hello(live: Live, hello: Hello, session: Any, now: Instant) -> Decision:
    """Reconcile a worker's inventory with what is assigned to it, before any new work."""
    known = live.workers.get(hello.worker)
    if known is not None and hello.journal_id == known.journal_id and hello.generation < known.generation:
        error = InvalidRequest(
            f"worker {hello.worker} has an older journal than the one seen last (a copied or restored data "
            "directory?); remove the directory so that it joins as a new worker"
        )
        return Decision([], [Answer(session, error)])
    changes: list[Change] = []
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
        )
    )
    amnesia = known is not None and (known.boot_id, known.journal_id) != (hello.boot_id, hello.journal_id)
    verdicts, stops, starts = _reconcile(live, known, hello, amnesia, changes, now)
    # The worker refuses everything up to the mark: what is sent again must be above it, in order.
    starts.sort(key=lambda start: start.sequence)
    mark = starts[0].sequence - 1 if starts else sequence
    effects.append(AttachSession(hello.worker, session, mark, verdicts))
    effects.extend(stops)
    effects.extend(starts)
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
            changes.append(_ended_here(job, Outcome.LOST, "host_restarted", evidence, now))
        elif key in held:
            verdicts.append((key, "keep", job.placement.key.slots))
            if job.stop_grace_s is not None:
                stops.append(SendStop(job.worker, job.sequence, key, job.stop_grace_s))
        elif job.sequence > hello.mark and job.stop_grace_s is None:
            # The Start never arrived: nothing above the mark was ever accepted.
            starts.append(_start(job, key))
        else:
            changes.append(_came_back(job, "it never arrived at its worker", now))
    for number in live.trailing:
        # A log that its worker no longer holds will never be complete.
        job = live.jobs[number]
        if job.worker == hello.worker and job.attempt_key not in held:
            changes.append(_log_lost(job))
    for key, state in held.items():
        if known is None or key not in known.held or amnesia:
            verdicts.append((key, _verdict(live, hello.worker, key, state), 0))
    return verdicts, stops, starts


def _verdict(live: Live, worker: str, key: AttemptKey, state: str) -> str:
    """What becomes of an attempt that is over here, or was never here: it is kept until its log has arrived."""
    job = live.job(key.job)
    if job is not None and job.number in live.trailing and (job.worker, job.attempt_key) == (worker, key):
        return "keep"
    return "forget" if state == "ended" else "kill"


def _log_lost(job: Job) -> LogLost:
    return LogLost(job.number, job.attempt_key, job.ledger_bytes - job.log_position)


def _came_back(job: Job, reason: str, now: Instant) -> Change:
    if job.started_at_us:
        # Not to be believed after its own word that it started: running it again could run it twice.
        evidence = f"its worker had started it and then no longer knew it ({reason}); how it ended is unknown"
        return _ended_here(job, Outcome.LOST, "supervisor_died", evidence, now)
    if job.stop_grace_s is not None:
        evidence = f"stopped by {job.stop_by} before it was started; it never ran"
        return _ended_here(job, Outcome.STOPPED, "stop", evidence, now)
    return Returned(job.number, job.attempt_key, reason, now.wall_us)


def on_worker_left(live: Live, worker_id: str, session: str, goodbye: bool, now: Instant) -> Decision:
    """A control stream ended. Nothing is concluded about its jobs yet."""
    worker = live.workers.get(worker_id)
    if worker is None or worker.session != session:
        return Decision([], [])
    return Decision(
        [WorkerLeft(worker_id, goodbye, now.wall_us, now.monotonic_s)], [DropSession(worker_id, superseded=False)]
    )


def on_reports(live: Live, worker_id: str, reports: Sequence[Report], now: Instant) -> Iterator[Decision]:
    """Take the reports of one message in order; each is decided on what the one before it changed."""
    for report in reports:
        yield on_report(live, worker_id, report, now)


def on_report(live: Live, worker_id: str, report: Report, now: Instant) -> Decision:
    """Move the attempt a report speaks of, if it is this worker's current one; else have it forgotten."""
    job = live.current(report.key)
    if job is None or job.worker != worker_id:
        return Decision([], [Acknowledge(worker_id, report.key)])
    if report.never_ran:
        return _on_never_ran(job, worker_id, report, now)
    if report.end is not None:
        change = _ended(job, report, now)
        return Decision([change], [Acknowledge(worker_id, report.key)])
    changes: list[Change] = []
    if report.started_at_us and not job.started_at_us:
        changes.append(Started(job.number, report.key, report.started_at_us, now.wall_us))
    if report.survivors and report.survivors != job.survivors:
        changes.append(Unkillable(job.number, report.key, report.survivors, now.wall_us))
    return Decision(changes, [])


def _on_never_ran(job: Job, worker_id: str, report: Report, now: Instant) -> Decision:
    if report.refusal and job.stop_grace_s is None and not job.started_at_us:
        change: Change = _ended_here(job, Outcome.REJECTED, "refused", f"the worker refused it: {report.refusal}", now)
    else:
        change = _came_back(job, report.refusal or "the worker proved that it never ran", now)
    return Decision([change], [Acknowledge(worker_id, report.key)])


def _ended(job: Job, report: Report, now: Instant) -> Ended:
    end = report.end
    assert end is not None
    return Ended(
        job.number,
        report.key,
        outcome_of(end.cause, end.exit_code),
        report.end_bytes,
        end.exit_code,
        end.signal,
        end.cause,
        end.error,
        end.started_at_us,
        end.ended_at_us,
        end.ledger_bytes,
        end.output_bytes,
        report.ledger,
        now.wall_us,
    )


def _ended_here(job: Job, outcome: Outcome, cause: str, evidence: str, now: Instant) -> Ended:
    """An end that the coordinator concludes itself: the program never ran, or nobody can tell how it ended."""
    started = job.started_at_us
    # What a program wrote that nobody can ask for its length any more counts as lost.
    ledger_bytes = LEDGER_UNKNOWN if outcome is Outcome.LOST else 0
    end = End(started_at_us=started, ended_at_us=now.wall_us, cause=cause, evidence=evidence)
    return Ended(
        job.number,
        job.attempt_key,
        outcome,
        end_to_bytes(end),
        None,
        "",
        cause,
        "",
        started,
        now.wall_us,
        ledger_bytes,
        0,
        b"",
        now.wall_us,
    )


def on_tick(live: Live, now: Instant, *, lost_after_s: float) -> Decision:
    """End as lost what hangs on workers that stayed away too long."""
    changes: list[Change] = []
    for worker in live.workers.values():
        if worker.connected or worker.left_at_s is None or now.monotonic_s - worker.left_at_s < lost_after_s:
            continue
        for number in worker.held.values():
            job = live.jobs[number]
            evidence = (
                f"worker {worker.name} was not heard of for {lost_after_s:.0f} s; "
                f"the program may still run on {worker.host} until that host is reached"
            )
            changes.append(_ended_here(job, Outcome.LOST, "worker_lost", evidence, now))
    for number in live.trailing:
        job = live.jobs[number]
        if _log_is_gone(live, job, now, lost_after_s):
            changes.append(_log_lost(job))
    return Decision(changes, [])


def _log_is_gone(live: Live, job: Job, now: Instant, lost_after_s: float) -> bool:
    worker = live.workers.get(job.worker)
    if worker is None:
        return True
    return not worker.connected and worker.left_at_s is not None and now.monotonic_s - worker.left_at_s > lost_after_s


def assignment(job: Job, worker: Worker, now: Instant) -> tuple[Assigned, SendStart]:
    """Give *job* to *worker*: the next attempt, the worker's next sequence."""
    key = AttemptKey(job.id, job.stage, job.attempt + 1)
    sequence = worker.sequence + 1
    return (
        Assigned(job.number, key, worker.id, sequence, now.wall_us),
        SendStart(worker.id, job.number, sequence, key, job.placement.key.slots, job.work),
    )


def _start(job: Job, key: AttemptKey) -> SendStart:
    return SendStart(job.worker, job.number, job.sequence, key, job.placement.key.slots, job.work)
