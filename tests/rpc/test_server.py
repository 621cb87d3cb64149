"""Who may call, and what every gRPC server should answer: health and reflection."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from coordinator.app import Coordinator, EngineFailed
from coordinator.audit import AuditLog
from coordinator.retention import Retention
from coordinator.rpc.guard import Guard
from coordinator.storage.protocol import StoreBroken
from coordinator.storage.sqlite import SqliteStore
from hostler.client import Client, open_channel
from hostler.endpoint import coordinator_socket, read_endpoint
from hostler.errors import InvalidRequest, Unauthenticated
from hostler.ids import is_uuid
from hostler.settings import Settings, load
from tests.support.builders import a_spec

NOBODY = 65534
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    """With a TCP port that the kernel chooses."""
    return load(data_dir=data_dir, grpc="127.0.0.1:0", disk_reserve_bytes=0, heartbeat_s=60.0)


@contextlib.asynccontextmanager
async def as_nobody(address: str) -> AsyncIterator[str]:
    """An address that leads to *address* through sockets that belong to another user."""
    host, _, port = address.rpartition(":")
    script = f"exec 3<>/dev/tcp/{host}/{port} && {{ cat <&3 & exec cat >&3; }}"
    children: list[asyncio.subprocess.Process] = []
    pumps: list[asyncio.Task[None]] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        child = await asyncio.create_subprocess_exec(
            # Not `user=`: next to gRPC that forks in a way that loses some of the children.
            *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "/bin/bash", "-c", script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        children.append(child)
        assert child.stdin is not None and child.stdout is not None
        pumps.append(asyncio.create_task(_pump(reader, child.stdin)))
        pumps.append(asyncio.create_task(_pump(child.stdout, writer)))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def test_our_own_programs_may_use_the_port(coordinator: Coordinator) -> None:
    """Of the same user, on this host."""
    async with Client(coordinator.grpc_address) as client:
        assert is_uuid(await client.submit_one(a_spec()))


@pytest.mark.parametrize(
    "name", ["forwarded", "via", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "x-client-ip"]
)
async def test_metadata_of_a_proxy_ends_the_trust(coordinator: Coordinator, data_dir: Path, name: str) -> None:
    """What comes through a proxy comes from anybody; on the socket, too."""
    for address in (coordinator.grpc_address, f"unix:{coordinator_socket(data_dir)}"):
        async with open_channel(address) as channel:
            call: Any = channel.unary_unary("/hostler.v1.Cluster/Describe")
            call = call(b"", timeout=10, metadata=((name, "127.0.0.1"),))

            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "proxy" in await call.details()


async def test_behind_a_proxy_a_key_counts(coordinator: Coordinator) -> None:
    """It says who that is."""
    async with Client(coordinator.grpc_address) as client:
        key = (await client.access.create_key("k", scopes=["viewer"])).text
    async with open_channel(coordinator.grpc_address) as channel:
        call: Any = channel.unary_unary("/hostler.v1.Cluster/Describe")
        call = call(b"", timeout=10, metadata=(("via", "1.1 x"), ("x-api-key", key)))

        assert await call.code() is grpc.StatusCode.OK


async def test_the_port_takes_nobody_s_word_for_who_asks(coordinator: Coordinator) -> None:
    """Only the gateway's way in may speak for others."""
    async with Client(coordinator.grpc_address, principal="ada") as client:
        job = await client.get(await client.submit_one(a_spec()))

    assert job.spec.owner == "local"


async def test_another_user_is_refused(coordinator: Coordinator) -> None:
    """In every service, those of grpcio too; a user who may use neither port nor socket learns nothing."""
    async with as_nobody(coordinator.grpc_address) as address, open_channel(address) as made:
        channel: Any = made
        health: Any = health_pb2_grpc.HealthStub(channel)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        calls: list[Any] = [
            channel.unary_unary("/hostler.v1.Jobs/Submit")(b"", timeout=10),
            channel.unary_unary("/hostler.v1.Cluster/Describe")(b"", timeout=10),
            channel.unary_stream("/hostler.v1.Jobs/Watch")(b"", timeout=10),
            channel.stream_stream("/hostler.v1.Workers/Connect")(iter([b""]), timeout=10),
            channel.stream_stream("/hostler.v1.Workers/PushLog")(iter([b""]), timeout=10),
            channel.stream_stream("/hostler.v1.Jobs/Feed")(iter([b""]), timeout=10),
            health.Check(health_pb2.HealthCheckRequest(), timeout=10),
            reflection.ServerReflectionInfo(iter([_list()]), timeout=10),
        ]
        codes = [await call.code() for call in calls]

    assert codes == [grpc.StatusCode.UNAUTHENTICATED] * len(calls)


async def test_another_user_is_told_whom_the_port_serves(coordinator: Coordinator) -> None:
    """As the error it is."""
    async with as_nobody(coordinator.grpc_address) as address, Client(address) as client:
        with pytest.raises(Unauthenticated, match="the user who runs the coordinator"):
            await client.describe()


async def test_the_endpoint_says_where_the_coordinator_is(coordinator: Coordinator, data_dir: Path) -> None:
    """For whoever knows the data directory, and only for its user."""
    endpoint = read_endpoint(data_dir)

    assert endpoint is not None
    assert (endpoint.grpc, endpoint.pid) == (coordinator.grpc_address, os.getpid())
    async with Client(endpoint.socket) as client:
        assert (await client.describe()).data_dir == str(data_dir)
        made = await client.access.create_key("viewer", scopes=["viewer"])
        assert (await client.describe(principal=f"key:{made.key.id}")).data_dir == ""
    assert (data_dir / "run").stat().st_mode & 0o777 == 0o700


async def test_a_second_coordinator_is_refused_and_the_first_goes_on(
    coordinator: Coordinator, settings: Settings
) -> None:
    """With the process that holds the directory."""
    with pytest.raises(InvalidRequest, match=rf"pid {os.getpid()}"):
        async with Coordinator(settings):
            pass

    async with Client(coordinator.grpc_address) as client:
        assert await client.submit_one(a_spec())


async def test_a_coordinator_whose_store_breaks_while_it_starts_ends(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for answers that its engine will never give."""

    async def broken(*_: object) -> dict[int, bytes]:
        raise StoreBroken("disk I/O error")

    monkeypatch.setattr(SqliteStore, "commit", broken)

    async with asyncio.timeout(20):
        with pytest.raises(EngineFailed):
            async with Coordinator(load(data_dir=data_dir, grpc="", disk_reserve_bytes=0)):
                pytest.fail("it has started")


@pytest.mark.parametrize("owner", [Guard, Retention, AuditLog])
async def test_a_coordinator_of_which_a_part_has_ended_by_itself_ends(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, owner: type
) -> None:
    """Without it, calls of revoked keys would go on, or nothing would be removed, or written down: unheard."""
    fail = asyncio.Event()

    async def run(_: object) -> None:
        await fail.wait()
        raise RuntimeError("a fault")

    monkeypatch.setattr(owner, "run", run)
    async with Coordinator(settings) as coordinator:
        failed = asyncio.create_task(coordinator.failed())
        assert not (await asyncio.wait((failed,), timeout=0.1))[0]
        fail.set()
        async with asyncio.timeout(20):
            await failed


async def test_a_port_that_is_taken_is_one_sentence(coordinator: Coordinator, tmp_path: Path) -> None:
    """That says what to do."""
    other = load(data_dir=tmp_path / "d", grpc=coordinator.grpc_address, disk_reserve_bytes=0)

    with pytest.raises(InvalidRequest, match="--grpc"):
        async with Coordinator(other):
            pass


async def test_health_is_answered(channel: Any) -> None:
    """For probes: of the server as a whole."""
    stub: Any = health_pb2_grpc.HealthStub(channel)

    assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)).status == SERVING


async def test_reflection_names_every_service(channel: Any) -> None:
    """So that grpcurl needs no files."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    answers = [answer async for answer in stub.ServerReflectionInfo(iter([_list()]), timeout=10)]

    names = {service.name for service in answers[0].list_services_response.service}
    assert names >= {"hostler.v1.Jobs", "hostler.v1.Cluster", "hostler.v1.Workers", "grpc.health.v1.Health"}


def _list() -> Any:
    return reflection_pb2.ServerReflectionRequest(list_services="")


@pytest.mark.ci
async def test_a_quiet_stream_outlives_many_keepalives(coordinator: Coordinator) -> None:
    """A client's pings, a second and more apart, are no attack; with a wrong option name the third was the last."""
    options = [("grpc.keepalive_time_ms", 1_200), ("grpc.http2.max_pings_without_data", 0)]
    async with grpc.aio.insecure_channel(coordinator.grpc_address, options=options) as made:
        channel: Any = made
        quiet = channel.unary_stream("/hostler.v1.Jobs/Watch")(b"")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(9):  # seven pings; an end of the stream would raise an AioRpcError here
                await quiet.read()
        quiet.cancel()


async def test_a_name_that_nobody_knows_is_said_to_be_that(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a sentence of ours, and without a line of gRPC's own."""
    with pytest.raises(InvalidRequest, match=r"the name nosuch\.invalid cannot be resolved; .*--grpc"):
        async with Coordinator(load(data_dir=data_dir, grpc="nosuch.invalid:1", sample_workloads=False)):
            pass
    assert "add_port" not in capfd.readouterr().err
