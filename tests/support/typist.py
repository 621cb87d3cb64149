"""Somebody at a terminal: starts a program in a pseudo-terminal, types, and reads what is shown."""

import errno
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

WITHIN_S = 30.0


class Typist:
    """One program and its terminal; a context manager, after which the program is over."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        rows: int = 24,
        columns: int = 80,
    ) -> None:
        """Start *argv* with all three streams and the controlling terminal in a new terminal."""
        self.shown = b""
        self.ours, self.theirs = os.openpty()
        self.size(rows, columns)
        path = os.ttyname(self.theirs)
        # Opened by the leader of a new session, it becomes the controlling terminal.
        take = f'exec "$@" <>{path} >&0 2>&0'
        self.process = subprocess.Popen(
            ["sh", "-c", take, "sh", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.theirs)
        os.close(self.ours)

    def size(self, rows: int, columns: int) -> None:
        """Give the terminal a size, as who pulls at the corner of a window."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        """Press keys."""
        os.write(self.ours, text)

    def sees(self, text: bytes, *, within_s: float = WITHIN_S) -> bytes:
        """Wait until *text* is shown; return everything that was shown up to its end, which is then forgotten."""
        until = time.monotonic() + within_s
        while text not in self.shown:
            left = until - time.monotonic()
            assert left > 0, f"{text!r} was not shown within {within_s} s, but {self.shown!r}"
            self._read(min(left, 0.2))
        before, found, self.shown = self.shown.partition(text)
        return before + found

    def _read(self, wait_s: float) -> None:
        ready, _, _ = select.select([self.ours], [], [], wait_s)
        if ready:
            try:
                self.shown += os.read(self.ours, 65536)
            except OSError as error:
                assert error.errno == errno.EIO

    def ends(self, *, within_s: float = WITHIN_S) -> int:
        """Wait for the end of the program, and read the rest; return its exit status, as a shell says it."""
        until = time.monotonic() + within_s
        while self.process.poll() is None:
            assert time.monotonic() < until, f"it did not end within {within_s} s; shown: {self.shown!r}"
            self._read(0.02)
        self._read(0)
        code = self.process.returncode
        return 128 - code if code < 0 else code

    def is_cooked(self) -> bool:
        """Whether the terminal shows what is typed and makes lines of it, as a shell's does."""
        local = termios.tcgetattr(self.theirs)[3]
        return bool(local & termios.ICANON and local & termios.ECHO and local & termios.ISIG)

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the program alone."""
        self.process.send_signal(number)
