"""Our standard input as pieces for the job's, read only as fast as they are taken.

By itself nothing is forwarded from a terminal, where a reader in the background would be stopped, nor from
``/dev/null`` or a closed descriptor, where there is nothing to forward.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator

from hostler.cli.render import say

DESCRIPTOR = 0
PIECE_BYTES_MAX = 256 * 1024
FOREGROUND_LOOK_S = 0.2


def is_open() -> bool:
    """Say whether our standard input is something to read: a pipe, a file, a terminal, but not ``/dev/null``."""
    try:
        ours, null = os.fstat(DESCRIPTOR), os.stat(os.devnull)
    except OSError:
        return False
    return ours.st_rdev != null.st_rdev


def is_forwarded() -> bool:
    """Say whether our standard input is one that a job should get."""
    return is_open() and not os.isatty(DESCRIPTOR)


async def pieces() -> AsyncIterator[bytes]:
    """Yield what arrives until its end; an error counts as the end and is said.

    Waiting is done by the event loop and not in a thread: a thread that waits for input that never comes
    would keep the command from ending with its job.
    """
    while True:
        try:
            if not _is_file():
                await _readable()
            piece = os.read(DESCRIPTOR, PIECE_BYTES_MAX)
        except OSError as error:
            if not os.isatty(DESCRIPTOR):  # one that is gone has said what there is to say
                say(f"standard input cannot be read: {error.strerror}")
            return
        if not piece:
            return
        yield piece


def give_up() -> None:
    """The job reads no more: neither do we, so whoever writes to us sees what the job would have shown them."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, DESCRIPTOR)
    os.close(null)


def _is_file() -> bool:
    # epoll refuses files, and reading one never waits for somebody.
    return stat.S_ISREG(os.fstat(DESCRIPTOR).st_mode)


async def _readable() -> None:
    loop = asyncio.get_running_loop()
    # Whoever reads a terminal from the background is stopped, and nobody says when it is ours.
    while os.isatty(DESCRIPTOR) and os.tcgetpgrp(DESCRIPTOR) != os.getpgrp():  # noqa: ASYNC110
        await asyncio.sleep(FOREGROUND_LOOK_S)
    ready: asyncio.Future[None] = loop.create_future()

    def found() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(DESCRIPTOR, found)
    try:
        await ready
    finally:
        loop.remove_reader(DESCRIPTOR)
