"""Retention in the database: whose files, logs and rows may go, and the statements that remove them.

Age is counted from when the coordinator learnt of an end (`over_at`): the clocks of workers may be wrong. Only
finished jobs are looked at, and logs and rows only once no log of the job is on its way.
"""

import sqlite3
from collections.abc import Collection
from typing import Any

from coordinator.changes import FilesExpired, JobExpired, LogsExpired
from coordinator.storage.protocol import Expirable, Kept

DIGESTS_MAX = 20_000  # of one answer: a job may have thousands of files
SHARERS_MAX = 100  # beyond it nobody counts who else refers to some bytes

# The newest job and the newest event stay: their numbers may never be given again.
NOT_NEWEST = (
    " AND number <> (SELECT MAX(number) FROM job)"
    " AND number <> COALESCE((SELECT event.job FROM event ORDER BY event.number DESC LIMIT 1), 0)"
)
LOG_IS_STILL = (
    " AND log_status <> 1 AND NOT EXISTS"
    " (SELECT 1 FROM past_attempt WHERE past_attempt.job = number AND past_attempt.log_status = 1)"
)
LEDGER_BYTES = (
    "log_position + (SELECT COALESCE(SUM(past_attempt.log_position), 0) FROM past_attempt"
    " WHERE past_attempt.job = number)"
)
WITH_FILES = "SELECT number, id, over_at, 0 FROM job WHERE files = 1 AND state = 5 ORDER BY over_at LIMIT ?"
WITH_LOGS = (
    f"SELECT number, id, over_at, {LEDGER_BYTES} FROM job WHERE state = 5 AND logs_expired = 0{LOG_IS_STILL}"
    " ORDER BY over_at LIMIT ?"
)
# An idempotency key is good for a while after the end of its job.
FINISHED = (
    f"SELECT number, id, over_at, CASE WHEN logs_expired THEN 0 ELSE {LEDGER_BYTES} END FROM job"
    f" WHERE state = 5 AND logs_expired = ?{LOG_IS_STILL}{NOT_NEWEST} AND (key IS NULL OR over_at < ?)"
    " ORDER BY over_at LIMIT ?"
)
DIGESTS = "SELECT digest FROM output WHERE job = ?1 UNION SELECT digest FROM input WHERE job = ?1"
SHARERS = (
    f"SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM output WHERE digest = ?1 LIMIT {SHARERS_MAX}))"
    f" + (SELECT COUNT(*) FROM (SELECT 1 FROM input WHERE digest = ?1 LIMIT {SHARERS_MAX}))"
)
LOG_BYTES = (
    "SELECT (SELECT COALESCE(SUM(log_position), 0) FROM job WHERE state = 5 AND logs_expired = 0)"
    " + (SELECT COALESCE(SUM(past_attempt.log_position), 0) FROM past_attempt JOIN job ON job.number = past_attempt.job"
    " WHERE job.state = 5 AND job.logs_expired = 0)"
)
COUNT_FINISHED = "SELECT COUNT(*) FROM job WHERE state = 5"
SEGMENT_IN_USE = "SELECT EXISTS (SELECT 1 FROM extent WHERE segment = ?)"

NOTE_FILES_EXPIRED = "UPDATE job SET files = 2, version = version + 1 WHERE number = ?"
NOTE_LOGS_EXPIRED = "UPDATE job SET logs_expired = 1, version = version + 1 WHERE number = ?"
FORGET_INPUTS = "DELETE FROM input WHERE job = ?"
FORGET_OUTPUTS = "DELETE FROM output WHERE job = ?"
FORGET_LEDGERS = "DELETE FROM ledger WHERE job = ?"
FORGET_EXTENTS = "DELETE FROM extent WHERE job = ?"
FORGET_PAST = "DELETE FROM past_attempt WHERE job = ?"
FORGET_EVENTS = "DELETE FROM event WHERE job = ?"
FORGET_JOB = "DELETE FROM job WHERE number = ?"

STATEMENTS: dict[type, tuple[str, ...]] = {
    FilesExpired: (FORGET_INPUTS, FORGET_OUTPUTS, NOTE_FILES_EXPIRED),
    LogsExpired: (FORGET_LEDGERS, FORGET_EXTENTS, NOTE_LOGS_EXPIRED),
    JobExpired: (
        FORGET_INPUTS,
        FORGET_OUTPUTS,
        FORGET_LEDGERS,
        FORGET_EXTENTS,
        FORGET_PAST,
        FORGET_EVENTS,
        FORGET_JOB,
    ),
}


def expirable(reader: sqlite3.Connection, kind: Kept, limit: int, keyed_before_us: int) -> list[Expirable]:
    """See `Store.expirable`."""
    if kind is Kept.LOGS:
        return [Expirable(*row) for row in reader.execute(WITH_LOGS, (limit,))]
    if kind is Kept.FILES:
        return _with_digests(reader, [Expirable(*row) for row in reader.execute(WITH_FILES, (limit,))])
    # Two runs of the index, each in order.
    found = [Expirable(*row) for gone in (0, 1) for row in reader.execute(FINISHED, (gone, keyed_before_us, limit))]
    return sorted(found, key=lambda job: (job.over_at_us, job.number))[:limit]


def _with_digests(reader: sqlite3.Connection, jobs: list[Expirable]) -> list[Expirable]:
    found: list[Expirable] = []
    count = 0
    for job in jobs:
        digests = tuple(
            (digest, reader.execute(SHARERS, (digest,)).fetchone()[0])
            for (digest,) in reader.execute(DIGESTS, (job.number,)).fetchall()
        )
        count += len(digests)
        if found and count > DIGESTS_MAX:
            break
        found.append(job._replace(digests=digests))
    return found


def log_bytes(reader: sqlite3.Connection) -> int:
    """See `Store.log_bytes`."""
    return int(reader.execute(LOG_BYTES).fetchone()[0])


def finished_jobs(reader: sqlite3.Connection) -> int:
    """See `Store.finished_jobs`."""
    return int(reader.execute(COUNT_FINISHED).fetchone()[0])


def segments_in_use(reader: sqlite3.Connection, segments: Collection[int]) -> set[int]:
    """See `Store.segments_in_use`."""
    return {segment for segment in segments if reader.execute(SEGMENT_IN_USE, (segment,)).fetchone()[0]}


def compile_expiry(out: Any, c: FilesExpired | LogsExpired | JobExpired) -> None:
    """Add what removes this to the statements of a batch."""
    for sql in STATEMENTS[type(c)]:
        out.add(sql, (c.number,))
    if isinstance(c, FilesExpired):
        out.record(c.number, "files_expired", c.at_us, 0, 0, "", "")
    elif isinstance(c, LogsExpired) and c.ledger_bytes:
        out.record(c.number, "logs_expired", c.at_us, 0, 0, "", f"{c.ledger_bytes} bytes")
