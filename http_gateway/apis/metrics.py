"""``GET /metrics``: what gateway and coordinator have measured, in the text format of Prometheus.

The gateway's own part comes first; then ``hostler_coordinator_up`` and, when that is 1, the
coordinator's part. It never fails because the coordinator does. One question to the coordinator
answers all callers of the same second. ``docs/metrics.md`` lists the names.
"""

import asyncio
import gzip
from typing import TYPE_CHECKING

from aiohttp import web

from hostler.client import Client
from hostler.errors import DeadlineExceeded, HostlerError
from http_gateway.api import FIXED_HEADERS, Api
from http_gateway.callers import principal_of
from http_gateway.fresh import Fresh
from http_gateway.measures import HttpMeasures
from http_gateway.operations import documented, raw

if TYPE_CHECKING:
    from http_gateway.exposition import Exposition

ANSWER_S = 5.0  # for the coordinator to answer; Prometheus waits 10 s for everything
FRESH_S = 1.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UP = b"""\
# HELP hostler_coordinator_up Whether the coordinator has answered this gateway.
# TYPE hostler_coordinator_up gauge
hostler_coordinator_up %d
"""


class MetricsPage:
    """The endpoint, and the coordinator's answer that it keeps for a second."""

    def __init__(self, client: Client, measures: HttpMeasures) -> None:
        self._client = client
        self._measures = measures
        self._exposition: Exposition | None = None
        self._coordinators: Fresh[bytes] = Fresh(self._ask, age_s_max=FRESH_S)

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name="metrics",
            prefixes=("", "/pixyz"),
            owns=("/metrics",),
            # As every path of the PiXYZ document, which this is one of, with or without a slash at its end.
            routes=(web.get("/metrics", self.metrics), web.get("/metrics/", self.metrics)),
        )

    @documented(raw("text/plain", text="the text format of Prometheus"))
    async def metrics(self, request: web.Request) -> web.Response:
        """Retrieve Prometheus metrics."""
        try:
            coordinators = UP % 1 + await self._coordinators.get(principal_of(request))
        except HostlerError:  # perhaps one that is about this caller alone: others ask for themselves
            coordinators = UP % 0
        body = self._own() + coordinators
        headers = {**FIXED_HEADERS, "Content-Type": CONTENT_TYPE, "Vary": "Accept-Encoding"}
        if _takes_gzip(request.headers.get("Accept-Encoding", "")):
            body = await asyncio.to_thread(gzip.compress, body, 5)
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    def _own(self) -> bytes:
        if self._exposition is None:
            # Here and not above: it costs 50 ms at the start, and most gateways on a desk are never asked.
            from http_gateway.exposition import Exposition

            self._exposition = Exposition(self._measures)
        return self._exposition.render()

    async def _ask(self, principal: str) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._client.metrics(principal=principal)
        except TimeoutError:
            raise DeadlineExceeded(f"the coordinator has not said what it measured within {ANSWER_S:g} s") from None


def _takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header asks for gzip; a weight of 0 refuses it."""
    for item in accepted.lower().split(","):
        name, _, weight = item.replace(" ", "").partition(";q=")
        if name in ("gzip", "x-gzip"):
            return not weight or weight.strip("0.") != ""
    return False
