"""``GET /health``: whether this gateway can serve, from the coordinator's memory.

It is cheap enough to be asked at any rate: one question to the coordinator answers all callers of
the same half second.
"""

import asyncio
import time

from aiohttp import web

from hostler.client import Client, Cluster
from hostler.errors import HostlerError, Unavailable
from http_gateway.api import Api, json_response

ANSWER_S = 1.0  # for the coordinator to answer
FRESH_S = 0.5

_Seen = Cluster | HostlerError


class Health:
    """The endpoint and the answer it keeps for half a second."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asking = asyncio.Lock()
        self._seen: _Seen = Unavailable("nothing was asked yet")
        self._stale_at = 0.0

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name="health", prefixes=("", "/infernet"), owns=("/health",), routes=(web.get("/health", self.health),)
        )

    async def health(self, _: web.Request) -> web.Response:
        """Say how the cluster fares; 503 when the coordinator does not answer."""
        seen = await self._ask()
        if isinstance(seen, HostlerError):
            return json_response(
                {"status": "unavailable", "error": seen.message}, status=503, headers={"Retry-After": "1"}
            )
        return json_response(
            {
                "status": "healthy",
                "workers": seen.workers,
                "queued": seen.queued,
                "running": seen.running,
                "version": seen.version,
            }
        )

    async def _ask(self) -> _Seen:
        async with self._asking:  # the first caller asks, the others find its answer
            if time.monotonic() >= self._stale_at:
                try:
                    self._seen = await self._client.describe(timeout_s=ANSWER_S)
                except HostlerError as error:
                    self._seen = error
                self._stale_at = time.monotonic() + FRESH_S
            return self._seen
