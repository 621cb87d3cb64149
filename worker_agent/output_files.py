"""What a program left in a directory, found and opened without ever following a link of the program's.

Every name is opened relative to the descriptor of its directory, part by part, with O_NOFOLLOW: a link
that the program made, or puts there while we look, leads nowhere. Only regular files are given out; the
rest is named with the reason.
Limits: blocking; at most 100,000 entries are looked at. What the program mounted there is read like its files.
"""

import itertools
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from hostler.jobs import OUTPUTS_MAX, PATH_CHARACTERS_MAX, OutputFile

ENTRIES_MAX: Final = 100_000
MODIFIED_US_MAX: Final = (1 << 62) - 1  # what the coordinator's store can hold
MISSING_MAX: Final = 1_000  # named in an end
LIVE_FILES_MAX: Final = 1_000
LIVE_ENTRIES_MAX: Final = 4_000
_PASSING: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTING: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a pipe that took a file's place would hold us for ever.
_READING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS: Final = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def modified_us(modified_ns: int) -> int:
    """A file's time as it is told; what a program dated before 1970 counts as 1970."""
    return min(max(0, modified_ns // 1000), MODIFIED_US_MAX)


class NotRegular(OSError):
    """The name is there and is no regular file."""


class Found(NamedTuple):
    """A regular file below a directory."""

    path: bytes
    size_bytes: int
    modified_at_us: int


class Survey(NamedTuple):
    """What is to be kept of a directory, and what cannot be."""

    files: tuple[Found, ...] = ()
    missing: tuple[str, ...] = ()  # "path: reason"


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """Open what *path* names below an open directory; *flags* get O_NOFOLLOW and O_CLOEXEC.

    Raises:
        OSError: it is not there, or a part of the path is a link (ELOOP, ENOTDIR).
        ValueError: the path is absolute, or holds "..", an empty part or a NUL.
    """
    parts = path.split(b"/")
    if any(part in (b"", b".", b"..") for part in parts):
        raise ValueError("it names nothing below the directory")
    at = directory
    try:
        for part in parts[:-1]:
            below = os.open(part, _PASSING, dir_fd=at)
            if at != directory:
                os.close(at)
            at = below
        return os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        if at != directory:
            os.close(at)


def open_regular(directory: int, path: bytes) -> tuple[int, os.stat_result]:
    """Open a regular file below an open directory to be read.

    Raises:
        NotRegular: it is something else.
        OSError, ValueError: as `open_beneath`.
    """
    fd = open_beneath(directory, path, _READING)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegular(kind_of(status))
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def open_directory(directory: int, name: str) -> int:
    """Open a directory that lies in an open one; a link is none. Raises OSError."""
    return os.open(name, _LISTING, dir_fd=directory)


def kind_of(status: os.stat_result) -> str:
    """Say what something is that is no regular file."""
    return f"{_KINDS.get(stat.S_IFMT(status.st_mode), 'a device')}, not a regular file"


def reason_of(error: OSError) -> str:
    """Say why a file could not be read."""
    if isinstance(error, NotRegular):
        return str(error)
    return (error.strerror or str(error)).lower()


def shown(path: bytes) -> str:
    """Return a path for people: what is no UTF-8, and what would break a line, is written with backslashes."""
    text = path.decode("utf-8", "backslashreplace")[:PATH_CHARACTERS_MAX]
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def walk(root: int, entries_max: int) -> Iterator[tuple[bytes, os.stat_result | OSError | None]]:
    """Yield everything below an open directory that is no directory, in order of name in each.

    A directory that cannot be read is yielded with its error; None says that *entries_max* was reached there.
    """
    pending = [b""]
    seen = 0
    while pending:
        folder = pending.pop()
        try:
            fd = open_beneath(root, folder, _LISTING) if folder else os.open(".", _LISTING, dir_fd=root)
        except OSError as error:
            yield folder, error
            continue
        below = []
        try:
            with os.scandir(fd) as entries:
                names = sorted(os.fsencode(each.name) for each in itertools.islice(entries, entries_max - seen + 1))
            for name in names:
                path = folder + b"/" + name if folder else name
                seen += 1
                if seen > entries_max:
                    yield path, None
                    return
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError as error:
                    yield path, error
                    continue
                # What is too long to be named is not gone into either, so the depth has an end.
                if stat.S_ISDIR(status.st_mode) and len(path) <= 4 * PATH_CHARACTERS_MAX:
                    below.append(path)
                else:
                    yield path, status
        finally:
            os.close(fd)
        pending.extend(reversed(below))


def survey(root: int, files_max: int = OUTPUTS_MAX) -> Survey:
    """Say what is to be kept of an open directory. Raises OSError when it cannot be read at all."""
    files: list[Found] = []
    missing: list[str] = []
    uncounted = 0
    for path, status in walk(root, ENTRIES_MAX):
        problem = _problem(path, status)
        if isinstance(status, os.stat_result) and not problem:
            if len(files) < files_max:
                files.append(Found(path, status.st_size, modified_us(status.st_mtime_ns)))
                continue
            problem = f"more than {files_max} files"
        if len(missing) < MISSING_MAX - 1:
            missing.append(f"{shown(path) or 'outputs'}: {problem}")
        else:
            uncounted += 1
    if uncounted:
        missing.append(f"and {uncounted} more")
    return Survey(tuple(files), tuple(missing))


def list_now(root: int) -> tuple[OutputFile, ...]:
    """Return at most 1,000 regular files of an open directory by path, while a program writes there."""
    found: list[OutputFile] = []
    for path, status in walk(root, LIVE_ENTRIES_MAX):
        if isinstance(status, os.stat_result) and not _problem(path, status):
            at_us = modified_us(status.st_mtime_ns)
            found.append(OutputFile(path=path.decode(), size_bytes=status.st_size, modified_at_us=at_us))
            if len(found) == LIVE_FILES_MAX:
                break
    return tuple(sorted(found, key=lambda file: file.path))


def _problem(path: bytes, status: os.stat_result | OSError | None) -> str:
    """Why a file cannot be kept; empty: it can."""
    if status is None:
        return f"only the first {ENTRIES_MAX} entries were looked at"
    if isinstance(status, OSError):
        return reason_of(status)
    if stat.S_ISDIR(status.st_mode):
        return f"its path has more than {PATH_CHARACTERS_MAX} characters"
    if not stat.S_ISREG(status.st_mode):
        return kind_of(status)
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return "its name is no UTF-8"
    return f"its path has more than {PATH_CHARACTERS_MAX} characters" if len(text) > PATH_CHARACTERS_MAX else ""
