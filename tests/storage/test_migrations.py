"""A database of an earlier release is brought forward with what it holds."""

import sqlite3
from pathlib import Path

import pytest

from coordinator.storage import migrate as migrate_module
from coordinator.storage.migrate import migrate, migrations
from coordinator.storage.protocol import Kept
from coordinator.storage.sqlite import SqliteStore
from tests.support.builders import NOON_US, an_id

FINISHED = (
    "INSERT INTO job (number, id, owner, family, name, pin, labels, priority, slots, work, queued_at, state, outcome,"
    " finished_at, log_position, log_status, files) VALUES (?,?,'','native','','','',0,1,'',?,5,1,?,9,2,1)"
)


async def test_jobs_of_before_age_by_what_is_known_of_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their worker's word where it can be true: not before they were queued, nor in the future."""
    path = tmp_path / "hostler.db"
    with monkeypatch.context() as patch:
        released = migrations()[:3]
        patch.setattr(migrate_module, "migrations", lambda: released)
        connection = sqlite3.connect(path, isolation_level=None)
        migrate(connection)
        for number, ended_us in enumerate((NOON_US + 5, 1, NOON_US * 100), 1):
            connection.execute(FINISHED, (number, an_id(number), NOON_US, ended_us))
        connection.close()

    store = await SqliteStore.open(path)

    found = {job.number: job.over_at_us for job in await store.expirable(Kept.LOGS, 10)}
    assert (found[1], found[2]) == (NOON_US + 5, NOON_US)
    assert NOON_US < found[3] < NOON_US * 100
    assert [job.number for job in await store.expirable(Kept.FILES, 10)] == [2, 1, 3]
    await store.close()
