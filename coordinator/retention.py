"""How long what finished jobs leave is kept: by age, and by size or number, oldest end first.

Each kind (`Kept`) has limits of its own. What is over one expires by changes of the engine's, given to it in bounded
steps; then bytes that nobody refers to any more are swept. Limits of bytes count what is referred to: what has just
expired is still on disk for a while and makes no further job expire.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from coordinator.blobs import BlobStore
from coordinator.changes import FilesExpired, JobExpired, LogsExpired
from coordinator.log_store import LogStore
from coordinator.retention_decisions import Expiry
from coordinator.storage.protocol import Expirable, Kept, Store
from hostler import logs
from hostler.clock import Clock

LOOK_S = 60.0
SWEEP_S = 600.0  # a sweep, or a sum of what is referred to, looks at every file: without a reason not each time
STEP = 1000  # jobs that expire together
STEP_BYTES = 1 << 30  # of their logs: each piece of one is a row
KEYS_S = 86400.0  # so long an idempotency key is good after the end of its job, whatever the limits say

Expire = Callable[[Sequence[Expiry]], Awaitable[int]]
"""Commits what may expire of these, and says how many; all that was posted before is committed then, too."""


class Limit(NamedTuple):
    """How much of a kind is kept."""

    keep_s: float = 0.0  # after the end of a job; 0: for ever
    most: int = 0  # bytes of files and of logs, or jobs; 0: any number


class Retention:
    """Decides what expires, and has it removed."""

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        log_store: LogStore,
        expire: Expire,
        *,
        limits: Mapping[Kept, Limit],
        clock: Clock,
    ) -> None:
        """Keep to the limits.

        Args:
            store: says who is finished, and what is referred to.
            blobs: has the bytes of files.
            log_store: has the bytes of logs.
            expire: makes things expire; returns when that is committed.
            limits: of each kind; one that is missing is kept for ever.
            clock: what time it is.
        """
        self._store = store
        self._blobs = blobs
        self._log_store = log_store
        self._expire = expire
        self._limits = {kind: limits.get(kind, Limit()) for kind in Kept}
        self._clock = clock
        self._sweep_at = self._sum_at = clock.monotonic()

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
        jobs = await self._expire_old(Kept.JOBS) + await self._expire_surplus()
        with_logs = await self._expire_old(Kept.LOGS) + await self._expire_long()
        with_files = await self._expire_old(Kept.FILES) + await self._expire_large()
        count = jobs + with_logs + with_files
        if not count and self._clock.monotonic() < self._sweep_at:
            return
        self._sweep_at = self._clock.monotonic() + SWEEP_S
        removed = await self._blobs.sweep(self._store.referenced)
        removed_logs = await self._log_store.sweep(self._settle, self._store.segments_in_use)
        if count or removed or removed_logs:
            logs.get().info(
                "retention.removed",
                jobs=jobs,
                logs_of_jobs=with_logs,
                files_of_jobs=with_files,
                log_bytes=removed_logs,
                file_bytes=removed,
            )

    async def _settle(self) -> None:
        await self._expire(())

    async def _expire_old(self, kind: Kept) -> int:
        """By age; returns how many jobs."""
        keep_s = self._limits[kind].keep_s
        if not keep_s:
            return 0
        limit_us = self._clock.wall_us() - round(keep_s * 1e6)
        return await self._expire_while(kind, lambda found: [job for job in found if job.over_at_us < limit_us])

    async def _expire_surplus(self) -> int:
        """Jobs, by their number."""
        most = self._limits[Kept.JOBS].most
        surplus = await self._store.finished_jobs() - most if most else 0
        return await self._expire_excess(Kept.JOBS, surplus, lambda job: 1)

    async def _expire_long(self) -> int:
        """Logs, by their size; returns how many jobs."""
        most = self._limits[Kept.LOGS].most
        excess = await self._store.log_bytes() - most if most else 0
        return await self._expire_excess(Kept.LOGS, excess, lambda job: job.ledger_bytes)

    async def _expire_large(self) -> int:
        """Files, by their size; returns how many jobs."""
        count, most = 0, self._limits[Kept.FILES].most
        if not most or await self._blobs.total_bytes() <= most or self._clock.monotonic() < self._sum_at:
            return 0
        while (excess := await self._blobs.referenced_bytes(self._store.referenced) - most) > 0:
            # Bytes that several jobs share go with the last of them, and count in parts until then.
            expired = await self._expire_excess(Kept.FILES, excess, lambda job: self._size_of_files(job))
            if not expired:
                break
            count += expired
        self._sum_at = self._clock.monotonic() + SWEEP_S
        return count

    def _size_of_files(self, job: Expirable) -> float:
        return sum(self._blobs.size_now(digest) / max(1, sharers) for digest, sharers in job.digests)

    async def _expire_excess(self, kind: Kept, excess: float, weigh: Callable[[Expirable], float]) -> int:
        """As many of the oldest as are needed to be rid of the excess; returns how many."""
        left = excess

        def choose(found: list[Expirable]) -> list[Expirable]:
            nonlocal left
            chosen = []
            for job in found:
                if left <= 0:
                    break
                chosen.append(job)
                left -= weigh(job)
            return chosen

        return await self._expire_while(kind, choose)

    async def _expire_while(self, kind: Kept, choose: Callable[[list[Expirable]], list[Expirable]]) -> int:
        """Let expire what is chosen, step by step, until nothing more is; returns how many jobs."""
        count = 0
        keyed_before_us = self._clock.wall_us() - round(KEYS_S * 1e6)
        while True:
            found = _step(await self._store.expirable(kind, STEP, keyed_before_us))
            chosen = await asyncio.to_thread(choose, found)
            expired = 0
            if chosen:
                expired = await self._expire([_expiry(kind, job, self._clock.wall_us()) for job in chosen])
            count += expired
            if not expired or len(chosen) < len(found):
                return count


def _step(jobs: list[Expirable]) -> list[Expirable]:
    """So many of the first that their rows go in one commit which nobody notices."""
    size = 0
    for place, job in enumerate(jobs):
        size += job.ledger_bytes
        if place and size > STEP_BYTES:
            return jobs[:place]
    return jobs


def _expiry(kind: Kept, job: Expirable, at_us: int) -> Expiry:
    if kind is Kept.FILES:
        return FilesExpired(job.number, at_us)
    return LogsExpired(job.number, job.ledger_bytes, at_us) if kind is Kept.LOGS else JobExpired(job.number)
