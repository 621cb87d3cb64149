"""A JSON answer that is made piece by piece: whole when it is small, else sent while it is made.

Memory is flat: what is over `WHOLE_BYTES_MAX` leaves at once. A fault in the middle of an answer that
has begun breaks the connection, so that it is never taken for the whole.
"""

import asyncio

from aiohttp import web

from http_gateway.api import FIXED_HEADERS

WHOLE_BYTES_MAX = 256 * 1024
STALLED_S = 60.0  # a reader that takes nothing for so long has gone
_HEADERS = {**FIXED_HEADERS, "Content-Type": "application/json"}


class StreamedJson:
    """The answer to one request. The pieces that are given to it make up one JSON value."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._held = bytearray()
        self._response: web.StreamResponse | None = None

    async def add(self, piece: bytes) -> None:
        """Add to the answer.

        Raises:
            ConnectionResetError: the reader takes nothing any more.
        """
        self._held += piece
        if len(self._held) > WHOLE_BYTES_MAX and self._request.method != "HEAD":
            await self._send()

    async def end(self) -> web.StreamResponse:
        """End the answer and return it, for the handler to return."""
        self._held += b"\n"
        if self._response is None:
            return web.Response(body=bytes(self._held), headers=_HEADERS)
        await self._send()
        return self._response

    async def _send(self) -> None:
        if self._response is None:
            self._response = web.StreamResponse(headers=_HEADERS)
            await self._response.prepare(self._request)
        piece, self._held = bytes(self._held), bytearray()
        try:
            async with asyncio.timeout(STALLED_S):
                await self._response.write(piece)
        except TimeoutError:
            raise ConnectionResetError("the reader takes nothing") from None
