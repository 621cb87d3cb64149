"""A whole worker of real parts inside a test's process, and what its tests say often."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from hostler.clock import SystemClock
from hostler.jobs import File, Work
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.test_recovery import crash
from worker_agent.agent import Agent
from worker_agent.capacity import CONTAINER, RUNTIMES
from worker_agent.cgroups import Containment
from worker_agent.journal import Journal
from worker_agent.lease import LeaseFile
from worker_agent.link import Identity, Link
from worker_agent.local_policy import Policy
from worker_agent.podman import Podman
from worker_agent.process_tree import boot_id
from worker_agent.reports import HeldState
from worker_agent.slot_users import FREELY, Confining
from worker_agent.workspaces import Workspaces


class Worker:
    """A worker of real parts in this process; `killed` leaves nothing in order, as kill -9 does."""

    def __init__(
        self,
        bench: Bench,
        address: str,
        collect_s: float,
        podman_options: Collection[str] | None,
        volumes_allowed: Collection[str],
        containment: Containment = Containment.AUTO,
        policy: Policy | None = None,
        confining: Confining = FREELY,
        shared: Path | None = None,
    ) -> None:
        self.bench, self.policy = bench, policy
        self.directory = bench.place / "worker"
        self.journal = Journal.open(self.directory, boot_id())
        self.agent = Agent(self.journal, 2)
        self.runner = bench.runner(on_event=self.agent.on_event, containment=containment, confining=confining)
        self.podman = Podman("podman" if podman_options is not None else "", podman_options or (), self.directory)
        self.workspaces = Workspaces(
            self.directory,
            address=address,
            owner=self.agent,
            collect_s=collect_s,
            podman=self.podman,
            volumes_allowed=volumes_allowed,
            shared=shared,
            confined=not confining.is_free,
        )
        self.address = address
        self.lease = LeaseFile(self.directory, boot_id())
        self.link: Link
        self.running: list[asyncio.Task[None]] = []
        self.is_killed = False

    async def begin(self) -> None:
        """Recover, connect and serve."""
        await self.runner.__aenter__()
        await self.agent.recover(self.runner, self.workspaces)
        self.link = Link(
            address=self.address,
            agent=self.agent,
            identity=Identity(name="w", host="h", slots=2, runtimes=RUNTIMES, workloads=("a*",)),
            worker="",
            remember=lambda worker: None,
            lease=self.lease,
            clock=SystemClock(),
            policy=self.policy,
        )
        self.running = [
            asyncio.create_task(self.link.run()),
            asyncio.create_task(self.workspaces.keep_watching()),
            asyncio.create_task(self.workspaces.keep_containers(lambda: self.link.offer(CONTAINER))),
        ]

    async def killed(self) -> None:
        """End in the middle of everything."""
        self.is_killed = True
        for running in self.running:
            running.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        await self.workspaces.close()
        await crash(self.runner)
        self.lease.close()
        self.journal.close()

    async def end(self) -> None:
        """End the test's jobs and then this worker."""
        if self.is_killed:
            return
        for running in self.running:
            running.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        if self.podman.found is not None:
            # What ran in a container is removed by the agent once it has ended.
            for key in list(self.runner.running()):
                self.agent.on_stop(key, 0, 0.0)
            held = self.agent.assignments.held.values()
            await eventually(lambda: all(each.state is HeldState.ENDED for each in held), "the attempts to end")
            await self.workspaces.services.stop_all()
        await self.workspaces.close()
        await self.bench.end_all(self.runner)
        self.lease.close()
        self.journal.close()

    def path(self, key: str) -> Path:
        """Where the workspace of an attempt is."""
        return self.directory / "work" / key


@asynccontextmanager
async def a_worker(
    bench: Bench,
    coordinator: FakeCoordinator,
    collect_s: float = 60.0,
    *,
    podman_options: Collection[str] | None = None,
    volumes_allowed: Collection[str] = (),
    policy: Policy | None = None,
    confining: Confining = FREELY,
    shared: Path | None = None,
) -> AsyncIterator[Worker]:
    """A worker that is connected, and with options of podman offers containers; afterwards its jobs are ended."""
    made = Worker(
        bench,
        coordinator.address,
        collect_s,
        podman_options,
        volumes_allowed,
        policy=policy,
        confining=confining,
        shared=shared,
    )
    await made.begin()
    try:
        await eventually(lambda: made.link.connected, "the worker to connect")
        if podman_options is not None:
            await eventually(lambda: "container" in coordinator.hellos[-1].runtimes, "the worker to offer containers")
        yield made
    finally:
        await made.end()


def work(code: str, *files: File, **fields: object) -> Work:
    """A shell snippet in a workspace."""
    return Work(argv=sh(code), files=files, workspace=True, **fields)  # type: ignore[arg-type]


async def appears(path: Path) -> None:
    """Wait for a file."""
    await eventually(path.exists, f"{path} to appear")
