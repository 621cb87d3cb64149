"""A whole coordinator in this process, over its unix socket, with a client and fake workers."""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from coordinator.app import Coordinator
from hostler.client import Client, open_channel
from hostler.endpoint import coordinator_socket
from hostler.settings import Settings, load
from tests.support.fake_worker import FakeWorker

MakeWorker = Callable[..., Awaitable[FakeWorker]]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory with a short path: sockets below it may have 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="hr-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    """No disk reserve, no TCP port, no samples, and so few heartbeats that none is expected during a test."""
    return load(data_dir=data_dir, grpc="", disk_reserve_bytes=0, heartbeat_s=60.0, sample_workloads=False)


@pytest.fixture
async def coordinator(settings: Settings) -> AsyncIterator[Coordinator]:
    """A running coordinator."""
    async with Coordinator(settings) as running:
        yield running


@pytest.fixture
def address(coordinator: Coordinator, data_dir: Path) -> str:
    """Where it listens."""
    return f"unix:{coordinator_socket(data_dir)}"


@pytest.fixture
async def client(address: str) -> AsyncIterator[Client]:
    """The typed client."""
    async with Client(address) as made:
        yield made


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel, for what the typed client would not say."""
    async with open_channel(address) as made:
        yield made


@pytest.fixture
async def make_worker(address: str) -> AsyncIterator[MakeWorker]:
    """Makes connected fake workers, and ends them."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**hello: Any) -> FakeWorker:
            made = FakeWorker(address, **hello)
            stack.push_async_callback(made.close)
            await made.connect()
            return made

        yield make


@pytest.fixture
async def worker(make_worker: MakeWorker) -> FakeWorker:
    """A connected fake worker with four slots."""
    return await make_worker()
