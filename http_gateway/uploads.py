"""Bodies of any size: asked for when the endpoint wants them, bounded, and never held as a whole.

A caller who asks before it sends (``Expect: 100-continue``, as curl does) is told to go on by the endpoint, so
that what is refused is not sent at all.
"""

from collections.abc import AsyncIterator

from aiohttp import HttpVersion11, web

from hostler.errors import TooLarge
from http_gateway.api import HttpRefused
from http_gateway.multipart import body_reader


async def let_wait(request: web.Request) -> None:
    """As the `expect_handler` of a route: let a caller wait until the endpoint calls `pieces_of`."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        raise web.HTTPExpectationFailed


async def pieces_of(request: web.Request, *, bytes_max: int) -> AsyncIterator[bytes]:
    """Check the request's head, ask for its body, and return what yields it as it arrives; 0 is no limit.

    Raises, also while it is read:
        HttpRefused: it is compressed (415), or stopped arriving (408).
        TooLarge: it is longer than *bytes_max*, or says so.
        InvalidRequest: it broke off.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise HttpRefused(415, "unsupported_encoding", "send the body as it is, without Content-Encoding")
    length = request.content_length or 0
    if bytes_max and length > bytes_max:
        raise TooLarge(f"the body has {length} bytes; at most {bytes_max}")
    if "Expect" in request.headers and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun
    return _pieces(request, bytes_max)


async def _pieces(request: web.Request, bytes_max: int) -> AsyncIterator[bytes]:
    read = body_reader(request, bytes_max=bytes_max)
    while piece := await read():
        yield piece
