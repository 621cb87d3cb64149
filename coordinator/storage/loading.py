"""What rebuilds the live set: the shortest history that leads to what is stored."""

import json
import sqlite3

from coordinator.changes import (
    Assigned,
    Chain,
    Change,
    Drain,
    DrainAsked,
    JobQueued,
    LogStored,
    LogTrails,
    Missed,
    Quarantined,
    Started,
    StopRequested,
    WorkerSeen,
    WorkloadApplied,
    WorkloadRemoved,
)
from coordinator.storage import rows
from coordinator.storage.access_rows import load_keys
from coordinator.storage.admission_rows import load_admissions
from coordinator.storage.protocol import Loaded
from hostler.ids import AttemptKey, JobId
from hostler.lifecycle import State
from hostler.wire.jobs import spec_from_bytes
from hostler.wire.workloads import workload_from_bytes
from hostler.workloads import Workload

LOAD_WORKERS = "SELECT * FROM worker"
LOAD_JOBS = "SELECT * FROM job WHERE state < 5 ORDER BY number"
# Logs of attempts that are over and still arrive.
LOAD_LOGS = (
    "SELECT number, id, stage, attempt, worker, log_position, ledger_bytes, 0 FROM job"
    " WHERE state = 5 AND log_status = 1"
    " UNION ALL SELECT job, id, past_attempt.stage, past_attempt.attempt, past_attempt.worker,"
    " past_attempt.log_position, past_attempt.ledger_bytes, 1"
    " FROM past_attempt JOIN job ON job.number = past_attempt.job WHERE past_attempt.log_status = 1 ORDER BY 1"
)
# Lost attempts of which their workers may still say how they ended (one whose log has a length was told already); of
# more than are remembered the newest.
LOAD_MISSED = (
    "SELECT number, id, stage, attempt, worker FROM job WHERE outcome = 5 AND late_end IS NULL AND worker <> ''"
    " AND ledger_bytes < 0 AND cause IN ('worker_lost', 'lease')"
    " UNION ALL SELECT job.number, id, past_attempt.stage, past_attempt.attempt, past_attempt.worker"
    " FROM past_attempt JOIN job ON job.number = past_attempt.job"
    " WHERE past_attempt.outcome = 5 AND past_attempt.late_end IS NULL AND past_attempt.ledger_bytes < 0"
    " ORDER BY 1 DESC LIMIT 10000"
)
LOAD_WORKLOADS = "SELECT name, MAX(version) AS version, definition, removed FROM workload GROUP BY name ORDER BY name"
LOAD_DEFINITION = "SELECT definition FROM workload WHERE name = ? AND version = ?"
NEXT_NUMBER = "SELECT COALESCE(MAX(number), 0) + 1 FROM job"


def load(reader: sqlite3.Connection) -> Loaded:
    """Read keys, workloads, workers, open jobs and logs on their way."""
    changes = load_keys(reader)
    for row in reader.execute(LOAD_WORKLOADS):
        if row["removed"]:
            changes.append(WorkloadRemoved(row["name"], row["version"], 0))
        else:
            changes.append(WorkloadApplied(workload_from_bytes(row["definition"])))
    for row in reader.execute(LOAD_WORKERS):
        changes.append(_worker_seen(row))
        if row["drain"]:
            changes.append(DrainAsked(row["id"], Drain(*json.loads(row["drain"]))))
        if row["quarantine"]:
            changes.append(Quarantined(row["id"], row["quarantine"]))
    changes.extend(load_admissions(reader))
    definitions: dict[tuple[str, int], Workload] = {}  # each is one object, however many chains name it
    for row in reader.execute(LOAD_JOBS).fetchall():
        chain = _chain(reader, row["chain"], definitions) if row["chain"] is not None else None
        changes.extend(_job_changes(row, chain))
    for number, job, stage, attempt, worker, position, ledger_bytes, past in reader.execute(LOAD_LOGS):
        key = AttemptKey(JobId(job), stage, attempt)
        changes.append(LogTrails(number, key, worker, position, ledger_bytes, bool(past)))
    for _, job, stage, attempt, worker in reversed(reader.execute(LOAD_MISSED).fetchall()):
        changes.append(Missed(AttemptKey(JobId(job), stage, attempt), worker))
    return Loaded(changes, reader.execute(NEXT_NUMBER).fetchone()[0])


def _worker_seen(row: sqlite3.Row) -> WorkerSeen:
    return WorkerSeen(
        row["id"],
        row["name"],
        row["host"],
        row["version"],
        rows.labels_of(row["labels"]),
        row["slots"],
        row["boot_id"],
        row["journal_id"],
        row["generation"],
        row["sequence"],
        "",
        row["seen_at"],
        rows.words_of(row["runtimes"]),
        tuple(json.loads(row["workloads"])) if row["workloads"] else (),
        rows.words_of(row["abilities"]),
        policy=row["policy"],
        named_only=bool(row["named_only"]),
    )


def _chain(reader: sqlite3.Connection, content: bytes, definitions: dict[tuple[str, int], Workload]) -> Chain:
    spec = spec_from_bytes(content)
    workloads = []
    for stage in spec.stages:
        named = (stage.workload, stage.workload_version)
        if named not in definitions:
            definitions[named] = workload_from_bytes(reader.execute(LOAD_DEFINITION, named).fetchone()[0])
        workloads.append(definitions[named])
    return Chain(tuple(workloads), spec)


def _job_changes(row: sqlite3.Row, chain: Chain | None) -> list[Change]:
    """The shortest history that leads to this row."""
    number, state = row["number"], State(row["state"])
    key = AttemptKey(JobId(row["id"]), row["stage"], row["attempt"])
    changes: list[Change] = [
        JobQueued(
            number,
            row["id"],
            row["owner"],
            row["family"],
            row["name"],
            row["key"] or "",
            row["digest"] or b"",
            row["pin"],
            rows.labels_of(row["labels"]),
            row["priority"],
            row["slots"],
            row["work"],
            row["queued_at"],
            row["attempt"],
            row["runtime"],
            row["workload"],
            row["workload_version"],
            row["retries"],
            rows.words_of(row["retry_on"]),
            row["retried"],
            row["due_at"] if state is State.QUEUED else 0,
            (),  # what it needs is referred to already
            rows.labels_of(row["secrets"]),
            row["start_by"],
            chain,
            row["stage"],
            rows.words_of(row["abilities"]),
            rows.losses_of(row["losses"]),
            row["crashes"],
            row["wanted"],
            barred=rows.words_of(row["barred"]),
        )
    ]
    if state is State.QUEUED:
        return changes
    changes.append(Assigned(number, key, row["worker"], row["sequence"], row["assigned_at"]))
    if row["started_at"]:
        changes.append(Started(number, key, row["started_at"], row["started_at"]))
    if row["log_position"]:
        changes.append(LogStored(number, key, (), row["log_position"], 0))
    if state is State.STOPPING:
        changes.append(StopRequested(number, key, row["stop_grace"], row["stop_by"], row["started_at"]))
    return changes
