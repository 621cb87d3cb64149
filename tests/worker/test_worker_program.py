"""The worker as a program of its own: it is killed with kill -9 in the middle of its work with files."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostler.jobs import Work
from hostler.settings import load
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh

WITHIN_S = 30.0


@contextmanager
def a_program(
    place: Path, coordinator: FakeCoordinator, *, allow_root: bool = True, **more: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker's process, with *more* settings; it is ended with its jobs, unless the test has killed it."""
    settings = load(
        data_dir=place / "d",
        coordinator=coordinator.address,
        name="w",
        slots=1,
        stop_jobs=True,
        workloads=("b",),
        podman="",
        allow_root=allow_root,
        **more,
    )
    with (place / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker_agent", "--settings", settings.to_json()], stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(WITHIN_S)


async def test_a_killed_worker_program_collects_what_ran_on_without_it(
    bench: Bench, coordinator: FakeCoordinator
) -> None:
    """The program goes on, ends while no agent is there, and its outputs, result and progress are stored."""
    key = bench.key("a")
    with a_program(bench.place, coordinator) as first:
        await eventually(lambda: coordinator.hellos, "the worker to connect", WITHIN_S)
        code = "echo '{\"percent\": 9}' >> progress; touch ready; while [ ! -e go ]; do sleep 0.02; done;"
        code += "echo late > outputs/o; echo '[1]' > result.json; touch over; exit 5"
        coordinator.start(key, Work(argv=sh(code), workspace=True))
        workspace = bench.place / "d/workers/w/work" / key
        await eventually((workspace / "ready").exists, "the program to run", WITHIN_S)
        first.kill()
        await asyncio.to_thread(first.wait, WITHIN_S)
    (workspace / "go").touch()
    await eventually((workspace / "over").exists, "the program to go on")

    with a_program(bench.place, coordinator) as second:
        report = await coordinator.over(key)

        assert report.end.exit_code == 5
        assert coordinator.output(report, "o") == b"late\n"
        assert json.loads(report.end.result) == [1]
        assert report.end.advance.percent == 9
        await eventually(lambda: not workspace.exists(), "the workspace to be removed")
        assert second.poll() is None
    assert list(coordinator.hellos[-1].workloads) == ["b"]


async def test_a_worker_without_a_coordinator_says_what_to_do(bench: Bench, coordinator: FakeCoordinator) -> None:
    """Where it looked, and how there could be one; once for the reason, not with each try; and it goes on trying."""
    await coordinator.go()
    with a_program(bench.place, coordinator):
        log = bench.place / "worker.log"
        await eventually(lambda: "link.lost" in log.read_text(), "the warning", WITHIN_S)
        await asyncio.sleep(3)  # more tries
        (line,) = [each for each in log.read_text().splitlines() if "link.lost" in each]
        assert coordinator.address in line
        assert "hostler coordinator" in line and "--coordinator" in line
        await coordinator.come()
        await eventually(lambda: coordinator.hellos, "the worker to connect", WITHIN_S)
