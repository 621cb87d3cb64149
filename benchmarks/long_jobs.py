"""Many long jobs at once on one real worker: how long until all run, what they take, and that a stop leaves none.

A part of `benchmarks.scale`.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clusters import AGENT, COORDINATOR, SPAWNING, Product
from benchmarks.processes import BenchError
from hostler.client import Client
from hostler.errors import HostlerError
from hostler.jobs import JobSpec, Work
from hostler.lifecycle import State

PATIENCE_S = 300.0
AT_ONCE = 100  # stops that are under way


async def measure(place: Path, count: int) -> str:
    """Run so many jobs on a worker with as many slots; returns the figures, for people.

    Raises:
        BenchError: they did not all run, or something was left.
    """
    with Product(place, slots=count) as cluster:
        async with Client(cluster.address) as client:
            began_s = time.monotonic()
            work = Work(argv=("/bin/sleep", "100000"))
            answers = await client.submit([JobSpec(work=work)] * count)
            ids = [answer for answer in answers if not isinstance(answer, HostlerError)]
            running = 0
            async for progress in client.wait(ids, until=State.RUNNING, timeout_s=PATIENCE_S):
                running += progress.state is State.RUNNING
            if running != count:
                raise BenchError(f"{running} of {count} jobs run")
            started_s = time.monotonic() - began_s
            parts_mb = [cluster.pss_mb(part) for part in (COORDINATOR, AGENT, SPAWNING)]
            began_s = time.monotonic()
            await _stop(client, ids)
            stopped_s = time.monotonic() - began_s
            if left := processes_of_attempts(ids):
                raise BenchError(f"processes are left: {left}")
    coordinator_mb, agent_mb, spawning_mb = parts_mb
    return (
        f"{count:,} long jobs on one worker: all run {started_s:.2f} s after the submit; MB of the coordinator "
        f"{coordinator_mb:.0f}, agent {agent_mb:.0f}, launcher and shims {spawning_mb:.0f} ({spawning_mb / count:.2f} "
        f"a job); all stopped in {stopped_s:.2f} s, no process left"
    )


async def _stop(client: Client, ids: Sequence[str]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def stop(job: str) -> None:
        async with gate:
            stopped = await client.stop(job)
        if stopped.state is not State.FINISHED:
            raise BenchError(f"job {job} is not stopped")

    await asyncio.gather(*(stop(job) for job in ids))


def processes_of_attempts(jobs: Sequence[str]) -> list[int]:
    """The processes that carry an attempt of one of these jobs in their environment."""
    marks = {f"HOSTLER_ATTEMPT={job}".encode() for job in jobs}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile, or is another user's
        if any(variable.partition(b".")[0] in marks for variable in variables):
            found.append(int(entry.name))
    return found
