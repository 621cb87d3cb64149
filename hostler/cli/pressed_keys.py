"""Keys as they are pressed, for what is drawn on a terminal."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

KEYS_BYTES_MAX = 64  # read at once


@contextmanager
def pressed(keys: Collection[str], act: Callable[[], object]) -> Iterator[None]:
    """Call *act* whenever one of *keys* is pressed while the body runs; nothing without a terminal to press them at.

    What is pressed is not shown. Signals of the keyboard stay signals. The terminal is as before afterwards.
    """
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        text = os.read(descriptor, KEYS_BYTES_MAX).decode("latin-1")
        if not text:
            loop.remove_reader(descriptor)  # the terminal has gone
        if not text or any(key in text for key in keys):
            act()

    try:
        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, read)
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
