"""JSON bodies that may be large, of which only a few are held at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aiohttp import web

from hostler.errors import Overloaded
from http_gateway import bodies

LARGE_BODIES_MAX = 8  # over `bodies.BODY_BYTES_MAX`


class LargeBodies:
    """Reads bodies of up to `bodies.BATCH_BYTES_MAX`; those that are small are not counted. One for all families."""

    def __init__(self) -> None:
        self._held = 0
        # One after the other: a parser lets others run between texts and lists only, and several would add up.
        self._parsing = asyncio.Lock()

    def json_of(self, request: web.Request) -> AbstractAsyncContextManager[object]:
        """Read the request's body as JSON: ``async with large_bodies.json_of(request) as body``.

        A large one counts until it is left, because what is made of it in there is as large.

        Raises:
            Overloaded: enough large ones are held already.
            HostlerError: as `bodies.read_json` does.
        """
        if (request.content_length or bodies.BATCH_BYTES_MAX) <= bodies.BODY_BYTES_MAX:
            return _SmallBody(request)
        return self._large_json_of(request)

    @asynccontextmanager
    async def _large_json_of(self, request: web.Request) -> AsyncIterator[object]:
        if self._held >= LARGE_BODIES_MAX:
            raise Overloaded("too many large bodies arrive at once; try again in a second", retry_after_s=1.0)
        self._held += 1
        counted = True
        try:
            raw = await bodies.read(request, bytes_max=bodies.BATCH_BYTES_MAX)
            if len(raw) <= bodies.BODY_BYTES_MAX:  # it had not said its length
                self._held -= 1
                counted = False
            async with self._parsing:
                body = await bodies.parse_apart(raw)
            del raw
            yield body
        finally:
            self._held -= counted


class _SmallBody:
    """What `json_of` returns for most requests: nothing is counted, so there is nothing to give back."""

    __slots__ = ("_request",)

    def __init__(self, request: web.Request) -> None:
        self._request = request

    async def __aenter__(self) -> object:
        return await bodies.read_json(self._request)

    async def __aexit__(self, *_: object) -> None:
        pass
