"""The terminal of a program: a pseudo-terminal whose other side its shim holds.

The program opens its side by name, after it has become the leader of a session, and so gets it as its controlling
terminal (see process_tree.spawn). The shim keeps both sides open until the tree is empty, so it survives agents and
coordinators, and what the program wrote last is still there to be read.
Limits: Linux, standard library only; nothing here blocks.
Sources: pty(7), tty_ioctl(4), termios(3), posix_spawn(3).
"""

import fcntl
import os
import struct
import termios
from collections.abc import Sequence
from typing import Final

ROWS: Final = 24
COLUMNS: Final = 80
DRAIN_BYTES_MAX: Final = 256 * 1024  # more than the kernel keeps of what a program wrote
_WINDOW: Final = struct.Struct("HHHH")
_DISABLED: Final = b"\0"  # of a control character


def open_terminal(size: Sequence[int]) -> tuple[int, int]:
    """Make a terminal of so many rows and columns (0: the usual ones); return our side and the program's.

    Raises:
        OSError: the host gives no further one.
    """
    ours, theirs = os.openpty()
    try:
        rows, columns = size
        resize(ours, rows or ROWS, columns or COLUMNS)
        os.set_blocking(ours, False)
    except BaseException:
        os.close(ours)
        os.close(theirs)
        raise
    return ours, theirs


def resize(fd: int, rows: int, columns: int) -> None:
    """Set the size; the kernel sends SIGWINCH to the foreground group when it is another one. 0 leaves it as it is."""
    if rows > 0 and columns > 0:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, _WINDOW.pack(min(rows, 0xFFFF), min(columns, 0xFFFF), 0, 0))


def end_of_file(fd: int) -> bytes:
    """What is to be typed to end the input; empty when the program reads it byte by byte and knows no end."""
    _, _, _, local, _, _, characters = termios.tcgetattr(fd)
    typed: bytes = characters[termios.VEOF]
    return b"" if not local & termios.ICANON or typed == _DISABLED else typed
