"""What an API family is, and how every refusal becomes that family's JSON.

A family is a value: its routes, the paths whose errors it words, and the form of its errors. aiohttp
refuses sub-applications at the root, where the documents want their paths, so `http_gateway.app`
mounts the routes of all families in one application and wraps each handler in `guard`.
"""

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType

import msgspec
from aiohttp import web

from hostler import logs
from hostler.errors import TO_HTTP, ErrorCode, HostlerError, InternalError, Overloaded, Unauthenticated, Unavailable
from http_gateway.operations import TEXT, Schema, fields, or_null

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# On every answer: nothing of ours is to be guessed at, kept, run, or embedded by a foreign page.
FIXED_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
        ),
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Server": "hostler",
    }
)
# Where TLS is spoken: for a year nothing else is to be tried.
TLS_HEADER = ("Strict-Transport-Security", "max-age=31536000")
RETRY_AFTER_S = 1
# As aiohttp keeps them: it copies these for each answer, which costs it a tenth of what another mapping does.
_JSON_HEADERS = web.Response(headers={**FIXED_HEADERS, "Content-Type": "application/json"}).headers


class HttpRefused(HostlerError):
    """A refusal that only HTTP knows: its status, a stable word, and headers that go with it."""

    code = ErrorCode.INVALID_REQUEST

    def __init__(self, status: int, word: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.word = word
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a family puts into words when it refuses."""

    status: int
    code: str  # "job_not_found"; stable
    message: str
    field: str


PLAIN_ERROR: Schema = fields(error=TEXT)
CODED_ERROR: Schema = fields(error=fields(code=TEXT, message=TEXT, field=or_null(TEXT)))


def plain_error(refusal: Refusal) -> object:
    """The form of most families: ``{"error": text}``."""
    return {"error": refusal.message}


def coded_error(refusal: Refusal) -> object:
    """The form of ``/v1``: ``{"error": {"code", "message", "field"}}``."""
    return {"error": {"code": refusal.code, "message": refusal.message, "field": refusal.field or None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One documented HTTP API: where it lives and how it says no."""

    name: str
    prefixes: tuple[str, ...]  # where its routes are mounted; "" is the root
    owns: tuple[str, ...]  # paths, and all below them, whose errors have this family's form
    routes: tuple[web.RouteDef, ...] = ()
    render_error: Callable[[Refusal], object] = plain_error
    error_schema: Schema = field(default_factory=lambda: PLAIN_ERROR)  # of what render_error makes
    statuses: Mapping[ErrorCode, int] = field(default_factory=dict)  # where its document differs from TO_HTTP
    challenge: str = "Bearer"  # how a key is to be shown, in the header of 401

    def refuse(self, error: HostlerError) -> web.Response:
        """Answer *error* in this family's words."""
        headers: dict[str, str] = {}
        if isinstance(error, HttpRefused):
            status, word = error.status, error.word
            headers.update(error.headers)
        else:
            status, word = self.statuses.get(error.code, TO_HTTP[error.code]), error.code.value
        if isinstance(error, Overloaded | Unavailable):
            headers["Retry-After"] = str(max(RETRY_AFTER_S, math.ceil(error.retry_after_s)))
        if isinstance(error, Unauthenticated):
            headers["WWW-Authenticate"] = self.challenge
        refusal = Refusal(status=status, code=word, message=error.message, field=error.field)
        return json_response(self.render_error(refusal), status=status, headers=headers)


# Paths that no family owns.
PLAIN = Api(name="plain", prefixes=(), owns=())


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer *value* as JSON, with a final newline."""
    try:
        body = msgspec.json.encode(value) + b"\n"
    except UnicodeEncodeError:
        # A program's result may hold half a surrogate pair, which JSON can write and UTF-8 cannot.
        body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return web.Response(body=body, status=status, headers={**_JSON_HEADERS, **headers} if headers else _JSON_HEADERS)


def api_of(path: str, apis: tuple[Api, ...]) -> Api:
    """Return the family whose error form *path* has."""
    for api in apis:
        for owned in api.owns:
            if path == owned or path.startswith(owned + "/"):
                return api
    return PLAIN


def refusal_of_status(error: web.HTTPException) -> HttpRefused:
    """Word one of aiohttp's own refusals: an unknown path, a wrong method, an unknown Expect."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return HttpRefused(
            405,
            "method_not_allowed",
            f"this path does not take {error.method}; it takes {allowed}",
            headers={"Allow": allowed},
        )
    if error.status == HTTPStatus.NOT_FOUND:
        return HttpRefused(404, "not_found", "there is nothing at this path; the paths are in docs/http-api.md")
    return HttpRefused(error.status, "invalid_request", HTTPStatus(error.status).phrase.lower())


def guard(api: Api, handler: Handler) -> Handler:
    """Wrap *handler* so that whatever goes wrong in it is answered in the words of *api*."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except HostlerError as error:
            return refuse_or_break(request, api, error)
        # The owner of the request: a fault of ours ends here, logged once, and the gateway goes on.
        # A caller who went away is no fault and nobody is left to answer.
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            logs.get().exception("request.failed", api=api.name, method=request.method, path=request.path)
            fault = InternalError("a fault of hostler's own; the gateway's log has the details")
            return refuse_or_break(request, api, fault)

    return guarded


def refuse_or_break(request: web.Request, api: Api, error: HostlerError) -> web.Response:
    """Answer *error*; break the connection when an answer has begun, for it cannot be taken back."""
    if request.writer.output_size > 0:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer broke off") from error
    return api.refuse(error)
