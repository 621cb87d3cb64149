"""Fixtures over real processes. Every one of them proves after the test that nothing is left."""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench
from tests.worker.whole_worker import Worker, a_worker
from worker_agent.ledger import scan_segment
from worker_agent.process_tree import is_alive
from worker_agent.runner import Runner

# Only root can run programs as other users, and so try that it does.
collect_ignore = [] if os.geteuid() == 0 else ["test_users.py"]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path: sockets below it may have 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="hw-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def bench(place: Path) -> Iterator[Bench]:
    """What a test needs around its runners; afterwards no process, no shim, no socket, no cgroup of it is left."""
    made = Bench(place, uuid.uuid4().hex[:12])
    yield made
    segments = [scan_segment(path, ()) for path in (place / "worker/segments").glob("*.segment")]
    shims = [each.identity for each in segments if each.identity is not None]
    until = time.monotonic() + 5.0
    while True:
        left = made.living()
        left += [f"shim {each.shim}" for each in shims if is_alive(each.pid, each.start_ticks)]
        left += made.cgroups()
        left += [path.name for path in (place / "run").glob("*.sock")]
        if not left:
            break
        assert time.monotonic() < until, f"left over: {left}"
        time.sleep(0.01)


@pytest.fixture
async def runner(bench: Bench) -> AsyncIterator[Runner]:
    """The runner of a first agent; it ends its jobs and its shims when the test is over."""
    async with bench.runner() as made:
        yield made
        await bench.end_all(made)


@pytest.fixture
async def coordinator(place: Path) -> AsyncIterator[FakeCoordinator]:
    """A coordinator that serves."""
    made = FakeCoordinator(place)
    await made.come()
    yield made
    await made.go()


@pytest.fixture
async def worker(bench: Bench, coordinator: FakeCoordinator) -> AsyncIterator[Worker]:
    """A worker that is connected."""
    async with a_worker(bench, coordinator) as made:
        yield made
