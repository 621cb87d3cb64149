"""What happened to jobs, as readers are told: each transition once, in order, with what is true of itself."""

import pytest

from coordinator.changes import Returned, StopRequested
from coordinator.storage.event_rows import EVENTS_PER_ROW
from coordinator.storage.sqlite import SqliteStore
from hostler.ids import AttemptKey, JobId
from tests.support.builders import NOON_US, W1, a_key, an_id
from tests.support.stored import assigned, begun, commit, over, queued, seen, stage_over


async def test_every_transition_is_an_event_in_order(store: SqliteStore) -> None:
    """Whether it had a commit of its own or not, with a number of its own that only grows."""
    await commit(store, seen(), queued(1), assigned(1))
    await commit(store, Returned(1, a_key(1), "why not", NOON_US))
    await commit(store, assigned(1, sequence=2, attempt=2), begun(1, 2))
    await commit(store, StopRequested(1, a_key(1, 2), 1.0, "ada", NOON_US), over(1, attempt=2))

    events = await store.events_after(0, (), 100)

    assert [event.kind for event in events] == [
        "queued",
        "assigned",
        "requeued",
        "assigned",
        "started",
        "stop_requested",
        "ended",
    ]
    numbers = [event.number for event in events]
    assert numbers == sorted(set(numbers))
    assert {event.job for event in events} == {an_id(1)}
    assert (events[2].detail, events[3].attempt, events[3].worker) == ("why not", 2, W1)


async def test_an_event_tells_its_own_attempt_and_stage(store: SqliteStore) -> None:
    """Also when several attempts met in one commit; what is accepted has none yet."""
    second = assigned(1, sequence=3)._replace(key=AttemptKey(JobId(an_id(1)), 1, 1))
    await commit(
        store,
        seen(),
        *(queued(1), assigned(1)),
        *(Returned(1, a_key(1), "why not", NOON_US), assigned(1, sequence=2, attempt=2), begun(1, 2)),
        *(stage_over(1)._replace(key=a_key(1, 2)), second),
    )

    events = await store.events_after(0, (), 100)

    assert [(event.kind, event.stage, event.attempt) for event in events] == [
        ("queued", 0, 0),
        ("assigned", 0, 1),
        ("requeued", 0, 1),
        ("assigned", 0, 2),
        ("started", 0, 2),
        ("stage_ended", 0, 2),
        ("assigned", 1, 1),
    ]
    assert [event.detail for event in events if event.kind == "assigned"][1:] == ["", ""]


async def test_the_history_of_a_job_ends_at_its_newest_transition(store: SqliteStore) -> None:
    """However many there are: the oldest are left out; one commit's transitions stay together."""
    await commit(store, seen(), queued(1), queued(2), assigned(1), assigned(2, sequence=2))
    for attempt in range(1, 6):
        await commit(store, Returned(1, a_key(1, attempt), f"why {attempt}", NOON_US))
        await commit(store, assigned(1, attempt=attempt + 1, sequence=attempt + 2)._replace(why="the only one"))

    everything = await store.history(an_id(1), 100)
    newest = await store.history(an_id(1), 3)

    assert everything == await store.events_after(0, [an_id(1)], 100)
    assert newest == everything[-3:]
    assert (newest[-1].kind, newest[-1].attempt, newest[-1].detail) == ("assigned", 6, "the only one")
    assert await store.history(an_id(9), 3) == []


async def test_each_detail_is_of_one_transition(store: SqliteStore) -> None:
    """Why a worker was chosen and why it gave the job back are two sentences, also in one commit."""
    await commit(
        store, seen(), queued(1), assigned(1)._replace(why="the only one"), Returned(1, a_key(1), "full", NOON_US)
    )

    events = await store.history(an_id(1), 100)

    assert [(event.kind, event.detail) for event in events if event.kind != "queued"] == [
        ("assigned", "the only one"),
        ("requeued", "full"),
    ]


async def test_transitions_of_one_commit_do_not_tell_of_each_other(store: SqliteStore) -> None:
    """Nothing is said of the acceptance that is only true of the assignment, nor of a refusal that came with it."""
    await commit(store, seen(), queued(1), assigned(1)._replace(why="the only one"), begun(1), over(1, cause="exit"))
    await commit(store, queued(2), over(2, cause="refused", attempt=0))

    events = await store.events_after(0, (), 100)

    assert [(event.job, event.kind, event.attempt, event.worker, event.detail) for event in events] == [
        (an_id(1), "queued", 0, "", ""),
        (an_id(1), "assigned", 1, W1, "the only one"),
        (an_id(1), "started", 1, W1, ""),
        (an_id(1), "ended", 1, W1, "exit"),
        (an_id(2), "queued", 0, "", ""),
        (an_id(2), "ended", 0, "", "refused"),
    ]
    assert await store.history(an_id(1), 100) == events[:4]


async def test_an_end_names_the_worker_of_its_attempt(store: SqliteStore) -> None:
    """Also in a commit of its own; the end of a job that waited names none. To each reader the same."""
    await commit(store, seen(), queued(1), assigned(1), queued(2), assigned(2, sequence=2))
    await commit(store, Returned(2, a_key(2), "full", NOON_US))
    await commit(store, over(1), over(2, cause="stop"))

    events = await store.events_after(0, (), 100)

    assert [(event.job, event.worker) for event in events if event.kind == "ended"] == [(an_id(1), W1), (an_id(2), "")]
    for number in (1, 2):
        told = [event for event in events if event.job == an_id(number)]
        assert await store.history(an_id(number), 100) == await store.events_after(0, [an_id(number)], 100) == told
    job = await store.get_job(an_id(1))
    assert job is not None and (await store.events_of(job.spec.owner, 0, (), 100))[0] == events


@pytest.mark.parametrize("kinds", ["queued,assigned,started,ended", "assigned,started,retried", "queued,ended"])
async def test_old_rows_give_their_detail_to_the_last_that_says_one(store: SqliteStore, kinds: str) -> None:
    """Before assignments said why, all of a commit shared one row: the detail in it is how it ended."""
    await commit(store, seen(), queued(1), assigned(1), begun(1))
    with store._writer:
        store._writer.execute("UPDATE event SET kinds = ?, detail = 'exit'", (kinds,))

    details = {event.kind: event.detail for event in await store.events_after(0, (), 100)}

    assert details == dict.fromkeys(kinds.split(","), "") | {kinds.split(",")[-1]: "exit"}


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_events_are_resumed_after_any_of_them(store: SqliteStore, limit: int) -> None:
    """Also in the middle of what was committed together, and whatever the size of a read."""
    await commit(store, seen(), queued(1), assigned(1), begun(1), queued(2))
    await commit(store, over(1))
    everything = await store.events_after(0, (), 100)

    for place, event in enumerate(everything):
        left, after = everything[place + 1 :], event.number
        while left:
            found = await store.events_after(after, (), limit)
            assert found and found == left[: len(found)]
            left, after = left[len(found) :], found[-1].number
        assert await store.events_after(after, (), limit) == []


async def test_events_of_some_jobs_leave_out_the_others(store: SqliteStore) -> None:
    """Ids that are unknown do no harm."""
    await commit(store, *(queued(number) for number in (1, 2, 3)))

    events = await store.events_after(0, [an_id(1), an_id(3), an_id(9)], 100)

    assert [event.job for event in events] == [an_id(1), an_id(3)]


async def test_after_the_last_event_there_is_none(store: SqliteStore) -> None:
    """Also after one that can never be."""
    await commit(store, queued(1))

    assert await store.events_after((1 << 64) - 1, (), 100) == []
    assert await store.events_after(EVENTS_PER_ROW * 1000, (), 100) == []


async def test_every_transition_of_an_attempt_names_its_worker(store: SqliteStore) -> None:
    """Each in a commit of its own, of the current attempt, of past ones, and of one that never ran."""
    other = "w2"
    await commit(store, seen(), seen(other), queued(1), assigned(1))
    await commit(store, Returned(1, a_key(1), "full", NOON_US, worker=W1))
    await commit(store, assigned(1, sequence=2, attempt=2))
    await commit(store, begun(1, 2))
    await commit(store, stage_over(1)._replace(key=a_key(1, 2)))
    await commit(
        store, assigned(1, sequence=3, attempt=1)._replace(key=AttemptKey(JobId(an_id(1)), 1, 1), worker=other)
    )
    await commit(store, StopRequested(1, AttemptKey(JobId(an_id(1)), 1, 1), 1.0, "ada", NOON_US))

    events = await store.events_after(0, (), 100)

    assert [(event.kind, event.worker) for event in events] == [
        ("queued", ""),
        ("assigned", W1),
        ("requeued", W1),
        ("assigned", W1),
        ("started", W1),
        ("stage_ended", W1),
        ("assigned", other),
        ("stop_requested", other),
    ]
