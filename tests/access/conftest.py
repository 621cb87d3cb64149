"""A coordinator whose TCP port takes nobody for a local user, and keys for it."""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest

from coordinator.app import Coordinator
from hostler.client import Client, open_channel
from hostler.endpoint import coordinator_socket
from hostler.settings import Settings, load
from tests.support.fake_worker import FakeWorker


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory with a short path: sockets below it may have 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="ha-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    """A TCP port that the kernel chooses, and nothing that a test does not need."""
    return load(data_dir=data_dir, grpc="127.0.0.1:0", disk_reserve_bytes=0, heartbeat_s=60.0, sample_workloads=False)


@pytest.fixture
async def coordinator(settings: Settings) -> AsyncIterator[Coordinator]:
    """A running coordinator to which every TCP caller is a stranger."""
    async with Coordinator(settings, lookup=lambda peer, own: None) as running:
        yield running


@pytest.fixture
def address(coordinator: Coordinator, data_dir: Path) -> str:
    """Its unix socket."""
    return f"unix:{coordinator_socket(data_dir)}"


@pytest.fixture
async def local(address: str) -> AsyncIterator[Client]:
    """The user who runs it; may speak for others."""
    async with Client(address) as made:
        yield made


@pytest.fixture
async def port(coordinator: Coordinator) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel to its TCP port."""
    async with open_channel(coordinator.grpc_address) as made:
        yield made


@pytest.fixture
async def worker(address: str) -> AsyncIterator[FakeWorker]:
    """A connected fake worker with four slots."""
    async with contextlib.AsyncExitStack() as stack:
        made = FakeWorker(address)
        stack.push_async_callback(made.close)
        await made.connect()
        yield made
