"""A tree that the kernel will not end: nobody says it was stopped, everybody says why, and the worker takes no more.

The program is frozen in a version 1 freezer of the test's own. A frozen process does not act on SIGKILL before it is
thawed, as one that hangs in an uninterruptible system call does not.
"""

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hostler.client import Client
from hostler.jobs import Job, JobSpec, Work
from hostler.lifecycle import Outcome, State
from hostler.workers import WorkerState
from tests.cluster.real_cluster import RealCluster, processes_of, until

UNKILLABLE_S = 90.0  # a shim speaks of it after 60 s


class Freezer:
    """A freezer around processes of a test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def freeze(self, pids: list[int]) -> None:
        """Take processes in and freeze them."""
        for pid in pids:
            (self.directory / "cgroup.procs").write_text(str(pid))
        (self.directory / "freezer.state").write_text("FROZEN")

    def thaw(self) -> None:
        """Let them go on, to their end."""
        (self.directory / "freezer.state").write_text("THAWED")

    def remove(self) -> None:
        """Thaw, and remove the directory once all have ended."""
        self.thaw()
        deadline = time.monotonic() + 10
        while True:
            try:
                self.directory.rmdir()
                return
            except OSError:
                assert time.monotonic() < deadline, "the frozen processes did not end"
                time.sleep(0.02)


def mount_of_freezers() -> Path:
    """Where freezers are made."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file if " - cgroup " in line]
    (mount,) = [fields[4] for fields in mounts if "freezer" in fields[-1].split(",")]
    return Path(mount)


@pytest.fixture
def freezer() -> Iterator[Freezer]:
    """A freezer, thawed and removed after the test."""
    made = Freezer(mount_of_freezers() / f"hz-{uuid.uuid4().hex[:8]}")
    yield made
    made.remove()


@pytest.fixture
async def cluster() -> AsyncIterator[RealCluster]:
    """A cluster that is not started yet."""
    directory = Path(tempfile.mkdtemp(prefix="hz-"))
    made = RealCluster(directory)
    try:
        yield made
    finally:
        await made.down()
        shutil.rmtree(directory)


async def stuck(client: Client, job: str) -> Job:
    """Wait until a job says that it cannot be killed."""

    async def look() -> Job | None:
        found = await client.get(job)
        return found if found.phase == "unkillable" else None

    found: Job = await until(look, f"{job} to be called unkillable", UNKILLABLE_S)
    return found


@pytest.mark.ci
@pytest.mark.timeout(240)
async def test_what_cannot_be_killed_is_never_called_stopped(cluster: RealCluster, freezer: Freezer) -> None:
    """On both start paths: `stopping: unkillable` with the pids, no new work, and a proof once it has ended at last."""
    cluster.start("coordinator")
    cluster.start("w1", slots=4, stop_jobs=True)
    await cluster.connected(1)
    client = cluster.client
    jobs = {}
    for path in ("warm", "hardened"):
        work = Work(argv=("/bin/sh", "-c", "trap '' TERM; sleep 600 & wait; sleep 600"), start_path=path, grace_s=0.1)
        jobs[path] = await client.submit_one(JobSpec(work=work))
    pids: dict[str, list[int]] = {}

    async def all_run() -> bool:
        pids.update({path: processes_of({job}) for path, job in jobs.items()})
        return all(len(found) == 2 for found in pids.values())

    await until(all_run, "the programs to run")
    freezer.freeze([pid for found in pids.values() for pid in found])

    answers = await asyncio.gather(*(client.stop(job, grace_s=0, wait_s=1) for job in jobs.values()))
    assert [job.state for job in answers] == [State.STOPPING, State.STOPPING]

    for path, job in jobs.items():
        found = await stuck(client, job)
        assert found.state is State.STOPPING
        assert found.end is not None
        survivors = {each.pid for each in found.end.receipt.survivors}
        assert survivors >= set(pids[path])
        assert found.end.receipt.verified_by == ""
    worker = next(iter(await client.workers()))
    assert worker.state is WorkerState.DRAINING
    assert "cannot be killed" in worker.reason
    waiting = await client.submit_one(JobSpec(work=Work(argv=("/bin/true",))))
    assert await client.wait_one(waiting, until=State.RUNNING, timeout_s=1.0) is None
    assert (await client.get(waiting)).state is State.QUEUED
    assert set(processes_of(set(jobs.values()))) == {pid for found in pids.values() for pid in found}

    freezer.thaw()

    for job in jobs.values():
        done = await client.wait_one(job, timeout_s=30)
        assert done is not None and done.end is not None
        assert (done.state, done.outcome) == (State.FINISHED, Outcome.STOPPED)
        assert done.end.receipt.survivors == ()
        assert done.end.receipt.verified_by != ""
    after = await client.wait_one(waiting, timeout_s=30)
    assert after is not None and after.outcome is Outcome.SUCCEEDED
    assert next(iter(await client.workers())).state is WorkerState.CONNECTED
