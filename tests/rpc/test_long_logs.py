"""Logs that are long, and disks that are full: a reader pays for what it reads, and nobody's call fails for either."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator import log_store as log_store_module
from coordinator.changes import Extent, LogStored
from coordinator.log_store import LogStore, Piece, StoredPiece
from coordinator.rpc.log_service import CHUNK_BYTES_MAX, LogService
from coordinator.storage.sqlite import SqliteStore
from coordinator.watchers import Watchers
from hostler.client import Client, LogChunk
from hostler.frames import iter_frames
from hostler.jobs import LogStatus
from hostler.policy import LOCAL
from hostler.v1 import jobs_pb2
from tests.support.builders import a_key, a_spec, an_id, some_frames
from tests.support.fake_worker import FakeWorker
from tests.support.stored import assigned, commit, over, queued, seen
from tests.support.waiting import eventually

PIECES = 40
PIECE = some_frames(*(b"%06d" % number + bytes(30_000) for number in range(10)))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[LogService]:
    """The service of a store with one log of 40 pieces, which lie between those of another."""
    stored: list[StoredPiece] = []
    logs = LogStore(tmp_path / "logs", stored.extend)
    logs.open()
    store = await SqliteStore.open(tmp_path / "hostler.db")
    for number in range(PIECES):
        for job in (1, 2):
            await logs.append(Piece(job, a_key(job), number * len(PIECE), PIECE))
    await eventually(lambda: len(stored) == 2 * PIECES)
    await commit(store, seen(), queued(1), queued(2), assigned(1), assigned(2, sequence=2))
    for job in (1, 2):
        extents: tuple[Extent, ...] = tuple(piece.extent for piece in stored if piece.number == job)
        await commit(store, LogStored(job, a_key(job), extents, PIECES * len(PIECE), 0))
    await commit(store, over(1, ledger_bytes=PIECES * len(PIECE)))
    yield LogService(store, logs, Watchers())
    await store.close()
    await logs.close()


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 0.9999])
async def test_a_log_is_opened_anywhere_without_reading_what_is_before(
    service: LogService, monkeypatch: pytest.MonkeyPatch, place: float
) -> None:
    """The first frames come after one chunk was read, and the piece that holds the position."""
    read: list[int] = []
    real = os.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        read.append(length)
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    position = int(place * PIECES * len(PIECE))
    options: dict[str, Any] = {"from": position}  # a word of the language
    request = jobs_pb2.ReadLogRequest(id=an_id(1), **options)
    chunks = service.read_log(request, LOCAL)

    first = await anext(chunks)

    assert first.position <= position < first.position + len(first.frames)
    start = next(frame for frame in iter_frames(first.frames))
    assert position < first.position + start.end
    assert sum(read) <= CHUNK_BYTES_MAX + len(PIECE)
    await chunks.aclose()  # type: ignore[attr-defined]


async def test_a_full_disk_fails_neither_who_pushes_nor_who_reads(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one is told to push again, the other waits: both go on where they were once there is room."""
    one, two = some_frames(b"one"), some_frames(b"two")
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.report_started(key)
    await worker.open_push()
    await worker.push(key, 0, one)
    await worker.stored(key, len(one))
    chunks: list[LogChunk] = []

    async def follow() -> None:
        async for chunk in client.read_log(job, follow=True):
            chunks.append(chunk)

    following = asyncio.create_task(follow())
    await eventually(lambda: len(chunks) == 1)
    real = os.fdatasync

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on the device")

    monkeypatch.setattr(log_store_module, "REFUSED_PAUSE_S", 0.01)
    monkeypatch.setattr(os, "fdatasync", full)
    for _ in range(3):
        worker.marks.clear()
        await worker.push(key, len(one), two)
        await eventually(lambda: any(mark.rewind and mark.received == len(one) for mark in worker.marks))
    found = [chunk async for chunk in client.read_log(job)]
    assert (b"".join(chunk.frames for chunk in found), found[-1].end) == (one, True)
    assert not following.done()
    monkeypatch.setattr(os, "fdatasync", real)

    await worker.push(key, len(one), two)
    await worker.stored(key, len(one + two))
    await worker.report_ended(key, ledger_bytes=len(one + two))

    await asyncio.wait_for(following, 10)
    assert b"".join(chunk.frames for chunk in chunks) == one + two
    assert chunks[-1].status is LogStatus.COMPLETE
