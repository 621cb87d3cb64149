"""The SQLite engine: one writer thread, one reader thread, WAL, ``synchronous=FULL``.

Readers see only what is committed, so a read needs no word with the engine. Checkpoints are PASSIVE
and run beside the writer, so that no commit waits for one.
"""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, Self, TypeVar

from coordinator.changes import Change, Extent
from coordinator.storage import event_rows, expiry, ownership, rows, selection
from coordinator.storage.loading import load
from coordinator.storage.migrate import migrate
from coordinator.storage.protocol import (
    Asked,
    Expirable,
    Kept,
    Loaded,
    LogExtents,
    StoreBroken,
    StoredOutputs,
    StoreFull,
)
from coordinator.storage.selection import INTEGER_MAX
from hostler.ids import AttemptKey
from hostler.jobs import (
    BriefJob,
    Job,
    JobEvent,
    JobPage,
    JobQuery,
    LogStatus,
    OutputFile,
    PastAttempt,
    Progress,
    Record,
)
from hostler.lifecycle import Outcome, State
from hostler.wire.workloads import workload_from_bytes
from hostler.workloads import Workload

T = TypeVar("T")

# Each value that is not exactly an int, a float or a str is searched for a way to adapt it, which takes longer than
# to write it. An adapter ends the search; these change nothing.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(NoneType, lambda none: none)
for number in (bool, Outcome, LogStatus, State):
    sqlite3.register_adapter(number, int)

CHECKPOINT_S = 1.0
WAL_PAGES_MAX = 1000  # 4 MiB; beyond it the log is begun anew: to write over it costs less than to make it longer
LOG_READ_BYTES = 1 << 20  # of a log that one look finds; a reader takes about so much at once

GET_JOB = f"SELECT {rows.JOB_COLUMNS} FROM job WHERE id = ?"
GET_PROGRESS = "SELECT id, state, outcome, exit_code, signal, cause, error FROM job WHERE id = ?"
GET_WORK = "SELECT work FROM job WHERE number = ?"
KEY_COLUMNS = "job.owner, job.key"  # as SQLite names the unique index `job_key` in its error
FIND_KEY = "SELECT id, digest FROM job WHERE owner = ? AND key = ?"
GET_LEDGER = "SELECT frames FROM ledger WHERE job = ? AND stage = ? AND attempt = ?"
# From the piece on that holds the position: pieces before it are not looked at, however many there are.
GET_EXTENTS = (
    "SELECT position, segment, place, length FROM extent WHERE job = ?1 AND stage = ?2 AND attempt = ?3"
    " AND position >= COALESCE((SELECT MAX(position) FROM extent WHERE job = ?1 AND stage = ?2 AND attempt = ?3"
    " AND position <= ?4), 0) AND position + length > ?4 ORDER BY position LIMIT 1000"
)

GET_PAST = "SELECT * FROM past_attempt WHERE job = ? ORDER BY stage, attempt"
GET_PAST_LOG = "SELECT log_position, log_status, log_lost FROM past_attempt WHERE job = ? AND stage = ? AND attempt = ?"
GET_OUTPUTS = "SELECT path, size, modified_at, digest FROM output WHERE job = ? ORDER BY path"
GET_OUTPUT = (
    "SELECT path, size, modified_at, digest FROM output WHERE job = (SELECT number FROM job WHERE id = ?) AND path = ?"
)
IS_REFERENCED = (
    "SELECT EXISTS (SELECT 1 FROM output WHERE digest = ?1) OR EXISTS (SELECT 1 FROM input WHERE digest = ?1)"
    " OR EXISTS (SELECT 1 FROM workload WHERE script = ?1)"
)
GET_RECORD = "SELECT * FROM record WHERE owner = ? AND id = ?"
NEWEST_RECORDS = "SELECT * FROM record WHERE owner = ? ORDER BY at DESC, id LIMIT ?"
GET_ASKED = "SELECT * FROM job WHERE id = ?"
NEWEST_EVENT = "SELECT COALESCE(MAX(number), 0) FROM event"
GET_WORKLOAD = "SELECT definition FROM workload WHERE name = ? AND version = ?"


class SqliteStore:
    """See `coordinator.storage.protocol.Store`."""

    epoch: int

    def __init__(self, path: str) -> None:
        self._path = path
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._writer: sqlite3.Connection
        self._reader: sqlite3.Connection
        self._checkpointer: sqlite3.Connection
        self._checkpointed = 0.0
        self._wal_too_long = False
        self._closed = False

    @classmethod
    async def open(cls, path: Path | str) -> Self:
        """Open or make the database, bring it to the newest schema and take the next epoch.

        Raises:
            SchemaError: the database cannot be used by this hostler.
        """
        store = cls(str(path))
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(store._writer_thread, store._open_writer)
            await loop.run_in_executor(store._reader_thread, store._open_reader)
        except BaseException:
            await store.close()
            raise
        return store

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, uri=True, timeout=5.0)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA cache_size=-16384")
        return connection

    def _open_writer(self) -> None:
        self._writer = self._connect()
        self._writer.execute("PRAGMA journal_mode=WAL")
        migrate(self._writer)
        self._writer.execute("UPDATE leader SET epoch = epoch + 1")
        self.epoch = self._writer.execute("SELECT epoch FROM leader").fetchone()[0]

    def _open_reader(self) -> None:
        self._reader = self._connect()
        self._reader.execute("PRAGMA query_only=ON")
        self._checkpointer = self._connect()

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader_thread, lambda: query(self._reader))

    async def close(self) -> None:
        """See the protocol."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reader_thread, self._close, "_reader", "_checkpointer")
        await loop.run_in_executor(self._writer_thread, self._close, "_writer")
        self._reader_thread.shutdown()
        self._writer_thread.shutdown()

    def _close(self, *names: str) -> None:
        for name in names:
            connection: sqlite3.Connection | None = getattr(self, name, None)
            if connection is not None:
                connection.close()

    def commit(self, changes: Sequence[Change], fetch: Collection[int]) -> Awaitable[dict[int, bytes]]:
        """See the protocol."""
        return asyncio.get_running_loop().run_in_executor(self._writer_thread, self._commit, changes, fetch)

    def _keep_log_short(self) -> None:
        if self._wal_too_long:
            # Nobody writes meanwhile, so this finds the log at rest, and the next commit begins it anew. When a reader
            # is in the way, it is tried again a second later.
            self._wal_too_long = False
            self._checkpoint(self._writer)
        elif time.monotonic() - self._checkpointed > CHECKPOINT_S:
            self._checkpointed = time.monotonic()
            self._reader_thread.submit(self._checkpoint_beside)

    def _checkpoint_beside(self) -> None:
        # Beside a busy writer it never finds the log at rest, which would grow for ever.
        self._wal_too_long = self._checkpoint(self._checkpointer) > WAL_PAGES_MAX

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection) -> int:
        """Copy what can be copied to the database, and return how many pages the log has."""
        # One that finds the database busy or the disk full is tried again a second later.
        with contextlib.suppress(sqlite3.OperationalError):
            return int(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
        return 0

    def _commit(self, changes: Sequence[Change], fetch: Collection[int]) -> dict[int, bytes]:
        writer = self._writer
        if changes:
            try:
                writer.execute("BEGIN IMMEDIATE")
                epoch = writer.execute("SELECT epoch FROM leader").fetchone()[0]
                if epoch != self.epoch:
                    raise StoreBroken(f"another coordinator took the store over (epoch {epoch}, ours {self.epoch})")
                for sql, parameters in rows.statements(changes):
                    writer.executemany(sql, parameters)
                epoch = writer.execute("SELECT epoch FROM leader").fetchone()[0]  # a change may have raised it
            except (sqlite3.Error, OverflowError, StoreBroken) as error:
                self._roll_back(error)
                raise AssertionError("unreachable") from error
            try:
                writer.execute("COMMIT")
            except sqlite3.Error as error:
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL and not writer.in_transaction:
                    # With a WAL a full disk shows itself here; SQLite has rolled back, and the next commit
                    # overwrites what it had written. Ending the process would only meet the full disk again.
                    raise StoreFull(str(error)) from error
                raise StoreBroken(f"COMMIT failed, its outcome is unknown: {error}") from error
            self.epoch = epoch
            self._keep_log_short()
        return {number: writer.execute(GET_WORK, (number,)).fetchone()[0] for number in fetch}

    def _roll_back(self, error: Exception) -> None:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
            self._writer.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in (
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
        ):
            raise StoreFull(str(error)) from error
        if isinstance(error, sqlite3.IntegrityError) and KEY_COLUMNS in str(error):
            # The job with this idempotency key ended between the look at the store and the decision.
            raise StoreFull("an idempotency key was used twice at the same moment") from error
        raise StoreBroken(str(error)) from error

    async def load(self) -> Loaded:
        """See the protocol."""
        return await self._read(load)

    async def get_job(self, job_id: str) -> Job | None:
        """See the protocol."""

        def query(reader: sqlite3.Connection) -> Job | None:
            row = reader.execute(GET_JOB, (job_id,)).fetchone()
            if row is None:
                return None
            job = rows.job_of(row)
            has_past = job.attempt > 1 or job.stage or (job.attempt and not job.worker)
            return replace(job, past=_past(reader, row["number"])) if has_past else job

        return await self._read(query)

    async def find_progress(self, job_ids: Collection[str], owner: str | None = None) -> dict[str, Progress]:
        """See the protocol."""
        sql, values = (f"{GET_PROGRESS} AND owner = ?", (owner,)) if owner is not None else (GET_PROGRESS, ())

        def query(reader: sqlite3.Connection) -> dict[str, Progress]:
            found = (reader.execute(sql, (job_id, *values)).fetchone() for job_id in job_ids)
            return {row[0]: Progress(row[0], State(row[1]), Outcome(row[2]), *row[3:]) for row in found if row}

        return await self._read(query)

    async def find_jobs(self, query: JobQuery) -> JobPage:
        """See the protocol."""
        return await self._read(lambda reader: selection.find_jobs(reader, query))

    async def find_brief(self, query: JobQuery) -> tuple[list[BriefJob], str]:
        """See the protocol."""
        return await self._read(lambda reader: selection.find_brief(reader, query))

    async def find_records(self, owner: str, ids: Collection[str]) -> list[Record]:
        """See the protocol."""
        return await self._read(lambda reader: _find_records(reader, owner, ids))

    async def find_by_keys(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, bytes]]:
        """See the protocol."""

        def query(reader: sqlite3.Connection) -> dict[tuple[str, str], tuple[str, bytes]]:
            found = ((pair, reader.execute(FIND_KEY, pair).fetchone()) for pair in keys)
            return {pair: (row["id"], row["digest"]) for pair, row in found if row is not None}

        return await self._read(query)

    async def events_after(self, number: int, job_ids: Collection[str], limit: int) -> list[JobEvent]:
        """See the protocol."""

        def query(reader: sqlite3.Connection) -> list[JobEvent]:
            first = min(number, INTEGER_MAX) // event_rows.EVENTS_PER_ROW
            rows_max = limit + 1  # the first row may hold nothing that is new
            if job_ids:
                marks = ",".join("?" * len(job_ids))
                found = reader.execute(event_rows.JOB_EVENTS.format(marks), (first, *job_ids, rows_max))
            else:
                found = reader.execute(event_rows.ALL_EVENTS, (first, rows_max))
            return [e for row in found for e in event_rows.events_of(row) if e.number > number]

        return await self._read(query)

    async def history(self, job_id: str, limit: int) -> list[JobEvent]:
        """See the protocol."""

        def query(reader: sqlite3.Connection) -> list[JobEvent]:
            found = reader.execute(event_rows.HISTORY, (job_id, limit)).fetchall()
            return [event for row in reversed(found) for event in event_rows.events_of(row)]

        return await self._read(query)

    async def events_of(
        self, owner: str, number: int, job_ids: Collection[str], limit: int
    ) -> tuple[list[JobEvent], int]:
        """See the protocol."""
        first = min(number, INTEGER_MAX)
        return await self._read(lambda reader: ownership.events_of(reader, owner, first, job_ids, limit))

    async def newest_event(self) -> int:
        """See the protocol."""

        def query(reader: sqlite3.Connection) -> int:
            number: int = reader.execute(NEWEST_EVENT).fetchone()[0]
            return number * event_rows.EVENTS_PER_ROW + event_rows.EVENTS_PER_ROW - 1 if number else 0

        return await self._read(query)

    async def get_asked(self, job_id: str) -> Asked | None:
        """See the protocol."""

        def query(reader: sqlite3.Connection) -> Asked | None:
            row = reader.execute(GET_ASKED, (job_id,)).fetchone()
            return None if row is None else Asked(rows.job_of(row), row["asked"] or b"")

        return await self._read(query)

    async def files_of(self, owner: str, digests: Collection[str], *, scripts: bool) -> set[str]:
        """See the protocol."""
        return await self._read(lambda reader: ownership.files_of(reader, owner, digests, scripts=scripts))

    async def files_for(self, worker: str, digests: Collection[str]) -> set[str]:
        """See the protocol."""
        return await self._read(lambda reader: ownership.files_for(reader, worker, digests))

    async def find_log(self, job_id: str, key: AttemptKey | None, position: int) -> LogExtents | None:
        """See the protocol."""
        return await self._read(lambda reader: _find_log(reader, job_id, key, position))

    async def find_outputs(self, job_id: str) -> StoredOutputs | None:
        """See the protocol."""

        def query(reader: sqlite3.Connection) -> StoredOutputs | None:
            row = reader.execute(GET_JOB, (job_id,)).fetchone()
            if row is None:
                return None
            files = tuple(_output(found) for found in reader.execute(GET_OUTPUTS, (row["number"],)))
            return StoredOutputs(rows.job_of(row), files, row["files"] == rows.FILES_EXPIRED)

        return await self._read(query)

    async def find_output(self, job_id: str, path: str) -> OutputFile | None:
        """See the protocol."""

        def query(reader: sqlite3.Connection) -> OutputFile | None:
            found = reader.execute(GET_OUTPUT, (job_id, path)).fetchone()
            return None if found is None else _output(found)

        return await self._read(query)

    async def referenced(self, digests: Collection[str]) -> set[str]:
        """See the protocol."""
        return await self._read(
            lambda reader: {d for d in digests if reader.execute(IS_REFERENCED, (d,)).fetchone()[0]}
        )

    async def expirable(self, kind: Kept, limit: int, keyed_before_us: int = 0) -> list[Expirable]:
        """See the protocol."""
        return await self._read(lambda reader: expiry.expirable(reader, kind, limit, keyed_before_us))

    async def log_bytes(self) -> int:
        """See the protocol."""
        return await self._read(expiry.log_bytes)

    async def finished_jobs(self) -> int:
        """See the protocol."""
        return await self._read(expiry.finished_jobs)

    async def segments_in_use(self, segments: Collection[int]) -> set[int]:
        """See the protocol."""
        return await self._read(lambda reader: expiry.segments_in_use(reader, segments))

    async def get_workload(self, name: str, version: int) -> Workload | None:
        """See the protocol."""

        def query(reader: sqlite3.Connection) -> Workload | None:
            row = reader.execute(GET_WORKLOAD, (name, version)).fetchone()
            return None if row is None else workload_from_bytes(row[0])

        return await self._read(query)


def _output(row: sqlite3.Row) -> OutputFile:
    return OutputFile(path=row[0], size_bytes=row[1], modified_at_us=row[2], digest=row[3])


def _past(reader: sqlite3.Connection, number: int) -> tuple[PastAttempt, ...]:
    return tuple(
        PastAttempt(
            stage=row["stage"],
            attempt=row["attempt"],
            worker=row["worker"],
            outcome=Outcome(row["outcome"]),
            end=end,
        )
        for row in reader.execute(GET_PAST, (number,))
        if (end := rows.end_of(row["end_report"], row["late_end"])) is not None
    )


def _find_records(reader: sqlite3.Connection, owner: str, ids: Collection[str]) -> list[Record]:
    if ids:
        named = (reader.execute(GET_RECORD, (owner, record)).fetchone() for record in ids)
        found = [row for row in named if row is not None]
    else:
        found = reader.execute(NEWEST_RECORDS, (owner, rows.RECORDS_KEPT)).fetchall()[::-1]
    return [
        Record(id=row["id"], status=row["status"], containers=tuple(json.loads(row["containers"])), at_us=row["at"])
        for row in found
    ]


def _first(found: Iterable[Any], length: int) -> tuple[Extent, ...]:
    """So many of the first pieces as hold *length* bytes."""
    extents = []
    for row in found:
        extents.append(Extent(*row))
        length -= extents[-1].length
        if length <= 0:
            break
    return tuple(extents)


def _find_log(reader: sqlite3.Connection, job_id: str, key: AttemptKey | None, position: int) -> LogExtents | None:
    # One read transaction: the job's mark and its extents must be of the same moment.
    reader.execute("BEGIN")
    try:
        row = reader.execute(GET_JOB, (job_id,)).fetchone()
        if row is None:
            return None
        stage, attempt = (key.stage, key.attempt) if key is not None else (row["stage"], row["attempt"])
        inline = reader.execute(GET_LEDGER, (row["number"], stage, attempt)).fetchone()
        found = reader.execute(GET_EXTENTS, (row["number"], stage, attempt, min(position, INTEGER_MAX)))
        extents = _first(found, LOG_READ_BYTES)
        job, over = rows.job_of(row), row["state"] == State.FINISHED
        is_current = (stage, attempt) == (row["stage"], row["attempt"])
        # One that is over is kept apart; the job bears its number until the next one is assigned, or its own end.
        may_be_past = not is_current or row["state"] in (State.QUEUED, State.FINISHED)
        past = reader.execute(GET_PAST_LOG, (row["number"], stage, attempt)).fetchone() if may_be_past else None
        if past is not None or not is_current:
            held, status, lost = past if past is not None else (0, LogStatus.COMPLETE, 0)
            status = LogStatus.EXPIRED if row["logs_expired"] and held else status
            # An attempt that a finished job never had will have no log either.
            over = over or past is not None or (stage, attempt) < (row["stage"], row["attempt"])
            job = replace(job, log_position=held, log_status=LogStatus(status), log_lost_bytes=lost)
        return LogExtents(job, stage, attempt, over, inline[0] if inline else b"", extents)
    finally:
        reader.execute("COMMIT")
