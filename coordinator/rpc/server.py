"""The gRPC server: which RPC goes where, limits, health, reflection, graceful stop."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from coordinator.rpc.cluster_service import ClusterService
from coordinator.rpc.context import Gatekeeper, duplex, streaming, unary
from coordinator.rpc.feed_service import FeedService
from coordinator.rpc.files_service import FilesService
from coordinator.rpc.guarded import GuardedServer
from coordinator.rpc.jobs_service import JobsService
from coordinator.rpc.log_service import LogService
from coordinator.rpc.outputs_service import OutputsService
from coordinator.rpc.records_service import RecordsService
from coordinator.rpc.workers_service import WorkersService
from coordinator.rpc.workloads_service import WorkloadsService
from hostler.client import MESSAGE_BYTES_MAX
from hostler.errors import InvalidRequest
from hostler.tls import Identity

STOP_GRACE_S = 2.0
SERVICES = ("Jobs", "Records", "Cluster", "Files", "Workloads", "Workers")
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
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What answers the RPCs."""

    jobs: JobsService
    log: LogService
    feed: FeedService
    outputs: OutputsService
    files: FilesService
    workloads: WorkloadsService
    records: RecordsService
    cluster: ClusterService
    workers: WorkersService


class RpcServer:
    """Serves the contract on the unix socket and, where asked, on a loopback port."""

    def __init__(self, services: Services, identity: Identity | None = None) -> None:
        """Serve *services*; with an *identity* the TCP port speaks TLS and asks for the cluster key."""
        self._identity = identity
        self._gate = Gatekeeper(identity)
        self._server = grpc.aio.server(options=list(OPTIONS), maximum_concurrent_rpcs=None)
        for name, methods in self._methods(services).items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
        self._health = health.aio.HealthServicer()
        guarded: Any = GuardedServer(self._gate)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, guarded)
        names = (*(f"hostler.v1.{name}" for name in SERVICES), health.SERVICE_NAME)
        reflected = reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, guarded)  # type: ignore[no-untyped-call]
        self._server.add_generic_rpc_handlers(tuple(guarded.handlers))

    def _methods(self, s: Services) -> "dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]":
        gate = self._gate
        return {
            "hostler.v1.Jobs": {
                "Submit": unary(gate, s.jobs.submit),
                "Get": unary(gate, s.jobs.get),
                "List": unary(gate, s.jobs.list),
                "Stop": unary(gate, s.jobs.stop),
                "Signal": unary(gate, s.jobs.signal),
                "Feed": duplex(gate, s.feed.feed),
                "Wait": streaming(gate, s.jobs.wait),
                "Watch": streaming(gate, s.jobs.watch),
                "ReadLog": streaming(gate, s.log.read_log),
                "ListOutputs": unary(gate, s.outputs.list_outputs),
                "ReadOutput": streaming(gate, s.outputs.read_output),
                "ReadArchive": streaming(gate, s.outputs.read_archive),
            },
            "hostler.v1.Cluster": {
                "ListWorkers": unary(gate, s.cluster.list_workers),
                "DrainWorker": unary(gate, s.cluster.drain_worker),
                "ResumeWorker": unary(gate, s.cluster.resume_worker),
                "ReleaseWorker": unary(gate, s.cluster.release_worker),
                "Describe": unary(gate, s.cluster.describe),
                "Metrics": unary(gate, s.cluster.metrics),
            },
            "hostler.v1.Files": {
                # Both take a stream and answer once: to the caller a stream of one answer is the same.
                "Put": duplex(gate, s.files.put),
                "Read": streaming(gate, s.files.read),
            },
            "hostler.v1.Workloads": {
                "Apply": unary(gate, s.workloads.apply),
                "Get": unary(gate, s.workloads.get),
                "List": unary(gate, s.workloads.list),
                "Remove": unary(gate, s.workloads.remove),
            },
            "hostler.v1.Records": {
                "Put": unary(gate, s.records.put),
                "Find": unary(gate, s.records.find),
            },
            "hostler.v1.Workers": {
                "Connect": duplex(gate, s.workers.connect),
                "PushLog": duplex(gate, s.workers.push_log),
                "SendOutput": duplex(gate, s.outputs.send_output),
            },
        }

    async def start(self, socket: Path, tcp: tuple[str, int] | None) -> str:
        """Listen; returns HOST:PORT of the TCP port, empty without one.

        Raises:
            InvalidRequest: an address cannot be bound.
        """
        await asyncio.to_thread(socket.unlink, missing_ok=True)
        try:
            self._server.add_insecure_port(f"unix:{socket}")
        except RuntimeError as error:
            raise InvalidRequest(f"cannot listen on {socket}: {error}") from error
        bound = ""
        if tcp is not None:
            host, port = tcp
            name = f"[{host}]" if ":" in host else host
            try:
                port = self._add_port(f"{name}:{port}")
            except RuntimeError as error:
                raise InvalidRequest(
                    f"cannot listen on {name}:{port}: the port is taken; choose another with --grpc HOST:PORT"
                ) from error
            self._gate.tcp_address = (host, port)
            bound = f"{name}:{port}"
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return bound

    def _add_port(self, address: str) -> int:
        identity = self._identity
        if identity is None:
            return self._server.add_insecure_port(address)
        credentials = grpc.ssl_server_credentials([(identity.private_key, identity.certificate)])
        return self._server.add_secure_port(address, credentials)

    async def stop(self) -> None:
        """Say that we are leaving, end streams, give unary calls a moment."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(STOP_GRACE_S)
