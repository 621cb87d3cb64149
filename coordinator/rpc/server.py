"""The gRPC server: which RPC goes where, limits, health, reflection, graceful stop."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from coordinator.rpc.auditing import Auditing
from coordinator.rpc.gatekeeper import Gatekeeper
from coordinator.rpc.guard import Guard
from coordinator.rpc.guarded import GuardedServer
from coordinator.rpc.methods import SERVICES, Services, wrapped
from hostler.channel_options import MESSAGE_BYTES_MAX, STEADY_READS
from hostler.errors import InvalidRequest
from hostler.tls import Pair

if TYPE_CHECKING:
    from coordinator.authority import Shown  # takes long to load

STOP_GRACE_S = 2.0
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),  # the name in C core; others are silently ignored
    ("grpc.http2.max_ping_strikes", 2),
    *STEADY_READS,
)


class Bound(NamedTuple):
    """Where a server listens."""

    grpc: str  # HOST:PORT, empty without a TCP port
    workers_port: int  # 0: none


def joined_address(host: str, port: int) -> str:
    """HOST:PORT, with brackets where they must be."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class RpcServer:
    """Serves the contract on the unix socket and, where asked, on TCP ports."""

    def __init__(
        self, services: Services, gate: Gatekeeper, shown: "Shown | None" = None, audit: Auditing | None = None
    ) -> None:
        """Serve *services* to whom *gate* lets in; with a certificate that is *shown* every TCP port speaks TLS.

        Raises:
            NoPolicy: of a method nobody has said who may call it.
        """
        self._shown = shown
        self._gate = gate
        self._guard = Guard(gate, audit)
        self.owned: list[asyncio.Task[None]] = []  # what it does beside calls, once it serves; none ends by itself
        self._server = grpc.aio.server(options=list(OPTIONS), maximum_concurrent_rpcs=None)
        for name, handlers in wrapped(services, self._guard).items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        self._health = health.aio.HealthServicer()
        guarded: Any = GuardedServer(self._gate)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, guarded)
        names = (*(f"hostler.v1.{name}" for name in SERVICES), health.SERVICE_NAME)
        reflected = reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, guarded)  # type: ignore[no-untyped-call]
        self._server.add_generic_rpc_handlers(tuple(guarded.handlers))

    async def start(self, socket: Path, tcp: tuple[str, int] | None, workers: tuple[str, int] | None = None) -> Bound:
        """Listen; returns where.

        *workers* is the port that only workers with a certificate reach; the server must show a certificate, too.

        Raises:
            InvalidRequest: an address cannot be bound.
        """
        await asyncio.to_thread(socket.unlink, missing_ok=True)
        try:
            self._server.add_insecure_port(f"unix:{socket}")
        except RuntimeError as error:
            raise InvalidRequest(f"cannot listen on {socket}: {error}") from error
        bound, workers_port = "", 0
        if tcp is not None:
            host, port = tcp
            port = await self._listen(host, port, "--grpc HOST:PORT")
            self._gate.tcp_address = (host, port)
            bound = joined_address(host, port)
        if workers is not None:
            workers_port = await self._listen(*workers, "the setting workers_bind", workers=True)
        await self._server.start()
        self.owned.append(asyncio.create_task(self._guard.run()))
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return Bound(bound, workers_port)

    async def _listen(self, host: str, port: int, choice: str, *, workers: bool = False) -> int:
        address = joined_address(host, port)
        try:
            # Asked here, for gRPC says only on standard error what it does not find.
            await asyncio.get_running_loop().getaddrinfo(host or None, port)
        except OSError as error:
            raise InvalidRequest(
                f"cannot listen on {address}: the name {host} cannot be resolved; give an address of this host with "
                f"{choice}"
            ) from error
        try:
            if self._shown is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, _credentials(self._shown, workers=workers))
        except RuntimeError as error:
            raise InvalidRequest(
                f"cannot listen on {address}: the port is taken, or the address is not this host's; choose another "
                f"with {choice}"
            ) from error

    async def stop(self) -> None:
        """Say that we are leaving, end streams, give unary calls a moment."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(STOP_GRACE_S)
        for task in self.owned:
            task.cancel()
        await asyncio.gather(*self.owned, return_exceptions=True)


def _credentials(shown: "Shown", *, workers: bool) -> grpc.ServerCredentials:
    """TLS with what is shown at the moment of each handshake; for *workers* only those whom the authority knows."""
    authority = shown.authority.pem if workers else None
    current = shown.pair()

    def configuration(pair: Pair) -> Any:
        return grpc.ssl_server_certificate_configuration([(pair.private_key, pair.certificate)], authority)

    def fetch() -> Any:
        nonlocal current
        if (pair := shown.pair()) is current:
            return None  # as before
        current = pair
        return configuration(pair)

    return grpc.dynamic_ssl_server_credentials(configuration(current), fetch, workers)
