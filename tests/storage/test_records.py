"""What the store keeps of the records of others: the newest of each owner, and no more than an answer holds."""

from coordinator.changes import RecordPut
from coordinator.storage.rows import RECORDS_KEPT
from coordinator.storage.sqlite import SqliteStore
from hostler.jobs import Record
from tests.support.builders import NOON_US
from tests.support.stored import commit


def noted(number: int, owner: str = "ada") -> RecordPut:
    """Somebody noted something, each a microsecond after the one before."""
    return RecordPut(owner, Record(id=f"record-{number}", status="running", at_us=NOON_US + number))


async def test_of_many_records_the_newest_are_kept(store: SqliteStore) -> None:
    """Oldest first; another owner's are not touched."""
    await commit(store, noted(0, "bob"))
    await commit(store, *map(noted, range(RECORDS_KEPT)))
    await commit(store, noted(RECORDS_KEPT), noted(RECORDS_KEPT + 1))

    found = [record.id for record in await store.find_records("ada", ())]

    assert len(found) == RECORDS_KEPT
    assert (found[0], found[-1]) == ("record-2", f"record-{RECORDS_KEPT + 1}")
    assert await store.find_records("ada", ["record-0", "record-1"]) == []
    assert [record.id for record in await store.find_records("bob", ())] == ["record-0"]
