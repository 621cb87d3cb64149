"""Standard input from a client to a job over real processes, any of which is killed in the middle."""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from hostler.feeding import Feeding
from hostler.jobs import JobSpec, Work
from tests.cluster.real_cluster import RealCluster
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]

PIECE = 64 * 1024
PATIENCE_S = 30.0


class Input:
    """A given number of bytes that no two places have alike, and their hash."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.hash = hashlib.sha256()
        self.read = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield them, as fast as they are taken."""
        while self.read < self._size:
            block = b"".join(n.to_bytes(8, "big") for n in range(self.read // 8, (self.read + PIECE) // 8))
            block = block[: self._size - self.read]
            self.hash.update(block)
            self.read += len(block)
            yield block
            await asyncio.sleep(0)


async def feed_and_kill(cluster: RealCluster, victim: str, size: int) -> None:
    """Feed so many bytes while a part is killed twice and started again; nothing may be lost or doubled."""
    job = await cluster.client.submit_one(JobSpec(work=Work(argv=("sha256sum",), stdin=True)))
    given = Input(size)
    feeding = cluster.client.feeding(job, patience_s=PATIENCE_S)
    under_way = asyncio.create_task(feeding.run(given.pieces()))
    try:
        for place in (size // 4, size // 2):
            await eventually(partial(_has_come_to, feeding, place), "input to be under way", within_s=PATIENCE_S)
            cluster.end(victim, signal.SIGKILL)
            cluster.start(victim)
        assert await under_way == size
    finally:
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)
    ended = await cluster.client.wait_one(job)
    assert ended is not None and ended.end is not None and ended.end.exit_code == 0
    assert await cluster.log(job) == f"{given.hash.hexdigest()}  -\n".encode()


def _has_come_to(feeding: Feeding, place: int) -> bool:
    return feeding.taken >= place


async def test_input_goes_on_after_the_coordinator_was_killed(cluster: RealCluster) -> None:
    """Twice in the middle of it: how far it is knows the shim, and the client keeps what was not taken."""
    await cluster.up()

    await feed_and_kill(cluster, "coordinator", 16_000_000)


async def test_input_goes_on_after_the_agent_was_killed(cluster: RealCluster) -> None:
    """The shim holds the pipe and the count; the next agent finds both."""
    await cluster.up()

    await feed_and_kill(cluster, "w1", 16_000_000)


@pytest.mark.ci
async def test_a_pipe_through_run_survives_the_coordinator(cluster: RealCluster) -> None:
    """`... | hostler run -- sha256sum` with 50 MB: the command notices nothing of three deaths."""
    await cluster.up()
    command = [sys.executable, "-m", "hostler.cli.main", "--data-dir", str(cluster.directory), "run", "--", "sha256sum"]
    given = Input(50_000_000)
    run = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cluster.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.stdin is not None
    deaths = [10_000_000, 20_000_000, 35_000_000]
    async for piece in given.pieces():
        run.stdin.write(piece)
        await run.stdin.drain()
        if deaths and given.read >= deaths[0]:
            del deaths[0]
            cluster.end("coordinator", signal.SIGKILL)
            cluster.start("coordinator")
    run.stdin.close()
    out, said = await asyncio.wait_for(run.communicate(), 60.0)

    assert (run.returncode, out, said) == (0, f"{given.hash.hexdigest()}  -\n".encode(), b"")
