"""Large files pass through in small memory, on both sides."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hostler.client import open_channel
from hostler.files_client import FilesClient

PIECE = bytes(range(256)) * 4096
GROWTH_BYTES_MAX = 32 * 1024 * 1024


@pytest.fixture
def server(place: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The service Files in a process of its own."""
    command = [sys.executable, "-m", "tests.files.file_server", f"{place}/large", str(place / "large-files")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.stdin.close()
        process.wait(20)


def memory_bytes(pid: int | str) -> int:
    """The proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024


async def pieces(count: int) -> AsyncIterator[bytes]:
    """So many mebibytes."""
    for _ in range(count):
        yield PIECE


async def test_200_mebibytes_grow_neither_side_by_32(server: "subprocess.Popen[bytes]", place: Path) -> None:
    """Flow control holds whoever is faster: measured after an upload and again after reading it."""
    async with open_channel(f"unix:{place}/large") as channel:
        files = FilesClient(channel, lambda principal: "")
        await files.put(pieces(8))  # what a first call allocates is no growth
        before = memory_bytes(server.pid), memory_bytes("self")
        put = await files.put(pieces(200), size_bytes=200 * len(PIECE))
        after_put = memory_bytes(server.pid), memory_bytes("self")
        received = 0
        async with files.read(put.digest) as reading:
            async for piece in reading.pieces:
                received += len(piece)
        after_read = memory_bytes(server.pid), memory_bytes("self")

    assert received == put.size_bytes == 200 * len(PIECE)
    for after in (after_put, after_read):
        growths = [now - then for now, then in zip(after, before, strict=True)]
        assert max(growths) < GROWTH_BYTES_MAX, growths


async def test_a_reader_that_does_not_take_holds_the_server_back(
    server: "subprocess.Popen[bytes]", place: Path
) -> None:
    """The server does not read ahead into memory what nobody takes."""
    async with open_channel(f"unix:{place}/large") as channel:
        files = FilesClient(channel, lambda principal: "")
        put = await files.put(pieces(100))
        before = memory_bytes(server.pid)
        async with files.read(put.digest) as reading, files.read(put.digest) as other:
            first = await anext(reading.pieces)
            async for _ in other.pieces:  # as long as a whole file takes, the first reader takes nothing
                pass
            assert memory_bytes(server.pid) - before < GROWTH_BYTES_MAX
            assert len(first) + sum([len(piece) async for piece in reading.pieces]) == 100 * len(PIECE)
