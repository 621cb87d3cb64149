"""One HTTP connection: aiohttp's, counted, with a deadline for request heads and JSON for what is no HTTP.

aiohttp answers a malformed request with plain text that echoes it, logs a traceback each time, and
waits for the rest of a request's head without a limit. All that is changed here, and only here.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from hostler import logs
from hostler.errors import InvalidRequest
from http_gateway.api import TLS_HEADER, Api, HttpRefused, api_of, refusal_of_status
from http_gateway.auth import address_of
from http_gateway.key_checks import block_of

HEAD_S = 10.0  # from a head's first byte to its last
IDLE_S = 75.0  # between requests
LINGER_S = 5.0  # for the rest of a body that was refused
HEAD_LINE_BYTES_MAX = 8190
HEADERS_MAX = 100
NO_HTTP = "the request is not valid HTTP"


def check_parser() -> None:
    """Refuse to serve with aiohttp's parser in Python, whose asserts are part of its safety.

    Raises:
        InvalidRequest: the compiled parser is not there.
    """
    if HttpRequestParser is HttpRequestParserPy:
        raise InvalidRequest("aiohttp's compiled HTTP parser is missing; install aiohttp from a wheel")


class MakesRoom(Protocol):
    """A connection that can be closed for another."""

    def make_room(self) -> None:
        """Close, and be counted no more when this returns."""
        ...


class ConnectionLimits:
    """Counts the connections of one gateway, in all and of each address of another host.

    When there are too many in all, the one that has waited longest for a whole head makes room: who holds connections
    open and asks for nothing shuts nobody out. One that serves a request never does.
    """

    def __init__(self, *, in_all: int, per_address: int = 0) -> None:
        """Prepare; 0 is no limit of one address. On this host all callers have one address, so there is none."""
        self._in_all = in_all
        self._per_address = per_address
        self._count = 0
        self._of_address: Counter[str] = Counter()
        self._waiting: OrderedDict[MakesRoom, None] = OrderedDict()  # for a head; the longest first

    def take(self, transport: asyncio.BaseTransport) -> str | None:
        """Count a connection and return its place, for `leave`; None: there are too many, and it is not counted."""
        address = address_of(transport)
        place = "" if address is None or address.is_loopback else block_of(address)
        if place and self._per_address and self._of_address[place] >= self._per_address:
            return None
        if self._count >= self._in_all:
            if not self._waiting:
                return None
            self._waiting.popitem(last=False)[0].make_room()
        self._count += 1
        if place:
            self._of_address[place] += 1
        return place

    def leave(self, place: str) -> None:
        """Count a connection no more."""
        self._count -= 1
        if place:
            self._of_address[place] -= 1
            if not self._of_address[place]:
                del self._of_address[place]

    def waits(self, connection: MakesRoom) -> None:
        """Note that a counted connection waits for a head from now on."""
        self._waiting[connection] = None

    def waits_no_more(self, connection: MakesRoom) -> None:
        """Note that a head is complete, or that the connection has gone."""
        self._waiting.pop(connection, None)


class Connection(web.RequestHandler):
    """aiohttp's connection with our deadlines and our words."""

    __slots__ = ("_apis", "_busy", "_head_due", "_limits", "_place", "_tls")

    def __init__(
        self,
        server: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        apis: tuple[Api, ...],
        limits: ConnectionLimits,
        tls: bool,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=IDLE_S,
            lingering_time=LINGER_S,
            max_line_size=HEAD_LINE_BYTES_MAX,
            max_field_size=HEAD_LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
            auto_decompress=False,  # `http_gateway.bodies` refuses compressed bodies, and so bombs
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own default in its runners
        )
        self._apis = apis
        self._limits = limits
        self._place: str | None = None
        self._tls = tls
        self._busy = False
        self._head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it at once when there are too many."""
        super().connection_made(transport)
        self._place = self._limits.take(transport)
        if self._place is None:
            self.force_close()
        else:
            self._limits.waits(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the deadline."""
        self._disarm()
        self._leave()
        super().connection_lost(exc)

    def make_room(self) -> None:
        """Close for another connection."""
        self._leave()
        self.force_close()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head that is not complete start its deadline. aiohttp also calls it with none."""
        super().data_received(data)
        if self._messages:
            self._limits.waits_no_more(self)
        # A head that came in one piece waits in aiohttp's queue now, and needs no timer.
        if data and self._head_due is None and not self._busy and not self._messages:
            self._head_due = asyncio.get_running_loop().call_later(HEAD_S, self.force_close)

    def request_began(self) -> None:
        """A head is complete and its request is being handled."""
        self._busy = True
        self._disarm()

    def request_ended(self) -> None:
        """The request was handled; the next head may come."""
        self._busy = False

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; aiohttp's own refusals are put into JSON on the way."""
        if isinstance(resp, web.HTTPException):
            resp = api_of(request.path, self._apis).refuse(refusal_of_status(resp))
        if self._tls and not resp.prepared:
            resp.headers[TLS_HEADER[0]] = TLS_HEADER[1]
        finished = await super().finish_response(request, resp, start_time)
        if self._place is not None and not self._messages:
            self._limits.waits(self)
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP (status 400), or a fault that reached aiohttp (500)."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer broke off")
        refusal = HttpRefused(status, "malformed_request", NO_HTTP)
        if isinstance(exc, UnicodeEncodeError) and "Expect" in request.headers:
            # aiohttp repeats an Expect that it does not know, and fails when that is no UTF-8.
            refusal = refusal_of_status(web.HTTPExpectationFailed())
        elif status != 400:
            logs.get().error("request.failed", exc_info=exc)
            refusal = HttpRefused(status, "internal", "a fault of hostler's own; the gateway's log has the details")
        answer = api_of(request.path, self._apis).refuse(refusal)
        answer.force_close()
        return answer

    def _leave(self) -> None:
        self._limits.waits_no_more(self)
        if self._place is not None:
            self._limits.leave(self._place)
            self._place = None

    def _disarm(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


def check_version(request: web.Request) -> None:
    """Return when a request is HTTP/1.0 or 1.1; aiohttp's parser also takes versions that there are not.

    Raises:
        HttpRefused: 400, it is of another version.
    """
    # Not by its property, which keeps what it has said once; aiohttp answers in the version that it says.
    if request._version not in (HttpVersion10, HttpVersion11):
        request._version = HttpVersion11
        raise HttpRefused(400, "malformed_request", NO_HTTP, headers={"Connection": "close"})


def connection_factory(
    server: web.Server, *, apis: tuple[Api, ...], limits: ConnectionLimits, tls: bool
) -> Callable[[], Connection]:
    """Return what makes the protocol of each new connection of *server*."""
    loop = asyncio.get_running_loop()
    return lambda: Connection(server, loop=loop, apis=apis, limits=limits, tls=tls)
