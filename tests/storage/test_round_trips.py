"""What was committed and loaded again is what was in memory."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.changes import (
    LEDGER_UNKNOWN,
    Assigned,
    Chain,
    Change,
    Due,
    LogLost,
    LogStored,
    Returned,
    StopRequested,
    WorkloadApplied,
    WorkloadRemoved,
)
from coordinator.storage import loading
from coordinator.storage.sqlite import SqliteStore
from hostler.ids import AttemptKey, JobId
from hostler.jobs import JobSpec, Stage, Work
from hostler.lifecycle import Outcome, State
from hostler.workloads import Origin, Workload
from tests.support.builders import NOON_US, W1, W2, a_key, an_id
from tests.support.random_histories import HISTORIES, RandomHistory
from tests.support.stored import again, assigned, begun, commit, live_of, over, queued, remembered, seen, stage_over


async def through_the_store(path: Path, batches: list[list[Change]]) -> tuple[dict[str, object], int]:
    """Commit in batches and load: what is remembered, and the next number."""
    store = await SqliteStore.open(path)
    for batch in batches:
        await store.commit(batch, ())
    loaded = await store.load()
    await store.close()
    return remembered(live_of(loaded.changes)), loaded.next_number


RETRIED = {"retries": 2}
CHAIN = Chain(
    (Workload(name="one", version=1, argv=("one",)), Workload(name="two", version=1, argv=("two",))),
    JobSpec(
        work=Work(timeout_s=9.0),
        stages=(Stage(workload="one", workload_version=1), Stage(workload="two", workload_version=1)),
    ),
)

STORIES: dict[str, list[Change]] = {
    "nothing": [],
    "waiting": [queued(1), queued(2, labels=(("zone", "a"),), pin=W1, priority=3, slots=0)],
    "with a key": [queued(1, key="k", digest=b"d")],
    "with a big spec": [queued(1, work=b"w" * 5000)],
    "assigned at once": [seen(), queued(1), assigned(1)],
    "assigned later": [seen(), queued(1), queued(2), assigned(2, sequence=1), assigned(1, sequence=2)],
    "running": [seen(), queued(1), assigned(1), begun(1)],
    "stopping": [seen(), queued(1), assigned(1), begun(1), StopRequested(1, a_key(1), 2.5, "ada", NOON_US)],
    "stopping before the start": [seen(), queued(1), assigned(1), StopRequested(1, a_key(1), 2.5, "ada", NOON_US)],
    "came back": [seen(), queued(1), assigned(1), Returned(1, a_key(1), "why", NOON_US)],
    "was refused": [seen(), queued(1), assigned(1), Returned(1, a_key(1), "why", NOON_US, (W1, W2))],
    "tried again": [
        seen(),
        queued(1),
        assigned(1),
        Returned(1, a_key(1), "why", NOON_US),
        assigned(1, sequence=2, attempt=2),
    ],
    "finished": [seen(), queued(1, key="k", digest=b"d"), assigned(1), begun(1), over(1)],
    "finished before any worker": [queued(1), over(1, attempt=0, outcome=Outcome.STOPPED, started_at_us=0)],
    "with its log": [seen(), queued(1), assigned(1), over(1, ledger=b"frames")],
    "its log trails": [
        seen(),
        queued(1),
        assigned(1),
        begun(1),
        LogStored(1, a_key(1), (), 40, 30),
        over(1, ledger_bytes=100),
    ],
    "its log came first": [
        seen(),
        queued(1),
        assigned(1),
        LogStored(1, a_key(1), (), 100, 90),
        over(1, ledger_bytes=100),
    ],
    "lost": [seen(), queued(1), assigned(1), begun(1), over(1, ledger_bytes=LEDGER_UNKNOWN, outcome=Outcome.LOST)],
    "a retry that is not due": [seen(), queued(1, **RETRIED), assigned(1), begun(1), again(1)],
    "a retry whose first log trails": [
        seen(),
        queued(1, **RETRIED),
        assigned(1),
        begun(1),
        LogStored(1, a_key(1), (), 40, 30),
        again(1, ledger_bytes=100),
        Due(1),
        assigned(1, sequence=2, attempt=2),
        LogStored(1, a_key(1), (), 60, 20, True),
        LogStored(1, a_key(1, 2), (), 10, 9),
    ],
    "a retry whose first log is whole": [
        seen(),
        queued(1, **RETRIED),
        assigned(1),
        again(1, ledger=b"frames"),
        Due(1),
        assigned(1, sequence=2, attempt=2),
        over(1, attempt=2),
    ],
    "a retry whose first log is lost": [
        seen(),
        queued(1, **RETRIED),
        assigned(1),
        again(1, ledger_bytes=100),
        LogLost(1, a_key(1), 100, True),
    ],
    "a loss of what had to start by some time": [
        seen(),
        queued(1, start_by_us=NOON_US + 77),
        assigned(1),
        begun(1),
        again(1, retries=0, crashes=1),
    ],
    "with what it is run by": [
        queued(
            1,
            runtime="python",
            workload="render",
            workload_version=3,
            retries=2,
            retry_on=("signal", "timeout"),
            inputs=("d" * 64,),
            secrets=(("TOKEN", "render-token"),),
            start_by_us=NOON_US + 77,
        )
    ],
    "a chain at its second stage": [
        *(WorkloadApplied(each) for each in CHAIN.workloads),
        seen(),
        queued(1, chain=CHAIN, workload="one", workload_version=1),
        assigned(1),
        begun(1),
        stage_over(1, ledger_bytes=100, kept=("d" * 64,)),
        LogStored(1, a_key(1), (), 60, 20, True),
    ],
    "a chain that goes on": [
        *(WorkloadApplied(each) for each in CHAIN.workloads),
        WorkloadApplied(replace(CHAIN.workloads[1], version=2, argv=("newer",))),
        seen(),
        queued(1, chain=CHAIN, workload="one", workload_version=1),
        assigned(1),
        stage_over(1),
        Assigned(1, AttemptKey(JobId(an_id(1)), 1, 1), W1, 2, NOON_US + 9),
    ],
    "workloads": [
        WorkloadApplied(Workload(name="b", version=1, argv=("b",))),
        WorkloadApplied(Workload(name="a", version=1, argv=("a",), params_schema='{"type": "object"}')),
        WorkloadApplied(Workload(name="b", version=2, argv=("b", "2"), origin=Origin.SHIPPED)),
        WorkloadRemoved("a", 1, NOON_US),
    ],
    "a worker with its words": [seen(runtimes=("command", "python"), workloads=("re*", "b"))],
    "a worker that changed": [
        seen(sequence=4),
        seen(W2, labels=()),
        seen(slots=9, generation=2, boot_id="boot-2", sequence=5),
    ],
}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("story", STORIES)
async def test_a_story_is_the_same_after_a_restart(path: Path, story: str, together: bool) -> None:
    """Whether its changes were one commit or many."""
    changes = STORIES[story]
    batches = [changes] if together else [[change] for change in changes]

    found, next_number = await through_the_store(path, batches)

    live = live_of(changes)
    assert found == remembered(live)
    assert next_number == live.next_number


@given(history=HISTORIES, sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_is_the_same_after_a_restart(history: list[tuple[str, int]], sizes: list[int]) -> None:
    """However its changes were put together in commits."""
    drive = RandomHistory()
    for word, number in history:
        drive.step(word, number)
    left = list(drive.scene.history)
    batches: list[list[Change]] = []
    while left:
        size = sizes[len(batches) % len(sizes)]
        batches.append(left[:size])
        left = left[size:]
    with tempfile.TemporaryDirectory() as folder:
        found, next_number = asyncio.run(through_the_store(Path(folder) / "hostler.db", batches))

    assert found == remembered(drive.scene.live)
    assert next_number == drive.scene.live.next_number


async def test_a_restart_sends_again_in_the_order_of_sequences(path: Path) -> None:
    """Jobs are loaded by age; what a worker was told is known by sequence."""
    store = await SqliteStore.open(path)
    await commit(store, seen(), queued(1), queued(2), assigned(2, sequence=1), assigned(1, sequence=2))
    live = live_of((await store.load()).changes)
    await store.close()

    assert [(job.id, job.sequence, job.state) for job in live.jobs.values()] == [
        (an_id(1), 2, State.ASSIGNED),
        (an_id(2), 1, State.ASSIGNED),
    ]
    assert live.workers[W1].sequence == 2


async def test_of_lost_attempts_those_that_nobody_has_told_of_are_waited_for(path: Path) -> None:
    """After a restart as before it: not one whose end its worker said itself, and of too many the newest."""
    lost: dict[str, Any] = {"outcome": Outcome.LOST, "cause": "lease"}
    changes: list[Change] = [seen()]
    for number in (1, 2, 3):
        changes += [queued(number), assigned(number, sequence=number), begun(number)]
        changes.append(over(number, ledger_bytes=LEDGER_UNKNOWN, **lost))
    changes += [queued(4), assigned(4, sequence=4), begun(4), over(4, **lost)]
    store = await SqliteStore.open(path)
    await commit(store, *changes)
    live = live_of((await store.load()).changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "LOAD_MISSED", loading.LOAD_MISSED.replace("10000", "2"))
        newest = live_of((await store.load()).changes)
    await store.close()

    assert list(live.missed) == list(live_of(changes).missed) == [a_key(1), a_key(2), a_key(3)]
    assert list(newest.missed) == [a_key(2), a_key(3)]
