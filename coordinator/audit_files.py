"""The files of the audit log, as the one who writes them sees them. Blocking; see `hostler.audit` for their form."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from hostler.audit import (
    HEAD,
    LINE_BYTES_MAX,
    NO_HASH,
    Broken,
    Entry,
    Head,
    files_of,
    head_text,
    line_of,
    name_of,
    opening_of,
    read_head,
    read_line,
)
from hostler.errors import InvalidRequest
from hostler.private_files import sync_directory

_OPENING_BYTES = len(opening_of(NO_HASH))


class Closed(NamedTuple):
    """A file that nothing is added to any more."""

    path: Path
    last: int  # number of its last entry
    written_at_s: float


class AuditFiles:
    """Appends; every append is on the disk when it returns, or has left nothing behind."""

    def __init__(self, directory: Path, *, file_bytes_max: int) -> None:
        self._directory = directory
        self._file_bytes_max = file_bytes_max
        self._fd = -1
        self._head_fd = -1
        self._size = 0
        self.head = Head()

    def open(self) -> list[str]:
        """Open the log for appending; returns what had to be mended.

        Raises:
            InvalidRequest: it cannot be gone on with.
        """
        found: list[str] = []
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            kept = read_head(self._directory)
            files = files_of(self._directory)
            last = self._last(files, found) if files else Head()
            self._head_fd = os.open(self._directory / HEAD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidRequest(f"the audit log in {self._directory} cannot be used: {error.strerror}") from error
        if kept is None and files:
            found.append(f"the file {HEAD} was missing or unreadable")
        if last is None:
            if kept is None:
                raise InvalidRequest(
                    f"the end of the audit log in {self._directory} cannot be read; move it away and keep it"
                )
            last = kept
        if kept is not None and kept.number > last.number:
            # Its numbers go on where the head says, so that the gap is seen for ever.
            found.append(f"entries {last.number + 1} to {kept.number} were missing at the end")
            last = kept
            self._leave()
        self.head = last
        if self._fd < 0:
            self._begin_file()
        return found

    def _last(self, files: list[Path], found: list[str]) -> Head | None:
        """Open the newest file and find the newest entry; None: it cannot be read."""
        path = files[-1]
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        size = os.fstat(fd).st_size
        tail = os.pread(fd, 2 * LINE_BYTES_MAX, max(0, size - 2 * LINE_BYTES_MAX))
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn:
            os.ftruncate(fd, size - torn)
            found.append(f"{torn} bytes of an unfinished line were cut from {path.name}")
            size, tail = size - torn, tail[: len(tail) - torn]
        if size == 0:  # its opening was torn: the file before has the newest entry
            os.close(fd)
            path.unlink()
            return self._last(files[:-1], found) if files[:-1] else Head()
        self._fd, self._size = fd, size
        try:
            if size == _OPENING_BYTES:
                return Head(int(path.stem) - 1, tail[10:-3].decode())
            entry = read_line(tail[tail.rfind(b"\n", 0, len(tail) - 1) + 1 :])
        except (Broken, ValueError):
            found.append(f"the last line of {path.name} could not be read")
            self._leave()
            return None
        return Head(entry.number, entry.hash)

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries, whose numbers and hashes are set here.

        Raises:
            OSError: nothing of them is written; they may be tried again.
        """
        if self._size >= self._file_bytes_max or self._fd < 0:
            self._leave()
            self._begin_file()
        head, lines = self.head, []
        for entry in entries:
            number = head.number + 1
            line, digest = line_of(entry._replace(number=number), head.hash)
            head = Head(number, digest)
            lines.append(line)
        content = b"".join(lines)
        try:
            if os.write(self._fd, content) != len(content):
                raise OSError("only a part could be written")
            os.fdatasync(self._fd)
            # One block, written over: it is whole or as before. It follows the entries, so it never promises too much.
            os.pwrite(self._head_fd, head_text(head), 0)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(content)
        self.head = head

    def closed(self) -> list[Closed]:
        """The files that nothing is added to any more, oldest first."""
        files = files_of(self._directory)
        return [Closed(path, int(after.stem) - 1, path.stat().st_mtime) for path, after in pairwise(files)]

    def close(self) -> None:
        """Let go of the files."""
        self._leave()
        if self._head_fd >= 0:
            os.fdatasync(self._head_fd)
            os.close(self._head_fd)
            self._head_fd = -1

    def _begin_file(self) -> None:
        path = self._directory / name_of(self.head.number + 1)
        opening = opening_of(self.head.hash)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            if os.write(fd, opening) != len(opening):
                raise OSError("only a part could be written")
            os.fdatasync(fd)
            sync_directory(self._directory)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._size = fd, len(opening)

    def _leave(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
