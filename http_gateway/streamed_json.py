"""A JSON answer that is made piece by piece: whole when it is small, else sent while it is made.

Memory is flat: what is over `WHOLE_BYTES_MAX` leaves at once; of an answer to HEAD nothing but its length is
kept then. A fault in the middle of an answer that has begun breaks the connection, so that it is never taken
for the whole.
"""

from collections.abc import Mapping

from aiohttp import web

from http_gateway.api import FIXED_HEADERS
from http_gateway.slow_readers import write_or_break

WHOLE_BYTES_MAX = 256 * 1024


class StreamedJson:
    """The answer to one request. The pieces that are given to it make up one JSON value."""

    def __init__(self, request: web.Request, *, headers: Mapping[str, str] | None = None) -> None:
        self._request = request
        self._headers = {**FIXED_HEADERS, "Content-Type": "application/json", **(headers or {})}
        self._held = bytearray()
        self._passed = 0  # bytes that are held no more
        self._response: web.StreamResponse | None = None

    async def add(self, piece: bytes) -> None:
        """Add to the answer.

        Raises:
            ConnectionResetError: the reader takes nothing any more.
        """
        self._held += piece
        if len(self._held) > WHOLE_BYTES_MAX:
            await self._pass()

    async def end(self) -> web.StreamResponse:
        """End the answer and return it, for the handler to return."""
        self._held += b"\n"
        if not self._passed:
            return web.Response(body=bytes(self._held), headers=self._headers)
        await self._pass()
        if self._response is None:  # HEAD: the length is all that there is to say
            self._response = web.StreamResponse(headers=self._headers)
            self._response.content_length = self._passed
        return self._response

    async def _pass(self) -> None:
        """Let go of what is held: to the reader, unless only the head of the answer is asked for."""
        piece, self._held = bytes(self._held), bytearray()
        self._passed += len(piece)
        if self._request.method == "HEAD":
            return
        if self._response is None:
            self._response = web.StreamResponse(headers=self._headers)
            await self._response.prepare(self._request)
        await write_or_break(self._response, piece)
