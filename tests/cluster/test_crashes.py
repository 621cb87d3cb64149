"""Parts are killed while jobs run: every exit code and every log arrives, nothing runs twice, nothing stays."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from hostler.lifecycle import Outcome
from tests.cluster.real_cluster import RealCluster, shell

SCRIPT = "echo $HOSTLER_ATTEMPT >>{truth}; for n in 1 2 3 4 5 6; do echo line $n; sleep {pause}; done; exit {code}"
LINES = b"".join(b"line %d\n" % n for n in range(1, 7))


async def _start_jobs(cluster: RealCluster, truth: Path, count: int, pause: float) -> list[str]:
    specs = [
        shell(SCRIPT.format(truth=truth, pause=pause, code=number % 50), slots=number % 2) for number in range(count)
    ]
    answers = await cluster.client.submit(specs)
    return [answer for answer in answers if isinstance(answer, str)]


async def _check(cluster: RealCluster, jobs: list[str], truth: Path) -> None:
    async for _ in cluster.client.wait(jobs, timeout_s=90):
        pass
    for number, job in enumerate(jobs):
        found = await cluster.client.get(job)
        assert found.end is not None, found
        assert found.end.exit_code == number % 50, found
        assert found.outcome is (Outcome.SUCCEEDED if number % 50 == 0 else Outcome.FAILED)
        assert await cluster.log(job) == LINES
    assert _starts(truth) == sorted(jobs), "each program started exactly once"


def _starts(truth: Path) -> list[str]:
    """What the programs themselves wrote down: one line for each start."""
    return sorted(line.split(".")[0] for line in truth.read_text().split())


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.ci)], ids=["kill", "term"]
)
@pytest.mark.parametrize("part", ["w1", "coordinator", "gateway"])
async def test_a_part_ends_and_comes_back_while_jobs_run(cluster: RealCluster, part: str, number: int) -> None:
    """One part at a time, with 20 jobs under way."""
    await cluster.up()
    truth = cluster.directory / "truth"
    jobs = await _start_jobs(cluster, truth, 20, 0.1)
    await cluster.client.wait_one(jobs[1], timeout_s=0.4)
    cluster.end(part, number)
    await asyncio.sleep(0.2)  # not for a condition: programs are to end while nobody is there to be told
    cluster.start(part)
    await cluster.connected(1)
    await _check(cluster, jobs, truth)


@pytest.mark.ci
async def test_every_part_is_killed_in_turn_with_fifty_jobs_under_way(cluster: RealCluster) -> None:
    """Agent, coordinator, agent again, gateway, and both at once."""
    await cluster.up()
    truth = cluster.directory / "truth"
    jobs = await _start_jobs(cluster, truth, 50, 0.5)
    for parts in (("w1",), ("coordinator",), ("w1",), ("gateway",), ("coordinator", "w1")):
        for part in parts:
            cluster.end(part, 9)
        for part in parts:
            cluster.start(part)
        await cluster.connected(1)
    await _check(cluster, jobs, truth)


async def test_a_killed_shim_ends_its_tree_and_says_that_the_end_is_unknown(cluster: RealCluster) -> None:
    """The supervisor is gone: the outcome is lost, and nothing of the tree stays."""
    await cluster.up()
    job = await cluster.client.submit_one(shell("echo $PPID; sleep 300 & setsid sleep 300"))

    async def shim_pid() -> int:
        async for chunk in cluster.client.read_log(job, follow=True):
            if chunk.frames:
                return int(chunk.frames[20:].split()[0])
        raise AssertionError("no output")

    os.kill(await asyncio.wait_for(shim_pid(), 20), 9)
    done = await cluster.client.wait_one(job, timeout_s=30)
    assert done is not None
    assert done.outcome is Outcome.LOST
    assert done.end is not None
    assert done.end.cause == "supervisor_died"
