"""How every hostler program is told to end: SIGTERM, SIGINT, or the end of its parent."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

GC_THRESHOLD = 50_000


def settle_memory() -> None:
    """Call once at the end of a long-lived program's start: what is there now stays.

    The collector never looks at it again, and looks for cycles after 50,000 new objects instead of
    700: a job makes hundreds of objects and next to no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


class Ending(asyncio.Event):
    """Set when this program is to end; `terminated` says whether by SIGTERM, the word of a service manager."""

    terminated = False


@asynccontextmanager
async def end_requested(parent_fd: int) -> AsyncIterator[Ending]:
    """Yield an event that is set on SIGTERM, on SIGINT, and at end of file of *parent_fd* (if >= 0).

    The write end of that pipe is held by the parent alone, so even a parent that was killed ends
    its parts in order.
    """
    loop = asyncio.get_running_loop()
    ending = Ending()

    def terminate() -> None:
        ending.terminated = True
        ending.set()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGINT, ending.set)

    def parent_spoke() -> None:
        if not os.read(parent_fd, 1024):
            loop.remove_reader(parent_fd)
            ending.set()

    if parent_fd >= 0:
        os.set_inheritable(parent_fd, False)
        loop.add_reader(parent_fd, parent_spoke)
    try:
        yield ending
    finally:
        if parent_fd >= 0:
            loop.remove_reader(parent_fd)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
