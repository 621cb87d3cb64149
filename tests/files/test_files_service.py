"""The service Files through the typed client and a real server: whole round trips, refusals, broken uploads."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from coordinator.blobs import BlobStore
from hostler.errors import DeadlineExceeded, FileNotFound, HostlerError, InvalidRequest, TooLarge, Unavailable
from hostler.files_client import FilesClient
from hostler.v1 import files_pb2, files_pb2_grpc
from hostler.wire.errors import error_from_call
from tests.files.stand_ins import NO_DIGESTS, content_of, digest_of, files_below, pieces_of, stored
from tests.support.waiting import eventually


async def refused_put(channel: grpc.aio.Channel, *requests: files_pb2.PutRequest) -> HostlerError:
    """The error that an upload of these messages ends with."""

    async def send() -> AsyncIterator[files_pb2.PutRequest]:
        for request in requests:
            yield request

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await files_pb2_grpc.FilesStub(channel).Put(send(), timeout=20)
    return error_from_call(refused.value)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [0, 1, 3 * 1024 * 1024 + 7])
async def test_bytes_go_in_and_come_out(files: FilesClient, size: int, announced: bool) -> None:
    """A client-streaming call is answered by one message; reading says first what follows."""
    content = os.urandom(size)
    put = await files.put(pieces_of(content), size_bytes=size if announced else 0)
    assert (put.digest, put.size_bytes) == (digest_of(content), size)

    async with files.read(put.digest) as reading:
        assert (reading.size_bytes, reading.digest) == (size, put.digest)
        assert await content_of(reading) == content


async def test_a_part_is_read_and_the_size_is_that_of_the_whole(files: FilesClient) -> None:
    """Offsets and lengths beyond the end are cut."""
    put = await files.put(pieces_of(b"0123", b"456789"))
    for offset, length, expected in ((2, 3, b"234"), (8, 9, b"89"), (99, 1, b""), ((1 << 64) - 1, 1, b"")):
        async with files.read(put.digest, offset=offset, length=length) as reading:
            assert reading.size_bytes == 10
            assert await content_of(reading) == expected


@pytest.mark.parametrize("name", [*NO_DIGESTS, "a" * 64])
async def test_what_is_not_stored_is_not_found(files: FilesClient, name: str) -> None:
    """A name that is no digest too."""
    with pytest.raises(FileNotFound):
        async with files.read(name):
            raise AssertionError


async def test_an_upload_without_its_last_message_leaves_nothing(channel: grpc.aio.Channel, place: Path) -> None:
    """An orderly end of the stream is not enough."""
    error = await refused_put(channel, files_pb2.PutRequest(bytes=b"half"))

    assert isinstance(error, InvalidRequest)
    assert files_below(place / "files") == []


async def test_an_upload_without_any_message_is_refused(channel: grpc.aio.Channel) -> None:
    """And does not hang."""
    assert isinstance(await refused_put(channel), InvalidRequest)


async def test_a_client_that_fails_in_the_middle_leaves_nothing(files: FilesClient, place: Path) -> None:
    """The client's own exception comes out, and the server unlinks at once."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        await eventually(lambda: files_below(place / "files"), "the first bytes are staged")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await files.put(broken())
    await eventually(lambda: files_below(place / "files") == [], "nothing is left")


async def test_a_client_that_goes_away_leaves_nothing(channel: grpc.aio.Channel, blobs: BlobStore, place: Path) -> None:
    """A cancelled call ends the upload, and its place is free for others."""
    for _ in range(6):
        call = files_pb2_grpc.FilesStub(channel).Put(timeout=20)
        await call.write(files_pb2.PutRequest(bytes=b"x" * 1000))
        await eventually(lambda: files_below(place / "files"), "the first bytes are staged")
        call.cancel()
        await eventually(lambda: files_below(place / "files") == [], "nothing is left")
    async with asyncio.timeout(5), blobs.receive(0):
        pass


async def test_a_silent_upload_is_given_up(channel: grpc.aio.Channel, place: Path) -> None:
    """It keeps others waiting: after a while the call ends and nothing is kept."""
    call = files_pb2_grpc.FilesStub(channel).Put(timeout=20)
    await call.write(files_pb2.PutRequest(bytes=b"x" * 1000))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert isinstance(error_from_call(refused.value), DeadlineExceeded)
    assert files_below(place / "files") == []


async def test_a_piece_over_a_mebibyte_is_refused(channel: grpc.aio.Channel, place: Path) -> None:
    """Memory stays small only when pieces do."""
    error = await refused_put(channel, files_pb2.PutRequest(bytes=bytes(1200 * 1024), complete=True))

    assert isinstance(error, TooLarge)
    assert files_below(place / "files") == []


async def test_another_size_than_announced_is_refused(files: FilesClient, place: Path) -> None:
    """A file that changed while it was sent is not what was meant."""
    for content in (b"12", b"1234"):
        with pytest.raises(InvalidRequest) as refused:
            await files.put(pieces_of(content), size_bytes=3)
        assert refused.value.field == "size_bytes"
    assert files_below(place / "files") == []


async def test_what_does_not_fit_is_refused_at_once(channel: grpc.aio.Channel) -> None:
    """Before the first byte is sent."""
    call = files_pb2_grpc.FilesStub(channel).Put(timeout=20)
    await call.write(files_pb2.PutRequest(size_bytes=1 << 60))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert isinstance(error_from_call(refused.value), Unavailable)


async def test_a_client_is_told_when_to_go_on(channel: grpc.aio.Channel) -> None:
    """By the call's initial metadata, once there is room for what was announced."""
    call = files_pb2_grpc.FilesStub(channel).Put(timeout=20)
    await call.write(files_pb2.PutRequest(size_bytes=2))
    async with asyncio.timeout(10):
        assert ("hostler-go-on", "1") in tuple(await call.initial_metadata())
    await call.write(files_pb2.PutRequest(bytes=b"ab", complete=True))
    assert (await call).digest == digest_of(b"ab")


async def test_bytes_that_are_no_message_are_refused(channel: grpc.aio.Channel) -> None:
    """Undecodable bytes are the caller's fault, in both calls."""
    put: Any = channel.stream_unary("/hostler.v1.Files/Put")
    read: Any = channel.unary_stream("/hostler.v1.Files/Read")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await put(iter([b"\xff\xff\xff"]), timeout=20)
    assert isinstance(error_from_call(refused.value), InvalidRequest)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(b"\xff\xff\xff", timeout=20).read()
    assert isinstance(error_from_call(refused.value), InvalidRequest)


async def test_a_reader_that_goes_away_leaves_nothing_open(files: FilesClient, blobs: BlobStore, place: Path) -> None:
    """No descriptor stays, and a sweep may have the bytes again."""
    digest = await stored(blobs, os.urandom(20_000_000))
    path = str(blobs.path(digest))
    async with files.read(digest) as reading:
        await anext(reading.pieces)
    os.utime(path, (0, 0))

    async def nobody(digests: object) -> set[str]:
        return set()

    await eventually(lambda: path not in _open_files())
    async with asyncio.timeout(10):
        while not await blobs.sweep(nobody):
            os.utime(path, (0, 0))
            await asyncio.sleep(0.01)


def _open_files() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return found
