"""Leases, drains, quarantine and epochs, with real processes; the truth is a file that each program appends to."""

import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

from hostler.errors import Unavailable
from hostler.jobs import Job, JobSpec, Work
from hostler.lifecycle import Outcome, State
from hostler.workers import WorkerState
from tests.cluster.real_cluster import RealCluster, processes_of, until

SHORT: dict[str, Any] = {"heartbeat_s": 0.3}  # a lease of 1.2 s


def noted(truth: Path, rest: str) -> tuple[str, ...]:
    """A program that notes its start, with its attempt, and goes on with *rest*."""
    return ("/bin/sh", "-c", f'echo "$HOSTLER_ATTEMPT" >> {truth}; {rest}')


def starts(truth: Path) -> list[str]:
    """The attempts that began."""
    return truth.read_text().split() if truth.exists() else []


async def state_of(cluster: RealCluster, name: str) -> WorkerState:
    """How a worker is shown."""
    return next(worker.state for worker in await cluster.client.workers() if worker.name == name)


async def finished(cluster: RealCluster, job: str, within_s: float = 60) -> Job:
    """Wait for the end of a job."""
    done = await cluster.client.wait_one(job, timeout_s=within_s)
    assert done is not None, await cluster.client.get(job)
    return done


async def test_a_job_moves_to_another_worker_when_its_own_is_stopped_in_mid_air(
    cluster: RealCluster, tmp_path: Path
) -> None:
    """Its shim ends the attempt with the lease, then the coordinator tries again; never two at once."""
    cluster.start("coordinator", **SHORT)
    cluster.start("w1", slots=1, **SHORT)
    await cluster.connected(1)
    truth = tmp_path / "truth"
    work = Work(argv=noted(truth, f"test -f {tmp_path}/go || sleep 600"), loss_policy="stop", grace_s=0.2)
    job = await cluster.client.submit_one(JobSpec(work=work, on_lost="retry"))
    await cluster.client.wait_one(job, until=State.RUNNING, timeout_s=20)

    agent = cluster.processes["w1"]
    agent.send_signal(signal.SIGSTOP)
    try:
        await until(lambda: _gone(job), "the shim ended the attempt by itself", within_s=15)
        (tmp_path / "go").touch()
        cluster.start("w2", **SHORT)
        done = await finished(cluster, job)
    finally:
        agent.send_signal(signal.SIGCONT)

    assert (done.outcome, done.attempt, done.retried) == (Outcome.SUCCEEDED, 2, 0)
    assert starts(truth) == [f"{job}.0.1", f"{job}.0.2"]
    (lost,) = done.past
    assert (lost.outcome, lost.end.cause) == (Outcome.LOST, "lease")

    async def receipt_added() -> bool:
        (past,) = (await cluster.client.get(job)).past
        return bool(past.end.receipt.verified_by)

    await until(receipt_added, "the worker came back and its receipt was added")


async def _gone(job: str) -> bool:
    return processes_of({job}) == []


async def test_a_job_of_the_policy_keep_runs_on_without_its_agent(cluster: RealCluster, tmp_path: Path) -> None:
    """The usual one: its worker is away for many leases, and it ends as it would have."""
    cluster.start("coordinator", **SHORT)
    cluster.start("w1", **SHORT)
    await cluster.connected(1)
    argv = noted(tmp_path / "truth", f"while ! test -f {tmp_path}/go; do sleep 0.05; done; exit 5")
    job = await cluster.client.submit_one(JobSpec(work=Work(argv=argv)))
    await cluster.client.wait_one(job, until=State.RUNNING, timeout_s=20)
    agent = cluster.processes["w1"]
    agent.send_signal(signal.SIGSTOP)

    async def unreachable() -> bool:
        return await state_of(cluster, "w1") is WorkerState.UNREACHABLE

    await until(unreachable, "the worker counts as unreachable")
    agent.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()

    done = await finished(cluster, job)

    assert done.end is not None and done.end.exit_code == 5
    assert starts(tmp_path / "truth") == [f"{job}.0.1"]


async def test_a_drained_worker_is_emptied_and_gone(cluster: RealCluster, tmp_path: Path) -> None:
    """What has retries goes on elsewhere; what has none is stopped, with the cause; then the agent says goodbye."""
    cluster.start("coordinator")
    cluster.start("w1", slots=2)
    await cluster.connected(1)
    truth = tmp_path / "truth"
    program = noted(truth, f"test -f {tmp_path}/go || sleep 600")
    once = await cluster.client.submit_one(JobSpec(work=Work(argv=program, grace_s=0.2)))
    again = await cluster.client.submit_one(JobSpec(work=Work(argv=program, grace_s=0.2), retries=1))
    for job in (once, again):
        await cluster.client.wait_one(job, until=State.RUNNING, timeout_s=20)
    waiting = await cluster.client.submit_one(JobSpec(work=Work(argv=noted(truth, "true"))))
    (tmp_path / "go").touch()

    shown = await cluster.client.drain_worker("w1", deadline_s=0.5, leave=True, reason="new disks")

    assert (shown.state, shown.reason) == (WorkerState.DRAINING, "new disks")
    assert cluster.processes.pop("w1").wait(30) == 0
    assert await state_of(cluster, "w1") is WorkerState.GONE
    done = await finished(cluster, once)
    assert (done.outcome, done.end and done.end.cause) == (Outcome.STOPPED, "drain")
    cluster.start("w2")
    assert (await finished(cluster, again)).outcome is Outcome.SUCCEEDED
    assert (await finished(cluster, waiting)).outcome is Outcome.SUCCEEDED
    begun = [f"{once}.0.1", f"{again}.0.1", f"{again}.0.2", f"{waiting}.0.1"]
    assert sorted(starts(truth)) == sorted(begun)


async def test_a_drain_holds_over_restarts_until_it_is_taken_back(cluster: RealCluster) -> None:
    """Of the worker and of the coordinator."""
    cluster.start("coordinator")
    cluster.start("w1")
    await cluster.connected(1)
    await cluster.client.drain_worker("w1")
    cluster.end("w1", signal.SIGKILL)
    cluster.end("coordinator", signal.SIGKILL)
    cluster.start("coordinator")
    cluster.start("w1")

    async def drained() -> bool:
        try:
            return await state_of(cluster, "w1") is WorkerState.DRAINED
        except Unavailable:
            return False  # it is still starting

    await until(drained, "the worker is back and drained")
    job = await cluster.client.submit_one(JobSpec(work=Work(argv=("true",))))
    waiting = await cluster.client.get(job)
    assert any("is drained on request" in reason for reason in waiting.pending_reasons)

    await cluster.client.resume_worker("w1")

    assert (await finished(cluster, job)).outcome is Outcome.SUCCEEDED


async def test_two_copies_of_a_worker_are_put_under_quarantine(cluster: RealCluster) -> None:
    """A copied data directory: nothing is given to it until somebody has looked."""
    cluster.start("coordinator")
    cluster.start("w1")
    await cluster.connected(1)

    async def knows_its_id() -> bool:
        return "link.connected" in (cluster.directory / "w1.log").read_text()

    await until(knows_its_id, "the worker has its welcome, and its id, which makes the copy one")
    cluster.end("w1", signal.SIGTERM)
    workers = cluster.directory / "workers"
    shutil.copytree(workers / "w1", workers / "copy", ignore=shutil.ignore_patterns("*.sock"))
    cluster.start("w1")
    await cluster.connected(1)
    cluster.start("copy")

    async def quarantined() -> bool:
        return any(worker.state is WorkerState.QUARANTINED for worker in await cluster.client.workers())

    await until(quarantined, "the worker is quarantined")
    (worker,) = await cluster.client.workers()
    assert "copies of one data directory" in worker.reason
    job = await cluster.client.submit_one(JobSpec(work=Work(argv=("true",))))
    assert (await cluster.client.get(job)).state is State.QUEUED

    cluster.end("copy", signal.SIGTERM)
    await cluster.client.release_worker(worker.id)

    assert (await finished(cluster, job)).outcome is Outcome.SUCCEEDED


async def test_a_coordinator_restored_from_a_backup_is_heard_again(cluster: RealCluster) -> None:
    """It raises its epoch above what its workers have heard."""
    cluster.start("coordinator")
    cluster.start("w1")
    await cluster.connected(1)
    cluster.end("coordinator", signal.SIGTERM)
    database = cluster.directory / "coordinator" / "hostler.db"
    connection = sqlite3.connect(database)
    with connection:
        (epoch,) = connection.execute("SELECT epoch FROM leader").fetchone()
        connection.execute("UPDATE leader SET epoch = 0")
    connection.close()
    assert epoch >= 1
    cluster.start("coordinator")  # under epoch 1 again, which the worker has heard
    await cluster.connected(1)

    job = await cluster.client.submit_one(JobSpec(work=Work(argv=("true",))))

    assert (await finished(cluster, job)).outcome is Outcome.SUCCEEDED


async def test_what_misses_its_start_deadline_never_starts_and_what_meets_it_runs_on(
    cluster: RealCluster, tmp_path: Path
) -> None:
    """Short jobs race for one slot with a deadline that most of them miss: none is ended for having been late."""
    cluster.start("coordinator")
    cluster.start("w1", slots=1)
    await cluster.connected(1)
    truth = tmp_path / "truth"
    specs = [JobSpec(work=Work(argv=noted(truth, "sleep 0.05")), start_within_s=0.4) for _ in range(60)]
    made = [str(job) for job in await cluster.client.submit(specs)]

    ends = {job: await finished(cluster, job) for job in made}

    began = {line.partition(".")[0] for line in starts(truth)}
    kinds = {(done.outcome, done.end.cause if done.end else "") for done in ends.values()}
    assert kinds <= {(Outcome.SUCCEEDED, "exit"), (Outcome.TIMED_OUT, "start_deadline")}, kinds
    assert began == {job for job, done in ends.items() if done.outcome is Outcome.SUCCEEDED}
