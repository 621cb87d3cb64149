"""Bodies of any size: asked for when the endpoint wants them, bounded, and never held as a whole.

A caller who asks before it sends (``Expect: 100-continue``, as curl does) is told to go on by the endpoint, so
that what is refused is not sent at all.
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import HttpVersion11, web

from hostler.errors import InvalidRequest, TooLarge
from http_gateway.api import HttpRefused
from http_gateway.bodies import refuse_compressed
from http_gateway.multipart import Read

STALLED_S = 60.0  # a body of which nothing arrives for so long has broken off


async def let_wait(request: web.Request) -> None:
    """As the `expect_handler` of a route: let a caller wait until the endpoint calls `invite`."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        raise web.HTTPExpectationFailed


async def invite(request: web.Request, *, bytes_max: int) -> None:
    """Check the request's head, and ask for its body if the caller waits to be asked; 0 is no limit.

    Raises:
        HttpRefused: it is compressed (415).
        TooLarge: it says that it is longer than *bytes_max*.
    """
    refuse_compressed(request)
    length = request.content_length or 0
    if bytes_max and length > bytes_max:
        raise TooLarge(f"the body has {length} bytes; at most {bytes_max}")
    if "Expect" in request.headers and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun


async def pieces_of(request: web.Request, *, bytes_max: int) -> AsyncIterator[bytes]:
    """Ask for the body as `invite` does, and return what yields it as it arrives; 0 is no limit.

    Raises, also while it is read:
        HttpRefused: it is compressed (415), or stopped arriving (408).
        TooLarge: it is longer than *bytes_max*, or says so.
        InvalidRequest: it broke off.
    """
    await invite(request, bytes_max=bytes_max)
    return _pieces(request, bytes_max)


def body_reader(request: web.Request, *, bytes_max: int) -> Read:
    """Return what reads the body of *request*; *bytes_max* 0 is no limit.

    It raises TooLarge beyond the limit, HttpRefused (408) when nothing arrives any more, and
    InvalidRequest when the framing is wrong.
    """
    seen = 0

    async def read() -> bytes:
        nonlocal seen
        try:
            async with asyncio.timeout(STALLED_S):
                piece = await request.content.readany()
        except TimeoutError:
            text = f"nothing of the body arrived for {STALLED_S:.0f} s"
            raise HttpRefused(408, "body_timeout", text, headers={"Connection": "close"}) from None
        except web.RequestPayloadError as error:
            raise InvalidRequest("the body broke off or its framing is wrong") from error
        seen += len(piece)
        if bytes_max and seen > bytes_max:
            raise TooLarge(f"the body is longer than {bytes_max} bytes")
        return piece

    return read


async def _pieces(request: web.Request, bytes_max: int) -> AsyncIterator[bytes]:
    read = body_reader(request, bytes_max=bytes_max)
    while piece := await read():
        yield piece
