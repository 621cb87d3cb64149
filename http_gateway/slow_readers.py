"""Writing to readers that may stop taking: the one bound on how long an answer waits for them."""

import asyncio

from aiohttp import web

STALLED_S = 600.0  # a reader that takes nothing for so long has gone


async def write_or_break(response: web.StreamResponse, piece: bytes) -> None:
    """Write a piece of an answer that has begun.

    Raises:
        ConnectionResetError: the reader has gone, or takes nothing any more.
    """
    try:
        async with asyncio.timeout(STALLED_S):
            await response.write(piece)
    except TimeoutError:
        raise ConnectionResetError("the reader takes nothing") from None
