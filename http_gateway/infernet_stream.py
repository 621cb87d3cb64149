"""The answer of a streaming job: its id, alone, and then the bytes of its standard output as they come.

The published client takes the first piece that it gets from the network for the id: nothing else may
be in it. A restart of the coordinator is bridged by position. An answer that ends is the whole
output; what breaks off is not, and the connection breaks with it.
"""

import asyncio
from contextlib import aclosing

from aiohttp import web

from hostler.client import Client
from hostler.errors import Unavailable
from hostler.frames import OUT, iter_frames
from hostler.jobs import LogStatus
from http_gateway import live_streams
from http_gateway.api import FIXED_HEADERS
from http_gateway.slow_readers import write_or_break

ID_ALONE_S = 0.1  # between the id and the first output: for the reader to take the id


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
    await write_or_break(response, f"{job}\n".encode())
    clock = asyncio.get_running_loop()
    quiet_until = clock.time() + ID_ALONE_S
    async with (
        aclosing(client.read_log(job, follow=True, patience_s=live_streams.AWAY_S, principal=principal)) as ledger,
        aclosing(live_streams.until_closing(ledger, closing)) as chunks,
    ):
        async for chunk in chunks:
            if chunk is None:
                continue
            if piece := b"".join(frame.payload for frame in iter_frames(chunk.frames) if frame.kind == OUT):
                if (pause_s := quiet_until - clock.time()) > 0:
                    await asyncio.sleep(pause_s)
                await write_or_break(response, piece)
            if chunk.status in (LogStatus.EXPIRED, LogStatus.LOST):
                raise Unavailable("the rest of the output was lost")
    if closing.is_set():
        raise Unavailable("the gateway ends")
    return response
