"""How long files of finished jobs are kept: by age, by their total size, oldest end first.

A job's files expire by a change of the engine's, given to it in bounded steps; then bytes that nobody refers to any
more are swept. The limit of bytes counts what is referred to: what has just expired, or was put and not used yet,
stays for an hour and makes no further job expire.
"""

import asyncio
from collections.abc import Awaitable, Callable

from coordinator.blobs import BlobStore
from coordinator.storage.protocol import Expirable, Store
from hostler import logs
from hostler.clock import Clock

LOOK_S = 60.0
SWEEP_S = 600.0  # a sweep looks at every blob: without a reason not each time
STEP = 1000  # jobs that expire together


class Retention:
    """Decides whose files expire, and has them removed."""

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        expire: Callable[[list[int]], Awaitable[None]],
        *,
        keep_s: float,
        bytes_max: int,
        clock: Clock,
    ) -> None:
        """Keep to two limits.

        Args:
            store: says who is finished, and what is referred to.
            blobs: has the bytes.
            expire: makes the files of the jobs of these numbers expire; returns when that is committed.
            keep_s: how long after its end a job's files are kept; 0: for ever.
            bytes_max: how many bytes are kept; 0: as many as there are.
            clock: what time it is.
        """
        self._store = store
        self._blobs = blobs
        self._expire = expire
        self._keep_s = keep_s
        self._bytes_max = bytes_max
        self._clock = clock
        self._sweep_at = clock.monotonic()

    async def run(self) -> None:
        """Look at once, and then every minute, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception as error:  # the loop's owner: a disk or store that fails now is asked again in a minute
                logs.get().error("retention.failed", exc_info=error)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Let expire what is over a limit, then sweep."""
        count = await self._expire_old() + await self._expire_large()
        if count or self._clock.monotonic() >= self._sweep_at:
            self._sweep_at = self._clock.monotonic() + SWEEP_S
            removed = await self._blobs.sweep(self._store.referenced)
            if count or removed:
                logs.get().info("files.expired", jobs=count, removed_bytes=removed)

    async def _expire_old(self) -> int:
        """By age; returns how many jobs."""
        count = 0
        limit_us = self._clock.wall_us() - round(self._keep_s * 1e6)
        while self._keep_s:
            found = await self._store.expirable(STEP)
            old = [job for job in found if job.finished_at_us < limit_us]
            if old:
                await self._expire([job.number for job in old])
                count += len(old)
            if len(old) < STEP or not await self._moved_on(old):
                break
        return count

    async def _expire_large(self) -> int:
        """By size; returns how many jobs."""
        count = 0
        while self._bytes_max and await self._blobs.total_bytes() > self._bytes_max:
            excess = await self._blobs.referenced_bytes(self._store.referenced) - self._bytes_max
            chosen = _oldest(await self._store.expirable(STEP), excess)
            if not chosen:
                break
            await self._expire([job.number for job in chosen])
            count += len(chosen)
            if not await self._moved_on(chosen):
                break
        return count

    async def _moved_on(self, expired: list[Expirable]) -> bool:
        """Whether these are expired indeed; if not, asking for more would never end."""
        first = await self._store.expirable(1)
        return not first or first[0].number != expired[0].number


def _oldest(jobs: list[Expirable], excess: int) -> list[Expirable]:
    """As many of the oldest as free *excess* bytes, if nobody else refers to theirs."""
    chosen = []
    for job in jobs:
        if excess <= 0:
            break
        chosen.append(job)
        excess -= job.size_bytes
    return chosen
