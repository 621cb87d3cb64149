"""The standard input of an attempt: a bounded buffer before a pipe, or a terminal, that never blocks the shim.

Limits: standard library only. At most 1 MiB is kept; bytes beyond it, and bytes that leave a hole,
are not taken, and the offset in the answer tells the agent from where to send again.
"""

import contextlib
import os
import select
from typing import Final

from worker_agent.process_tree import SpawnFailed
from worker_agent.terminal import end_of_file

BUFFER_BYTES_MAX: Final = 1024 * 1024


class StdinPipe:
    """The write end of a program's standard input."""

    def __init__(self, fd: int, poll: "select.epoll", *, is_terminal: bool = False) -> None:
        os.set_blocking(fd, False)
        self._is_terminal = is_terminal
        self.fd = fd
        self.consumed = 0  # bytes handed to the pipe, or given up because nobody reads any more
        self._poll = poll
        self._waiting = bytearray()
        self.ended = False  # the end of the input has come; nothing is taken behind it
        self._armed = False
        self.broken = False  # nobody reads any more

    @property
    def received(self) -> int:
        """How many bytes have arrived, consumed or not."""
        return self.consumed + len(self._waiting)

    def feed(self, offset: int, content: bytes, *, eof: bool) -> None:
        """Take bytes that begin at *offset*; what is known already is skipped."""
        received = self.received
        if self.ended or offset > received:
            return
        fresh = content[received - offset :]
        room = BUFFER_BYTES_MAX - len(self._waiting)
        self._waiting += fresh[:room]
        if eof and len(fresh) <= room:
            self.ended = True
        self.flush()

    def flush(self) -> None:
        """Hand to the pipe what it takes now; wait for the program to read when it is full."""
        while self._waiting and not self.broken:
            try:
                taken = os.write(self.fd, self._waiting)
            except BlockingIOError:
                break
            except OSError:
                # Nobody reads any more, as with `yes | head`: the rest is given up, and says so by its offset.
                self.broken = True
                break
            del self._waiting[:taken]
            self.consumed += taken
        if self.broken:
            self.consumed += len(self._waiting)
            self._waiting.clear()
        if self.ended and not self._waiting:
            self._type_end()
            self.close()
            return
        self._arm(bool(self._waiting))

    def _type_end(self) -> None:
        if self._is_terminal and self.fd >= 0:
            with contextlib.suppress(OSError):  # it has no room for what nobody reads
                os.write(self.fd, end_of_file(self.fd))

    def _arm(self, wanted: bool) -> None:
        if self.fd < 0 or wanted == self._armed:
            return
        if wanted:
            self._poll.register(self.fd, select.EPOLLOUT)
        else:
            self._poll.unregister(self.fd)
        self._armed = wanted

    def close(self) -> None:
        """Close the pipe; the program sees the end of its input. Legal more than once."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                self._arm(False)
            os.close(self.fd)
            self.fd = -1


def open_file(path: str) -> int:
    """Open a file that is a program's standard input. Raises SpawnFailed."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
        raise SpawnFailed(f"stdin {path}: {reason}") from error
