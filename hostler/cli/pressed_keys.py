"""Keys as they are pressed, for what is drawn on a terminal."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from hostler.cli.failures import OK

QUIT = frozenset("qQ\x03\x04")  # also Ctrl-C and Ctrl-D, where they come as keys
KEYS_BYTES_MAX = 64  # read at once


def run_until_left(work: Coroutine[Any, Any, int]) -> int:
    """Do *work*, which draws on a terminal until somebody has seen enough: Ctrl-C is one way to say so."""
    with suppress(KeyboardInterrupt):
        return asyncio.run(work)
    return OK


@contextmanager
def pressed(keys: Mapping[str, Callable[[], object]]) -> Iterator[None]:
    """Do what belongs to one of *keys* when it is pressed while the body runs; nothing without a terminal.

    What is pressed is not shown. Signals of the keyboard stay signals. The terminal is as before afterwards.
    When the terminal goes away, that is the first of the keys.
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
            next(iter(keys.values()))()
        for key in text:
            if key in keys:
                keys[key]()

    try:
        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, read)
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
