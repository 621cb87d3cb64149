"""What every RPC shares: raw bytes in, one place where errors become statuses, who is calling.

Messages are parsed in the handler: with grpcio's own deserialisers an undecodable message answers
UNKNOWN with the name of a Python class, and a synchronous server leaks a stream for each.
"""

import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from hostler import logs
from hostler.errors import HostlerError, InternalError, InvalidRequest, JobNotFound, PermissionDenied, Unauthenticated
from hostler.jobs import Job
from hostler.peers import owner_of_peer
from hostler.tls import Identity
from hostler.wire.errors import status_of, trailers_of

M = TypeVar("M", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
LOCAL = "local"


def parse(kind: type[M], data: bytes) -> M:
    """Decode a message.

    Raises:
        InvalidRequest: the bytes are no such message.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the request is not a {kind.DESCRIPTOR.full_name}") from error
    return message


def visible(job: Job | None, job_id: str, family: str = "") -> Job:
    """Return *job*, which was looked up by *job_id*, where the caller may know it.

    Raises:
        JobNotFound: there is none, or it is another API family's.
    """
    if job is None or (family and job.spec.family != family):
        raise JobNotFound(f"job {job_id[:64]!r} not found")
    return job


class Caller:
    """Who calls, and whether the connection may speak for others."""

    __slots__ = ("may_assert", "principal")

    def __init__(self, principal: str, *, may_assert: bool) -> None:
        self.principal = principal
        self.may_assert = may_assert

    def acting_for(self, asserted: str) -> str:
        """The principal of a request: the asserted one where that is believed, else the connection's own."""
        return asserted if asserted and self.may_assert else self.principal


class Gatekeeper:
    """Tells callers by their connection: our unix socket, a loopback port and the kernel's word, or the cluster key."""

    def __init__(self, identity: Identity | None = None) -> None:
        self.tcp_address: tuple[str, int] | None = None
        self._identity = identity

    def caller(self, context: Context) -> Caller:
        """Return who is calling.

        Raises:
            PermissionDenied: another local user, or nobody the kernel can name.
        """
        peer = unquote(context.peer())
        if peer.startswith("unix:"):
            # The socket is in a directory only our user may enter; gateway and agents come this way.
            return Caller(LOCAL, may_assert=True)
        if self._identity is not None:
            # Off loopback, or on it with TLS: the programs of the cluster share a key, and nobody else is served.
            if self._identity.admits(tuple(context.invocation_metadata() or ())):
                return Caller(LOCAL, may_assert=True)
            raise Unauthenticated("this coordinator serves only callers with the cluster's key; see cluster_key_file")
        kind, _, rest = peer.partition(":")
        host, _, port = rest.rpartition(":")
        if kind in ("ipv4", "ipv6") and port.isdecimal() and self.tcp_address is not None:
            own = self.tcp_address if kind == "ipv4" else ("::1", self.tcp_address[1])
            uid = owner_of_peer((host.strip("[]"), int(port)), own)
            if uid in (os.getuid(), 0):
                return Caller(LOCAL, may_assert=False)
        raise PermissionDenied("this port serves only programs of the user who runs the coordinator, on this host")


Handler = Callable[[Any, bytes, Context, Caller], Awaitable[Message]]
StreamHandler = Callable[[Any, bytes, Context, Caller], AsyncIterator[Message]]


async def fail(context: Context, error: HostlerError) -> None:
    """End a call with an error."""
    context.set_trailing_metadata(trailers_of(error))
    await context.abort(status_of(error), error.message)


def unary(
    gate: Gatekeeper, handler: Callable[[bytes, Caller], Awaitable[Message]]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Wrap a handler of one request and one answer."""

    @functools.wraps(handler)
    async def call(data: bytes, context: Context) -> bytes:
        try:
            return (await handler(data, gate.caller(context))).SerializeToString()
        except HostlerError as error:
            await fail(context, error)
        except Exception as error:  # the call's owner: nothing may leave as a traceback
            if not isinstance(error, grpc.aio.AbortError):
                await fail(context, _internal(error, handler.__name__))
            raise
        raise AssertionError("abort does not return")

    return grpc.unary_unary_rpc_method_handler(call)


def streaming(
    gate: Gatekeeper, handler: Callable[[bytes, Caller], AsyncIterator[Message]]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Wrap a handler of one request and a stream of answers."""

    @functools.wraps(handler)
    async def call(data: bytes, context: Context) -> AsyncIterator[bytes]:
        answers = None
        try:
            answers = handler(data, gate.caller(context))
            async for message in answers:
                yield message.SerializeToString()
        except HostlerError as error:
            await fail(context, error)
        except Exception as error:  # the call's owner, as above
            if not isinstance(error, grpc.aio.AbortError):
                await fail(context, _internal(error, handler.__name__))
            raise
        finally:
            if answers is not None:
                await answers.aclose()  # type: ignore[attr-defined]

    return grpc.unary_stream_rpc_method_handler(call)


def duplex(
    gate: Gatekeeper, handler: Callable[[Context, Caller], Awaitable[None]]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Wrap a handler that reads from and writes to the context by itself."""

    @functools.wraps(handler)
    async def call(_: Any, context: Context) -> None:
        try:
            await handler(context, gate.caller(context))
        except HostlerError as error:
            await fail(context, error)
        except Exception as error:  # the call's owner, as above
            if not isinstance(error, grpc.aio.AbortError):
                await fail(context, _internal(error, handler.__name__))
            raise

    return grpc.stream_stream_rpc_method_handler(call)


def _internal(error: Exception, method: str) -> InternalError:
    logs.get().error("request.failed", method=method, exc_info=error)
    return InternalError("a fault of hostler's own; the coordinator's log has the details")
