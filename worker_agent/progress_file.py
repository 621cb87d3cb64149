"""The progress file of one attempt, read as it grows.

What the lines mean is `advances`'s; here they are only carried there, a bounded piece at a time.
Limits: blocking, but short: a stat, and one read when the file has grown.
"""

import os
import stat
import time
from typing import Final

from hostler.jobs import Advance
from worker_agent.advances import AdvanceReader
from worker_agent.workspace import PROGRESS, Workspace

PIECE_BYTES: Final = 64 * 1024
BYTES_MAX: Final = 16 * 1024 * 1024  # what a program writes beyond is not read
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class ProgressFile:
    """A reader that goes on where it was; a file that became shorter is read from its beginning."""

    def __init__(self, workspace: Workspace) -> None:
        self._path = workspace.path / PROGRESS
        self._reader = AdvanceReader()
        self._position = 0
        self._known_bytes = self._size()  # was there before us: nothing is said until it is read

    def read_more(self) -> bool:
        """Take at most 64 KiB of what was appended; whether there was anything, and all that was old is read."""
        size = self._size()
        if size < self._position:
            self._reader, self._position, self._known_bytes = AdvanceReader(), 0, 0
        if size == self._position or self._position >= BYTES_MAX:
            return False
        content = self._read()
        self._position += len(content)
        if content:
            self._reader.feed(content, time.time())
        return bool(content) and self._position >= self._known_bytes

    def advance(self) -> Advance:
        """How far the program has come."""
        return self._reader.advance(time.time())

    def finish(self, at_us: int, *, succeeded: bool) -> Advance:
        """Read the rest after the program has ended, and return how far it came."""
        self._known_bytes = 0
        while self.read_more():
            pass
        return self._reader.finish(at_us / 1e6, succeeded=succeeded)

    def _size(self) -> int:
        try:
            status = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) else 0

    def _read(self) -> bytes:
        try:
            fd = os.open(self._path, _FLAGS)
        except OSError:
            return b""
        try:
            return os.pread(fd, PIECE_BYTES, self._position) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
