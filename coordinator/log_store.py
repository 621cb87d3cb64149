"""The logs that are too long for a report: one writer appends frames of many attempts to segments.

A segment is an append-only file of at most about 64 MiB. Pieces that gather while one group is
being written share one fdatasync; only then is the engine told, and only after its commit do the
worker (`stored`) and the readers hear of them.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from coordinator.changes import Extent
from hostler import frames
from hostler.ids import AttemptKey

SEGMENT_BYTES_MAX = 64 * 1024 * 1024
QUEUED_BYTES_MAX = 32 * 1024 * 1024  # received and not yet written; beyond it the pushing stream waits
REFUSED_PAUSE_S = 0.5  # after the disk refused: workers push what was refused without a pause of their own
OPEN_READERS_MAX = 16
SUFFIX = ".log"


class Piece(NamedTuple):
    """Whole frames of an attempt's ledger."""

    number: int
    key: AttemptKey
    position: int
    frames: bytes


class StoredPiece(NamedTuple):
    """A piece on disk."""

    number: int
    key: AttemptKey
    extent: Extent
    end: int  # the ledger is held up to here
    output_bytes: int


class LogStore:
    """Writes and reads log segments in threads of its own."""

    def __init__(self, directory: Path, on_stored: Callable[[list[StoredPiece]], None]) -> None:
        """Prepare a store in *directory*; *on_stored* is called in the event loop for each durable group."""
        self._directory = directory
        self._on_stored = on_stored
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="log-writer")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="log-reader")
        self._queue: list[Piece] = []
        self._queued_bytes = 0
        self._writing = False
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._fd = -1
        self._segment = 0
        self._size = 0
        self._counts = True  # something in the newest segment was stored
        self._told_segment = 0  # pieces in every segment before this one were told of, or never will be
        self.failure: OSError | None = None  # why nothing is stored now; a later piece tries again

    def open(self) -> None:
        """Make the directory and start a new segment after the newest."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._segment = max(self._segments(), default=0)
        self._told_segment = self._segment + 1

    def _segments(self) -> list[int]:
        return [int(path.stem) for path in self._directory.glob(f"*{SUFFIX}") if path.stem.isdecimal()]

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment:08d}{SUFFIX}"

    async def append(self, piece: Piece) -> None:
        """Queue a piece; waits while too much is queued."""
        while self._queued_bytes > QUEUED_BYTES_MAX:
            self._room.clear()
            await self._room.wait()
        self._queue.append(piece)
        self._queued_bytes += len(piece.frames)
        if not self._writing:
            self._write_next()

    def _write_next(self) -> None:
        group, self._queue = self._queue, []
        self._writing = True
        self._idle.clear()
        future = asyncio.get_running_loop().run_in_executor(self._writer, self._write, group)
        future.add_done_callback(lambda done: self._written(group, done))

    def _written(self, group: list[Piece], done: asyncio.Future[list[StoredPiece]]) -> None:
        self._writing = False
        self._queued_bytes -= sum(len(piece.frames) for piece in group)
        self._room.set()
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, OSError):
            # Nothing of the group counts: its worker pushes it again as soon as it is told, so it is told later.
            self.failure = error
            self._writing = True
            asyncio.get_running_loop().call_later(REFUSED_PAUSE_S, self._refuse)
            return
        if error is not None:
            raise error
        self.failure = None
        self._on_stored(done.result())
        self._told_segment = done.result()[-1].extent.segment
        self._go_on()

    def _refuse(self) -> None:
        self._writing = False
        self._on_stored([])
        self._go_on()

    def _go_on(self) -> None:
        if self._queue:
            self._write_next()
        else:
            self._idle.set()

    def _write(self, group: list[Piece]) -> list[StoredPiece]:
        stored: list[StoredPiece] = []
        dirty: set[int] = set()
        try:
            for piece in group:
                if self._fd < 0 or self._size >= SEGMENT_BYTES_MAX:
                    self._next_segment(dirty)
                view = memoryview(piece.frames)
                while view:
                    view = view[os.write(self._fd, view) :]
                dirty.add(self._fd)
                extent = Extent(piece.position, self._segment, self._size, len(piece.frames))
                self._size += len(piece.frames)
                end = piece.position + len(piece.frames)
                stored.append(StoredPiece(piece.number, piece.key, extent, end, frames.output_bytes(piece.frames)))
            os.fdatasync(self._fd)
        except OSError:
            # What a failed write or sync left behind is unknown: never write after it.
            self._close_segment()
            if not self._counts:  # on a full disk every try would leave another file
                with contextlib.suppress(OSError):
                    self._path(self._segment).unlink()
            raise
        self._counts = True
        return stored

    def _next_segment(self, dirty: set[int]) -> None:
        if self._fd >= 0:
            if self._fd in dirty:
                os.fdatasync(self._fd)
            self._close_segment()
        self._segment += 1
        self._size = 0
        self._fd = os.open(self._path(self._segment), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._counts = False  # only now: one that was there already is not ours to remove
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def read(self, extents: list[Extent]) -> bytes:
        """Return the bytes of these extents, one after another.

        Raises:
            OSError: a segment cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, extents)

    def _read(self, extents: list[Extent]) -> bytes:
        pieces = []
        fd, opened = -1, -1
        try:
            for extent in extents:
                if extent.segment != opened:
                    if fd >= 0:
                        os.close(fd)
                    fd = -1
                    fd = os.open(self._path(extent.segment), os.O_RDONLY)
                    opened = extent.segment
                piece = os.pread(fd, extent.length, extent.offset)
                if len(piece) != extent.length:
                    raise OSError(errno.EIO, "the segment is shorter than it was", str(self._path(extent.segment)))
                pieces.append(piece)
        finally:
            if fd >= 0:
                os.close(fd)
        return b"".join(pieces)

    async def sweep(
        self,
        settled: Callable[[], Awaitable[None]],
        in_use: Callable[[Collection[int]], Awaitable[set[int]]],
    ) -> int:
        """Remove segments that no log refers to; returns how many bytes that were.

        Args:
            settled: returns when every piece that was told of by now is committed, or never will be.
            in_use: says which of some segments a log refers to.

        Raises:
            OSError: a segment cannot be removed.
        """
        loop = asyncio.get_running_loop()
        limit = self._told_segment
        found = await loop.run_in_executor(self._readers, self._segments)
        old = sorted(segment for segment in found if segment < limit)
        if not old:
            return 0
        await settled()
        used = await in_use(old)
        return await loop.run_in_executor(self._readers, self._remove, [each for each in old if each not in used])

    def _remove(self, segments: list[int]) -> int:
        removed = 0
        for segment in segments:
            path = self._path(segment)
            removed += path.stat().st_size
            path.unlink()
        return removed

    async def close(self) -> None:
        """Finish what is queued and close."""
        await self._idle.wait()
        self._writer.submit(self._close_segment)
        self._writer.shutdown()
        self._readers.shutdown()
