"""``python -m benchmarks.stop_tree``: how long a stop takes until none of a tree of 50 processes is left (P7).

A job forks the tree through a whole cluster; taken is the time from the call of Jobs.Stop until it is answered, which
is when all are dead. Beside it the same tree is started bare, and killed by killpg; taken is the time until the last
one is dead. Both get the same signal, half of the trees SIGTERM and half SIGKILL. After each stop every process of
the host is looked at: none may carry the attempt. The ratio of the medians is to stay below 5.
"""

import argparse
import asyncio
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.clusters import Product
from benchmarks.long_jobs import processes_of_attempts
from benchmarks.processes import BenchError, descendants, exit_status_of
from hostler.client import Client
from hostler.jobs import JobSpec, Work
from hostler.lifecycle import State

# 1 shell, 7 shells below it, and 6 programs below each of these.
TREE: Final = (
    "/bin/sh",
    "-c",
    "for i in 1 2 3 4 5 6 7; do (for j in 1 2 3 4 5 6; do sleep 1000 & done; wait) & done; wait",
)
PROCESSES: Final = 50
START_S: Final = 30.0
END_S: Final = 30.0


async def stop_job(client: Client, sent: signal.Signals) -> tuple[float, int]:
    """Stop a tree that is a job; returns seconds until the answer, and how many processes were left."""
    job = await client.submit_one(JobSpec(work=Work(argv=TREE)))
    await asyncio.to_thread(_until, lambda: len(processes_of_attempts([job])) >= PROCESSES)
    began_s = time.perf_counter()
    stopped = await client.stop(job, grace_s=0 if sent is signal.SIGKILL else 10.0)
    took_s = time.perf_counter() - began_s
    left = len(processes_of_attempts([job]))
    return took_s, left if stopped.state is State.FINISHED else max(left, 1)


def kill_bare(sent: signal.Signals) -> float:
    """Kill the same tree with nothing between; returns seconds until the last process is dead."""
    with subprocess.Popen(TREE, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        descriptors: list[int] = []
        try:
            _until(lambda: len(_programs(process.pid)) >= PROCESSES)
            descriptors = [os.pidfd_open(pid) for pid in _programs(process.pid)]
            began_s = time.perf_counter()
            os.killpg(process.pid, sent)
            _wait_for_all(descriptors)
            process.wait()
            return time.perf_counter() - began_s
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            for descriptor in descriptors:
                os.close(descriptor)


def _programs(pid: int) -> list[int]:
    return [pid, *descendants(pid, depth=2)]


def _wait_for_all(descriptors: Sequence[int]) -> None:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    left = len(descriptors)
    while left:
        ended = poll.poll(END_S * 1e3)
        if not ended:
            raise BenchError(f"{left} processes of a killed group still live after {END_S:g} s")
        for descriptor, _ in ended:
            poll.unregister(descriptor)
            left -= 1


def _until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > ends_at:
            raise BenchError(f"the tree was not there in {START_S:g} s")
        time.sleep(0.02)


async def measure(address: str, trees: int) -> None:
    """Stop and kill trees in turn, and print what it took."""
    kinds = (signal.SIGTERM, signal.SIGKILL)
    stopped: dict[signal.Signals, list[float]] = {kind: [] for kind in kinds}
    killed: dict[signal.Signals, list[float]] = {kind: [] for kind in kinds}
    clean = 0
    async with Client(address) as client:
        for number in range(trees):
            kind = kinds[number % 2]
            took_s, left = await stop_job(client, kind)
            stopped[kind].append(took_s * 1e3)
            killed[kind].append(await asyncio.to_thread(kill_bare, kind) * 1e3)
            clean += left == 0
    print(f"{'ms, tree of ' + str(PROCESSES):16} {'stop p50':>10} {'stop max':>10} {'killpg p50':>11} {'ratio':>7}")
    for kind in kinds:
        if stopped[kind]:
            ours, bare = statistics.median(stopped[kind]), statistics.median(killed[kind])
            print(f"{kind.name:16} {ours:10.1f} {max(stopped[kind]):10.1f} {bare:11.1f} {ours / bare:7.2f}")
    print(f"none left in {clean} of {trees}")


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stop_tree", description=__doc__.partition("\n")[0])
    parser.add_argument("--trees", type=int, default=100, help="how many trees (100)")
    parser.add_argument("--dir", type=Path, help="a directory on the disk to measure on (the temporary directory)")
    given = parser.parse_args()

    def work() -> None:
        print(f"load {os.getloadavg()[0]:.1f} at the beginning", flush=True)
        with Product(given.dir or Path(tempfile.gettempdir())) as cluster:
            asyncio.run(measure(cluster.address, given.trees))

    return exit_status_of(work)


if __name__ == "__main__":
    sys.exit(main())
