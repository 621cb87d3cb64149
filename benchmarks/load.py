"""The client: ``python -m benchmarks.load SYSTEM WHAT --url URL --jobs N`` prints one JSON object.

A program of its own, so that its CPU time is known and nothing else waits in its event loop. The same client code
drives the product and the prototype; it checks every job's exit code and fails when one is not 0.
"""

import argparse
import asyncio
import json
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import aiohttp

from benchmarks.yardsticks import TRUE

BATCH_JOBS: Final = 200
CONNECTIONS: Final = 16
PAUSE_S: Final = 0.005
WARM_UP: Final = 5  # samples that are not counted


class System(Protocol):
    """What the client can ask of a system."""

    async def begin(self) -> None:
        """Open the connection, so that it is not measured."""
        ...

    async def submit(self, count: int) -> None:
        """Submit jobs in one request; they are durable when it returns."""
        ...

    async def finish(self) -> None:
        """Return when every submitted job is known to have ended well."""
        ...

    async def run_one(self) -> None:
        """Submit one job and return when it is known to have ended well."""
        ...


class Product:
    """hostler, by ``/v1``."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout_s: float, job: dict[str, Any]) -> None:
        self._session = session
        self._url = f"{url}/v1"
        self._timeout_s = timeout_s
        self._job = job
        self._ids: list[str] = []

    async def begin(self) -> None:
        """See that the coordinator answers."""
        await _get(self._session, f"{self._url}/cluster")

    async def submit(self, count: int) -> None:
        """POST /v1/jobs."""
        answer = await _post(self._session, f"{self._url}/jobs", {"jobs": [self._job] * count})
        self._ids += [job["id"] for job in answer["jobs"]]

    async def finish(self) -> None:
        """POST /v1/jobs/wait with all ids."""
        answer = await _post(self._session, f"{self._url}/jobs/wait", {"ids": self._ids, "timeout": self._timeout_s})
        _check(not answer["pending"], f"{len(answer['pending'])} jobs have not ended")
        _check(len(answer["jobs"]) == len(self._ids), "some ends are missing")
        _check(all(job["exit_code"] == 0 for job in answer["jobs"]), "some jobs have failed")

    async def run_one(self) -> None:
        """POST /v1/jobs?wait."""
        answer = await _post(self._session, f"{self._url}/jobs?wait=30", {"jobs": [self._job]})
        (job,) = answer["jobs"]
        _check(job.get("exit_code") == 0, f"the job ended as {job}")


class Prototype:
    """benchmarks/prototype.py."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._expected = 0

    async def begin(self) -> None:
        """Learn how many jobs have ended before."""
        self._expected = (await _get(self._session, f"{self._url}/done?n=0"))["done"]

    async def submit(self, count: int) -> None:
        """POST /jobs."""
        await _post(self._session, f"{self._url}/jobs", {"jobs": [{"argv": [TRUE]}] * count})
        self._expected += count

    async def finish(self) -> None:
        """GET /done, which answers once so many have ended."""
        answer = await _get(self._session, f"{self._url}/done?n={self._expected}")
        _check(answer["failed"] == 0, "some jobs have failed")

    async def run_one(self) -> None:
        """POST /jobs?wait."""
        answer = await _post(self._session, f"{self._url}/jobs?wait", {"jobs": [{"argv": [TRUE]}]})
        _check(answer["code"] == 0, "the job has failed")


async def batch(system: System, jobs: int) -> dict[str, Any]:
    """Submit in requests of 200 jobs, one after another, and wait for all."""
    began, used_s = time.perf_counter(), time.process_time()
    for start in range(0, jobs, BATCH_JOBS):
        await system.submit(min(BATCH_JOBS, jobs - start))
    await system.finish()
    return _rate(jobs, began, used_s)


async def single(system: System, jobs: int) -> dict[str, Any]:
    """Submit in requests of one job, over 16 connections, and wait for all."""
    left = jobs
    began, used_s = time.perf_counter(), time.process_time()

    async def submit_in_turn() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await system.submit(1)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(submit_in_turn())
    await system.finish()
    return _rate(jobs, began, used_s)


async def latency(system: System, jobs: int) -> dict[str, Any]:
    """Run jobs one by one, with pauses, and time each from submit to known end."""
    return await _timed(system.run_one, jobs)


async def bare(jobs: int) -> dict[str, Any]:
    """The floor of `latency`: the same programs by subprocess.run, with no system between."""

    async def run_one() -> None:
        null = subprocess.DEVNULL
        subprocess.run([TRUE], stdin=null, stdout=null, stderr=null, check=True, timeout=30)  # noqa: ASYNC221

    return await _timed(run_one, jobs)


async def _timed(run_one: Callable[[], Awaitable[None]], jobs: int) -> dict[str, Any]:
    samples_ms: list[float] = []
    for number in range(WARM_UP + jobs):
        began = time.perf_counter()
        await run_one()
        if number >= WARM_UP:
            samples_ms.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(PAUSE_S)
    samples_ms.sort()
    return {"p50_ms": percentile(samples_ms, 50), "p99_ms": percentile(samples_ms, 99)}


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest value that *percent* of the ordered ones do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _rate(jobs: int, began: float, used_s: float) -> dict[str, Any]:
    return {
        "jobs_per_s": jobs / (time.perf_counter() - began),
        "cpu_us": (time.process_time() - used_s) / jobs * 1e6,
    }


def _check(right: bool, otherwise: str) -> None:
    if not right:
        raise SystemExit(f"benchmarks.load: {otherwise}")


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await _answer(response)


async def _post(session: aiohttp.ClientSession, url: str, body: object) -> Any:
    async with session.post(url, json=body) as response:
        return await _answer(response)


async def _answer(response: aiohttp.ClientResponse) -> Any:
    if response.status != 200:
        raise SystemExit(f"benchmarks.load: {response.url} answered {response.status}: {(await response.text())[:500]}")
    return await response.json()


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Do what the options say."""
    if options.system == "bare":
        return await bare(options.jobs)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=options.timeout),
        connector=aiohttp.TCPConnector(limit=CONNECTIONS),
    ) as session:
        system: System
        if options.system == "product":
            job = {"argv": [options.program], **({"worker": options.worker} if options.worker else {})}
            system = Product(session, options.url, options.timeout, job)
        else:
            system = Prototype(session, options.url)
        await system.begin()
        return await {"batch": batch, "single": single, "latency": latency}[options.what](system, options.jobs)


def main() -> None:
    """Read the arguments, drive the system, print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("system", choices=["product", "prototype", "bare"])
    parser.add_argument("what", choices=["batch", "single", "latency"])
    parser.add_argument("--url", default="")
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--worker", default="")
    parser.add_argument("--program", default=TRUE)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
