"""``python -m benchmarks.long_log``: how long it takes to open a long log anywhere, with a log that a real job wrote.

A job writes the log (1 GiB unless told otherwise) through a whole cluster; then the log is opened at places spread
over all of it, in random order, over HTTP, and the time until its first bytes are there is taken. The promise is a
second, at any place. The processor time of the coordinator for each opening is told beside it: on a busy machine the
time of the clock says more about the neighbours.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.clusters import COORDINATOR, Product
from benchmarks.processes import BenchError, cpu_s, exit_status_of

LINE = b"x" * 99 + b"\n"
WRITE_S = 1800.0
PROGRAM = """
import os, sys
left, piece = int(sys.argv[1]), b"%s" * 655
while left > 0:
    left -= os.write(1, piece[:left])
"""


def main() -> int:
    """Measure and print one table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_log", description=__doc__.partition("\n")[0])
    parser.add_argument("--bytes", type=int, default=1 << 30, help="how long the log is (1 GiB)")
    parser.add_argument("--places", type=int, default=25, help="at how many places it is opened (25)")
    parser.add_argument("--dir", type=Path, help="a directory on the disk to measure on (the temporary directory)")
    given = parser.parse_args()

    def work() -> None:
        with Product(given.dir or Path(tempfile.gettempdir())) as product:
            _measure(LongLog(product.url, product.components()[COORDINATOR]), given.bytes, given.places)

    return exit_status_of(work)


class LongLog:
    """A job's log on a cluster."""

    def __init__(self, url: str, coordinator: Iterable[int]) -> None:
        self._url = url
        self._coordinator = list(coordinator)
        self.id = ""

    def write(self, length: int) -> float:
        """Let a job write so much; returns how many seconds passed until all of it was stored."""
        program = PROGRAM % LINE.decode().replace("\n", "\\n")
        body = {"jobs": [{"argv": [sys.executable, "-c", program, str(length)]}]}
        began_s = time.monotonic()
        self.id = self._call("/v1/jobs", body)["jobs"][0]["id"]
        while time.monotonic() < began_s + WRITE_S:
            job = self._call(f"/v1/jobs/{self.id}")
            if job["state"] == "finished" and job["log"]["status"] != "arriving":
                if (job["outcome"], job["log"]["status"], job["log"]["bytes"]) != ("succeeded", "complete", length):
                    raise BenchError(f"the log is not what the job wrote: {job['outcome']}, {job['log']}")
                return time.monotonic() - began_s
            time.sleep(0.2)
        raise BenchError(f"the log was not stored within {WRITE_S:g} s")

    def open_at(self, position: int) -> tuple[float, float]:
        """Open it at a position; returns seconds until the first bytes are there, and the coordinator's CPU seconds."""
        used_s = sum(map(cpu_s, self._coordinator))
        began_s = time.monotonic()
        with urllib.request.urlopen(f"{self._url}/v1/jobs/{self.id}/log?raw=out&from={position}", timeout=60) as answer:
            if not answer.read(100):
                raise BenchError(f"there is nothing at position {position}")
            took_s = time.monotonic() - began_s
        return took_s, sum(map(cpu_s, self._coordinator)) - used_s

    def _call(self, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def _measure(log: LongLog, length: int, places: int) -> None:
    wrote_s = log.write(length)
    print(f"a log of {length / (1 << 20):,.0f} MiB, written and stored in {wrote_s:.1f} s")
    # A position counts the headers of frames too, a little more than the bytes; the last place is close to the end.
    positions = [int(length * place / max(1, places - 1) * 0.999) for place in range(places)]
    random.Random(7).shuffle(positions)
    found = [log.open_at(position) for position in positions]
    for name, values in zip(("until its first bytes", "coordinator's CPU"), zip(*found, strict=True), strict=True):
        typical, most = (round(1000 * value, 1) for value in (statistics.median(values), max(values)))
        print(f"  opened at {places} places, {name}: median {typical} ms, at most {most} ms")


if __name__ == "__main__":
    sys.exit(main())
