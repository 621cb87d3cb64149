"""The answer of a streaming job: its id, alone, and then the bytes of its standard output as they come.

The published client takes the first piece that it gets from the network for the id: nothing else may
be in it. A restart of the coordinator is bridged by position. An answer that ends is the whole
output; what breaks off is not, and the connection breaks with it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from aiohttp import web

from hostler.client import Client, LogChunk
from hostler.errors import Unavailable
from hostler.frames import OUT, iter_frames
from hostler.jobs import LogStatus
from http_gateway.api import FIXED_HEADERS

ID_ALONE_S = 0.1  # between the id and the first output: for the reader to take the id
BRIDGE_S = 60.0  # how long an unreachable coordinator is waited for
BRIDGE_PAUSE_S = 0.5
STALLED_S = 600.0  # a reader that takes nothing for so long has gone


async def send_output(
    request: web.Request, client: Client, job: str, closing: asyncio.Event, *, principal: str
) -> web.StreamResponse:
    """Answer with the id of *job* and its output, until the job is over.

    Raises:
        Unavailable: the gateway ends, or the rest of the output cannot be had.
        ConnectionResetError: the reader has gone, or takes nothing.
    """
    response = web.StreamResponse(headers={**FIXED_HEADERS, "Content-Type": "application/octet-stream"})
    await response.prepare(request)
    await response.write(f"{job}\n".encode())
    sending = asyncio.create_task(_send(response, client, job, principal))
    closed = asyncio.create_task(closing.wait())
    try:
        await asyncio.wait({sending, closed}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            raise Unavailable("the gateway ends")
        sending.result()
    finally:
        sending.cancel()
        closed.cancel()
        await asyncio.gather(sending, closed, return_exceptions=True)
    return response


async def _send(response: web.StreamResponse, client: Client, job: str, principal: str) -> None:
    clock = asyncio.get_running_loop()
    quiet_until = clock.time() + ID_ALONE_S
    async with aclosing(_output(client, job, principal)) as output:
        async for piece in output:
            if (pause_s := quiet_until - clock.time()) > 0:
                await asyncio.sleep(pause_s)
            try:
                async with asyncio.timeout(STALLED_S):
                    await response.write(piece)
            except TimeoutError:
                raise ConnectionResetError("the reader takes nothing") from None


async def _output(client: Client, job: str, principal: str) -> AsyncGenerator[bytes]:
    """Yield the job's standard output to its end, going on where it broke off when the coordinator comes back."""
    clock = asyncio.get_running_loop()
    position = attempt = 0
    give_up_at = clock.time() + BRIDGE_S
    while True:
        try:
            found = client.read_log(job, start=position, follow=True, attempt=attempt, principal=principal)
            # It is a generator, whatever its type says: closing it ends the call at once.
            async with aclosing(cast(AsyncGenerator[LogChunk], found)) as chunks:
                async for chunk in chunks:
                    give_up_at = clock.time() + BRIDGE_S
                    position = max(position, chunk.position + len(chunk.frames))
                    attempt = attempt or chunk.attempt  # positions are this attempt's
                    if piece := b"".join(frame.payload for frame in iter_frames(chunk.frames) if frame.kind == OUT):
                        yield piece
                    if chunk.status in (LogStatus.EXPIRED, LogStatus.LOST):
                        raise _Lost("the rest of the output was lost")
            return
        except Unavailable as error:
            if isinstance(error, _Lost) or clock.time() >= give_up_at:
                raise
            await asyncio.sleep(BRIDGE_PAUSE_S)


class _Lost(Unavailable):
    """The output will never be whole; waiting does not help."""
