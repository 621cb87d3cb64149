"""What readers find: jobs by filter and page, keys, progress and logs. They see only what is committed."""

import sqlite3
from pathlib import Path

import pytest

from coordinator.changes import LEDGER_UNKNOWN, Extent, LogLost, LogStored, StopRequested, Unkillable
from coordinator.storage.selection import selection_of
from coordinator.storage.sqlite import GET_EXTENTS, SqliteStore
from hostler.ids import AttemptKey, JobId
from hostler.jobs import EndedProcess, JobPage, JobQuery, LogStatus, Progress, Work
from hostler.lifecycle import Outcome, State
from hostler.wire.work import work_to_bytes
from tests.support.builders import NOON_US, W1, W2, a_key, an_end, an_id
from tests.support.stored import assigned, begun, commit, over, queued, seen


def ids(page: JobPage) -> list[str]:
    """The ids of a page, in order."""
    return [job.id for job in page.jobs]


async def test_a_job_is_read_as_it_was_submitted(store: SqliteStore) -> None:
    """Every field of the spec comes back."""
    work = Work(argv=("sh", "-c", "x"), env={"A": "1"}, cwd="/", timeout_s=3.5, grace_s=0.5, output_bytes_max=9)
    await commit(
        store,
        seen(),
        queued(
            1,
            owner="bob",
            family="pixyz",
            name="n",
            key="k",
            digest=b"d",
            pin=W1,
            labels=(("zone", "a"),),
            priority=-3,
            slots=2,
            work=work_to_bytes(work),
        ),
    )

    job = await store.get_job(an_id(1))

    assert job is not None
    assert (job.state, job.outcome, job.attempt, job.worker, job.end) == (State.QUEUED, Outcome.NONE, 0, "", None)
    assert job.spec.work == work
    assert (job.spec.owner, job.spec.family, job.spec.name, job.spec.key) == ("bob", "pixyz", "n", "k")
    assert (job.spec.worker, job.spec.labels, job.spec.priority, job.spec.slots) == (W1, {"zone": "a"}, -3, 2)
    assert job.queued_at_us == NOON_US


async def test_an_unknown_job_is_none(store: SqliteStore) -> None:
    """Not an error of the store."""
    assert await store.get_job(an_id(9)) is None


async def test_a_job_shows_where_it_is(store: SqliteStore) -> None:
    """Worker, attempt and times."""
    await commit(store, seen(), queued(1), assigned(1), begun(1))

    job = await store.get_job(an_id(1))

    assert job is not None
    assert (job.state, job.worker, job.attempt) == (State.RUNNING, W1, 1)
    assert (job.assigned_at_us, job.started_at_us, job.finished_at_us) == (NOON_US + 1, NOON_US + 2, 0)
    assert job.log_status is LogStatus.ARRIVING


async def test_a_finished_job_has_its_end(store: SqliteStore) -> None:
    """As its worker reported it."""
    await commit(store, seen(), queued(1), assigned(1), begun(1), over(1))

    job = await store.get_job(an_id(1))

    assert job is not None
    assert (job.state, job.outcome, job.finished_at_us) == (State.FINISHED, Outcome.SUCCEEDED, NOON_US + 4)
    assert job.end == an_end()
    assert job.log_status is LogStatus.COMPLETE


@pytest.mark.parametrize("stopping", [False, True])
async def test_survivors_make_a_job_unkillable_until_its_end(store: SqliteStore, stopping: bool) -> None:
    """Also when nobody asked for the stop: a time limit meets them too. The phase says it, and the pids are named."""
    await commit(store, seen(), queued(1), assigned(1), begun(1))
    if stopping:
        await commit(store, StopRequested(1, a_key(1), 1.0, "ada", NOON_US))
    await commit(store, Unkillable(1, a_key(1), ((42, "stuck"),), NOON_US))

    unkillable = await store.get_job(an_id(1))
    await commit(store, over(1))
    finished = await store.get_job(an_id(1))

    assert unkillable is not None and unkillable.end is not None and finished is not None
    assert unkillable.phase == "unkillable"
    assert unkillable.end.receipt.survivors == (EndedProcess(pid=42, name="stuck"),)
    assert (finished.phase, finished.end) == ("", an_end())


async def test_the_version_grows_with_every_change(store: SqliteStore) -> None:
    """Readers can tell an older answer from a newer."""
    versions = []
    for change in (queued(1), assigned(1), begun(1), over(1)):
        await commit(store, seen(), change)
        job = await store.get_job(an_id(1))
        assert job is not None
        versions.append(job.version)

    assert versions == sorted(set(versions))


# Lists


async def many(store: SqliteStore) -> None:
    """Six jobs that differ: 1 and 2 wait, 3 is assigned, 4 runs, 5 and 6 are over."""
    await commit(
        store,
        seen(W1),
        seen(W2),
        queued(1, name="n"),
        queued(2, owner="bob", family="pixyz"),
        queued(3, name="n"),
        queued(4, owner="bob"),
        queued(5, family="pixyz"),
        queued(6, name="n", owner="bob"),
        assigned(3, worker=W1),
        assigned(4, worker=W2),
        assigned(5, worker=W1, sequence=2),
        assigned(6, worker=W2, sequence=2),
        begun(4),
        over(5),
        over(6),
    )


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (JobQuery(), [1, 2, 3, 4, 5, 6]),
        (JobQuery(states=(State.QUEUED,)), [1, 2]),
        (JobQuery(states=(State.ASSIGNED, State.RUNNING)), [3, 4]),
        (JobQuery(states=(State.FINISHED,)), [5, 6]),
        (JobQuery(states=(State.QUEUED, State.FINISHED)), [1, 2, 5, 6]),
        (JobQuery(name="n"), [1, 3, 6]),
        (JobQuery(owner="bob"), [2, 4, 6]),
        (JobQuery(family="pixyz"), [2, 5]),
        (JobQuery(worker=W2), [4, 6]),
        (JobQuery(name="n", owner="bob", states=(State.FINISHED,)), [6]),
        (JobQuery(name="no such name"), []),
    ],
)
async def test_filters_choose_and_age_orders(store: SqliteStore, query: JobQuery, found: list[int]) -> None:
    """Empty fields do not filter, and all that are given must hold."""
    await many(store)

    assert ids(await store.find_jobs(query)) == [an_id(number) for number in found]


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6, 100])
async def test_pages_give_every_job_once(store: SqliteStore, limit: int) -> None:
    """`next` of a page leads to the one after, and the last one has none."""
    await many(store)
    found: list[str] = []
    after, pages = "", 0
    while pages == 0 or after:
        page = await store.find_jobs(JobQuery(limit=limit, after=after))
        found += ids(page)
        after, pages = page.next, pages + 1

    assert found == [an_id(number) for number in range(1, 7)]
    assert pages == -(-6 // limit)


async def test_a_page_is_not_moved_by_new_jobs(store: SqliteStore) -> None:
    """Nothing is shown twice and nothing is left out when jobs arrive between two pages."""
    await many(store)
    first = await store.find_jobs(JobQuery(limit=3))
    await commit(store, queued(7))

    second = await store.find_jobs(JobQuery(limit=100, after=first.next))

    assert ids(first) + ids(second) == [an_id(number) for number in range(1, 8)]


@pytest.mark.parametrize("after", ["9" * 30, "18446744073709551616"])
async def test_a_page_after_every_number_is_empty(store: SqliteStore, after: str) -> None:
    """A number that is too large for the database is no fault of ours."""
    await many(store)

    assert ids(await store.find_jobs(JobQuery(after=after))) == []


# Keys and progress


async def test_keys_lead_to_jobs_of_every_state(store: SqliteStore) -> None:
    """Also to those that are over, which memory no longer has; others are left out."""
    await commit(
        store,
        seen(),
        queued(1, key="k", digest=b"d1"),
        queued(2, key="k", owner="bob", digest=b"d2"),
        queued(3),
        assigned(1),
        over(1),
    )

    found = await store.find_by_keys([("ada", "k"), ("bob", "k"), ("ada", "other"), ("eve", "k")])

    assert found == {("ada", "k"): (an_id(1), b"d1"), ("bob", "k"): (an_id(2), b"d2")}


async def test_progress_is_told_of_every_known_job(store: SqliteStore) -> None:
    """In few bytes; unknown ids are left out."""
    await many(store)
    await commit(store, queued(8), over(8, outcome=Outcome.FAILED, exit_code=None, signal="SIGKILL", cause="signal"))

    found = await store.find_progress([an_id(1), an_id(4), an_id(5), an_id(8), an_id(99), "no uuid"])

    assert found == {
        an_id(1): Progress(an_id(1), State.QUEUED),
        an_id(4): Progress(an_id(4), State.RUNNING),
        an_id(5): Progress(an_id(5), State.FINISHED, Outcome.SUCCEEDED, 0, "", "exit"),
        an_id(8): Progress(an_id(8), State.FINISHED, Outcome.FAILED, None, "SIGKILL", "signal"),
    }


async def test_jobs_are_found_by_how_their_ids_begin(store: SqliteStore) -> None:
    """Page by page in either order, by the index of ids: the cost is that of what is found."""
    await commit(store, *(queued(number) for number in range(1, 40)))

    found = await store.find_jobs(JobQuery(id_prefix="0000000", limit=3))
    assert [job.id for job in found.jobs] == [an_id(1), an_id(2), an_id(3)]
    following = await store.find_jobs(JobQuery(id_prefix="0000000", limit=20, after=found.next))
    assert [job.id for job in following.jobs] == [an_id(n) for n in range(4, 16)] and not following.next
    newest = await store.find_jobs(JobQuery(id_prefix="0000001", limit=1, newest_first=True))
    assert [job.id for job in newest.jobs] == [an_id(31)]
    assert (await store.find_jobs(JobQuery(id_prefix="f"))).jobs == ()

    selection, values = selection_of(JobQuery(id_prefix="0000001", newest_first=True))
    (plan,) = store._reader.execute(f"EXPLAIN QUERY PLAN SELECT * FROM job {selection}", values).fetchmany(1)
    assert "sqlite_autoindex_job_1 (id>? AND id<?)" in plan["detail"]


# Logs


async def test_a_log_that_came_with_the_end_is_whole(store: SqliteStore) -> None:
    """Whatever position is asked for: the reader cuts it."""
    await commit(store, seen(), queued(1), assigned(1), over(1, ledger=b"frames", output_bytes=4))

    found = await store.find_log(an_id(1), None, 3)

    assert found is not None
    assert (found.inline, found.extents) == (b"frames", ())
    assert (found.job.log_bytes, found.job.log_position, found.job.log_status) == (4, 6, LogStatus.COMPLETE)


async def test_a_whole_log_after_some_pieces_counts_once(store: SqliteStore) -> None:
    """An agent that was started again does not know what it had pushed, and sends a short log whole."""
    await commit(store, seen(), queued(1), assigned(1), LogStored(1, a_key(1), (Extent(0, 1, 0, 3),), 3, 2))
    await commit(store, over(1, ledger=b"frames", output_bytes=4))

    job = await store.get_job(an_id(1))

    assert job is not None
    assert (job.log_bytes, job.log_position, job.log_status) == (4, 6, LogStatus.COMPLETE)


@pytest.mark.parametrize(
    ("position", "places"),
    [(0, [0, 10, 30]), (9, [0, 10, 30]), (10, [10, 30]), (29, [10, 30]), (45, []), (1 << 64, [])],
)
async def test_extents_begin_with_the_one_that_holds_the_position(
    store: SqliteStore, position: int, places: list[int]
) -> None:
    """In order of position."""
    extents = (Extent(0, 1, 500, 10), Extent(10, 1, 900, 20), Extent(30, 2, 0, 15))
    await commit(store, seen(), queued(1), assigned(1), LogStored(1, a_key(1), extents[:2], 30, 25))
    await commit(store, LogStored(1, a_key(1), extents[2:], 45, 10))

    found = await store.find_log(an_id(1), None, position)

    assert found is not None
    assert found.extents == tuple(extent for extent in extents if extent.position in places)
    assert (found.job.log_position, found.job.log_bytes) == (45, 35)


async def test_a_long_log_is_opened_at_the_piece_that_holds_the_position(store: SqliteStore, path: Path) -> None:
    """By the index, however many pieces are before it, and no more of it than a reader takes at once."""
    await commit(store, seen(), queued(1), assigned(1))
    length = 100_000
    for start in range(0, 3000, 1000):
        extents = tuple(Extent(n * length, 1, n * length, length) for n in range(start, start + 1000))
        await commit(store, LogStored(1, a_key(1), extents, (start + 1000) * length, 0))

    for position, first in (
        (0, 0),
        (length, 1),
        (length - 1, 0),
        (2500 * length + 77, 2500),
        (3000 * length - 1, 2999),
    ):
        found = await store.find_log(an_id(1), None, position)
        assert found is not None
        assert found.extents[0].position == first * length
        assert sum(extent.length for extent in found.extents) <= (1 << 20) + length
    with sqlite3.connect(path) as connection:
        plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {GET_EXTENTS}", (1, 0, 1, 0))]
    assert plan[0] == "SEARCH extent USING PRIMARY KEY (job=? AND stage=? AND attempt=? AND position>?)"


async def test_a_log_is_complete_once_it_is_as_long_as_its_end_says(store: SqliteStore) -> None:
    """The end may be there before the log, or after it."""
    await commit(store, seen(), queued(1), queued(2), assigned(1), assigned(2, sequence=2))
    await commit(store, over(1, ledger_bytes=30), LogStored(2, a_key(2), (Extent(0, 1, 0, 30),), 30, 9))
    early = await store.get_job(an_id(1))
    await commit(store, LogStored(1, a_key(1), (Extent(0, 1, 30, 30),), 30, 9), over(2, ledger_bytes=30))

    found = [await store.get_job(an_id(number)) for number in (1, 2)]

    assert early is not None and early.log_status is LogStatus.ARRIVING
    assert [job.log_status for job in found if job] == [LogStatus.COMPLETE, LogStatus.COMPLETE]
    assert (await store.load()).changes[1:] == []


async def test_a_log_whose_rest_is_lost_says_so(store: SqliteStore) -> None:
    """With the number of bytes, and the job need not be loaded again."""
    await commit(store, seen(), queued(1), assigned(1), over(1, ledger_bytes=30), LogLost(1, a_key(1), 30))

    job = await store.get_job(an_id(1))

    assert job is not None
    assert (job.log_status, job.log_lost_bytes) == (LogStatus.LOST, 30)
    assert (await store.load()).changes[1:] == []


async def test_the_log_of_a_lost_attempt_is_lost_also_when_no_start_is_known(store: SqliteStore) -> None:
    """It may have started, and written, without a word of it having come: an empty log would not be proved whole.

    One that is known never to have run has an empty log, and that is complete.
    """
    await commit(store, seen(), *(queued(number) for number in (1, 2, 3)))
    await commit(store, assigned(1), assigned(2, sequence=2), begun(1))
    await commit(
        store,
        over(1, ledger_bytes=LEDGER_UNKNOWN, outcome=Outcome.LOST),
        over(2, ledger_bytes=LEDGER_UNKNOWN, outcome=Outcome.LOST, started_at_us=0),
        over(3, ledger_bytes=0, outcome=Outcome.STOPPED, started_at_us=0),
    )

    found = [await store.get_job(an_id(number)) for number in (1, 2, 3)]

    assert [job.log_status for job in found if job] == [LogStatus.LOST, LogStatus.LOST, LogStatus.COMPLETE]
    assert (await store.load()).changes[1:] == []


async def test_a_log_is_found_by_attempt(store: SqliteStore) -> None:
    """None means the current one; an attempt that is not there has no bytes, a job that is not there no log."""
    await commit(store, seen(), queued(1), assigned(1), LogStored(1, a_key(1), (Extent(0, 1, 0, 5),), 5, 5))

    other = await store.find_log(an_id(1), AttemptKey(JobId(an_id(1)), 0, 7), 0)
    same = await store.find_log(an_id(1), a_key(1), 0)

    assert other is not None and same is not None
    assert (len(other.extents), len(same.extents)) == (0, 1)
    assert await store.find_log(an_id(9), None, 0) is None
