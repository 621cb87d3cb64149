"""Writing to our own streams, whatever became of them."""

import os
import select
import sys


def open_standard_descriptors() -> bool:
    """Make sure that descriptors 0 to 2 are open; say whether there is a standard output.

    A caller may have closed them. Whatever is opened next would take their numbers, and what is meant for people
    would be written into a socket or a database.
    """
    writable = True
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            writable = writable and name != "stdout"
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # open as long as the process
    return writable


def end_writing() -> None:
    """Nobody reads what we write: keep the interpreter from trying once more when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError:
            os.dup2(null, number)
    os.close(null)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, also to a descriptor that somebody has made non-blocking."""
    view = memoryview(content)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
