"""Puts grpcio's own services (health, reflection) behind the same gate as ours.

They register themselves with a server; this stands in for the server and wraps what they register.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from coordinator.rpc.context import Context, fail
from coordinator.rpc.guard import Gate
from hostler.errors import HostlerError


class GuardedServer:
    """Takes registrations like a server; `handlers` are then to be added to the real one."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        """See grpc.aio.Server."""
        self.handlers += [_GuardedHandler(handler, self._gate) for handler in handlers]

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """See grpc.aio.Server; the generic handlers serve the same methods."""


class _GuardedHandler(grpc.GenericRpcHandler):
    def __init__(self, inner: grpc.GenericRpcHandler, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        handler: Any = self._inner.service(details)
        if handler is None:
            return None
        if handler.unary_unary is not None:
            return handler._replace(unary_unary=self._unary(handler.unary_unary))
        for kind in ("unary_stream", "stream_stream"):
            inner = getattr(handler, kind)
            if inner is not None:
                return handler._replace(**{kind: self._stream(inner)})
        return None

    async def _admit(self, context: Context) -> None:
        try:
            self._gate.caller(context)
        except HostlerError as error:
            await fail(context, error)

    def _unary(self, inner: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        async def call(request: Any, context: Context) -> Any:
            await self._admit(context)
            return await inner(request, context)

        return call

    def _stream(self, inner: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._admit(context)
            answers = inner(request, context)
            if hasattr(answers, "__aiter__"):
                async for answer in answers:
                    yield answer
            else:
                await answers  # it writes to the context by itself

        return call
