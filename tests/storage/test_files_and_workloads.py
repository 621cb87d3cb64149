"""What the store keeps of files, of attempts that were followed by another, and of workloads."""

from typing import Any

import pytest

from coordinator.changes import Due, Extent, FilesExpired, LogLost, LogStored, WorkloadApplied, WorkloadRemoved
from coordinator.storage.protocol import Kept
from coordinator.storage.sqlite import SqliteStore
from hostler.ids import AttemptKey, JobId
from hostler.jobs import JobQuery, LogStatus, OutputFile
from hostler.lifecycle import Outcome, State
from hostler.workloads import Workload
from tests.support.builders import NOON_US, a_key, an_end, an_id
from tests.support.stored import again, assigned, begun, commit, over, queued, seen

A, B, C = "a" * 64, "b" * 64, "c" * 64


def a_file(path: str, digest: str = A, size_bytes: int = 3) -> OutputFile:
    """A file that an attempt left."""
    return OutputFile(path=path, digest=digest, size_bytes=size_bytes, modified_at_us=NOON_US)


async def finish(store: SqliteStore, number: int, *files: OutputFile, **changes: Any) -> None:
    """A job ran and left these files."""
    await commit(store, seen(), queued(number), assigned(number, sequence=number), begun(number))
    await commit(store, over(number, outputs=files, **changes))


# Outputs


async def test_the_files_of_a_finished_job_are_found_by_path(store: SqliteStore) -> None:
    """All of them in order, and each by its exact path."""
    await finish(store, 1, a_file("b/two.txt", B), a_file("a.txt"))

    found = await store.find_outputs(an_id(1))

    assert found is not None and not found.expired
    assert found.files == (a_file("a.txt"), a_file("b/two.txt", B))
    assert found.job.id == an_id(1)
    assert await store.find_output(an_id(1), "b/two.txt") == a_file("b/two.txt", B)


@pytest.mark.parametrize("wrong", ["", "b", "B/two.txt", "b/two.txt/", "./b/two.txt", "../b/two.txt", "b/%", "%"])
async def test_another_path_finds_nothing(store: SqliteStore, wrong: str) -> None:
    """Paths are compared, never opened."""
    await finish(store, 1, a_file("b/two.txt"))

    assert await store.find_output(an_id(1), wrong) is None


async def test_the_outputs_of_an_unknown_job_are_none(store: SqliteStore) -> None:
    """Not an empty list."""
    assert await store.find_outputs(an_id(9)) is None
    assert await store.find_output(an_id(9), "a") is None


async def test_bytes_are_referred_to_by_inputs_outputs_and_scripts(store: SqliteStore) -> None:
    """What nothing refers to may be removed."""
    script = Workload(name="render", version=1, script=None, argv=("x",))
    await finish(store, 1, a_file("a.txt", A))
    await commit(store, queued(2, inputs=(B,)), WorkloadApplied(script))

    assert await store.referenced([A, B, C]) == {A, B}


async def test_files_that_expired_are_no_longer_referred_to(store: SqliteStore) -> None:
    """Neither what the job left nor what it was given; the list says that they expired."""
    await commit(store, seen(), queued(1, inputs=(B,)), assigned(1), over(1, outputs=(a_file("a.txt"),)))

    await commit(store, FilesExpired(1, NOON_US))

    assert await store.referenced([A, B]) == set()
    found = await store.find_outputs(an_id(1))
    assert found is not None and found.expired and found.files == ()
    assert await store.expirable(Kept.FILES, 10) == []


async def test_finished_jobs_with_files_can_expire_oldest_first(store: SqliteStore) -> None:
    """By our own clock, with how many refer to each; jobs without files and jobs that run are not among them."""
    await finish(store, 1, a_file("a", A, 10), a_file("b", B, 5), ended_at_us=1, at_us=NOON_US + 900)
    await finish(store, 2, a_file("a"), at_us=NOON_US + 100)
    await finish(store, 3)
    await commit(store, queued(4, inputs=(C,)))

    found = await store.expirable(Kept.FILES, 10)

    assert [(e.number, e.id, e.over_at_us, e.digests) for e in found] == [
        (2, an_id(2), NOON_US + 100, ((A, 2),)),
        (1, an_id(1), NOON_US + 900, ((A, 2), (B, 1))),
    ]
    assert len(await store.expirable(Kept.FILES, 1)) == 1


# Attempts that were followed by another


async def test_a_job_that_is_tried_again_waits_and_says_when(store: SqliteStore) -> None:
    """Nothing of the attempt before is left in it but the count."""
    await commit(store, seen(), queued(1, retries=2), assigned(1), begun(1), again(1, ledger=b"frames"))

    job = await store.get_job(an_id(1))

    assert job is not None
    assert (job.state, job.outcome, job.worker, job.end) == (State.QUEUED, Outcome.NONE, "", None)
    assert (job.retried, job.due_at_us, job.spec.retries) == (1, NOON_US + 1_000_000, 2)
    assert (job.started_at_us, job.log_bytes, job.log_position) == (0, 0, 0)


async def test_the_attempts_before_are_shown_with_their_ends(store: SqliteStore) -> None:
    """Oldest first."""
    await commit(store, seen(), queued(1, retries=2), assigned(1), again(1), Due(1))
    await commit(store, assigned(1, sequence=2, attempt=2), over(1, attempt=2))

    job = await store.get_job(an_id(1))

    assert job is not None
    (past,) = job.past
    assert (past.stage, past.attempt, past.outcome, past.end) == (0, 1, Outcome.FAILED, an_end(exit_code=1))
    assert job.outcome is Outcome.SUCCEEDED


async def test_each_attempt_has_its_own_log(store: SqliteStore) -> None:
    """The pieces of an earlier one arrive while a later one runs."""
    first, second = a_key(1), a_key(1, 2)
    await commit(store, seen(), queued(1, retries=1), assigned(1), begun(1))
    await commit(store, LogStored(1, first, (Extent(0, 1, 0, 40),), 40, 30), again(1, ledger_bytes=100), Due(1))
    await commit(store, assigned(1, sequence=2, attempt=2))
    await commit(store, LogStored(1, second, (Extent(0, 1, 40, 10),), 10, 9))

    arriving = await store.find_log(an_id(1), first, 0)
    assert arriving is not None
    assert (arriving.over, arriving.job.log_position, arriving.job.log_status) == (True, 40, LogStatus.ARRIVING)

    await commit(store, LogStored(1, first, (Extent(40, 1, 50, 60),), 100, 50, True))
    whole = await store.find_log(an_id(1), first, 0)
    assert whole is not None
    assert (whole.over, whole.job.log_status) == (True, LogStatus.COMPLETE)
    assert [e.position for e in whole.extents] == [0, 40]

    current = await store.find_log(an_id(1), None, 0)
    assert current is not None
    assert (current.attempt, current.over, current.job.log_position) == (2, False, 10)


@pytest.mark.parametrize("retries", [0, 1])
async def test_an_attempt_that_is_over_has_its_log_while_the_job_waits_for_the_next(
    store: SqliteStore, retries: int
) -> None:
    """The job bears its number until then, also when it was lost, which takes no retry."""
    await commit(store, seen(), queued(1, retries=1), assigned(1), begun(1))
    await commit(store, LogStored(1, a_key(1), (Extent(0, 1, 0, 40),), 40, 30))
    await commit(store, again(1, ledger_bytes=40, retries=retries))

    for key in (None, a_key(1)):
        found = await store.find_log(an_id(1), key, 0)
        assert found is not None
        assert (found.attempt, found.over, found.job.log_position) == (1, True, 40)


async def test_a_lost_log_of_an_earlier_attempt_says_so(store: SqliteStore) -> None:
    """Loss is never silent."""
    await commit(store, seen(), queued(1, retries=1), assigned(1), again(1, ledger_bytes=100))
    await commit(store, LogLost(1, a_key(1), 100, True))

    found = await store.find_log(an_id(1), a_key(1), 0)

    assert found is not None
    assert (found.job.log_status, found.job.log_lost_bytes) == (LogStatus.LOST, 100)


async def test_an_attempt_that_never_ran_has_an_empty_log(store: SqliteStore) -> None:
    """And nothing of it is to come."""
    await commit(store, seen(), queued(1), assigned(1, attempt=2), begun(1, attempt=2))

    found = await store.find_log(an_id(1), AttemptKey(JobId(an_id(1)), 0, 1), 0)

    assert found is not None
    assert (found.over, found.job.log_status, found.extents) == (True, LogStatus.COMPLETE, ())


# Lists


async def test_a_list_can_begin_with_the_newest(store: SqliteStore) -> None:
    """Pages go back in time."""
    await commit(store, *(queued(number) for number in range(1, 6)))

    first = await store.find_jobs(JobQuery(limit=2, newest_first=True))
    second = await store.find_jobs(JobQuery(limit=2, newest_first=True, after=first.next))
    third = await store.find_jobs(JobQuery(limit=2, newest_first=True, after=second.next))

    assert [[job.id for job in page.jobs] for page in (first, second, third)] == [
        [an_id(5), an_id(4)],
        [an_id(3), an_id(2)],
        [an_id(1)],
    ]
    assert third.next == ""


async def test_a_list_can_be_of_one_workload_or_family(store: SqliteStore) -> None:
    """Both filters at once, too."""
    await commit(
        store,
        queued(1, workload="render", family="pixyz"),
        queued(2, family="pixyz"),
        queued(3, workload="render"),
        queued(4),
    )

    async def found(**query: str) -> list[str]:
        return [job.id for job in (await store.find_jobs(JobQuery(**query))).jobs]  # type: ignore[arg-type]

    assert await found(workload="render") == [an_id(1), an_id(3)]
    assert await found(family="pixyz") == [an_id(1), an_id(2)]
    assert await found(family="pixyz", workload="render") == [an_id(1)]
    assert await found(family="native") == [an_id(3), an_id(4)]


# Workloads


async def test_every_version_of_a_workload_can_be_read(store: SqliteStore) -> None:
    """Also those of one that was removed: jobs name them."""
    one = Workload(name="render", version=1, argv=("one",), documentation="Renders.")
    two = Workload(name="render", version=2, argv=("two",))
    await commit(store, WorkloadApplied(one), WorkloadApplied(two), WorkloadRemoved("render", 2, NOON_US))

    assert await store.get_workload("render", 1) == one
    assert await store.get_workload("render", 2) == two
    assert await store.get_workload("render", 3) is None
