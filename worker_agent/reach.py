"""A way to the coordinator that is opened when it is needed, and changes when the worker's certificate does.

What is under way on the old one is not disturbed: it is closed only when the next change comes, and nothing takes
as long as the life of a certificate. Limits: one event loop.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from hostler.tls import Target


class Closes(Protocol):
    """A channel or a client."""

    async def close(self) -> Any:
        """End it."""


T = TypeVar("T", bound=Closes)


class Reach(Generic[T]):
    """One such way; `close` it at the end."""

    def __init__(self, target: str | Target, connect: Callable[[str | Target], T]) -> None:
        """*connect* opens it."""
        self._target = target
        self._connect = connect
        self._now: T | None = None
        self._before: T | None = None
        self._closing: set[asyncio.Task[Any]] = set()

    @property
    def is_open(self) -> bool:
        """Whether it was needed since the worker's certificate last changed."""
        return self._now is not None

    def get(self) -> T:
        """Return the way as it is now, open."""
        if self._now is None:
            self._now = self._connect(self._target)
        return self._now

    def move(self, target: Target) -> None:
        """Reach the coordinator so from now on."""
        self._target = target
        before, self._before, self._now = self._before, self._now, None
        if before is not None:
            closing = asyncio.get_running_loop().create_task(_close(before))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all that is open."""
        await asyncio.gather(*self._closing, return_exceptions=True)
        for way in (self._now, self._before):
            if way is not None:
                await way.close()


async def _close(way: Closes) -> None:
    await way.close()
