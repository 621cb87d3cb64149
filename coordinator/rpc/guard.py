"""The one wrapper around every RPC: who calls, what the table of policy asks of him, errors as statuses.

Messages are parsed here: with grpcio's own deserialisers an undecodable message answers UNKNOWN with the name of
a Python class, and a synchronous server leaks a stream for each. A method without an entry in `hostler.policy.RPCS`
cannot be wrapped, so a server that has one does not start. Calls that are open when their key is revoked or expires
are ended by one ticker.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from coordinator.rpc.auditing import Auditing
from coordinator.rpc.context import Caller, Context, M, fail, parse
from coordinator.rpc.large_messages import parse_in_pieces, parse_large
from hostler import logs
from hostler.errors import DeadlineExceeded, HostlerError, InternalError, PermissionDenied, Unauthenticated, Unavailable
from hostler.policy import RPCS, Door, Principal, Scope

SWEEP_S = 5.0
FIRST_S = 120.0  # for the first message of a stream from a client, which says who asks
KEY_GONE = "the key of this call is good no more"


class Gate(Protocol):
    """What tells who calls, `coordinator.rpc.gatekeeper.Gatekeeper`."""

    def caller(self, context: Context) -> Caller:
        """Return who is calling, or raise."""
        ...

    def is_standing(self, caller: Caller) -> bool:
        """Whether a call that was let in would be let in still."""
        ...


class NoPolicy(Exception):
    """A method is served of which nobody has said who may call it."""


def rule_of(name: str) -> Scope | Door:
    """What a method, by ``Service/Method``, asks of its callers.

    Raises:
        NoPolicy: it is not in the table.
    """
    rule = RPCS.get(name)
    if rule is None:
        raise NoPolicy(f"{name} has no entry in hostler.policy.RPCS: who may call it?")
    return rule


class Guard:
    """Wraps handlers, and ends calls whose key is gone."""

    def __init__(self, gate: Gate, audit: Auditing | None = None) -> None:
        """Let in whom *gate* knows; *audit*, if any, notes what is done and who is turned away."""
        self._gate = gate
        self.audit = audit
        self._open: dict[_Call, None] = {}

    # Handlers of one scope get the principal for whom the request is

    def unary(
        self, name: str, kind: type[M], handler: Callable[[M, Principal], Awaitable[Message]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Wrap a handler of one request and one answer."""
        scope = _scope_of(name)

        @functools.wraps(handler)
        async def call(data: bytes, context: Context) -> bytes:
            serving = self._call(name, context)
            async with serving as caller:
                request, principal = _admitted(scope, caller, kind, data)
                return await serving.answered(await handler(request, principal))
            raise AssertionError("a failed call does not come here")

        return grpc.unary_unary_rpc_method_handler(call)

    def streaming(
        self, name: str, kind: type[M], handler: Callable[[M, Principal], AsyncIterator[Message]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Wrap a handler of one request and a stream of answers."""
        scope = _scope_of(name)

        # It writes by itself instead of yielding: then whatever it waits for, it is here that it is cancelled.
        @functools.wraps(handler)
        async def call(data: bytes, context: Context) -> None:
            async with self._call(name, context) as caller:
                request, principal = _admitted(scope, caller, kind, data)
                answers = handler(request, principal)
                try:
                    async for message in answers:
                        await context.write(message.SerializeToString())
                finally:
                    await answers.aclose()  # type: ignore[attr-defined]

        return grpc.unary_stream_rpc_method_handler(call)

    def duplex(
        self, name: str, kind: type[M], handler: Callable[[M, Context, Principal], Awaitable[None]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Wrap a handler that gets the first message and reads and writes the rest by itself."""
        scope = _scope_of(name)

        @functools.wraps(handler)
        async def call(_: Any, context: Context) -> None:
            serving = self._call(name, context)
            async with serving as caller:
                if not caller.may_assert:
                    _check(scope, caller.principal)  # not only once he has sent something
                request, principal = _admitted(scope, caller, kind, await _first(context))
                await handler(request, context, principal)
                await serving.note(None)

        return grpc.stream_stream_rpc_method_handler(call)

    # Handlers behind a door get the caller

    def by_caller(
        self, name: str, kind: type[M], handler: Callable[[M, Caller], Awaitable[Message]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Wrap a handler of one request and one answer that looks at its caller itself."""
        door = _door_of(name, Door.AUTHENTICATED, Door.WORKER)

        @functools.wraps(handler)
        async def call(data: bytes, context: Context) -> bytes:
            serving = self._call(name, context)
            async with serving as caller:
                _pass(door, caller)
                caller.content, caller.request = data, await parse_in_pieces(kind, data)
                return await serving.answered(await handler(caller.request, caller))
            raise AssertionError("a failed call does not come here")

        return grpc.unary_unary_rpc_method_handler(call)

    def for_workers(
        self, name: str, handler: Callable[[Context, Caller], Awaitable[None]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Wrap a worker's stream; the handler reads from and writes to the context by itself."""
        door = _door_of(name, Door.WORKER)

        @functools.wraps(handler)
        async def call(_: Any, context: Context) -> None:
            async with self._call(name, context) as caller:
                _pass(door, caller)
                await handler(context, caller)

        return grpc.stream_stream_rpc_method_handler(call)

    def for_anybody(
        self, name: str, kind: type[M], handler: Callable[[M, Context], Awaitable[Message]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Wrap a handler of one request and one answer that nobody is kept from."""
        _door_of(name, Door.ANYBODY)

        @functools.wraps(handler)
        async def call(data: bytes, context: Context) -> bytes:
            serving = _Call(name, context, self)
            async with serving:
                serving.request = request = parse(kind, data)
                return await serving.answered(await handler(request, context))
            raise AssertionError("a failed call does not come here")

        return grpc.unary_unary_rpc_method_handler(call)

    # Open calls

    def _call(self, name: str, context: Context) -> "_KnownCall":
        return _KnownCall(name, context, self)

    async def run(self) -> None:
        """End calls whose key is gone, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """End the calls whose key is gone now."""
        for call in list(self._open):
            if call.caller is not None and not self._gate.is_standing(call.caller):
                call.end()


class _Call:
    """A call that is served: its errors become statuses, its end is noted."""

    __slots__ = ("_context", "_guard", "_name", "_task", "caller", "ended", "is_noted", "request")

    def __init__(self, name: str, context: Context, guard: Guard) -> None:
        self._name = name
        self._context = context
        self._guard = guard
        self._task: asyncio.Task[Any] | None = None
        self.caller: Caller | None = None
        self.request: Any = None
        self.ended = False
        self.is_noted = False  # as served: what goes wrong from then on is no second entry

    async def __aenter__(self) -> Any:
        if self._guard.audit is not None:
            try:
                self._guard.audit.check(self._name)
            except HostlerError as error:
                await self._refuse(error)
                raise

    async def answered(self, answer: Message) -> bytes:
        """An answer's bytes, once what it answers is noted."""
        await self.note(answer)
        return answer.SerializeToString()

    async def note(self, answer: Message | None) -> None:
        """Note that it was served; of some, wait until that is on the disk. Raises Unavailable when it is not."""
        audit = self._guard.audit
        if audit is not None:
            audit.answered(self._name, self.caller, self._context, self._request(), answer)
            self.is_noted = True
            await audit.settled(self._name)

    def _request(self) -> Any:
        return self.caller.request if self.caller is not None else self.request

    def _note_broken_off(self) -> None:
        if self._guard.audit is not None and not self.is_noted:
            self._guard.audit.broken_off(self._name, self.caller, self._context, self._request())

    async def _refuse(self, error: HostlerError) -> None:
        """Note that the call was not served, and end it."""
        if self._guard.audit is not None and not self.is_noted:
            self._guard.audit.failed(self._name, self.caller, self._context, self._request(), error)
        await fail(self._context, error)

    def end(self) -> None:
        """Cancel it: its key is gone."""
        if not self.ended and self._task is not None:
            self.ended = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard._open.pop(self, None)
        if error is None:
            return
        if isinstance(error, HostlerError):
            await self._refuse(error)
            return
        self._note_broken_off()
        if isinstance(error, asyncio.CancelledError):
            if self.ended and self._task is not None and not self._task.uncancel():
                await fail(self._context, Unauthenticated(KEY_GONE))
        elif isinstance(error, grpc.aio.InternalError):
            # An answer to a caller who goes in this moment: gRPC may say so before it cancels the call.
            await fail(self._context, Unavailable("the caller has gone"))
        elif isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            # The call's owner: nothing may leave as a traceback.
            logs.get().error("request.failed", method=self._name, exc_info=error)
            await fail(self._context, InternalError("a fault of hostler's own; the coordinator's log has the details"))


class _KnownCall(_Call):
    """A call of somebody we know."""

    __slots__ = ()

    async def __aenter__(self) -> Caller:
        try:
            self.caller = caller = self._guard._gate.caller(self._context)
            if self._guard.audit is not None:
                self._guard.audit.check(self._name)
        except HostlerError as error:
            await self._refuse(error)
            raise
        self._task = asyncio.current_task()
        self._guard._open[self] = None
        return caller


def _scope_of(name: str) -> Scope:
    rule = rule_of(name)
    if not isinstance(rule, Scope):
        raise NoPolicy(f"{name} is behind the door {rule}, and its handler was wrapped for a scope")
    return rule


def _door_of(name: str, *doors: Door) -> Door:
    rule = rule_of(name)
    if not isinstance(rule, Door) or rule not in doors:
        raise NoPolicy(f"{name} needs {rule}, and its handler was wrapped for a door: {', '.join(doors)}")
    return rule


def _admitted(scope: Scope, caller: Caller, kind: type[M], data: bytes) -> tuple[M, Principal]:
    """The request and the principal for whom it is, who has the scope."""
    if not caller.may_assert:
        _check(scope, caller.principal)  # before anything of his is looked at
    caller.request = request = parse_large(kind, data)
    caller.asked = principal = caller.acting_for(getattr(request, "principal", ""))
    _check(scope, principal)
    return request, principal


def _check(scope: Scope, principal: Principal) -> None:
    if not principal.may(scope):
        raise PermissionDenied(f"this needs the scope {scope}, which the caller does not have")


def _pass(door: Door, caller: Caller) -> None:
    # No key opens the door of workers, whatever its scopes: a worker is what its certificate or our socket says.
    if door is Door.WORKER and not (caller.worker or caller.is_local):
        raise PermissionDenied("only workers call this: on the coordinator's host, or with their certificate")


async def _first(context: Context) -> bytes:
    """The first message of a client's stream; nothing when it ended without one."""
    try:
        async with asyncio.timeout(FIRST_S):
            content = await context.read()
    except TimeoutError as error:
        raise DeadlineExceeded(f"no message came for {FIRST_S:g} s") from error
    return content if isinstance(content, bytes) else b""
