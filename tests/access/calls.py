"""Bare calls of every RPC of the contract, and how they end."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from hostler.policy import RPCS, Scope
from hostler.v1 import access_pb2, files_pb2, jobs_pb2, workers_pb2, workloads_pb2

MODULES = (access_pb2, files_pb2, jobs_pb2, workers_pb2, workloads_pb2)
METHODS: Mapping[str, MethodDescriptor] = {
    f"{service.name}/{method.name}": method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
CALL_S = 20.0
BROKEN_OFF_MAX = 5  # times that a call is made which gRPC itself shows as broken off, as it may one that is refused
# What gRPC's client makes of a call that was refused while it was still writing: the server's word is lost in it.
LOST_IN_CLIENT = "Internal error from Core"
OPEN_S = 0.5  # so long a stream is looked at that is to stay open

SCOPED = {name: rule for name, rule in RPCS.items() if isinstance(rule, Scope)}


class End(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    text: str


def request_of(name: str, **fields: Any) -> Any:
    """A request of a method."""
    return GetMessageClass(METHODS[name].input_type)(**fields)


def start(
    channel: Any, name: str, key: str = "", *, timeout_s: float = CALL_S, bearer: bool = False, **fields: Any
) -> Any:
    """Begin a call that shows *key*."""
    method, path = METHODS[name], f"/hostler.v1.{name}"
    message = request_of(name, **fields).SerializeToString()
    shown = (("authorization", f"Bearer {key}") if bearer else ("x-api-key", key),) if key else ()
    if method.client_streaming:
        return channel.stream_stream(path)(iter([message]), timeout=timeout_s, metadata=shown)
    if method.server_streaming:
        return channel.unary_stream(path)(message, timeout=timeout_s, metadata=shown)
    return channel.unary_unary(path)(message, timeout=timeout_s, metadata=shown)


async def end_of(channel: Any, name: str, key: str = "", *, bearer: bool = False, **fields: Any) -> End:
    """Call a method and say how that ended; what has happened is asked of an endless stream, and not what will."""
    if name == "Jobs/Watch":
        fields = {"once": True, **fields}
    for _ in range(BROKEN_OFF_MAX):
        call = start(channel, name, key, bearer=bearer, **fields)
        end = await end_after_reading(call, stream=METHODS[name].server_streaming)
        if end.code is not grpc.StatusCode.CANCELLED and end.text != LOST_IN_CLIENT:
            break
    return end


async def end_after_reading(call: Any, *, stream: bool) -> End:
    """How a call ends whose answers are taken."""
    if stream:  # what nobody reads holds its end back
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
    return End(await call.code(), await call.details() or "")
