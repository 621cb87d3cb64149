"""``GET /health``: whether this gateway can serve, from the coordinator's memory.

It is cheap enough to be asked at any rate: one question to the coordinator answers all callers of
the same half second.
"""

from aiohttp import web

from hostler.client import Client, Cluster
from hostler.errors import HostlerError, PermissionDenied
from http_gateway.api import Api, json_response
from http_gateway.callers import OWN
from http_gateway.fresh import Fresh
from http_gateway.operations import COUNT, TEXT, Answer, documented, fields, one_of, some_of

ANSWER_S = 1.0  # for the coordinator to answer
FRESH_S = 0.5


class Health:
    """The endpoint and the answer it keeps for half a second."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cluster: Fresh[Cluster] = Fresh(self._ask, age_s_max=FRESH_S)

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name="health",
            prefixes=("", "/infernet"),
            owns=("/health",),
            routes=(web.get("/health", self.health),),
        )

    @documented(
        {
            200: Answer(
                schema=some_of(status=one_of("healthy"), workers=COUNT, queued=COUNT, running=COUNT, version=TEXT)
            ),
            503: Answer(
                schema=fields(status=one_of("unavailable"), error=TEXT), text="the coordinator does not answer"
            ),
        }
    )
    async def health(self, _: web.Request) -> web.Response:
        """Say how the cluster fares; 503 when the coordinator does not answer."""
        try:
            seen = await self._cluster.get()
        except PermissionDenied:  # it answers, and our own key may not see how it fares
            return json_response({"status": "healthy"})
        except HostlerError as error:
            return json_response(
                {"status": "unavailable", "error": error.message}, status=503, headers={"Retry-After": "1"}
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

    async def _ask(self, _: str) -> Cluster:
        return await self._client.describe(timeout_s=ANSWER_S, principal=OWN)
