"""A blob store in a directory of its own, and the services of files on a real gRPC server in this process."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest

from coordinator.blobs import BlobStore
from coordinator.rpc.file_rights import FileRights
from coordinator.rpc.files_service import FilesService
from coordinator.rpc.outputs_service import OutputsService
from coordinator.sessions import Sessions
from coordinator.shows import Shows
from hostler.channel_options import CHANNEL_OPTIONS
from hostler.client import open_channel
from hostler.clock import ManualClock
from hostler.files_client import FilesClient
from tests.files.file_server import add_files, add_outputs
from tests.files.stand_ins import StoreStandIn


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path: sockets in it may have 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="hf-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def blobs(place: Path) -> BlobStore:
    """An empty store without a reserve, opened two hours ago."""
    clock = ManualClock()
    made = BlobStore(place / "files", reserve_bytes=0, monotonic=clock.monotonic)
    made.open()
    clock.advance(7200)
    return made


@pytest.fixture
def store() -> StoreStandIn:
    """What the services ask of the database."""
    return StoreStandIn()


@pytest.fixture
def sessions() -> Sessions:
    """No worker is connected."""
    return Sessions()


@pytest.fixture
def shows(sessions: Sessions) -> Shows:
    """Waits for workers for half a second only."""
    return Shows(sessions, answer_s=0.5)


@pytest.fixture
async def channel(place: Path, blobs: BlobStore, store: StoreStandIn, shows: Shows) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with the services of files; an upload may be silent for a second."""
    server = grpc.aio.server(options=list(CHANNEL_OPTIONS))
    add_files(server, FilesService(blobs, FileRights(store.as_store()), stall_s=1.0))
    add_outputs(server, OutputsService(store.as_store(), blobs, shows, store.live_outputs))
    server.add_insecure_port(f"unix:{place}/s")
    await server.start()
    async with open_channel(f"unix:{place}/s") as made:
        yield made
    await server.stop(0)


@pytest.fixture
def files(channel: grpc.aio.Channel) -> FilesClient:
    """The typed client."""
    return FilesClient(channel, lambda principal: principal or "")
