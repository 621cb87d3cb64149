"""A worker whose own jobs take all the processor time and all the memory there is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import pytest

from hostler.jobs import JobSpec, Work
from hostler.lifecycle import Outcome, State
from tests.cluster.real_cluster import until
from tests.faults.invariants import Inspection
from tests.faults.programs import Plan
from tests.faults.site import Site
from tests.faults.staging import staged
from tests.faults.stream import Accepted
from worker_agent.cgroups import Hierarchy, hierarchies

LOST_AFTER_S = 20.0
WITHIN_S = 120.0
LOOPS = 60
BUSY_S = 6.0
# Shells that never rest: the 61st process waits for them.
BUSY = f"n=0; while [ $n -lt {LOOPS} ]; do (while :; do :; done) & n=$((n+1)); done; wait"
# 64 MiB at a time, to 3 GiB at most; what it takes it touches.
HOG = "kept = [b'x' * (64 << 20) for _ in range(48)]"
MEMORY_BYTES_MAX = 512 << 20

pytestmark = [pytest.mark.ci, pytest.mark.timeout(400)]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A coordinator and one worker, connected; afterwards nothing of them is left."""
    made = Site(workers=("w1",), lost_after_s=LOST_AFTER_S)
    async with staged(made, "coordinator", "w1", workers=1, within_s=WITHIN_S):
        yield made


async def begin(site: Site, *argv: str) -> str:
    """Submit a program that takes no slot, and wait until it runs."""
    (worker,) = await site.client.workers()
    job = await site.client.submit_one(JobSpec(work=Work(argv=argv, grace_s=0.0), slots=0, worker=worker.id))

    async def runs() -> bool:
        return (await site.client.get(job)).started_at_us > 0

    await until(runs, "its start", WITHIN_S)
    return job


async def small_jobs(site: Site, first: int) -> list[Accepted]:
    """Submit eight short jobs, and wait for their ends."""
    plans = [Plan(number=first + n, key=f"k{first + n}", lines=5, exit_code=n % 2) for n in range(8)]
    answers = await site.client.submit([plan.spec(site.truth) for plan in plans])
    jobs = [Accepted(plan, str(answer)) for plan, answer in zip(plans, answers, strict=True)]
    async for _ in site.client.wait([job.id for job in jobs], timeout_s=WITHIN_S):
        pass
    return jobs


async def the_others_ended_rightly(site: Site, jobs: list[Accepted], agent: int) -> None:
    """Their ends, logs and starts are true, nothing was lost, and the agent is the one that it was."""
    inspection = Inspection(site, jobs)
    await inspection.run()
    assert inspection.violations == []
    assert set(inspection.causes) == {"exit"}
    assert "job.lost" not in (site.directory / "coordinator.log").read_text()
    process = site.parts["w1"].process
    assert process is not None and process.poll() is None and process.pid == agent


def agent_of(site: Site) -> int:
    """The pid of the agent."""
    process = site.parts["w1"].process
    assert process is not None
    return process.pid


async def test_a_worker_whose_jobs_take_all_processor_time_goes_on(site: Site) -> None:
    """Sixty loops run for a while; what else runs there begins, ends and is reported as ever, and so is their stop."""
    agent = agent_of(site)
    busy = await begin(site, "sh", "-c", BUSY)
    began = asyncio.get_running_loop().time()
    jobs: list[Accepted] = []
    while asyncio.get_running_loop().time() < began + BUSY_S:
        jobs += await small_jobs(site, 1 + len(jobs))
    assert (await site.client.get(busy)).state is State.RUNNING
    stopped = await site.client.stop(busy, wait_s=WITHIN_S)

    assert stopped.outcome is Outcome.STOPPED and stopped.end is not None and stopped.end.nothing_left
    await the_others_ended_rightly(site, jobs, agent)


async def test_a_job_that_takes_all_memory_is_ended_and_not_its_worker(site: Site) -> None:
    """The kernel picks the job, and its shim says so; agent, launcher and the other jobs go on."""
    agent = agent_of(site)
    with memory_for(site):
        hog = await begin(site, "python3", "-c", HOG)
        jobs = await small_jobs(site, 1)
        await site.client.wait_one(hog, timeout_s=WITHIN_S)
        ended = await site.client.get(hog)
        jobs += await small_jobs(site, 9)

    assert ended.outcome is Outcome.FAILED and ended.end is not None and ended.end.signal == "SIGKILL"
    assert ended.end.nothing_left
    await the_others_ended_rightly(site, jobs, agent)


@contextlib.contextmanager
def memory_for(site: Site) -> Iterator[None]:
    """Give the worker and all its jobs 512 MiB together, in a group of version 1 or 2."""
    parents = [each for each in hierarchies() if "memory" in _controllers(each)]
    assert parents, "this machine has no memory groups"
    parent = Path(parents[0].directory)
    group = parent / f"hostler-{site.directory.name}"
    group.mkdir()
    try:
        limit = "memory.max" if parents[0].version2 else "memory.limit_in_bytes"
        (group / limit).write_text(str(MEMORY_BYTES_MAX))
        below = [*site.below_agents("launch"), *site.below_agents("shim-")]
        for pid in [agent_of(site), *(each.pid for each in below)]:
            (group / "cgroup.procs").write_text(str(pid))
        for each in below:
            each.close()
        yield
    finally:
        while held := (group / "cgroup.procs").read_text().split():
            for word in held:
                with contextlib.suppress(ProcessLookupError):
                    (parent / "cgroup.procs").write_text(word)
        group.rmdir()


def _controllers(each: Hierarchy) -> Collection[str]:
    if not each.version2:
        return each.options
    return (Path(each.directory) / "cgroup.subtree_control").read_text().split()
