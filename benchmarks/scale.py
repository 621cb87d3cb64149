"""``python -m benchmarks.scale``: what a job costs one coordinator when the cluster is small, and when it is large.

A real coordinator, simulated workers (`benchmarks.simulated_workers`) that are all busy, and jobs queued behind them.
CPU time is that of the coordinator's process, so a busy machine blurs it less than any rate. Printed are the small
and the large scale side by side and their ratio, which is to stay below 2; memory for each queued job and connected
worker; and what 1,000 idle workers cost (P9). With ``--long-jobs`` a real worker holds so many jobs at once.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from benchmarks import long_jobs
from benchmarks.clusters import LoneCoordinator
from benchmarks.processes import ROOT, BenchError, cpu_s, exit_status_of, pss_mb
from hostler.client import Client
from hostler.errors import HostlerError
from hostler.jobs import JobQuery, JobSpec, Work
from hostler.lifecycle import State

BATCH_JOBS: Final = 200
PAGE_JOBS: Final = 1000
SAMPLES: Final = 200
SETTLE_S: Final = 1.0
LOOK_S: Final = 0.2
CONNECT_S: Final = 300.0
# So long that they do not blur what jobs cost; what they cost themselves is measured with the idle workers.
QUIET_HEARTBEAT_S: Final = 60.0

SUBMIT, LIST, GET, EXPLAIN, DISPATCH = "submit", "list", "get", "explain", "dispatch to end"
COSTS: Final = (SUBMIT, LIST, GET, EXPLAIN, DISPATCH)  # CPU microseconds a job
JOB_KB, WORKER_KB = "memory a queued job", "memory a worker"


class Scale:
    """One coordinator with simulated workers; `figures` has what was measured."""

    def __init__(self, cluster: LoneCoordinator, client: Client, workers: int, jobs: int) -> None:
        self._cluster = cluster
        self._client = client
        self._workers = workers
        self._jobs = jobs
        self.figures: dict[str, float] = {}

    async def measure(self) -> None:
        """Connect the workers, queue the jobs, look at them, and let all of them end."""
        before_mb = await self._memory_mb()
        with simulated_workers(self._cluster.address, self._workers) as workers:
            self.figures[WORKER_KB] = (await self._memory_mb() - before_mb) * 1024 / self._workers
            await self._submit(self._workers)  # they keep every slot
            await self._until(lambda queued, running: (queued, running) == (0, self._workers), workers)
            before_mb = await self._memory_mb()
            self.figures[SUBMIT] = await self._cost(self._jobs, lambda: self._submit(self._jobs))
            self.figures[JOB_KB] = (await self._memory_mb() - before_mb) * 1024 / self._jobs
            await self._look()
            self.figures[DISPATCH] = await self._cost(self._jobs, lambda: self._end_all(workers))

    async def _end_all(self, workers: "subprocess.Popen[str]") -> None:
        assert workers.stdin is not None
        workers.stdin.write("go\n")
        workers.stdin.flush()
        await self._until(lambda queued, running: queued + running == 0, workers)

    async def _look(self) -> None:
        ids: list[str] = []

        async def read_all() -> None:
            after, has_more = "", True
            while has_more:
                page = await self._client.find(JobQuery(states=(State.QUEUED,), limit=PAGE_JOBS, after=after))
                ids.extend(job.id for job in page.jobs)
                after, has_more = page.next, bool(page.next)

        self.figures[LIST] = await self._cost(self._jobs, read_all)
        if len(ids) != self._jobs:
            raise BenchError(f"the list has {len(ids)} queued jobs instead of {self._jobs}")
        chosen = ids[:: max(1, len(ids) // SAMPLES)]

        async def get_each() -> None:
            for job in chosen:
                await self._client.get(job)

        async def explain_each() -> None:
            for job in chosen:
                await self._client.explanations.of(job)

        self.figures[GET] = await self._cost(len(chosen), get_each)
        self.figures[EXPLAIN] = await self._cost(len(chosen), explain_each)

    async def _submit(self, count: int) -> None:
        spec = JobSpec(work=Work(argv=("/bin/true",)))
        for start in range(0, count, BATCH_JOBS):
            answers = await self._client.submit([spec] * min(BATCH_JOBS, count - start))
            for answer in answers:
                if isinstance(answer, HostlerError):
                    raise answer

    async def _cost(self, count: int, act: Callable[[], Awaitable[None]]) -> float:
        used_s = cpu_s(self._cluster.pid)
        await act()
        return (cpu_s(self._cluster.pid) - used_s) / count * 1e6

    async def _memory_mb(self) -> float:
        await asyncio.sleep(SETTLE_S)
        return pss_mb([self._cluster.pid])

    async def _until(self, holds: Callable[[int, int], bool], workers: "subprocess.Popen[str]") -> None:
        ends_at = time.monotonic() + 120 + self._jobs / 50
        while True:
            known = await self._client.describe()
            if holds(known.queued, known.running):
                return
            self._cluster.check()
            if workers.poll() is not None:
                raise BenchError(f"the simulated workers ended with status {workers.returncode}")
            if time.monotonic() > ends_at:
                raise BenchError(f"{known.queued} jobs are still queued and {known.running} run")
            await asyncio.sleep(LOOK_S)


@contextlib.contextmanager
def simulated_workers(address: str, count: int) -> Iterator["subprocess.Popen[str]"]:
    """So many workers, connected."""
    argv = [sys.executable, "-m", "benchmarks.simulated_workers", address, str(count)]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:  # it ends with its standard input, and so with us
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "connected":
                raise BenchError(f"{count} simulated workers could not connect")
            yield process
        finally:
            process.kill()


async def measure_scale(place: Path, workers: int, jobs: int) -> Mapping[str, float]:
    """What a job costs with so many workers and jobs: microseconds of CPU, and kB."""
    with LoneCoordinator(place, heartbeat_s=QUIET_HEARTBEAT_S) as cluster:
        async with Client(cluster.address) as client:
            scale = Scale(cluster, client, workers, jobs)
            await scale.measure()
            return scale.figures


async def measure_idle(place: Path, workers: int, idle_s: float, **settings: float) -> tuple[float, float]:
    """What idle workers cost: kB for each, and all of them in percent of a core."""
    with LoneCoordinator(place, **settings) as cluster:
        await asyncio.sleep(SETTLE_S)
        before_mb = pss_mb([cluster.pid])
        with simulated_workers(cluster.address, workers):
            await asyncio.sleep(SETTLE_S + 2.0)  # until every one has said something
            used_s, began_s = cpu_s(cluster.pid), time.monotonic()
            await asyncio.sleep(idle_s)
            percent = (cpu_s(cluster.pid) - used_s) / (time.monotonic() - began_s) * 100
            return (pss_mb([cluster.pid]) - before_mb) * 1024 / workers, percent


def show_scales(scales: list[tuple[int, int]], found: list[Mapping[str, float]]) -> None:
    """Print small and large side by side."""
    heads = [f"{workers:,} workers, {jobs:,} jobs" for workers, jobs in scales]
    print(f"{'CPU us a job, coordinator':26} {heads[0]:>28} {heads[1]:>28} {'ratio':>7}")
    for name in COSTS:
        small, large = (figures[name] for figures in found)
        print(f"{name:26} {small:28.0f} {large:28.0f} {large / small:7.2f}")
    for name in (JOB_KB, WORKER_KB):
        small, large = (figures[name] for figures in found)
        print(f"{name + ', kB':26} {small:28.1f} {large:28.1f}")


def _scale(text: str) -> tuple[int, int]:
    workers, comma, jobs = text.partition(",")
    if not (comma and workers.isdecimal() and jobs.isdecimal() and int(workers) and int(jobs)):
        raise argparse.ArgumentTypeError("WORKERS,JOBS is expected, as 50,1000")
    return int(workers), int(jobs)


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--small", type=_scale, default="50,1000", help="WORKERS,JOBS of the small scale (50,1000)")
    parser.add_argument("--large", type=_scale, default="5000,100000", help="of the large scale (5000,100000)")
    parser.add_argument("--idle", type=int, default=1000, help="how many idle workers (1000); 0: none")
    parser.add_argument("--idle-s", type=float, default=20.0, help="how long they are looked at (20)")
    parser.add_argument("--heartbeat-s", type=float, default=0, help="of the idle workers (that of the settings)")
    parser.add_argument("--long-jobs", type=int, default=0, help="how many long jobs on one real worker (none)")
    parser.add_argument("--no-scale", action="store_true", help="without the two scales")
    parser.add_argument("--dir", type=Path, help="a directory on the disk to measure on (the temporary directory)")
    given = parser.parse_args()
    place = given.dir or Path(tempfile.gettempdir())

    def work() -> None:
        print(f"load {os.getloadavg()[0]:.1f} at the beginning", flush=True)
        if not given.no_scale:
            scales = [given.small, given.large]
            found = [asyncio.run(measure_scale(place, *scale)) for scale in scales]
            show_scales(scales, found)
        if given.idle:
            beat = {"heartbeat_s": given.heartbeat_s} if given.heartbeat_s else {}
            each_kb, percent = asyncio.run(measure_idle(place, given.idle, given.idle_s, **beat))
            print(f"P9: {given.idle:,} idle workers: {each_kb:.1f} kB each, {percent:.1f} % of a core", flush=True)
        if given.long_jobs:
            print(asyncio.run(long_jobs.measure(place, given.long_jobs)))
        print(f"load {os.getloadavg()[0]:.1f} at the end")

    return exit_status_of(work)


if __name__ == "__main__":
    sys.exit(main())
