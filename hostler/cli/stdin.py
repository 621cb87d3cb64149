"""Our standard input as pieces for the job's, read only as fast as they are taken.

Nothing is forwarded from a terminal, where a reader in the background would be stopped, nor from
``/dev/null`` or a closed descriptor, where there is nothing to forward.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator

from hostler.cli.render import say

DESCRIPTOR = 0
PIECE_BYTES_MAX = 256 * 1024


def is_forwarded() -> bool:
    """Say whether our standard input is one that a job should get."""
    try:
        ours, null = os.fstat(DESCRIPTOR), os.stat(os.devnull)
    except OSError:
        return False
    return not os.isatty(DESCRIPTOR) and ours.st_rdev != null.st_rdev


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
            say(f"standard input cannot be read: {error.strerror}")
            return
        if not piece:
            return
        yield piece


def _is_file() -> bool:
    # epoll refuses files, and reading one never waits for somebody.
    return stat.S_ISREG(os.fstat(DESCRIPTOR).st_mode)


async def _readable() -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def found() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(DESCRIPTOR, found)
    try:
        await ready
    finally:
        loop.remove_reader(DESCRIPTOR)
