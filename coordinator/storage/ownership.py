"""Whose something is, as queries: for callers who may see only their own."""

import sqlite3
from collections.abc import Collection

from coordinator.storage import event_rows
from hostler.jobs import JobEvent

JOB_EVENTS = (
    f"SELECT event.*, {event_rows.OF_THE_JOB} FROM event JOIN job ON job.number = event.job WHERE event.number >= ?"
    " AND event.job IN (SELECT number FROM job WHERE id IN ({}) AND owner = ?) ORDER BY event.number LIMIT ?"
)
IS_HIS = (
    "SELECT EXISTS (SELECT 1 FROM output JOIN job ON job.number = output.job WHERE output.digest = ?1 AND owner = ?2)"
    " OR EXISTS (SELECT 1 FROM input JOIN job ON job.number = input.job WHERE input.digest = ?1 AND owner = ?2)"
    " OR (?3 AND EXISTS (SELECT 1 FROM workload WHERE script = ?1))"
)
IS_NEEDED = (
    "SELECT EXISTS (SELECT 1 FROM input JOIN job ON job.number = input.job"
    " WHERE input.digest = ? AND job.worker = ? AND job.state < 5)"
)


def events_of(
    reader: sqlite3.Connection, owner: str, number: int, job_ids: Collection[str], limit: int
) -> tuple[list[JobEvent], int]:
    """See `Store.events_of`."""
    first, rows_max = number // event_rows.EVENTS_PER_ROW, limit + 1  # the first row may hold nothing that is new
    if job_ids:
        marks = ",".join("?" * len(job_ids))
        found = reader.execute(JOB_EVENTS.format(marks), (first, *job_ids, owner, rows_max)).fetchall()
    else:
        # Everybody's are read and others' dropped, so that the next look begins after them.
        found = reader.execute(event_rows.ALL_EVENTS, (first, rows_max)).fetchall()
    events = [(row["owner"], event) for row in found for event in event_rows.events_of(row) if event.number > number]
    last = max((event.number for _, event in events), default=number)
    return [event for whose, event in events if whose == owner], last


def files_of(reader: sqlite3.Connection, owner: str, digests: Collection[str], *, scripts: bool) -> set[str]:
    """See `Store.files_of`."""
    return {digest for digest in digests if reader.execute(IS_HIS, (digest, owner, scripts)).fetchone()[0]}


def files_for(reader: sqlite3.Connection, worker: str, digests: Collection[str]) -> set[str]:
    """See `Store.files_for`."""
    return {digest for digest in digests if reader.execute(IS_NEEDED, (digest, worker)).fetchone()[0]}
