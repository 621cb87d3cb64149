"""A store whose commits wait at a gate, or fail as they are told; everything else is passed on."""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from coordinator.changes import Change
from coordinator.storage.protocol import Store


class GatedStore:
    """Stands in front of a real store."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._gate = asyncio.Event()
        self._gate.set()
        self._under_way = False
        self.begun: list[list[Change]] = []  # the changes of every commit that was asked for
        self.failures: deque[Exception] = deque()  # raised by the next commits, before anything is written

    def hold(self) -> None:
        """Let no commit through from now on."""
        self._gate.clear()

    def release(self) -> None:
        """Let commits through again, those that wait too."""
        self._gate.set()

    async def commit(self, changes: Sequence[Change], fetch: Collection[int]) -> dict[int, bytes]:
        """See `Store.commit`; a second one at the same time is a fault of the caller."""
        assert not self._under_way, "two commits at the same time"
        self._under_way = True
        self.begun.append(list(changes))
        try:
            await self._gate.wait()
            if self.failures:
                raise self.failures.popleft()
            return await self._inner.commit(changes, fetch)
        finally:
            self._under_way = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
