"""Changes to SQL statements, and rows to values.

The statements are constants; each has its intent above it. All parameters are bound.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from coordinator.changes import (
    KEEP,
    LEDGER_UNKNOWN,
    Assigned,
    Change,
    Ended,
    FilesExpired,
    JobExpired,
    JobQueued,
    LateEnd,
    LogLost,
    LogsExpired,
    LogStored,
    Losses,
    RecordPut,
    Retried,
    Returned,
    StageEnded,
    StagePlan,
    Started,
    StopRequested,
    Unkillable,
)
from coordinator.storage import access_rows, admission_rows, worker_rows, workload_rows
from coordinator.storage.expiry import compile_expiry
from coordinator.storage.selection_rows import SELECT_JOB, selection_row, tags_of
from hostler.jobs import End, EndedProcess, Job, JobSpec, LogStatus, Receipt
from hostler.lifecycle import ON_A_WORKER, Outcome, State
from hostler.wire.ends import end_from_bytes
from hostler.wire.jobs import spec_from_bytes, spec_to_bytes
from hostler.wire.work import work_from_bytes

# A job, already assigned when that happened in the same commit.
INSERT_JOB = (
    "INSERT INTO job (number, id, owner, family, name, key, digest, pin, labels, priority, slots, work, queued_at,"
    " state, attempt, worker, sequence, assigned_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
# What only jobs with a workload, retries or files have.
DESCRIBE_JOB = (
    "UPDATE job SET abilities = ?, losses = ?,"
    " runtime = ?, workload = ?, workload_version = ?, retries = ?, retry_on = ?, secrets = ?,"
    " files = MAX(files, ?) WHERE number = ?"
)
KEEP_INPUT = "INSERT OR IGNORE INTO input (job, digest) VALUES (?,?)"
ASSIGN = (
    "UPDATE job SET state = 2, stage = ?, attempt = ?, worker = ?, sequence = ?, assigned_at = ?,"
    " version = version + 1 WHERE number = ?"
)
# The counter of commands to a worker must outlive the jobs that moved it.
COUNT_SEQUENCE = "UPDATE worker SET sequence = MAX(sequence, ?) WHERE id = ?"
RETURN = "UPDATE job SET state = 1, worker = '', sequence = 0, assigned_at = 0, version = version + 1 WHERE number = ?"
BAR = "UPDATE job SET barred = ? WHERE number = ?"
# A start may be reported while the stop is under way; the state then stays.
START = "UPDATE job SET state = MAX(state, 3), started_at = ?, version = version + 1 WHERE number = ?"
REQUEST_STOP = "UPDATE job SET state = 4, stop_grace = ?, stop_by = ?, version = version + 1 WHERE number = ?"
NOTE_SURVIVORS = "UPDATE job SET survivors = ?, version = version + 1 WHERE number = ?"
END = (
    "UPDATE job SET state = 5, outcome = ?, end_report = ?, exit_code = ?, signal = ?, cause = ?, error = ?,"
    " started_at = ?, finished_at = ?, over_at = ?, ledger_bytes = ?, log_output = MAX(log_output, ?),"
    " log_position = MAX(log_position, ?), log_status = ?, survivors = '', version = version + 1 WHERE number = ?"
)
# The attempt that is over is put aside, and the row is that of a waiting job again.
PUT_ASIDE = (
    "INSERT INTO past_attempt (job, stage, attempt, worker, outcome, end_report, ledger_bytes, log_position,"
    " log_output, log_status)"
    " SELECT number, stage, attempt, worker, ?1, ?2, ?3, MAX(log_position, ?4), MAX(log_output, ?5),"
    " CASE WHEN ?3 < 0 THEN 3 WHEN MAX(log_position, ?4) >= ?3 THEN 2 ELSE 1 END FROM job WHERE number = ?6"
)
RETRY = (
    "UPDATE job SET state = 1, worker = '', sequence = 0, assigned_at = 0, started_at = 0, survivors = '',"
    " start_by = 0,"
    " log_position = 0, log_output = 0, retried = retried + ?, crashes = crashes + ?, due_at = ?,"
    " version = version + 1 WHERE number = ?"
)
NEXT_STAGE = (
    "UPDATE job SET state = 1, stage = stage + 1, attempt = 0, worker = '', sequence = 0, assigned_at = 0,"
    " started_at = 0, survivors = '', log_position = 0, log_output = 0, retried = 0, due_at = 0, start_by = 0,"
    " barred = '', labels = ?, slots = ?, work = ?, version = version + 1 WHERE number = ?"
)
KEEP_DEADLINE = "UPDATE job SET start_by = ? WHERE number = ?"
KEEP_CHAIN = "UPDATE job SET chain = ? WHERE number = ?"
KEEP_RECORD = "INSERT OR REPLACE INTO record (owner, id, status, containers, at) VALUES (?,?,?,?,?)"
RECORDS_KEPT = 10_000  # of one owner: as many as one answer may have
# The oldest go. One statement for all that a commit has brought: it reads the index up to the limit.
DROP_OLD_RECORDS = (
    "DELETE FROM record WHERE owner = ?1 AND id IN"
    f" (SELECT id FROM record WHERE owner = ?1 ORDER BY at DESC, id LIMIT -1 OFFSET {RECORDS_KEPT})"
)
KEEP_OUTPUT = "INSERT OR REPLACE INTO output (job, path, digest, size, modified_at) VALUES (?,?,?,?,?)"
NOTE_OUTPUTS = "UPDATE job SET files = 1 WHERE number = ?"
FILES_EXPIRED = 2  # of the column `files`
# The log of a finished job is complete once everything its end speaks of is held.
NOTE_LOG = (
    "UPDATE job SET log_position = ?, log_output = log_output + ?,"
    " log_status = CASE WHEN state = 5 AND ledger_bytes >= 0 AND ledger_bytes <= ? THEN 2 ELSE log_status END"
    " WHERE number = ?"
)
NOTE_PAST_LOG = (
    "UPDATE past_attempt SET log_position = ?1, log_output = log_output + ?2,"
    " log_status = CASE WHEN ledger_bytes <= ?1 THEN 2 ELSE log_status END"
    " WHERE job = ?3 AND stage = ?4 AND attempt = ?5"
)
LOSE_PAST_LOG = "UPDATE past_attempt SET log_status = 3, log_lost = ? WHERE job = ? AND stage = ? AND attempt = ?"
LOSE_LOG = "UPDATE job SET log_status = 3, log_lost = ? WHERE number = ?"
KEEP_LEDGER = "INSERT OR REPLACE INTO ledger (job, stage, attempt, frames) VALUES (?,?,?,?)"
KEEP_EXTENT = (
    "INSERT OR REPLACE INTO extent (job, stage, attempt, position, segment, place, length) VALUES (?,?,?,?,?,?,?)"
)
# The outcome stays: this only says what became of the program that was lost.
KEEP_LATE_END = (
    "UPDATE job SET late_end = ?, version = version + 1"
    " WHERE id = ? AND stage = ? AND attempt = ? AND worker = ? AND state = 5 AND outcome = 5 AND late_end IS NULL"
)
KEEP_PAST_LATE_END = (
    "UPDATE past_attempt SET late_end = ? WHERE job = (SELECT number FROM job WHERE id = ?) AND stage = ?"
    " AND attempt = ? AND worker = ? AND outcome = 5 AND late_end IS NULL"
)
RECORD = "INSERT INTO event (job, kinds, at, stage, attempt, worker, detail) VALUES (?,?,?,?,?,?,?)"

Statement = tuple[str, list[Any]]


class _Statements:
    """Collects a batch's statements, keeping the order and joining neighbours of the same kind."""

    def __init__(self) -> None:
        self.runs: list[Statement] = []
        self.inserted: dict[int, list[Any]] = {}  # rows of jobs queued in this batch
        self.events: dict[int, list[Any]] = {}  # the latest row of each job
        self.event_rows: list[list[Any]] = []
        self.sequences: dict[str, int] = {}
        self.noted: set[str] = set()  # owners of records

    def add(self, sql: str, row: Sequence[Any]) -> None:
        if self.runs and self.runs[-1][0] is sql:
            self.runs[-1][1].append(row)
        else:
            self.runs.append((sql, [row]))

    def record(self, number: int, kind: str, at_us: int, stage: int, attempt: int, worker: str, detail: str) -> None:
        row = self.events.get(number)
        # What happened before any attempt shares a row with the first one; two details need two rows.
        if row is None or (row[4] and (row[3], row[4]) != (stage, attempt)) or (detail and row[6]):
            row = self.events[number] = [number, kind, at_us, stage, attempt, worker, detail]
            self.event_rows.append(row)
            return
        row[1] += "," + kind
        row[2:5] = at_us, stage, attempt
        row[5] = worker or row[5]
        row[6] = detail or row[6]

    def finish(self) -> list[Statement]:
        for worker, sequence in self.sequences.items():
            self.add(COUNT_SEQUENCE, (sequence, worker))
        for owner in sorted(self.noted):
            self.add(DROP_OLD_RECORDS, (owner,))
        if self.event_rows:
            self.runs.append((RECORD, self.event_rows))
        return self.runs


def statements(changes: Iterable[Change]) -> list[Statement]:
    """Compile changes into statements for ``executemany``, in an order that keeps their meaning."""
    out = _Statements()
    for change in changes:
        compiler = _COMPILERS.get(type(change))
        if compiler is not None:
            compiler(out, change)
    return out.finish()


def _queued(out: _Statements, c: JobQueued) -> None:
    labels = json.dumps(c.labels) if c.labels else ""
    row: list[Any] = [
        c.number,
        c.id,
        c.owner,
        c.family,
        c.name,
        c.key or None,
        c.digest or None,
        c.pin,
        labels,
        c.priority,
        c.slots,
        c.work,
        c.at_us,
        1,
        0,
        "",
        0,
        0,
    ]
    out.inserted[c.number] = row
    out.add(INSERT_JOB, row)
    if not c.plain:
        _describe(out, c.number, c)
        out.add(SELECT_JOB, selection_row(c))
    if c.start_by_us:
        out.add(KEEP_DEADLINE, (c.start_by_us, c.number))
    if c.chain is not None:
        out.add(KEEP_CHAIN, (spec_to_bytes(c.chain.spec), c.number))
    out.record(c.number, "queued", c.at_us, 0, 0, "", "")


def _describe(out: _Statements, number: int, c: JobQueued | StagePlan) -> None:
    secrets = json.dumps(c.secrets) if c.secrets else ""
    losses = json.dumps(c.losses) if c.losses != KEEP else ""
    described = (
        ",".join(c.abilities),
        losses,
        c.runtime,
        c.workload,
        c.workload_version,
        c.retries,
        ",".join(c.retry_on),
        secrets,
    )
    out.add(DESCRIBE_JOB, (*described, bool(c.inputs), number))
    for digest in c.inputs:
        out.add(KEEP_INPUT, (number, digest))


def _assigned(out: _Statements, c: Assigned) -> None:
    row = out.inserted.pop(c.number, None)
    if row is not None:
        row[13:18] = 2, c.key.attempt, c.worker, c.sequence, c.at_us
    else:
        out.add(ASSIGN, (c.key.stage, c.key.attempt, c.worker, c.sequence, c.at_us, c.number))
    out.sequences[c.worker] = c.sequence
    out.record(c.number, "assigned", c.at_us, c.key.stage, c.key.attempt, c.worker, c.why)


def _returned(out: _Statements, c: Returned) -> None:
    out.inserted.pop(c.number, None)
    out.add(RETURN, (c.number,))
    if c.barred:
        out.add(BAR, (",".join(c.barred), c.number))
    out.record(c.number, "requeued", c.at_us, c.key.stage, c.key.attempt, c.worker, c.reason)


def _started(out: _Statements, c: Started) -> None:
    out.add(START, (c.started_at_us, c.number))
    out.record(c.number, "started", c.at_us, c.key.stage, c.key.attempt, "", "")


def _stop_requested(out: _Statements, c: StopRequested) -> None:
    out.add(REQUEST_STOP, (c.grace_s, c.by, c.number))
    out.record(c.number, "stop_requested", c.at_us, c.key.stage, c.key.attempt, "", f"by {c.by}")


def _unkillable(out: _Statements, c: Unkillable) -> None:
    out.add(NOTE_SURVIVORS, (json.dumps(c.survivors), c.number))
    named = ", ".join(f"{pid} ({name})" for pid, name in c.survivors)
    out.record(c.number, "unkillable", c.at_us, c.key.stage, c.key.attempt, "", named)


def _ended(out: _Statements, c: Ended) -> None:
    out.inserted.pop(c.number, None)
    unknown = c.ledger_bytes == LEDGER_UNKNOWN
    held = len(c.ledger)
    # Also when nothing is held and no start is known: the program may have run, and nobody can say what it wrote.
    status = LogStatus.LOST if unknown else LogStatus.COMPLETE if held >= c.ledger_bytes else LogStatus.ARRIVING
    out.add(
        END,
        (
            c.outcome,
            c.end,
            c.exit_code,
            c.signal,
            c.cause,
            c.error,
            c.started_at_us,
            c.ended_at_us,
            c.at_us,
            c.ledger_bytes,
            c.output_bytes if held else 0,
            held,
            status,
            c.number,
        ),
    )
    if status is LogStatus.ARRIVING:
        out.add(NOTE_LOG_AT_END, (c.number,))
    if c.ledger:
        out.add(KEEP_LEDGER, (c.number, c.key.stage, c.key.attempt, c.ledger))
    for file in c.outputs:
        out.add(KEEP_OUTPUT, (c.number, file.path, file.digest, file.size_bytes, file.modified_at_us))
    for digest in c.kept:
        out.add(KEEP_INPUT, (c.number, digest))
    if c.outputs or c.kept:
        out.add(NOTE_OUTPUTS, (c.number,))
    out.record(c.number, "ended", c.at_us, c.key.stage, c.key.attempt, "", c.cause)


def _retried(out: _Statements, c: Retried) -> None:
    held = len(c.ledger)
    out.add(PUT_ASIDE, (c.outcome, c.end, c.ledger_bytes, held, c.output_bytes if held else 0, c.number))
    out.add(RETRY, (c.retries, c.crashes, c.due_at_us, c.number))
    if c.ledger:
        out.add(KEEP_LEDGER, (c.number, c.key.stage, c.key.attempt, c.ledger))
    out.record(c.number, "retried", c.at_us, c.key.stage, c.key.attempt, "", c.cause)


def _stage_ended(out: _Statements, c: StageEnded) -> None:
    held, following = len(c.ledger), c.following
    succeeded = Outcome.SUCCEEDED
    out.add(PUT_ASIDE, (succeeded, c.end, c.ledger_bytes, held, c.output_bytes if held else 0, c.number))
    labels = json.dumps(following.labels) if following.labels else ""
    out.add(NEXT_STAGE, (labels, following.slots, following.work, c.number))
    _describe(out, c.number, following)
    for digest in c.kept:
        out.add(KEEP_INPUT, (c.number, digest))
    if c.kept:
        out.add(NOTE_OUTPUTS, (c.number,))
    if c.ledger:
        out.add(KEEP_LEDGER, (c.number, c.key.stage, c.key.attempt, c.ledger))
    out.record(c.number, "stage_ended", c.at_us, c.key.stage, c.key.attempt, "", "")


def _record_put(out: _Statements, c: RecordPut) -> None:
    record = c.record
    out.noted.add(c.owner)
    out.add(KEEP_RECORD, (c.owner, record.id, record.status, json.dumps(record.containers), record.at_us))


# Pieces pushed before the end may be all there is.
NOTE_LOG_AT_END = "UPDATE job SET log_status = 2 WHERE number = ? AND log_position >= ledger_bytes"


def _log_stored(out: _Statements, c: LogStored) -> None:
    for extent in c.extents:
        out.add(KEEP_EXTENT, (c.number, c.key.stage, c.key.attempt, *extent))
    if c.past:
        out.add(NOTE_PAST_LOG, (c.position, c.output_bytes, c.number, c.key.stage, c.key.attempt))
    else:
        out.add(NOTE_LOG, (c.position, c.output_bytes, c.position, c.number))


def _log_lost(out: _Statements, c: LogLost) -> None:
    if c.past:
        out.add(LOSE_PAST_LOG, (c.lost_bytes, c.number, c.key.stage, c.key.attempt))
    else:
        out.add(LOSE_LOG, (c.lost_bytes, c.number))


def _late_end(out: _Statements, c: LateEnd) -> None:
    out.add(KEEP_LATE_END, (c.end, c.key.job, c.key.stage, c.key.attempt, c.worker))
    out.add(KEEP_PAST_LATE_END, (c.end, c.key.job, c.key.stage, c.key.attempt, c.worker))


_COMPILERS: dict[type, Callable[[_Statements, Any], None]] = {
    JobQueued: _queued,
    Assigned: _assigned,
    Returned: _returned,
    Started: _started,
    StopRequested: _stop_requested,
    Unkillable: _unkillable,
    Ended: _ended,
    Retried: _retried,
    StageEnded: _stage_ended,
    RecordPut: _record_put,
    FilesExpired: compile_expiry,
    LogsExpired: compile_expiry,
    JobExpired: compile_expiry,
    LogStored: _log_stored,
    LogLost: _log_lost,
    **workload_rows.COMPILERS,
    **worker_rows.COMPILERS,
    **access_rows.COMPILERS,
    **admission_rows.COMPILERS,
    LateEnd: _late_end,
}

JOB_COLUMNS = (
    "number, id, owner, family, name, key, pin, labels, priority, slots, work, queued_at, state, outcome, stage,"
    " attempt, worker, assigned_at, started_at, finished_at, survivors, end_report, version, log_position,"
    " log_output, log_status, log_lost, workload, workload_version, retries, retry_on, retried, due_at, files, chain,"
    " logs_expired, late_end, losses, start_by, wanted, tags, retry_of, secrets"
)


def labels_of(text: str) -> tuple[tuple[str, str], ...]:
    """Read the labels column."""
    return tuple((name, value) for name, value in json.loads(text)) if text else ()


def words_of(text: str) -> tuple[str, ...]:
    """Read a column of words with commas."""
    return tuple(text.split(",")) if text else ()


def losses_of(text: str) -> Losses:
    """Read the losses column."""
    return Losses(*json.loads(text)) if text else KEEP


def end_of(report: bytes | None, late: bytes | None) -> End | None:
    """The end of an attempt; of a lost one with what its worker said later."""
    end = end_from_bytes(report) if report is not None else None
    if end is None or late is None:
        return end
    said = end_from_bytes(late)
    evidence = f"{end.evidence}; later its worker came back and said: {said.evidence}"
    return replace(end, evidence=evidence, receipt=said.receipt, usage=said.usage)


def job_of(row: sqlite3.Row) -> Job:
    """Build the job that readers get from a row of `JOB_COLUMNS`."""
    end = end_of(row["end_report"], row["late_end"])
    state = State(row["state"])
    unkillable = bool(row["survivors"]) and state in ON_A_WORKER
    if unkillable:
        survivors = tuple(EndedProcess(pid=pid, name=name) for pid, name in json.loads(row["survivors"]))
        end = End(started_at_us=row["started_at"], receipt=Receipt(survivors=survivors))
    losses = losses_of(row["losses"])
    return Job(
        id=row["id"],
        spec=JobSpec(
            work=work_from_bytes(row["work"]),
            name=row["name"],
            owner=row["owner"],
            family=row["family"],
            key=row["key"] or "",
            worker=row["pin"],
            labels=dict(labels_of(row["labels"])),
            priority=row["priority"],
            slots=row["slots"],
            workload=row["workload"],
            workload_version=row["workload_version"],
            retries=row["retries"],
            retry_on=words_of(row["retry_on"]),
            on_lost="retry" if losses.retry else "",
            lost_after_s=losses.lost_after_s,
            crash_limit=losses.crash_limit if losses is not KEEP else 0,
            start_within_s=max(row["start_by"] - row["queued_at"], 0) / 1e6,
            stages=spec_from_bytes(row["chain"]).stages if row["chain"] is not None else (),
            secrets=dict(labels_of(row["secrets"])),
            tags=tags_of(row["tags"]),
            where=row["wanted"],
        ),
        state=state,
        outcome=Outcome(row["outcome"]),
        phase="unkillable" if unkillable else "",
        stage=row["stage"],
        attempt=row["attempt"],
        worker=row["worker"],
        end=end,
        queued_at_us=row["queued_at"],
        assigned_at_us=row["assigned_at"],
        started_at_us=row["started_at"],
        finished_at_us=row["finished_at"],
        log_bytes=row["log_output"],
        log_position=row["log_position"],
        log_status=LogStatus.EXPIRED if row["logs_expired"] and row["log_position"] else LogStatus(row["log_status"]),
        log_lost_bytes=row["log_lost"],
        version=row["version"],
        usage=end.usage if end is not None else None,
        retried=row["retried"],
        due_at_us=row["due_at"] if state is State.QUEUED else 0,
        retry_of=row["retry_of"],
    )
