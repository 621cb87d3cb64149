"""``python -m benchmarks.noisy_key``: what a key that calls as fast as it can does to the latency of another one.

A whole cluster with default limits is started in a temporary directory. A quiet key asks for a list of jobs 20 times
a second, first alone and then beside a noisy key that repeats over 50 connections whatever it is answered. Printed
are the quiet key's p50 and p99 in both halves and the ratio of the p99s, which is to stay below 2; what counts is
the ratio, for the machine is the same. Exit status 1 when the cluster cannot be measured.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from benchmarks.clusters import Product
from benchmarks.processes import BenchError, end_on_signals, exit_status_of
from hostler.client import Client
from hostler.endpoint import coordinator_socket

QUIET_PER_S = 20.0
HALF_S = 12.0
NOISY_CONNECTIONS = 50
NOISY = "--noisy"


async def measure(url: str, data_dir: Path) -> dict[str, float]:
    """Return the figures, in ms; *data_dir* is that of the running cluster."""
    async with Client(f"unix:{coordinator_socket(data_dir)}") as client:
        quiet, noisy = [
            (await client.access.create_key(name, scopes=["developer"])).text for name in ("quiet", "noisy")
        ]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        alone = await _quiet(session, url, quiet)
        # In a process of its own: it is the server that is measured, not how busy this one is.
        program = [sys.executable, "-m", "benchmarks.noisy_key", NOISY, url]
        process = await asyncio.create_subprocess_exec(
            *program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        answering = asyncio.create_task(process.communicate(noisy.encode()))
        beside = await _quiet(session, url, quiet)
        answered = int((await answering)[0])
    return {
        "p50 alone": _percentile(alone, 50),
        "p99 alone": _percentile(alone, 99),
        "p50 beside": _percentile(beside, 50),
        "p99 beside": _percentile(beside, 99),
        "p99 ratio": _percentile(beside, 99) / _percentile(alone, 99),
        "noisy answers a second": answered / HALF_S,
    }


async def _quiet(session: aiohttp.ClientSession, url: str, key: str) -> list[float]:
    taken: list[float] = []
    began = time.monotonic()
    while time.monotonic() < began + HALF_S:
        sent_at = time.monotonic()
        await _call(session, url, key)
        taken.append((time.monotonic() - sent_at) * 1e3)
        await asyncio.sleep(max(0.0, 1 / QUIET_PER_S - (time.monotonic() - sent_at)))
    return sorted(taken)


async def make_noise(url: str, key: str) -> int:
    """Call as fast as is answered over many connections, and return how many answers there were."""
    ends_at = time.monotonic() + HALF_S
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        calls = [_repeat(session, url, key, ends_at) for _ in range(NOISY_CONNECTIONS)]
        return sum(await asyncio.gather(*calls))


async def _repeat(session: aiohttp.ClientSession, url: str, key: str, ends_at: float) -> int:
    count = 0
    while time.monotonic() < ends_at:
        await _call(session, url, key)
        count += 1
    return count


async def _call(session: aiohttp.ClientSession, url: str, key: str) -> None:
    async with session.get(f"{url}/v1/jobs?limit=10", headers={"x-api-key": key}) as response:
        await response.read()
        if response.status not in (200, 429):
            raise BenchError(f"the gateway answered {response.status}")


def _percentile(taken: list[float], percent: int) -> float:
    return taken[min(len(taken) - 1, len(taken) * percent // 100)]


def main() -> int:
    """Measure and print; return the exit status."""
    if sys.argv[1:2] == [NOISY]:
        end_on_signals()
        print(asyncio.run(make_noise(sys.argv[2], sys.stdin.read())))
        return 0

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="hostler-bench-") as place, Product(Path(place)) as cluster:
            figures = asyncio.run(measure(cluster.url, cluster.directory))
        for name, value in figures.items():
            print(f"{name:24} {value:10.2f}")

    return exit_status_of(work)


if __name__ == "__main__":
    sys.exit(main())
