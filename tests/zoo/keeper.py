"""Runs one program on a real worker, stops it, and scans what is left."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hostler.jobs import Work
from hostler.v1 import workers_pb2
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually
from tests.worker.whole_worker import Worker
from tests.zoo import scan
from tests.zoo.programs import Program, Scale
from worker_agent.cgroups import Containment

START_PATHS = ("warm", "hardened")
CLEAN_S = 2.0  # after the acknowledgement
ACKNOWLEDGED_S = 40.0
CANARY = b"not yours\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How a stop went."""

    program: str
    containment: Containment
    start_path: str
    seconds: float  # from the stop to its acknowledgement
    verified_by: str
    survivors: tuple[str, ...] = ()  # what the receipt names
    left: list[str] = field(default_factory=list)  # what the scan found
    hidden: int = 0  # processes without a mark that got away; they are ended by the keeper


@asynccontextmanager
async def a_cage(place: Path, prefix: str, containment: Containment) -> AsyncIterator["Cage"]:
    """A connected worker with a containment."""
    coordinator = FakeCoordinator(place)
    await coordinator.come()
    bench = Bench(place, prefix)
    worker = Worker(bench, coordinator.address, 60.0, None, (), containment)
    await worker.begin()
    try:
        await eventually(lambda: worker.link.connected, "the worker to connect")
        (place / "canary").write_bytes(CANARY)
        yield Cage(bench, worker, coordinator, containment)
    finally:
        await worker.end()
        await coordinator.go()


class Cage:
    """One worker; programs are put in one after another."""

    def __init__(self, bench: Bench, worker: Worker, coordinator: FakeCoordinator, containment: Containment) -> None:
        self._bench, self._worker, self._coordinator = bench, worker, coordinator
        self._containment = containment
        self._count = 0

    async def stop_one(self, program: Program, start_path: str, scale: Scale) -> Finding:
        """Start a program, stop it when it is at its worst, and look what is left after the acknowledgement."""
        await self._warm_up()
        (link,) = self._worker.runner._idle
        key = self._next_key()
        launcher = self._worker.runner._launcher._process
        assert launcher is not None
        before = scan.descriptors(link.pid)
        mounts = scan.mounts()
        argv = program.argv(scale)
        self._coordinator.start(key, Work(argv=argv, workspace=True, start_path=start_path))
        workspace = self._worker.path(key)

        def at_its_worst() -> bool:
            # Who ends its shim is ended itself at once, perhaps before it says so.
            return (workspace / "up").exists() or bool(self._ends(key))

        await eventually(at_its_worst, f"{program.name} to be at its worst", ACKNOWLEDGED_S)
        spaces = self._spaces(key, link.pid)
        watched = scan.Watched(
            key, launcher.pid, link.pid, tuple(self._bench.cgroups()), spaces, before, mounts, workspace
        )
        began = time.monotonic()
        self._coordinator.stop(key, program.grace_s)
        report = await self._over(key)
        seconds = time.monotonic() - began
        left = await self._settled(watched)
        receipt = report.end.receipt
        survivors = tuple(f"{each.pid} {each.name}" for each in receipt.survivors)
        return Finding(
            program=program.name,
            containment=self._containment,
            start_path=start_path,
            seconds=seconds,
            verified_by=receipt.verified_by if receipt.verified_at_us else "",
            survivors=survivors,
            left=left,
            hidden=self._end_hidden(),
        )

    def canary_is_well(self) -> bool:
        """Whether the file beside the workspaces is as it was, and nobody has sent it away."""
        place = self._bench.place / "canary"
        return place.read_bytes() == CANARY and CANARY not in self._coordinator.blobs.values()

    def _ends(self, key: str) -> list[workers_pb2.Report]:
        return [each for each in self._coordinator.reports(key) if each.HasField("end")]

    async def _over(self, key: str) -> workers_pb2.Report:
        ends = await eventually(lambda: self._ends(key), f"{key} to end, acknowledged", ACKNOWLEDGED_S)
        return ends[0]

    async def _warm_up(self) -> None:
        """One shim is idle, and there is no other."""
        runner = self._worker.runner
        await eventually(lambda: len(runner._links) == len(runner._idle) <= 1, "the shims to be idle")
        key = self._next_key()
        self._coordinator.start(key, Work(argv=("/bin/true",), workspace=True))
        await self._over(key)
        await eventually(lambda: not self._worker.path(key).exists(), "the workspace to go")
        await eventually(lambda: len(runner._idle) == 1, "the shim to be idle")

    def _next_key(self) -> str:
        self._count += 1
        return self._bench.key(f"zoo{self._count}")

    def _spaces(self, key: str, shim: int) -> frozenset[str]:
        """The namespaces of everything below a shim that are not ours."""
        own = scan.namespaces(os.getpid())
        found: set[str] = set()
        table = {pid: scan._stat(pid) for pid in scan.pids()}
        for pid in scan._below(shim, table):
            found |= scan.namespaces(pid)
        return frozenset(found - own)

    async def _settled(self, watched: scan.Watched) -> list[str]:
        until = time.monotonic() + CLEAN_S
        while True:
            left = scan.left_of(watched)
            if not left or time.monotonic() > until:
                return left
            await asyncio.sleep(0.02)

    def _end_hidden(self) -> int:
        """Kill what is in the workspaces' directories and bears no mark; return how many there were."""
        count = 0
        place = os.fspath(self._bench.place / "worker/work")
        for pid in scan.pids():
            if scan._link(f"/proc/{pid}/cwd").startswith(place):
                os.kill(pid, 9)
                count += 1
        return count
