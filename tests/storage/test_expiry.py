"""What the store offers to retention, and what is left of a job when a kind of it has expired."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from coordinator.changes import Extent, FilesExpired, JobExpired, LogLost, LogsExpired, LogStored
from coordinator.storage.expiry import FINISHED, WITH_FILES, WITH_LOGS
from coordinator.storage.protocol import Kept
from coordinator.storage.sqlite import SqliteStore
from hostler.jobs import JobQuery, LogStatus, OutputFile
from tests.support.builders import NOON_US, a_key, an_id
from tests.support.stored import again, assigned, begun, commit, over, queued, seen

A_FILE = OutputFile(path="a", digest="a" * 64, size_bytes=3, modified_at_us=NOON_US)
TABLES = ("job", "event", "ledger", "extent", "past_attempt", "input", "output")


async def finish(store: SqliteStore, number: int, *, pushed: int = 0, key: str = "", **changes: Any) -> None:
    """A job ran; its log came with the report, or *pushed* bytes of it were stored before."""
    await commit(store, seen(), queued(number, key=key), assigned(number, sequence=number), begun(number))
    if pushed:
        extent = Extent(0, number, 0, pushed)
        await commit(store, LogStored(number, a_key(number), (extent,), pushed, pushed))
        changes = {"ledger_bytes": pushed} | changes
    await commit(store, over(number, **({"at_us": NOON_US + number} | changes)))


async def numbers(store: SqliteStore, kind: Kept, keyed_before_us: int = 0) -> list[int]:
    """Which jobs have something of a kind that may expire."""
    return [job.number for job in await store.expirable(kind, 100, keyed_before_us)]


def rows_of(path: Path, number: int) -> dict[str, int]:
    """How many rows each table has of a job."""
    with sqlite3.connect(path) as connection:
        columns = {table: "number" if table == "job" else "job" for table in TABLES}
        return {
            table: connection.execute(f"SELECT COUNT(*) FROM {table} WHERE {column} = ?", (number,)).fetchone()[0]
            for table, column in columns.items()
        }


async def test_logs_may_expire_once_they_have_arrived(store: SqliteStore) -> None:
    """Not while one of any attempt is on its way, or its job lives; those that are lost may."""
    await finish(store, 1, ledger=b"abc")
    await finish(store, 2, pushed=50, ledger_bytes=80)
    await finish(store, 3, pushed=60)
    await commit(store, queued(4), assigned(4, sequence=4), begun(4), again(4, ledger_bytes=100))
    await commit(store, assigned(4, sequence=5, attempt=2), over(4, attempt=2, ledger=b"abc"))
    await commit(store, queued(5), assigned(5, sequence=6), begun(5))
    assert await numbers(store, Kept.LOGS) == [1, 3]

    await commit(store, LogLost(2, a_key(2), 30), LogLost(4, a_key(4), 100, past=True))

    assert await numbers(store, Kept.LOGS) == [1, 2, 3, 4]
    assert [job.ledger_bytes for job in await store.expirable(Kept.LOGS, 100)] == [3, 50, 60, 3]
    assert await store.log_bytes() == 116


async def test_the_oldest_end_is_first_by_the_coordinators_clock(store: SqliteStore) -> None:
    """The clock of a worker may be wrong by years."""
    await finish(store, 1, ledger=b"abc", ended_at_us=1, at_us=NOON_US + 9)
    await finish(store, 2, ledger=b"abc", ended_at_us=NOON_US * 2, at_us=NOON_US + 5)
    await finish(store, 3, at_us=NOON_US + 20)

    for kind in (Kept.LOGS, Kept.JOBS):
        found = await store.expirable(kind, 100, 0)
        assert [(job.number, job.over_at_us) for job in found[:2]] == [(2, NOON_US + 5), (1, NOON_US + 9)]


@pytest.mark.parametrize("inline", [True, False])
async def test_a_log_that_expired_says_so(store: SqliteStore, path: Path, inline: bool) -> None:
    """Its job stays, with how long the log was; nothing of the log does."""
    if inline:
        await finish(store, 1, ledger=b"x" * 50)
    else:
        await finish(store, 1, pushed=50)

    await commit(store, LogsExpired(1, 50, NOON_US))

    found = await store.find_log(an_id(1), None, 0)
    assert found is not None
    assert (found.job.log_status, found.inline, found.extents, found.over) == (LogStatus.EXPIRED, b"", (), True)
    job = await store.get_job(an_id(1))
    assert job is not None and (job.log_status, job.log_position) == (LogStatus.EXPIRED, 50)
    assert await numbers(store, Kept.LOGS) == []
    assert await store.log_bytes() == 0
    assert await store.segments_in_use([1, 2]) == set()
    kept = rows_of(path, 1)
    assert (kept["ledger"], kept["extent"], kept["job"]) == (0, 0, 1)
    assert [e.kind for e in await store.events_after(0, [an_id(1)], 100)][-1] == "logs_expired"


async def test_the_logs_of_every_attempt_expire_together(store: SqliteStore) -> None:
    """An empty one is complete for ever."""
    await commit(store, seen(), queued(1), assigned(1), begun(1), again(1, ledger=b"abc"))
    await commit(store, assigned(1, sequence=2, attempt=2), over(1, attempt=2))

    await commit(store, LogsExpired(1, 3, NOON_US))

    first, second = [await store.find_log(an_id(1), a_key(1, attempt), 0) for attempt in (1, 2)]
    assert first is not None and second is not None
    assert (first.job.log_status, second.job.log_status) == (LogStatus.EXPIRED, LogStatus.COMPLETE)


async def test_nothing_is_left_of_a_job_that_expired(store: SqliteStore, path: Path) -> None:
    """Its attempts, events, logs and files are gone with it; other jobs have theirs."""
    for number in (1, 2):
        await commit(store, seen(), queued(number, inputs=("b" * 64,)), assigned(number, sequence=number))
        await commit(store, begun(number), again(number, ledger=b"abc"))
        await commit(store, assigned(number, sequence=9, attempt=2), begun(number, attempt=2))
        extent = Extent(0, number, 0, 50)
        await commit(store, LogStored(number, a_key(number, 2), (extent,), 50, 50))
        await commit(store, over(number, attempt=2, ledger_bytes=50, outputs=(A_FILE,)))
    before = rows_of(path, 2)
    assert all(before.values())

    await commit(store, JobExpired(1))

    assert rows_of(path, 1) == dict.fromkeys(TABLES, 0)
    assert rows_of(path, 2) == before
    assert await store.get_job(an_id(1)) is None
    assert await store.find_log(an_id(1), None, 0) is None
    assert await store.find_progress([an_id(1)]) == {}
    assert [job.id for job in (await store.find_jobs(JobQuery())).jobs] == [an_id(2)]
    assert await store.events_after(0, [an_id(1)], 100) == []
    assert await store.finished_jobs() == 1
    assert await store.segments_in_use([1, 2]) == {2}


async def test_jobs_with_a_key_are_kept_until_it_is_no_longer_good(store: SqliteStore) -> None:
    """Whoever repeats a submission must find the job that he has."""
    await finish(store, 1, key="mine")
    await finish(store, 2)
    await finish(store, 3)

    assert await numbers(store, Kept.JOBS, NOON_US + 1) == [2]
    assert await numbers(store, Kept.JOBS, NOON_US + 2) == [1, 2]


async def test_numbers_are_never_given_again(store: SqliteStore, path: Path) -> None:
    """The newest job and that of the newest event stay: whoever reads on after a number would miss what has it anew."""
    for number in (1, 2, 3):
        await finish(store, number)
    await commit(store, FilesExpired(1, NOON_US))

    assert await numbers(store, Kept.JOBS) == [2]
    for number in await numbers(store, Kept.JOBS):
        await commit(store, JobExpired(number))
    (newest,) = (await store.events_after(0, [an_id(1)], 100))[-1:]
    loaded = await store.load()
    assert loaded.next_number == 4

    await commit(store, queued(4))
    assert (await store.events_after(0, [an_id(4)], 100))[0].number > newest.number
    assert await numbers(store, Kept.JOBS) == [1, 3]


async def test_jobs_whose_logs_expired_and_others_are_one_line(store: SqliteStore) -> None:
    """The oldest first, whichever they are."""
    for number in (1, 2, 3, 4, 5):
        await finish(store, number, ledger=b"abc")
    await commit(store, LogsExpired(2, 3, NOON_US), LogsExpired(3, 3, NOON_US), FilesExpired(5, NOON_US))

    found = await store.expirable(Kept.JOBS, 100, 0)
    assert [(job.number, job.ledger_bytes) for job in found] == [(1, 3), (2, 0), (3, 0), (4, 3)]
    assert [job.number for job in await store.expirable(Kept.JOBS, 2, 0)] == [1, 2]


async def test_the_oldest_are_found_without_looking_at_every_job(store: SqliteStore, path: Path) -> None:
    """By an index: there may be a million finished jobs, and somebody looks every minute."""
    with sqlite3.connect(path) as connection:
        for statement, values in ((WITH_LOGS, (1,)), (FINISHED, (0, 0, 1)), (WITH_FILES, (1,))):
            plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            assert any("job USING" in step and "INDEX job_" in step for step in plan), plan
            assert not any("TEMP B-TREE" in step for step in plan), plan
