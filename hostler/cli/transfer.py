"""Moves files between this host and the cluster, piece by piece, with proof that they arrived as they are.

What is written appears under its name only when it is whole: it is written under a temporary name beside it and
renamed. A path that a server names is followed folder by folder without symbolic links, so that nothing is ever
written outside the directory that was asked for.
"""

import asyncio
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hostler.cli.failures import NOT_FOUND, Failure, usage_failure
from hostler.cli.progress import Advanced, Transfers
from hostler.cli.writing import write_all
from hostler.client import Client
from hostler.errors import ErrorCode
from hostler.files_client import PIECE_BYTES_MAX, Reading, StoredFile
from hostler.job_checks import is_workspace_path

NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def check_source(path: Path) -> None:
    """See that a file can be sent before anything is.

    Raises:
        Failure: it is not there (exit code 3), or is no file that can be read (2).
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise Failure(
            f"there is no file {path}",
            exit_code=NOT_FOUND,
            code=ErrorCode.FILE_NOT_FOUND.value,
            hint="name a file of this host",
        ) from None
    except (OSError, ValueError) as error:
        raise usage_failure(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(mode):
        raise usage_failure(f"{path} is no file; pack a directory into an archive first")


async def send_file(client: Client, path: Path, shown: Transfers) -> StoredFile:
    """Store a file's bytes in the cluster.

    Raises:
        Failure: it cannot be read, or what was stored is not what was read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size

            async def pieces(advanced: Advanced) -> AsyncIterator[bytes]:
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES_MAX):
                    digest.update(piece)
                    yield piece
                    advanced(len(piece))

            with shown.file(path.name, size) as advanced:
                stored = await client.files.put(pieces(advanced), size_bytes=size)
    except OSError as error:
        raise usage_failure(f"{path} cannot be read: {error.strerror}") from None
    if stored.digest != digest.hexdigest():
        raise Failure(f"{path} did not arrive as it is; nothing was submitted", hint="try again")
    return stored


@contextmanager
def folder_of(root: int, path: str) -> Iterator[tuple[int, str]]:
    """Open the folder below the directory *root* that *path* lies in, making what is missing; and give its last part.

    Raises:
        Failure: the path leads outside, or through something that is no folder.
    """
    if not is_workspace_path(path):
        raise Failure(f"the cluster names {path[:200]!r} as an output's path, which leads outside; it is not written")
    *folders, name = path.split("/")
    at = os.dup(root)
    try:
        for folder in folders:
            with suppress(FileExistsError):
                os.mkdir(folder, dir_fd=at)
            try:
                inner = os.open(folder, FOLDER_FLAGS, dir_fd=at)
            except OSError:
                raise Failure(
                    f"{path}: {folder} is here and is no folder (links are not followed); nothing is written there",
                    hint="give another directory with --into",
                ) from None
            os.close(at)
            at = inner
        yield at, name
    finally:
        os.close(at)


async def receive(
    reading: Reading,
    folder: int,
    name: str,
    advanced: Advanced,
    *,
    force: bool,
    check: Callable[[int], None] | None = None,
) -> tuple[int, str]:
    """Write a file that is being read to *name* in the open directory *folder*; return its bytes and SHA-256.

    *check* looks at what has arrived, an open descriptor, before it gets its name; it raises what is wrong.

    Raises:
        Failure: it did not arrive as it was announced, or *name* exists and *force* is not given.
    """
    temporary = f".hostler-{secrets.token_hex(8)}.part"
    descriptor = os.open(temporary, NEW_FILE_FLAGS, 0o666, dir_fd=folder)
    try:
        size, digest = 0, hashlib.sha256()
        async for piece in reading.pieces:
            await asyncio.to_thread(write_all, descriptor, piece)
            digest.update(piece)
            size += len(piece)
            advanced(len(piece))
        if reading.digest and (reading.digest != digest.hexdigest() or reading.size_bytes != size):
            raise Failure(f"{name} did not arrive as it is; it was not kept", hint="try again")
        if check is not None:
            check(descriptor)
        if reading.modified_at_us:
            os.utime(descriptor, ns=(reading.modified_at_us * 1000,) * 2)
        _rename(folder, temporary, name, force=force)
    except OSError as error:
        raise Failure(f"{name} cannot be written: {error.strerror}") from None
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
    return size, digest.hexdigest()


def exists(name: str) -> Failure:
    """What to say when something would be overwritten."""
    return usage_failure(f"{name} exists", hint="--force overwrites it, --into DIR writes elsewhere")


def _rename(folder: int, temporary: str, name: str, *, force: bool) -> None:
    try:
        if force:
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            # A link refuses a name that is taken, in one step; a rename would replace what came meanwhile.
            _link(folder, temporary, name)
    except FileExistsError:
        raise exists(name) from None


def _link(folder: int, temporary: str, name: str) -> None:
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # A file system without links: the next best is to look, and then to rename.
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
