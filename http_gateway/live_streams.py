"""What streams of logs and of events have in common: signs of life, an end with the gateway, and patience.

The client resumes a stream where a restart of the coordinator broke it off (`Client.read_log`, `Client.watch`). Limits:
one piece is held at a time.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

PING_S = 15.0
AWAY_S = 60.0  # how long an unreachable coordinator is waited for

T = TypeVar("T")


async def until_closing(pieces: AsyncIterator[T], closing: asyncio.Event) -> AsyncGenerator[T | None]:
    """Yield pieces, None whenever `PING_S` passed without one, and end when *closing* is set."""
    closed = asyncio.ensure_future(closing.wait())
    step: asyncio.Task[T | None] | None = None
    try:
        while True:
            step = step or asyncio.ensure_future(_next(pieces))
            await asyncio.wait({step, closed}, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                return
            if not step.done():
                yield None
                continue
            piece = step.result()
            step = None
            if piece is None:
                return
            yield piece
    finally:
        closed.cancel()
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def _next(pieces: AsyncIterator[T]) -> T | None:
    return await anext(pieces, None)
