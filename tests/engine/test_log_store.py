"""Logs in segments: many attempts in one file, one sync for a group, and nothing told before it is durable."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest

from coordinator import log_store as log_store_module
from coordinator.changes import Extent
from coordinator.log_store import LogStore, Piece, StoredPiece
from tests.support.builders import a_key, some_frames
from tests.support.waiting import eventually


class Shelf:
    """A log store and what it said was durable."""

    def __init__(self, directory: Path) -> None:
        self.groups: list[list[StoredPiece]] = []
        self.store = LogStore(directory, self.groups.append)
        self.store.open()

    @property
    def stored(self) -> list[StoredPiece]:
        """Everything that is durable, in order."""
        return [piece for group in self.groups for piece in group]

    async def put(self, *pieces: Piece) -> list[StoredPiece]:
        """Append pieces and wait until so many more are durable."""
        before = len(self.stored)
        for piece in pieces:
            await self.store.append(piece)
        await eventually(lambda: len(self.stored) == before + len(pieces))
        return self.stored[before:]


def a_piece(number: int, position: int, *texts: bytes) -> Piece:
    """Frames of the log of job *number*."""
    return Piece(number, a_key(number), position, some_frames(*texts))


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    """An open log store."""
    made = Shelf(tmp_path / "logs")
    yield made
    await made.store.close()


async def test_what_was_appended_is_read_back(shelf: Shelf) -> None:
    """Several attempts lie in one segment, each byte where its extent says."""
    pieces = [a_piece(1, 0, b"one"), a_piece(2, 0, b"two", b"three"), a_piece(1, 23, b"four")]

    stored = await shelf.put(*pieces)

    for piece, kept in zip(pieces, stored, strict=True):
        assert await shelf.store.read([kept.extent]) == piece.frames
    assert [kept.extent.segment for kept in stored] == [1, 1, 1]
    assert await shelf.store.read([stored[0].extent, stored[2].extent]) == pieces[0].frames + pieces[2].frames


async def test_positions_and_output_are_counted(shelf: Shelf) -> None:
    """A position counts headers too; the output is what the program wrote."""
    piece = a_piece(1, 500, b"abc", b"de")

    (kept,) = await shelf.put(piece)

    assert (kept.extent.position, kept.extent.length) == (500, len(piece.frames))
    assert (kept.end, kept.output_bytes) == (500 + len(piece.frames), 5)


async def test_a_full_segment_is_followed_by_the_next(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of a group; a reader goes through both."""
    monkeypatch.setattr(log_store_module, "SEGMENT_BYTES_MAX", 100)
    pieces = [a_piece(1, 0, b"x" * 80), a_piece(1, 100, b"y" * 80), a_piece(1, 200, b"z")]

    stored = await shelf.put(*pieces)

    assert [kept.extent.segment for kept in stored] == [1, 2, 3]
    assert await shelf.store.read([kept.extent for kept in stored]) == b"".join(piece.frames for piece in pieces)


async def test_a_group_shares_one_sync(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What gathers while one group is being written is the next group."""
    await shelf.put(a_piece(1, 0, b"x"))
    syncs: list[int] = []
    real = os.fdatasync

    def counted(fd: int) -> None:
        syncs.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counted)

    await shelf.put(*(a_piece(1, 21 * place, b"x") for place in range(1, 101)))

    assert len(syncs) == len(shelf.groups) - 1 <= 3


async def test_nothing_is_told_before_it_is_synced(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker may drop what it hears is stored."""
    told_before: list[int] = []
    real = os.fdatasync

    def synced(fd: int) -> None:
        told_before.append(len(shelf.stored))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", synced)

    await shelf.put(a_piece(1, 0, b"x"))

    assert told_before == [0]


async def test_a_new_start_begins_a_new_segment(tmp_path: Path) -> None:
    """What an earlier process left at the end of its own may be torn."""
    for number in (1, 2, 3):
        shelf = Shelf(tmp_path)
        (kept,) = await shelf.put(a_piece(1, 0, b"x"))
        await shelf.store.close()
        assert kept.extent.segment == number


async def test_closing_finishes_what_is_queued(tmp_path: Path) -> None:
    """Nothing that was taken is dropped on the way out."""
    shelf = Shelf(tmp_path)
    for place in range(20):
        await shelf.store.append(a_piece(1, 21 * place, b"x"))

    await shelf.store.close()

    assert len(shelf.stored) == 20


async def test_a_failed_write_counts_nothing_and_is_never_written_after(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty group says that nothing of it is there; the next piece goes to a new segment."""
    await shelf.put(a_piece(1, 0, b"x"))
    real = os.fdatasync

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on the device")

    monkeypatch.setattr(os, "fdatasync", full)
    await shelf.store.append(a_piece(1, 21, b"y"))
    await eventually(lambda: shelf.groups[-1] == [])
    assert shelf.store.failure is not None and shelf.store.failure.errno == errno.ENOSPC

    monkeypatch.setattr(os, "fdatasync", real)
    (kept,) = await shelf.put(a_piece(1, 21, b"y"))

    assert kept.extent.segment == 2
    assert shelf.store.failure is None


async def test_a_segment_that_lost_its_end_is_an_error(shelf: Shelf, tmp_path: Path) -> None:
    """Fewer bytes than the rows say would pass for a log that ends there: loss is never silent."""
    (kept,) = await shelf.put(a_piece(1, 0, b"x" * 50))
    os.truncate(tmp_path / "logs" / "00000001.log", 30)

    with pytest.raises(OSError, match="shorter"):
        await shelf.store.read([kept.extent])


async def test_a_missing_segment_is_an_error(shelf: Shelf) -> None:
    """And not an empty log."""
    with pytest.raises(FileNotFoundError):
        await shelf.store.read([Extent(0, 77, 0, 10)])


async def test_who_pushes_too_much_waits(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is queued and not written is bounded, whatever the disk does."""
    monkeypatch.setattr(log_store_module, "QUEUED_BYTES_MAX", 1000)
    writing, done = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    real = os.fdatasync

    def slow(fd: int) -> None:
        loop.call_soon_threadsafe(writing.set)
        asyncio.run_coroutine_threadsafe(done.wait(), loop).result(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    await shelf.store.append(a_piece(1, 0, b"x" * 1000))
    await asyncio.wait_for(writing.wait(), 5)
    second = asyncio.create_task(shelf.store.append(a_piece(1, 1020, b"y")))
    await asyncio.sleep(0)
    assert not second.done()

    done.set()
    await asyncio.wait_for(second, 5)
    await eventually(lambda: len(shelf.stored) == 2)


async def test_a_full_disk_leaves_no_file_for_each_try(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers push again and again; what was stored before stays."""
    await shelf.put(a_piece(1, 0, b"x"))
    real = os.fdatasync

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on the device")

    monkeypatch.setattr(log_store_module, "REFUSED_PAUSE_S", 0.0)
    monkeypatch.setattr(os, "fdatasync", full)
    for number in range(5):
        await shelf.store.append(a_piece(1, 21, b"y"))
        await eventually(lambda number=number: len(shelf.groups) == number + 2)  # type: ignore[misc]
    monkeypatch.setattr(os, "fdatasync", real)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["00000001.log"]

    (kept,) = await shelf.put(a_piece(1, 21, b"y"))
    assert await shelf.store.read([kept.extent]) == some_frames(b"y")


# Sweeping


async def settled() -> None:
    """Everything that was told of is committed."""


async def test_a_sweep_removes_what_no_log_refers_to(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never the segment that is being written, nor one with pieces that were not told of yet."""
    monkeypatch.setattr(log_store_module, "SEGMENT_BYTES_MAX", 10)
    stored = await shelf.put(*(a_piece(1, 21 * place, b"x") for place in range(5)))
    assert [kept.extent.segment for kept in stored] == [1, 2, 3, 4, 5]
    asked: list[list[int]] = []

    async def in_use(segments: Collection[int]) -> set[int]:
        asked.append(sorted(segments))
        return {2}

    assert await shelf.store.sweep(settled, in_use) == 3 * len(some_frames(b"x"))

    assert asked == [[1, 2, 3, 4]]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["00000002.log", "00000005.log"]


async def test_pieces_that_are_being_committed_are_waited_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """First everything is settled that was told of, and only then somebody asks what is referred to."""
    monkeypatch.setattr(log_store_module, "SEGMENT_BYTES_MAX", 10)
    await shelf.put(a_piece(1, 0, b"x"), a_piece(1, 21, b"x"))
    calls: list[str] = []

    async def settling() -> None:
        calls.append("settled")

    async def in_use(segments: Collection[int]) -> set[int]:
        calls.append("asked")
        return set(segments)

    assert await shelf.store.sweep(settling, in_use) == 0
    assert calls == ["settled", "asked"]
