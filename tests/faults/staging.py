"""A site for one story: its parts started and connected, and afterwards nothing of it left."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hostler.errors import HostlerError
from hostler.workers import WorkerState
from tests.cluster.real_cluster import until
from tests.faults.site import Site


@asynccontextmanager
async def staged(site: Site, *parts: str, workers: int, within_s: float) -> AsyncIterator[Site]:
    """Start these parts and wait for their workers; whatever the story did, nothing may be left of it."""
    try:
        for name in parts:
            site.start(name)
        await connected(site, workers, within_s)
        yield site
        await site.stop_all()  # of a story that broke off
        await site.down()
        await until(lambda: nothing_left(site), "the end of every process", within_s)
        site.remove()
    finally:
        await site.down()
        site.clear()


async def nothing_left(site: Site) -> bool:
    """Whether no process and no cgroup of it is there."""
    return not site.left() and not site.cgroups_left()


async def connected(site: Site, count: int, within_s: float) -> None:
    """Wait until exactly so many workers are connected."""

    async def so_many() -> bool:
        try:
            workers = await site.client.workers()
        except HostlerError:
            return False
        return sum(worker.state is WorkerState.CONNECTED for worker in workers) == count

    await until(so_many, f"{count} connected workers", within_s)
