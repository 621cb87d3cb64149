"""An attempt's log as it goes on: over a restart of the coordinator, and to the end of the gateway.

One chunk of the ledger is held at a time. What resumes it is the position, which only grows.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeVar, cast

from hostler.client import Client, LogChunk
from hostler.errors import Unavailable

PING_S = 15.0
BRIDGE_S = 60.0  # how long an unreachable coordinator is waited for
BRIDGE_PAUSE_S = 0.5

T = TypeVar("T")


async def bridged_log(
    client: Client,
    job: str,
    *,
    start: int = 0,
    follow: bool,
    stage: int = 0,
    attempt: int = 0,
    principal: str,
) -> AsyncGenerator[LogChunk]:
    """Yield the ledger of an attempt, going on where it broke off when the coordinator comes back.

    Raises:
        Unavailable: the coordinator stayed away.
    """
    position = start
    clock = asyncio.get_running_loop()
    give_up_at = clock.time() + BRIDGE_S
    while True:
        try:
            found = client.read_log(
                job, start=position, follow=follow, stage=stage, attempt=attempt, principal=principal
            )
            # It is a generator, whatever its type says: closing it ends the call at once.
            async with aclosing(cast(AsyncGenerator[LogChunk], found)) as chunks:
                async for chunk in chunks:
                    position = max(position, chunk.position + len(chunk.frames))
                    attempt = attempt or chunk.attempt  # positions are this attempt's, also after a retry of the job
                    give_up_at = clock.time() + BRIDGE_S
                    yield chunk
                    if chunk.end:
                        return
            return
        except Unavailable:
            if clock.time() >= give_up_at:
                raise
            await asyncio.sleep(BRIDGE_PAUSE_S)


async def until_closing(chunks: AsyncIterator[T], closing: asyncio.Event) -> AsyncGenerator[T | None]:
    """Yield chunks, None whenever `PING_S` passed without one, and end when *closing* is set."""
    closed = asyncio.ensure_future(closing.wait())
    step: asyncio.Task[T | None] | None = None
    try:
        while True:
            step = step or asyncio.ensure_future(_next(chunks))
            await asyncio.wait({step, closed}, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                return
            if not step.done():
                yield None
                continue
            chunk = step.result()
            step = None
            if chunk is None:
                return
            yield chunk
    finally:
        closed.cancel()
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def _next(chunks: AsyncIterator[T]) -> T | None:
    return await anext(chunks, None)
