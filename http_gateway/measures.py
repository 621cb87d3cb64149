"""What the gateway counts of every request, at the cost of about a microsecond.

The layer around everything (`counting`) records each answer under the template of its route, so
that the number of series is bounded by the number of routes and methods, whatever callers send.
Requests that are no HTTP never come here.
"""

from time import perf_counter

from aiohttp import web
from aiohttp.typedefs import Middleware

from hostler.metrics import Distribution
from http_gateway.api import Handler

DURATION_BOUNDS_S = (0.1, 0.5, 1.0)
# The 21 bounds that clients of the PiXYZ server know.
FINE_BOUNDS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5, 10.0, 30.0, 60.0,
)  # fmt: skip
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
OTHER_METHOD = "OTHER"
NO_HANDLER = "none"  # no route took the request
CALLER_GONE = 499  # nobody was left to answer


class Row:
    """What was answered by one route to one method with one class of status."""

    __slots__ = ("count", "durations", "request_bytes", "response_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.durations = Distribution(DURATION_BOUNDS_S)


class HttpMeasures:
    """Counters of one gateway; its event loop owns them."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, int], Row] = {}  # by route, method and the status's first digit
        self.fine = Distribution(FINE_BOUNDS_S)

    def record(
        self, handler: str, method: str, status: int, *, request_bytes: int, response_bytes: int, seconds: float
    ) -> None:
        """Count one answer.

        Args:
            handler: the template of its route.
            method: the request's.
            status: the answer's.
            request_bytes: as the request's head says.
            response_bytes: as the answer's head says; 0 where it says nothing, as of streams.
            seconds: from the end of the request's head to the end of its handler.
        """
        row = self.rows.get((handler, method, status // 100)) or self._first(handler, method, status)
        row.count += 1
        row.request_bytes += request_bytes
        row.response_bytes += response_bytes
        row.durations.observe(seconds)
        self.fine.observe(seconds)

    def _first(self, handler: str, method: str, status: int) -> Row:
        name = method if method in METHODS else OTHER_METHOD
        return self.rows.setdefault((handler, name, status // 100), Row())


def counting(measures: HttpMeasures) -> Middleware:
    """Make the layer that counts; it goes around all others."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = perf_counter()
        status, response_bytes = CALLER_GONE, 0
        try:
            response = await handler(request)
            status, response_bytes = response.status, response.content_length or 0
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            resource = request.match_info.route.resource
            measures.record(
                NO_HANDLER if resource is None else resource.canonical,
                request.method,
                status,
                request_bytes=request.content_length or 0,
                response_bytes=response_bytes,
                seconds=perf_counter() - began,
            )

    return count
