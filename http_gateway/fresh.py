"""An answer that serves all who ask within a moment: one question to the coordinator instead of one for each."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from hostler.errors import HostlerError

Value = TypeVar("Value")


class Fresh(Generic[Value]):
    """Keeps what *ask* answered as long as it is fresh; an error of its, only for those who waited for it.

    *ask* is told for whom it asks. All who ask here may see the answer; an error may be about the one asker.
    """

    def __init__(self, ask: Callable[[str], Awaitable[Value]], *, age_s_max: float) -> None:
        self._ask = ask
        self._age_s_max = age_s_max
        self._asking = asyncio.Lock()
        self._kept: list[Value] = []  # one, or none
        self._error: HostlerError | None = None
        self._asker = ""
        self._asked_at = float("-inf")
        self._answered_at = float("-inf")

    async def get(self, asker: str = "") -> Value:
        """Return an answer that came no longer ago than it is fresh. Raises the HostlerError that *ask* raises."""
        came_at = asyncio.get_running_loop().time()
        async with self._asking:  # the first caller asks, the others find its answer
            age_s_max = self._age_s_max if self._kept else 0.0
            return await self._renewed(self._answered_at < came_at - age_s_max, asker)

    async def get_new(self, asker: str = "") -> Value:
        """Return an answer that was asked for after this call. Raises as `get` does."""
        came_at = asyncio.get_running_loop().time()
        async with self._asking:
            return await self._renewed(self._asked_at < came_at, asker)

    async def _renewed(self, is_stale: bool, asker: str) -> Value:
        loop = asyncio.get_running_loop()
        if is_stale or (self._error is not None and self._asker != asker):
            asked_at = loop.time()
            self._asker = asker
            try:
                self._kept, self._error = [await self._ask(asker)], None
            except HostlerError as error:
                self._kept, self._error = [], error
            self._asked_at, self._answered_at = asked_at, loop.time()
        if self._error is not None:
            raise self._error
        return self._kept[0]
