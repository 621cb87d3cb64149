"""All of a commit or nothing, by one writer at a time, and what is acknowledged survives a kill."""

import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator.storage import sqlite as sqlite_module
from coordinator.storage.migrate import SchemaError, migrations
from coordinator.storage.protocol import StoreBroken, StoreFull
from coordinator.storage.sqlite import SqliteStore
from hostler.jobs import JobQuery
from tests.support.builders import W1, an_id
from tests.support.stored import WORK, assigned, commit, over, queued, seen

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def full(store: SqliteStore) -> Iterator[None]:
    """Leave the database no further page."""
    writer = store._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}").fetchone()
    yield
    writer.execute("PRAGMA max_page_count = 1000000").fetchone()


async def test_a_commit_gives_the_works_that_are_asked_for(store: SqliteStore) -> None:
    """Of new jobs and of old ones; it may also change nothing."""
    await commit(store, queued(1, work=b"one"))

    assert await store.commit([queued(2, work=b"two")], [1, 2]) == {1: b"one", 2: b"two"}
    assert await store.commit([], [2]) == {2: b"two"}


async def test_nothing_of_a_commit_that_found_no_room_is_there(store: SqliteStore) -> None:
    """It is rolled back as a whole, and the store works again once there is room."""
    await commit(store, queued(1))
    with full(store), pytest.raises(StoreFull):
        await commit(store, *(queued(number, work=WORK * 5000) for number in range(2, 30)))

    assert [job.id for job in (await store.find_jobs(JobQuery())).jobs] == [an_id(1)]
    assert (await store.load()).next_number == 2
    await commit(store, queued(2))
    assert await store.get_job(an_id(2)) is not None


class FailingCommit:
    """A connection whose next COMMIT fails, with the transaction rolled back or still open."""

    def __init__(self, inner: sqlite3.Connection, code: int, *, rolls_back: bool) -> None:
        self._inner, self._code, self._rolls_back = inner, code, rolls_back

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Fail a COMMIT once."""
        if sql != "COMMIT" or not self._code:
            return self._inner.execute(sql, *parameters)
        error = sqlite3.OperationalError("it failed")
        error.sqlite_errorcode, self._code = self._code, 0
        if self._rolls_back:
            self._inner.execute("ROLLBACK")
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_a_disk_that_is_full_at_the_commit_itself_is_no_broken_store(store: SqliteStore) -> None:
    """With a WAL it is only then that pages are written: what has been rolled back is known not to be there."""
    store._writer = FailingCommit(store._writer, sqlite3.SQLITE_FULL, rolls_back=True)  # type: ignore[assignment]

    with pytest.raises(StoreFull):
        await commit(store, queued(1))

    assert await store.get_job(an_id(1)) is None
    await commit(store, queued(2))
    assert await store.get_job(an_id(2)) is not None


@pytest.mark.parametrize(
    ("code", "rolls_back"),
    [(sqlite3.SQLITE_IOERR, True), (sqlite3.SQLITE_IOERR_FSYNC, False), (sqlite3.SQLITE_FULL, False)],
)
async def test_any_other_error_of_a_commit_leaves_its_outcome_unknown(
    store: SqliteStore, code: int, rolls_back: bool
) -> None:
    """The process must end and look."""
    store._writer = FailingCommit(store._writer, code, rolls_back=rolls_back)  # type: ignore[assignment]

    with pytest.raises(StoreBroken, match="outcome is unknown"):
        await commit(store, queued(1))


async def test_small_commits_are_still_taken_while_large_ones_find_no_room(store: SqliteStore) -> None:
    """An end changes a row that is there: running work is not held up by what cannot be accepted."""
    await commit(store, seen(), queued(1), assigned(1))
    with full(store):
        with pytest.raises(StoreFull):
            await commit(store, queued(2, work=WORK * 5000))
        await commit(store, over(1))

    job = await store.get_job(an_id(1))
    assert job is not None and job.finished_at_us > 0


async def test_a_key_that_is_used_twice_rolls_back_and_does_not_break_the_store(store: SqliteStore) -> None:
    """A job can end between the look for its key and the decision: the caller tries again and finds it."""
    await commit(store, queued(1, key="k", digest=b"d"))

    with pytest.raises(StoreFull, match="idempotency key"):
        await commit(store, queued(2), queued(3, key="k", digest=b"d"))

    assert await store.get_job(an_id(2)) is None
    await commit(store, queued(2))


async def test_a_change_that_contradicts_the_store_breaks_it(store: SqliteStore) -> None:
    """Memory and disk disagree: the process must load again."""
    await commit(store, queued(1))

    with pytest.raises(StoreBroken):
        await commit(store, queued(1))


async def test_a_number_the_database_cannot_hold_breaks_it_and_leaves_nothing(store: SqliteStore) -> None:
    """It should have been refused at the edge; here it must not be half written."""
    with pytest.raises(StoreBroken):
        await commit(store, queued(1), seen(generation=1 << 64))

    assert await store.get_job(an_id(1)) is None


async def test_the_epoch_grows_with_every_start(path: Path) -> None:
    """It tells writers apart."""
    epochs = []
    for _ in range(3):
        store = await SqliteStore.open(path)
        epochs.append(store.epoch)
        await store.close()

    assert epochs == [1, 2, 3]


async def test_a_writer_of_an_older_epoch_writes_nothing(path: Path) -> None:
    """Every write checks the epoch; and it does not keep the newer one from writing."""
    older = await SqliteStore.open(path)
    await commit(older, queued(1))
    newer = await SqliteStore.open(path)

    with pytest.raises(StoreBroken, match="epoch"):
        await commit(older, queued(2))
    await commit(newer, queued(3))

    assert await newer.get_job(an_id(2)) is None
    await older.close()
    await newer.close()


async def test_a_number_is_never_used_again(path: Path) -> None:
    """Also when every job is over and none is loaded."""
    store = await SqliteStore.open(path)
    await commit(store, seen(), queued(1), queued(2), assigned(1), assigned(2, sequence=2), over(1), over(2))
    await store.close()

    again = await SqliteStore.open(path)
    loaded = await again.load()
    await again.close()

    assert [type(change).__name__ for change in loaded.changes] == ["WorkerSeen"]
    assert loaded.next_number == 3


async def test_the_count_of_commands_outlives_the_jobs(path: Path) -> None:
    """A worker takes a sequence only once; the jobs that moved the counter may be gone."""
    store = await SqliteStore.open(path)
    await commit(store, seen(), queued(1), assigned(1, sequence=7), over(1))
    await store.close()

    again = await SqliteStore.open(path)
    (worker,) = (await again.load()).changes
    await again.close()

    assert worker == seen(W1, sequence=7, session="")


async def test_a_long_log_of_writes_is_begun_anew_though_the_writer_never_rests(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is copied to the database beside the writer is never all of it: the writer itself copies the rest."""
    monkeypatch.setattr(sqlite_module, "WAL_PAGES_MAX", 0)
    await commit(store, queued(1))
    await store.newest_event()  # read after the log was copied: that comes with the first commit
    await commit(store, queued(2))
    log = path.with_name(f"{path.name}-wal")
    length = log.stat().st_size

    await commit(store, queued(3))

    assert log.stat().st_size == length


async def test_closing_twice_is_legal(path: Path) -> None:
    """And the file can be opened again at once."""
    store = await SqliteStore.open(path)
    await store.close()
    await store.close()

    await (await SqliteStore.open(path)).close()


# Migrations


async def test_an_applied_migration_may_never_be_edited(path: Path) -> None:
    """Its checksum is kept, and the message names it."""
    await (await SqliteStore.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE migration SET checksum = 'other' WHERE number = 1")
    connection.close()

    with pytest.raises(SchemaError, match=r"0001_initial\.sql .* must never be edited"):
        await SqliteStore.open(path)


async def test_a_database_of_a_newer_hostler_is_refused(path: Path) -> None:
    """There is no way back, and the message says which way is forward."""
    await (await SqliteStore.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migration VALUES (999, 'x', 'y')")
    connection.close()

    with pytest.raises(SchemaError, match="start the newer hostler"):
        await SqliteStore.open(path)


async def test_opening_again_migrates_nothing(path: Path) -> None:
    """Each file is applied once."""
    for _ in range(2):
        await (await SqliteStore.open(path)).close()
    with sqlite3.connect(path) as connection:
        applied = connection.execute("SELECT number, name FROM migration ORDER BY number").fetchall()
    connection.close()

    assert applied == [(number, name) for number, name, _ in migrations()]


# Kills


def acknowledged_until_killed(path: Path, first: int, patience_s: float) -> list[int]:
    """Let a process commit, kill it at some moment, and return the numbers it had acknowledged."""
    arguments = [sys.executable, "-m", "tests.support.committing", str(path), str(first)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            ready, _, _ = select.select([child.stdout], [], [], 30.0)
            assert ready, "the process acknowledged nothing in 30 s"
            time.sleep(patience_s)
        finally:
            os.kill(child.pid, signal.SIGKILL)
        lines = child.stdout.read().split(b"\n")
    return [int(line) for line in lines[:-1]]  # the last one may be torn


async def test_no_acknowledged_commit_is_lost_by_kill_9(path: Path) -> None:
    """Ten processes in a row commit, acknowledge on a pipe, and are killed wherever they are."""
    acknowledged: list[int] = []
    for attempt in range(10):
        acknowledged += acknowledged_until_killed(path, 1 + attempt * 1_000_000, patience_s=0.004 * attempt)

    store = await SqliteStore.open(path)
    found = await store.find_progress([an_id(number) for number in acknowledged])
    (verdict,) = store._writer.execute("PRAGMA integrity_check").fetchone()
    await store.close()

    assert len(acknowledged) >= 10
    assert [number for number in acknowledged if an_id(number) not in found] == []
    assert verdict == "ok"
