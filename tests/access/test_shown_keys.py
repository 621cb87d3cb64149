"""The setting key_file on the coordinator's own host: its holder and nothing more, on every call of every kind."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest

from coordinator.app import Coordinator
from hostler.cli.main import call
from hostler.cli.session import describes
from hostler.client import Client, connect, open_channel
from hostler.endpoint import read_gateway
from hostler.errors import HostlerError, InvalidRequest, JobNotFound, PermissionDenied
from hostler.settings import base_environment, load
from hostler.tls import Access, Target, target_of
from tests.support.builders import a_spec
from tests.support.waiting import eventually

Hostler = Callable[..., Awaitable[tuple[int, str]]]
MakeKey = Callable[..., Awaitable[str]]
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


@pytest.fixture
def make_key(local: Client, data_dir: Path) -> MakeKey:
    """Makes a file with a key."""

    async def make(role: str) -> str:
        made = await local.access.create_key(role, scopes=[role])
        return kept(data_dir, f"{made.text}\n")

    return make


@pytest.fixture
def hostler(data_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Hostler:
    """Runs a command with HOSTLER_KEY_FILE; gives its exit code and what it says."""

    async def run(file: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setenv("HOSTLER_KEY_FILE", file)
        code = await asyncio.to_thread(call, [arguments[0], "--data-dir", str(data_dir), *arguments[1:]])
        return code, "".join(capfd.readouterr())

    return run


def kept(directory: Path, text: str, mode: int = 0o600) -> str:
    """A file with a text."""
    path = directory / "shown.key"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


async def test_a_client_of_the_data_directory_is_the_keys_holder(
    local: Client, data_dir: Path, make_key: MakeKey
) -> None:
    """Not `local`, for whom the socket would speak: no other's job is there, and no scope it was not given."""
    others = await local.submit_one(a_spec())
    async with connect(data_dir=data_dir, key_file=await make_key("developer")) as client:
        own = await client.submit_one(a_spec())

        assert (await client.get(own)).spec.owner == "developer"
        with pytest.raises(JobNotFound):
            await client.get(others)
        with pytest.raises(PermissionDenied, match="keys:manage"):
            await client.access.list_keys()


async def test_a_client_of_the_loopback_port_shows_it_too(
    coordinator: Coordinator, data_dir: Path, make_key: MakeKey
) -> None:
    """There its callers are strangers to this coordinator, so only the key lets it in; streams as well."""
    settings = load(data_dir=data_dir, key_file=await make_key("developer"))
    async with Client(target_of(settings, coordinator.grpc_address)) as client:
        job = await client.submit_one(a_spec())
        await client.stop(job)
        assert [progress.id async for progress in client.wait([job], timeout_s=5)] == [job]
        assert await client.files.put_bytes(b"x")


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [("nonsense", 0o600, "holds no key"), ("", 0o600, "holds no key"), ("hst_x", 0o644, "chmod 600")],
)
async def test_a_key_file_of_no_use_is_refused_on_this_host_too(
    data_dir: Path, hostler: Hostler, local: Client, text: str, mode: int, said: str
) -> None:
    """Whoever sets it means not to be `local`."""
    file = kept(data_dir, text, mode)
    for address in (local.address, "127.0.0.1:7070", "[::1]:7070"):
        with pytest.raises(InvalidRequest, match=said):
            target_of(load(data_dir=data_dir, key_file=file), address)
    code, answer = await hostler(file, "jobs")
    assert code == 2 and said in answer


async def test_a_missing_key_file_is_refused(data_dir: Path, hostler: Hostler, local: Client) -> None:
    """By name."""
    code, answer = await hostler(f"{data_dir}/none", "jobs")

    assert code == 2 and f"key_file {data_dir}/none cannot be read" in answer


async def test_the_command_line_is_the_keys_holder(hostler: Hostler, make_key: MakeKey, data_dir: Path) -> None:
    """It may what the key may; one that was taken back opens nothing, and `run` does not look for another cluster."""
    viewer = await make_key("viewer")
    code, answer = await hostler(viewer, "jobs")
    assert code == 0, answer
    code, answer = await hostler(viewer, "submit", "--", "true")
    assert code != 0 and "jobs:submit" in answer
    revoked = kept(data_dir, "hst_0123456789ab_" + "x" * 43)
    code, answer = await hostler(revoked, "jobs")
    assert code != 0 and "key is not good" in answer
    command = [sys.executable, "-m", "hostler.cli.main", "run", "--data-dir", str(data_dir), "--", "true"]
    environment = base_environment() | {"HOSTLER_KEY_FILE": revoked}  # a process: it listens for signals
    run = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
    said = (await asyncio.wait_for(run.communicate(), 30))[1]
    assert run.returncode == 125 and b"key is not good" in said and b"private" not in said


async def test_a_coordinator_that_refuses_a_key_answers(local: Client) -> None:
    """It is no reason for `run` to use a private cluster."""
    async with Client(Target(local.address, Access(key="hst_none"))) as client:
        assert await describes(client, 5.0)


class Recording(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """Serves one method of each kind, and keeps the keys that are shown."""

    def __init__(self) -> None:
        self.shown: list[Sequence[Any]] = []

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method that is named as its kind."""
        name = handler_call_details.method.rpartition("/")[2]

        async def answer(request: Any, context: Any) -> bytes:
            self.shown.append([value for key, value in context.invocation_metadata() if key == "authorization"])
            return b"1"

        async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
            yield await answer(request, context)

        handler: Any = getattr(grpc, f"{name}_rpc_method_handler")
        return handler(stream if name.endswith("_stream") else answer)


@pytest.mark.parametrize("patience_s", [0.0, 1.0])
async def test_every_kind_of_call_shows_the_key_once(data_dir: Path, patience_s: float) -> None:
    """Beside metadata of its own."""
    recording, server = Recording(), grpc.aio.server()
    server.add_generic_rpc_handlers((recording,))
    server.add_insecure_port(f"unix:{data_dir}/s")
    await server.start()
    try:
        target = Target(f"unix:{data_dir}/s", Access(key="hst_mine"))
        async with open_channel(target, patience_s=patience_s) as channel:
            await channel.channel_ready()
            for kind in KINDS:
                begin: Any = getattr(channel, kind)(f"/x/{kind}")
                call = begin(iter([b""]) if kind.startswith("stream") else b"", metadata=(("a", "b"),), timeout=5)
                answer = [each async for each in call] if kind.endswith("stream") else [await call]
                assert answer == [b"1"]
    finally:
        await server.stop(None)

    assert recording.shown == [["Bearer hst_mine"]] * len(KINDS)


@pytest.mark.parametrize("address", ["192.0.2.1:7070", "example.org:7070", "[2001:db8::1]:7070"])
async def test_no_key_goes_over_a_network_in_clear(address: str) -> None:
    """Whoever forgets the authority is refused before a connection is made."""
    with pytest.raises(HostlerError, match="not on this host"):
        open_channel(Target(address, Access(key="hst_mine")))


async def test_a_gateway_at_the_loopback_port_speaks_for_its_callers_with_its_key(
    coordinator: Coordinator, local: Client, data_dir: Path, make_key: MakeKey
) -> None:
    """As from another host: they show keys of their own, for local users it cannot speak."""
    mine = (await local.access.create_key("mine", scopes=["developer"])).text
    settings = load(
        data_dir=data_dir / "far",
        coordinator=coordinator.grpc_address,
        key_file=await make_key("gateway"),
        http="127.0.0.1:0",
        log_format="json",
    )
    command = [sys.executable, "-m", "http_gateway", "--settings", settings.to_json()]
    gateway = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        url = await eventually(lambda: read_gateway(settings.data_dir), "the gateway serves", within_s=30.0)
        async with aiohttp.ClientSession() as session:
            body = {"jobs": [{"argv": ["true"]}]}
            async with session.post(f"{url}/v1/jobs", json=body, headers={"x-api-key": mine}) as response:
                (job,) = (await response.json())["jobs"]
            async with session.get(f"{url}/v1/workers") as response:
                assert response.status == 401
        assert (await local.get(job["id"])).spec.owner == "mine"
    finally:
        gateway.terminate()
        await gateway.wait()
