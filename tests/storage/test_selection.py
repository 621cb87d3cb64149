"""Lists by filter: what they find, in pages that look at so many jobs only; and what of a job is kept for it."""

from typing import Any

import pytest

from coordinator.storage import selection
from coordinator.storage.sqlite import SqliteStore
from hostler.errors import InvalidRequest
from hostler.jobs import JobQuery
from hostler.lifecycle import Outcome, State
from tests.support.builders import W1, an_id
from tests.support.stored import assigned, begun, commit, live_of, over, queued, seen


async def found(store: SqliteStore, text: str, **query: Any) -> list[int]:
    """The numbers of the jobs of every page."""
    numbers: list[int] = []
    after = ""
    while True:
        page = await store.find_jobs(JobQuery(filter=text, after=after, **query))
        numbers += [int(job.id[-12:], 16) for job in page.jobs]
        after = page.next
        if not after:
            return numbers


async def many(store: SqliteStore) -> None:
    """Six jobs: 1 and 2 wait, 3 is assigned, 4 runs, 5 has succeeded, 6 has failed."""
    tags = (("batch", "7"), ("kind", "mesh"))
    await commit(
        store,
        seen(W1),
        queued(1, name="n", tags=tags),
        queued(2, owner="bob", family="pixyz"),
        queued(3, name="n", tags=(("batch", "8"),)),
        queued(4, owner="bob", tags=tags),
        queued(5, workload="render", tags=tags),
        queued(6, name="m x", tags=(("batch", "7"),)),
        *(change for number in (3, 4, 5, 6) for change in [assigned(number, sequence=number)]),
        begun(4),
        begun(5),
        over(5),
        begun(6),
        over(6, outcome=Outcome.FAILED, exit_code=1),
    )


def ids(numbers: list[int]) -> list[str]:
    """Their ids."""
    return [an_id(number) for number in numbers]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch = 7", [1, 4, 5, 6]),
        ("batch in (7, 8) and not kind", [3, 6]),
        ("batch != 7", [2, 3]),
        ("state = queued", [1, 2]),
        ("state != finished and batch", [1, 3, 4]),
        ("state in (assigned, finished)", [3, 5, 6]),
        ("outcome = failed", [6]),
        ("outcome", [5, 6]),
        ("not outcome", [1, 2, 3, 4]),
        ("name = n", [1, 3]),
        ("name = *x", [6]),
        ("not name", [2, 4, 5]),
        ("workload = render", [5]),
        ("worker = name-1", [3, 4, 5, 6]),
        (f"worker = {W1}", [3, 4, 5, 6]),
        ("not worker", [1, 2]),
        ("family = pixyz or owner = bob", [2, 4]),
        ("cause = exit", [5, 6]),
        (f"id = {an_id(3)}", [3]),
        (f"id in ({an_id(3)}, {an_id(1)}) and batch = 8", [3]),
        ("state = queued or outcome = failed", [1, 2, 6]),
        ("no-such-tag", []),
    ],
)
async def test_a_filter_finds(store: SqliteStore, text: str, expected: list[int]) -> None:
    """By tags and by what is known of every job, in the order of their acceptance, and backwards."""
    await many(store)

    assert await found(store, text) == expected
    assert await found(store, text, newest_first=True) == expected[::-1]
    brief, following = await store.find_brief(JobQuery(filter=text))
    assert ([job.id for job in brief], following) == (ids(expected), "")


async def test_a_filter_and_the_other_conditions_hold_together(store: SqliteStore) -> None:
    """An owner who may see only his own finds no other's."""
    await many(store)

    assert await found(store, "batch = 7", owner="bob") == [4]
    assert await found(store, "batch = 7", states=(State.FINISHED,)) == [5, 6]


async def test_one_call_looks_at_so_many_jobs_and_the_next_goes_on(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may be empty; together they have each job once, whatever their size."""
    monkeypatch.setattr(selection, "SCANNED_MAX", 3)
    await commit(store, *(queued(number, tags=(("n", str(number % 5)),)) for number in range(1, 30)))

    pages = []
    after = ""
    while True:
        page = await store.find_jobs(JobQuery(filter="n = 0", after=after))
        pages.append(len(page.jobs))
        after = page.next
        if not after:
            break

    assert 0 in pages and sum(pages) == 5
    for limit in (1, 2, 100):
        assert await found(store, "n = 0", limit=limit) == [5, 10, 15, 20, 25]
        assert await found(store, "n = 0", limit=limit, newest_first=True) == [25, 20, 15, 10, 5]


async def test_what_is_no_filter_is_an_error(store: SqliteStore) -> None:
    """Also when there is no job to look at."""
    with pytest.raises(InvalidRequest, match="character 5"):
        await store.find_jobs(JobQuery(filter="n = "))


async def test_what_a_job_is_found_by_is_kept(store: SqliteStore) -> None:
    """Tags, the selector of its workers, and what it repeats; the selector also where the queues are built anew."""
    change = queued(1, tags=(("a", "b c"), ("d", "")), where="zone in (a, b)", retry_of=an_id(7))
    await commit(store, change)

    job = await store.get_job(an_id(1))
    loaded = live_of((await store.load()).changes)

    assert job is not None
    assert (job.spec.tags, job.spec.where, job.retry_of) == ({"a": "b c", "d": ""}, "zone in (a, b)", an_id(7))
    assert [key.where for key in loaded.classes] == ["zone in (a, b)"]
    asked = await store.get_asked(an_id(1))
    assert asked is not None and (asked.job, asked.asked) == (job, b"")
    assert await store.get_asked(an_id(2)) is None


async def test_the_newest_event_is_where_a_watch_begins(store: SqliteStore) -> None:
    """No event that is there comes after it, and every later one does."""
    assert await store.newest_event() == 0
    await many(store)
    newest = await store.newest_event()

    assert await store.events_after(newest, (), 10) == []
    await commit(store, queued(9))
    assert [event.job for event in await store.events_after(newest, (), 10)] == [an_id(9)]
