"""Who may call a fake coordinator: keys, and the table of `hostler.policy`, which every call must pass."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio

from hostler.errors import HostlerError, PermissionDenied, Unauthenticated, Unavailable
from hostler.keys import RANDOM_BYTES, make_key
from hostler.policy import ADDRESS, LOCAL, RPCS, Door, Principal, Scope, scopes_of
from hostler.v1 import access_pb2, access_pb2_grpc, jobs_pb2
from hostler.wire.errors import status_of, trailers_of

Context = Any


@dataclass(frozen=True, slots=True)
class FakeKey:
    """A key of a client."""

    text: str
    id: str
    owner: str
    scopes: frozenset[Scope]
    expires_at_us: int = 0
    address: str = ""  # good from there alone
    revoked: bool = False

    @property
    def is_good(self) -> bool:
        """Whether it opens anything."""
        return not self.revoked and not (self.expires_at_us and time.time_ns() // 1000 >= self.expires_at_us)


@dataclass(slots=True)
class FakeAccess(access_pb2_grpc.AccessServicer):
    """Keys by their ids, and what was asked for whom."""

    keys: dict[str, FakeKey] = field(default_factory=dict)
    turned_away: list[access_pb2.TurnedAway] = field(default_factory=list)
    notes_fail: bool = False
    asked: int = 0  # how often whose a key is
    seen: list[tuple[str, str]] = field(default_factory=list)  # calls, and the principal that they asserted

    def add(self, *words: str, owner: str = "somebody", **more: Any) -> str:
        """Make a key with these scopes and roles, and return its text."""
        made = make_key((len(self.keys) + 1).to_bytes(6) + bytes(RANDOM_BYTES - 6))
        self.keys[made.id] = FakeKey(made.text, made.id, owner, scopes_of(words), **more)
        return made.text

    def revoke(self, text: str) -> None:
        """Revoke a key."""
        for key in list(self.keys.values()):
            if key.text == text:
                self.keys[key.id] = replace(key, revoked=True)

    def resolve(self, said: str) -> Principal | None:
        """The principal that a request asserts; the gateway itself is a local program."""
        if said in ("", LOCAL.name):
            return LOCAL
        kind, _, name = said.partition(":")
        if kind == "address":
            return Principal(name=said, scopes=ADDRESS, credential=name)
        key = self.keys.get(name) if kind == "key" else None
        return Principal(name=key.owner, scopes=key.scopes, credential=key.id) if key and key.is_good else None

    async def Authenticate(self, request: access_pb2.AuthenticateRequest, context: Context) -> Any:
        """Say whose a key is."""
        self.asked += 1
        for key in self.keys.values():
            if key.text == request.text and key.is_good and key.address in ("", request.address):
                return access_pb2.AuthenticateResponse(
                    principal=f"key:{key.id}",
                    owner=key.owner,
                    scopes=sorted(key.scopes),
                    expires_at_us=key.expires_at_us,
                )
        return await _fail(context, Unauthenticated("no good"))

    async def NoteRefusals(self, request: access_pb2.NoteRefusalsRequest, context: Context) -> Any:
        """Keep whom the gateway has turned away, or refuse to."""
        if self.notes_fail:
            return await _fail(context, Unavailable("not now"))
        self.turned_away += request.refusals
        return access_pb2.NoteRefusalsResponse()

    async def _unused(self, request: Any, context: Context) -> Any:
        return await _fail(context, PermissionDenied("a gateway has no business here"))

    CreateKey = ListKeys = RevokeKey = Invite = Join = Renew = RevokeWorker = _unused

    async def ReadAudit(self, request: Any, context: Context) -> AsyncIterator[access_pb2.AuditEntry]:
        """Not used by a gateway."""
        await self._unused(request, context)
        yield access_pb2.AuditEntry()

    def denial(self, method: str, said: str) -> HostlerError | None:
        """Why a call may not be made for somebody."""
        self.seen.append((method, said))
        principal = self.resolve(said)
        if principal is None:
            return Unauthenticated(f"nobody is called {said!r}")
        needed = RPCS[method]
        if isinstance(needed, Door) or principal.may(needed):
            return None
        return PermissionDenied(f"this needs the scope {needed}")


class Guarding(grpc.aio.ServerInterceptor):
    """Asks `FakeAccess` about every call but those about keys."""

    def __init__(self, access: FakeAccess) -> None:
        self._access = access

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap the handler of a call."""
        handler = await continuation(details)
        method = details.method.rpartition(".")[2]
        if handler is None or method.startswith("Access/"):
            return handler
        wrapped, kind = _wrapped(handler, self._checking(method))
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _checking(self, method: str) -> Callable[[Any, Context], Any]:
        async def check(request: Any, context: Context) -> None:
            said = [job.principal for job in request.jobs] if isinstance(request, jobs_pb2.SubmitRequest) else None
            for each in said if said is not None else [request.principal]:
                error = self._access.denial(method, each)
                if error is not None:
                    await _fail(context, error)

        return check


def _wrapped(handler: Any, check: Callable[[Any, Context], Any]) -> tuple[Any, str]:
    async def one_for_one(request: Any, context: Context) -> Any:
        await check(request, context)
        return await handler.unary_unary(request, context)

    async def many_for_one(request: Any, context: Context) -> AsyncIterator[Any]:
        await check(request, context)
        async for answer in handler.unary_stream(request, context):
            yield answer

    async def one_for_many(requests: Any, context: Context) -> Any:
        return await handler.stream_unary(_checked(requests, context, check), context)

    async def many_for_many(requests: Any, context: Context) -> AsyncIterator[Any]:
        async for answer in handler.stream_stream(_checked(requests, context, check), context):
            yield answer

    if handler.request_streaming:
        return (many_for_many, "stream_stream") if handler.response_streaming else (one_for_many, "stream_unary")
    return (many_for_one, "unary_stream") if handler.response_streaming else (one_for_one, "unary_unary")


async def _checked(requests: Any, context: Context, check: Callable[[Any, Context], Any]) -> AsyncIterator[Any]:
    first = True
    async for request in requests:
        if first:
            await check(request, context)
        first = False
        yield request


async def _fail(context: Context, error: HostlerError) -> None:
    context.set_trailing_metadata(trailers_of(error))
    await context.abort(status_of(error), error.message)
