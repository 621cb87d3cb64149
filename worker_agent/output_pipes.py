"""The two output pipes of an attempt, or its terminal: from the program into the ledger, up to the cap.

What is beyond the cap, or does not fit on a full disk, is read all the same, so the program is not
disturbed; it is counted, and a GAP frame says how much of each stream is missing where. Merged, both streams are
one pipe, so their order is exact, and all of it is standard output.
Limits: standard library only; never blocks.
"""

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from hostler import frames
from worker_agent.attempts import Order
from worker_agent.ledger import SegmentWriter
from worker_agent.terminal import DRAIN_BYTES_MAX, open_terminal

if TYPE_CHECKING:
    from hostler.redaction import StreamRedactor

_F_GETPIPE_SZ: Final = 1032
_READ_BYTES: Final = frames.OUTPUT_BYTES_MAX


class OutputPipes:
    """Standard output and standard error of one attempt."""

    dropped = 0
    is_over = False  # more than *bytes_max* was written
    terminal = -1  # our side of the program's terminal, when it has one

    def __init__(
        self, segment: SegmentWriter, poll: "select.epoll", bytes_max: int, masked: Sequence[bytes] = ()
    ) -> None:
        """*bytes_max* bounds both streams together, 0 is no limit; *masked* are values that the ledger does not get."""
        self.kept = [0, 0, 0]  # bytes in the ledger, by kind of frame
        # Kept open until the end: the exit of a program would else wake us for each closed pipe,
        # and an end of file is of no use, as the tree's end decides.
        self._write_ends: tuple[int, ...] = ()
        self._segment, self._poll, self._bytes_max = segment, poll, bytes_max
        self._gap = [0, 0, 0]  # bytes dropped since the last GAP frame, by kind
        self._kinds: dict[int, int] = {}  # read end -> frames.OUT or frames.ERR
        self._redactors = _redactors(masked) if masked else {}  # by kind

    def open(self, *, merge: bool = False) -> tuple[int, int]:
        """Make the pipes; return their write ends for the program, with *merge* the same twice. Raises OSError."""
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        self._kinds = {out_read: frames.OUT}
        self._write_ends = (out_write,)
        os.set_blocking(out_read, False)
        if merge:
            return out_write, out_write
        try:
            err_read, err_write = os.pipe2(os.O_CLOEXEC)
        except OSError:
            self._close_all()
            raise
        self._kinds[err_read] = frames.ERR
        self._write_ends = (out_write, err_write)
        os.set_blocking(err_read, False)
        return out_write, err_write

    def open_terminal(self, size: Sequence[int]) -> tuple[int, int]:
        """Make a terminal instead; return our side, which is read here, and the program's. Raises OSError."""
        ours, theirs = open_terminal(size)
        self._kinds = {ours: frames.OUT}
        # Without it our side would be at its end whenever no process has the terminal open, and be readable for ever.
        self._write_ends = (theirs,)
        self.terminal = ours
        return ours, theirs

    def watch(self) -> None:
        """Begin to read, once the program was started."""
        for fd in self._kinds:
            self._poll.register(fd, select.EPOLLIN)

    def reads(self, fd: int) -> bool:
        """Say whether a descriptor is one of the read ends."""
        return fd in self._kinds

    def on_readable(self, fd: int) -> bool:
        """Move what a pipe holds, at most 64 KiB, into the ledger; False when there was nothing."""
        content = self._read(fd)
        if not content:
            return False
        self._keep(self._kinds[fd], content)
        return True

    def _read(self, fd: int) -> bytes | None:
        try:
            return os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            # A program of root has hung its terminal up: nothing comes any more, and that is readable for ever.
            with contextlib.suppress(OSError):
                self._poll.unregister(fd)
            return None

    def _keep(self, kind: int, content: bytes) -> None:
        if self._redactors:
            content = self._redactors[kind].feed(content)
        self._add(kind, content)

    def _add(self, kind: int, content: bytes) -> None:
        kept = content
        if self._bytes_max:
            kept = content[: max(0, self._bytes_max - self.kept[frames.OUT] - self.kept[frames.ERR])]
            self.is_over = self.is_over or len(kept) < len(content)
        if (
            kept
            and self._write_gap(self._segment.write)
            and self._segment.write(frames.encode(kind, kept, time.time_ns() // 1000))
        ):
            self.kept[kind] += len(kept)
            lost = len(content) - len(kept)
        else:
            lost = len(content)
        self._gap[kind] += lost
        self.dropped += lost

    def _write_gap(self, write: Callable[[bytes], bool]) -> bool:
        out_bytes, err_bytes = self._gap[frames.OUT], self._gap[frames.ERR]
        if not out_bytes and not err_bytes:
            return True
        frame = frames.encode(frames.GAP, frames.gap_payload(out_bytes, err_bytes), time.time_ns() // 1000)
        if not write(frame):
            return False
        self._gap = [0, 0, 0]
        return True

    def _drain(self) -> None:
        """Take what the pipes still hold.

        The end of the streams is not waited for: a process that is not of the tree may hold them. It may also
        write on for ever, so no more than a pipe's size is read.
        """
        for fd, kind in self._kinds.items():
            total, size = 0, 0
            while content := self._read(fd):
                self._keep(kind, content)
                total += len(content)
                size = size or (DRAIN_BYTES_MAX if fd == self.terminal else fcntl.fcntl(fd, _F_GETPIPE_SZ))
                if total >= size:
                    break

    def close(self) -> None:
        """Take what the pipes still hold, and close them. Legal more than once."""
        self._drain()
        self._close_all()
        for kind, redactor in self._redactors.items():
            self._add(kind, redactor.rest())
        if self.dropped:
            # Whoever reads the log must see that something is missing, also while the disk is full.
            self._write_gap(self._segment.write_vital)

    def _close_all(self) -> None:
        for fd in (*self._kinds, *self._write_ends):
            os.close(fd)
        self._kinds.clear()
        self._write_ends = ()
        self.terminal = -1


def _redactors(masked: Sequence[bytes]) -> "dict[int, StreamRedactor]":
    from hostler.redaction import StreamRedactor  # most shims never need it

    return {kind: StreamRedactor(masked) for kind in (frames.OUT, frames.ERR)}


def masked_values(order: Order) -> list[bytes]:
    """The values that an attempt's log is not to hold."""
    return [os.fsencode(order.env[name]) for name in order.masked if name in order.env]
