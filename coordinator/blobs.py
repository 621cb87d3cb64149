"""Large bytes, named by their SHA-256: inputs, scripts and outputs of jobs, in a directory.

    staging/<random>               bytes that are arriving; removed with their call, or at the next start
    blobs/<2 hex>/<64 hex>         stored bytes; the modification time is that of the last use

A blob is written once and never changes. What is answered is durable: file and directory are synced first.
Disk and hashing are in threads. Who refers to a blob is not known here: `sweep` asks.
"""

import asyncio
import errno
import hashlib
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from hostler.errors import FileNotFound, InvalidRequest, Unavailable
from hostler.ids import new_uuid
from hostler.jobs import DIGEST

PIECE_BYTES_MAX = 1024 * 1024
READ_BYTES = 256 * 1024  # of one piece that is read: larger ones cost memory, and are no faster
PLACE_S = 30.0  # how long an upload waits for a place
SMALL_BYTES = 1024 * 1024


class Lane(StrEnum):
    """Who shares places: slow uploads may not keep small files, or what attempts left, from being stored."""

    UPLOAD = "upload"
    OUTPUT = "output"  # a worker's
    SMALL = "small"  # announced to be at most SMALL_BYTES


PLACES = {Lane.UPLOAD: 4, Lane.OUTPUT: 4, Lane.SMALL: 8}
UNUSED_S = 3600.0  # so long an unreferenced blob is kept after its last use: its job may be about to be submitted
WRITE_BACK_BYTES = 8 * 1024 * 1024  # what gathers in memory before the disk begins to take it
SWEEP_STEP = 500  # digests a question to the store
RETRY_AFTER_S = 30.0


Referenced = Callable[[Collection[str]], Awaitable[set[str]]]
"""Returns those of some digests that a job or a workload refers to."""


class Stored(NamedTuple):
    """Bytes that are durable."""

    digest: str
    size_bytes: int


class Found(NamedTuple):
    """A blob on disk."""

    digest: str
    size_bytes: int
    used_at_s: float


def is_digest(text: str) -> bool:
    """Say whether *text* is a SHA-256 in the one form we write."""
    return DIGEST.fullmatch(text) is not None


class BlobStore:
    """Receives, reads and removes blobs. Every method but `open` and `path` is for the event loop."""

    def __init__(self, directory: Path, *, reserve_bytes: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Prepare a store in *directory*, which leaves *reserve_bytes* of the disk free for others."""
        self._monotonic = monotonic
        self._opened_at_s = monotonic()
        self._staging = directory / "staging"
        self._blobs = directory / "blobs"
        self._reserve_bytes = reserve_bytes
        self._places = {lane: asyncio.Semaphore(places) for lane, places in PLACES.items()}
        self._incoming: set[Incoming] = set()
        self._read_now: Counter[str] = Counter()
        # A sweep looks at the last use and unlinks, others find a blob and touch it: each is one step under this.
        self._guard = threading.Lock()
        self._total_bytes = 0

    def open(self) -> None:
        """Make the directories, remove what an earlier process left half received, and count what is there."""
        shutil.rmtree(self._staging, ignore_errors=True)
        for directory in (self._staging, self._blobs):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._opened_at_s = self._monotonic()
        self._total_bytes = sum(found.size_bytes for folder in self._folders() for found in _found_in(folder))

    def path(self, digest: str) -> Path:
        """Where the blob of this name is, or would be.

        Raises:
            InvalidRequest: *digest* is not 64 lower case hexadecimal digits.
        """
        if not is_digest(digest):
            raise InvalidRequest("a digest is a SHA-256 in 64 lower case hexadecimal digits", field="digest")
        return self._blobs / digest[:2] / digest

    async def total_bytes(self) -> int:
        """The size of everything stored; from memory."""
        return self._total_bytes

    @asynccontextmanager
    async def receive(self, size_bytes: int = 0, lane: Lane = Lane.UPLOAD) -> "AsyncIterator[Incoming]":
        """Take bytes in: write them, then commit. What is not committed leaves nothing.

        Args:
            size_bytes: how many will come, 0 when that is not known.
            lane: with whom it shares places.

        Raises:
            Unavailable: no place became free in time, or the disk has no room for so many; nothing was written.
        """
        async with self._place(lane):
            self.check_room(await asyncio.to_thread(self._free_bytes), size_bytes)
            name = new_uuid(os.urandom(16))
            incoming = Incoming(self, self._staging / name, size_bytes)
            self._incoming.add(incoming)
            try:
                yield incoming
            finally:
                self._incoming.discard(incoming)
                # The thread does it even when the call that was served is cancelled once more.
                await asyncio.shield(asyncio.to_thread(incoming.discard))

    @asynccontextmanager
    async def _place(self, lane: Lane) -> AsyncIterator[None]:
        places = self._places[lane]
        try:
            async with asyncio.timeout(PLACE_S):
                await places.acquire()
        except TimeoutError:
            raise Unavailable(
                f"{PLACES[lane]} files are being received already, and none was done within {PLACE_S:g} s; try again",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        try:
            yield
        finally:
            places.release()

    def check_room(self, free_bytes: int, more_bytes: int) -> None:
        """Raise Unavailable when so many more bytes would take the reserve, or what was promised to others."""
        promised = sum(max(0, one.expected_bytes - one.size_bytes) for one in tuple(self._incoming))
        if free_bytes < self._reserve_bytes + promised + more_bytes:
            raise Unavailable(
                f"the coordinator's disk has {free_bytes >> 20} MiB free, too little for {more_bytes} bytes and its"
                f" reserve of {self._reserve_bytes >> 20} MiB; free some space under {self._blobs.parent}",
                retry_after_s=RETRY_AFTER_S,
            )

    def check_reserve(self, fd: int, more_bytes: int) -> None:
        """Raise Unavailable when the next piece of a file under way would run into the reserve. For threads."""
        now = os.fstatvfs(fd)
        if now.f_bavail * now.f_frsize < self._reserve_bytes + more_bytes:
            raise Unavailable(
                f"the coordinator's disk ran into its reserve of {self._reserve_bytes >> 20} MiB;"
                f" free some space under {self._blobs.parent}",
                retry_after_s=RETRY_AFTER_S,
            )

    def adopt(self, staged: Path, digest: str, size_bytes: int) -> None:
        """Give synced bytes their name, durably. For threads."""
        path = self.path(digest)
        with self._guard:
            try:
                path.parent.mkdir(mode=0o700)
                _sync_directory(self._blobs)
            except FileExistsError:
                pass
            there = _size(path)
            if there == size_bytes:
                os.utime(path)
            else:  # it is new, or was damaged
                staged.rename(path)
                self._total_bytes += size_bytes - (there or 0)
        # Also for bytes that were there: whoever renamed them may not have come to this yet.
        _sync_directory(path.parent)

    async def size(self, digest: str) -> int | None:
        """How many bytes are stored under this name; None when there are none."""
        return await asyncio.to_thread(_size, self.path(digest)) if is_digest(digest) else None

    async def touch(self, digests: Collection[str]) -> set[str]:
        """Note that these are used now, and return those that are not stored (or are no digests)."""
        wanted = tuple(digests)
        return await asyncio.to_thread(self._touch, wanted) if wanted else set()

    def _touch(self, digests: tuple[str, ...]) -> set[str]:
        missing = set()
        for digest in digests:
            try:
                with self._guard:
                    os.utime(self.path(digest))
            except (InvalidRequest, FileNotFoundError):
                missing.add(digest)
        return missing

    @asynccontextmanager
    async def using(self, digests: Collection[str]) -> AsyncIterator[set[str]]:
        """Keep these from being swept for as long as it takes; gives those that are not stored."""
        wanted = tuple(digests)
        self._read_now.update(wanted)
        try:
            yield await self.touch(wanted)
        finally:
            self._read_now.subtract(wanted)
            for digest in wanted:
                if self._read_now[digest] <= 0:
                    del self._read_now[digest]

    async def read(self, digest: str, offset: int = 0, length: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield stored bytes in pieces of at most 1 MiB; what is asked for beyond the end is not there.

        Args:
            digest: their name.
            offset: where to begin.
            length: how many; 0: to the end.

        Raises:
            FileNotFound: no bytes of this name are stored.
            Unavailable: the disk does not give them.
        """
        async with self.using((digest,)) as missing:
            size = None if missing else await self.size(digest)
            if size is None:
                raise FileNotFound(f"no bytes are stored under {digest[:80]!r}")
            path = self.path(digest)
            end = min(size, offset + length) if length else size
            while offset < end:
                # Opened for each piece: a slow reader holds no descriptor, and a cancelled one closes none under a
                # thread that reads.
                piece = await asyncio.to_thread(_read_piece, path, offset, min(READ_BYTES, end - offset))
                offset += len(piece)
                yield piece

    def size_now(self, digest: str) -> int:
        """How many bytes are stored under this name; 0 when there are none. For threads."""
        return _size(self.path(digest)) or 0

    async def sweep(self, referenced: Referenced, older_than_s: float = UNUSED_S) -> int:
        """Remove what nobody refers to and nobody has used for *older_than_s*; returns how many bytes that were.

        A store that was opened less long ago removes nothing: whoever was told that bytes are stored may have been
        kept from using them because nobody was there, and the clock may have jumped in between.
        """
        removed = 0
        if self._monotonic() - self._opened_at_s < older_than_s:
            return removed
        async for batch in self._batches():
            limit_s = time.time() - older_than_s
            old = {one.digest for one in batch if one.used_at_s <= limit_s}
            if old:
                unwanted = [d for d in old - await referenced(old) if d not in self._read_now]
                removed += await asyncio.to_thread(self._remove, unwanted, limit_s)
        return removed

    async def referenced_bytes(self, referenced: Referenced) -> int:
        """The size of what somebody refers to. Looks at every blob."""
        total = 0
        async for batch in self._batches():
            wanted = await referenced([one.digest for one in batch])
            total += sum(one.size_bytes for one in batch if one.digest in wanted)
        return total

    async def _batches(self) -> AsyncIterator[list[Found]]:
        for folder in await asyncio.to_thread(self._folders):
            found = await asyncio.to_thread(_found_in, folder)
            for start in range(0, len(found), SWEEP_STEP):
                yield found[start : start + SWEEP_STEP]

    def _remove(self, digests: Collection[str], limit_s: float) -> int:
        removed = 0
        for digest in digests:
            path = self.path(digest)
            with self._guard, suppress(FileNotFoundError):
                found = path.stat()
                if found.st_mtime <= limit_s:  # nobody has used it since it was looked at
                    path.unlink()
                    removed += found.st_size
                    self._total_bytes -= found.st_size
        return removed

    def _free_bytes(self) -> int:
        now = os.statvfs(self._staging)
        return now.f_bavail * now.f_frsize

    def _folders(self) -> list[Path]:
        return sorted(folder for folder in self._blobs.iterdir() if len(folder.name) == 2 and folder.is_dir())


class Incoming:
    """Bytes that are being received, see `BlobStore.receive`."""

    def __init__(self, store: BlobStore, path: Path, expected_bytes: int) -> None:
        self.expected_bytes = expected_bytes  # 0: not known
        self.size_bytes = 0  # received so far
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        self._written_back_bytes = 0
        self._fd = -1
        self._over = False
        # A cancelled call leaves a thread at work; the descriptor may not be closed under it.
        self._lock = threading.Lock()
        self._writing: asyncio.Future[None] | None = None

    async def write(self, piece: bytes) -> None:
        """Take the next bytes, once those before are written: at most one piece is on its way to the disk.

        Raises:
            InvalidRequest: these or those before are more than were announced.
            Unavailable: the disk is full, or ran into its reserve.
        """
        await self._written()
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, piece)
        self._writing.add_done_callback(_look_at)

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    def _write(self, piece: bytes) -> None:
        with self._lock, _disk_errors():
            if self.expected_bytes and self.size_bytes + len(piece) > self.expected_bytes:
                raise self._wrong_size(f"more than {self.expected_bytes} bytes came")
            fd = self._opened()
            self._store.check_reserve(fd, len(piece))
            self._hash.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
            self.size_bytes += len(piece)
            gathered = self.size_bytes - self._written_back_bytes
            if gathered >= WRITE_BACK_BYTES:
                # On Linux this begins to write and does not wait; one large sync at the end would make every other
                # commit on this disk wait for it.
                os.posix_fadvise(fd, self._written_back_bytes, gathered, os.POSIX_FADV_DONTNEED)
                self._written_back_bytes = self.size_bytes

    async def commit(self) -> Stored:
        """Make what has come durable and return its name.

        Raises:
            InvalidRequest: these are fewer than were announced.
            Unavailable: the disk is full.
        """
        await self._written()
        return await asyncio.to_thread(self._commit)

    def _commit(self) -> Stored:
        with self._lock, _disk_errors():
            if self.expected_bytes and self.size_bytes != self.expected_bytes:
                raise self._wrong_size(f"only {self.size_bytes} came")
            fd = self._opened()
            os.fsync(fd)
            stored = Stored(self._hash.hexdigest(), self.size_bytes)
            self._store.adopt(self._path, *stored)
            return stored

    def discard(self) -> None:
        """Close, and remove what was not committed. For threads."""
        with self._lock:
            self._over = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                with suppress(OSError):  # the next start removes it
                    self._path.unlink()

    def _opened(self) -> int:
        if self._over:
            raise Unavailable("the upload was given up")
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self._fd

    def _wrong_size(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"{self.expected_bytes} bytes were announced and {what}", field="size_bytes")


def _look_at(writing: "asyncio.Future[None]") -> None:
    """Nobody asks for the failure of a piece when its upload was given up, and that is no fault."""
    if not writing.cancelled():
        writing.exception()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the coordinator's disk is full" if full else f"the coordinator's disk fails: {error.strerror}"
        raise Unavailable(what, retry_after_s=RETRY_AFTER_S) from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _found_in(folder: Path) -> list[Found]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_digest(entry.name):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found.append(Found(entry.name, status.st_size, status.st_mtime))
    return found


def _read_piece(path: Path, offset: int, length: int) -> bytes:
    with _disk_errors():
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            piece = os.pread(fd, length, offset)
        finally:
            os.close(fd)
    if not piece:
        raise Unavailable(f"the stored file {path.name} is shorter than it was")
    return piece


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
