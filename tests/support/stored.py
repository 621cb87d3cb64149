"""Changes as the coordinator writes them, and what of a live set must be the same after it was loaded."""

from collections.abc import Sequence
from typing import Any

from coordinator.capacity import Worker
from coordinator.changes import Assigned, Change, Ended, JobQueued, Retried, StageEnded, StagePlan, Started, WorkerSeen
from coordinator.live import Job, Live
from coordinator.storage.protocol import Store
from hostler.jobs import Work
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_to_bytes
from hostler.wire.work import work_to_bytes
from tests.support.builders import NOON_US, W1, a_key, a_submission, an_end

WORK = work_to_bytes(Work(argv=("true",)))


def queued(number: int, **changes: Any) -> JobQueued:
    """A job was accepted; its id is `an_id(number)`."""
    change = JobQueued(number, *a_submission(number)[1:12], at_us=NOON_US)
    return change._replace(**changes)


def seen(worker: str = W1, **changes: Any) -> WorkerSeen:
    """A worker joined."""
    change = WorkerSeen(
        id=worker,
        name="name-1",
        host="host-1",
        version="0.1.0",
        labels=(("zone", "a"),),
        slots=2,
        boot_id="boot-1",
        journal_id="journal-1",
        generation=1,
        sequence=0,
        session="session-1",
        at_us=NOON_US,
    )
    return change._replace(**changes)


def assigned(number: int, *, worker: str = W1, sequence: int = 1, attempt: int = 1) -> Assigned:
    """A worker was told to run it."""
    return Assigned(number, a_key(number, attempt), worker, sequence, NOON_US + 1)


def begun(number: int, attempt: int = 1) -> Started:
    """Its program was started."""
    return Started(number, a_key(number, attempt), NOON_US + 2, NOON_US + 3)


def over(number: int, *, ledger: bytes = b"", attempt: int = 1, **changes: Any) -> Ended:
    """It succeeded."""
    end = an_end(ledger_bytes=len(ledger))
    change = Ended(
        number=number,
        key=a_key(number, attempt),
        outcome=Outcome.SUCCEEDED,
        end=end_to_bytes(end),
        exit_code=0,
        signal="",
        cause="exit",
        error="",
        started_at_us=NOON_US + 2,
        ended_at_us=NOON_US + 4,
        ledger_bytes=len(ledger),
        output_bytes=len(ledger),
        ledger=ledger,
        at_us=NOON_US + 5,
    )
    return change._replace(**changes)


def again(number: int, *, ledger: bytes = b"", attempt: int = 1, **changes: Any) -> Retried:
    """Its attempt failed and another follows."""
    end = an_end(exit_code=1, ledger_bytes=len(ledger))
    change = Retried(
        number=number,
        key=a_key(number, attempt),
        outcome=Outcome.FAILED,
        end=end_to_bytes(end),
        cause="exit",
        started_at_us=NOON_US + 2,
        ended_at_us=NOON_US + 4,
        ledger_bytes=len(ledger),
        output_bytes=len(ledger),
        ledger=ledger,
        due_at_us=NOON_US + 1_000_000,
        at_us=NOON_US + 5,
    )
    return change._replace(**changes)


def stage_over(number: int, *, ledger: bytes = b"", **changes: Any) -> StageEnded:
    """Its first stage succeeded and the second waits."""
    plan = StagePlan(
        runtime="python",
        workload="two",
        workload_version=1,
        labels=(("gpu", "yes"),),
        slots=2,
        work=WORK,
        retries=3,
        retry_on=("signal",),
        inputs=("e" * 64,),
    )
    change = StageEnded(
        number=number,
        key=a_key(number),
        end=end_to_bytes(an_end(result=b"1", ledger_bytes=len(ledger))),
        started_at_us=NOON_US + 2,
        ended_at_us=NOON_US + 4,
        ledger_bytes=len(ledger),
        output_bytes=len(ledger),
        ledger=ledger,
        kept=(),
        following=plan,
        at_us=NOON_US + 5,
    )
    return change._replace(**changes)


async def commit(store: Store, *changes: Change) -> None:
    """Commit these changes."""
    await store.commit(changes, ())


def live_of(changes: Sequence[Change]) -> Live:
    """A live set that these changes lead to."""
    live = Live()
    for change in changes:
        live.apply(change)
    return live


def remembered(live: Live) -> dict[str, Any]:
    """Of a live set, what a restart may not forget. Connections and what is measured begin anew."""
    return {
        "jobs": {number: _job(job) for number, job in live.jobs.items()},
        "numbers": live.numbers,
        "keys": live.keys,
        "queues": {key: sorted(_waiting(live, key)) for key in live.classes},
        "queued": live.queued,
        "trailing": {
            log.key: (log.number, log.worker, log.log_position, log.ledger_bytes, log.past)
            for log in live.trailing.values()
        },
        "delayed": set(live.delayed),
        "starts_due": live.starts_due,
        "workloads": live.workloads,
        "versions": live.workload_versions,
        "workers": {worker.id: _worker(worker) for worker in live.workers.values()},
    }


def _waiting(live: Live, key: object) -> set[tuple[int, int]]:
    return {
        (-job.priority, job.number)
        for job in live.jobs.values()
        if job.state is State.QUEUED and job.placement.key == key
    }


def _job(job: Job) -> dict[str, Any]:
    # The version counts every change, and a batch of changes is one row; survivors are said again by the worker.
    fields = {name: getattr(job, name) for name in Job.__slots__ if name not in ("placement", "version", "survivors")}
    fields["class"] = job.placement.key
    return fields


def _worker(worker: Worker) -> dict[str, Any]:
    names = ("name", "host", "version", "labels", "slots", "boot_id", "journal_id", "generation", "sequence", "held")
    return {name: getattr(worker, name) for name in names} | {"slots_used": worker.slots_used}
