"""What moving files between worker and coordinator needs: threads that are waited for, and patience.

Limits: asyncio, one event loop. Nothing here holds a file in memory.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from hostler.errors import DeadlineExceeded, HostlerError, InternalError, Overloaded, Unavailable

T = TypeVar("T")
PIECE_BYTES: Final = 256 * 1024  # of what is sent
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 2.0
FAULTS_MAX: Final = 8  # in a row, of the coordinator's own, before a file is given up


async def in_thread(call: Callable[..., T], *arguments: object) -> T:
    """Run a blocking call in a thread; when cancelled, wait for its end first, so that its files can be removed."""
    running = asyncio.get_running_loop().run_in_executor(None, lambda: call(*arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise


class Patience:
    """Whether and when a call that failed is tried again."""

    def __init__(self, patience_s: float) -> None:
        """*patience_s* counts from the last `progress`."""
        self._patience_s = patience_s
        self.progress()

    def progress(self) -> None:
        """Something was moved: begin to count again."""
        self._until = time.monotonic() + self._patience_s
        self._pause_s = PAUSE_FIRST_S
        self._faults = 0

    async def pause(self, error: HostlerError) -> bool:
        """Wait a little before another try; False at once when *error* does not pass, or the patience is at its end."""
        if isinstance(error, InternalError):
            self._faults += 1
        passes = isinstance(error, Unavailable | DeadlineExceeded | Overloaded | InternalError)
        if not passes or self._faults >= FAULTS_MAX or time.monotonic() >= self._until:
            return False
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return True


def passes(error: HostlerError) -> bool:
    """Whether an error says that the coordinator is away or busy, and nothing about the file."""
    return isinstance(error, Unavailable | DeadlineExceeded | Overloaded)


class ConnectedTime:
    """The seconds during which the control stream was up."""

    def __init__(self) -> None:
        self._before_s = 0.0
        self._since: float | None = None

    def up(self) -> None:
        """A stream is up."""
        if self._since is None:
            self._since = time.monotonic()

    def down(self) -> None:
        """It broke."""
        self._before_s, self._since = self.seconds(), None

    def seconds(self) -> float:
        """How long, all in all."""
        return self._before_s + (time.monotonic() - self._since if self._since is not None else 0.0)
