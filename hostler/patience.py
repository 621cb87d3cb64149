"""How a client goes on while its coordinator is away: it asks again, with growing pauses, while its patience lasts.

For calls that change nothing, or come to the same when they are made twice. Limits: one event loop; no state but
that of the call; without gRPC, because the command line imports it at once.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from hostler.errors import DeadlineExceeded, HostlerError, Overloaded, Unavailable

T = TypeVar("T")

PATIENCE_S: Final = 30.0
PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 2.0
LASTING_S: Final = 20.0  # no call lasts so long that nobody answers: connecting and keepalive give up within 15 s
PASSING: Final = (Unavailable, DeadlineExceeded, Overloaded)  # errors that may be over a moment later


class Absence:
    """One caller's view of a coordinator that does not answer: since when, and when to ask again."""

    def __init__(self, patience_s: float) -> None:
        """Begin; it has been heard until now. *patience_s* 0: nothing is ever asked again."""
        self._patience_s = patience_s
        self._asked_s: float | None = None  # when it was asked again last
        self.heard()

    def heard(self) -> None:
        """Note an answer: what follows is another absence."""
        self._since: float | None = None
        self._pause_s = PAUSE_S_MIN

    async def bear(self, error: HostlerError) -> None:
        """Wait until it is time to ask again.

        Raises:
            HostlerError: *error*, when patience would be over by then, or asking again would not help.
        """
        if isinstance(error, DeadlineExceeded):
            self._asked_s = None  # that lasted because nobody answered
        if not isinstance(error, PASSING) or not await self.bears():
            raise error

    async def bears(self) -> bool:
        """Wait until it is time to ask again; False, at once, when patience would be over by then.

        What was asked last and lasted for long had an answer, also when that had nothing to tell yet.
        """
        clock = asyncio.get_running_loop().time
        now = clock()
        if self._asked_s is not None and now - self._asked_s > LASTING_S:
            self.heard()
        self._since = now if self._since is None else self._since
        pause_s = self._pause_s * random.uniform(0.5, 1.0)  # so that many clients do not come back at once
        if now + pause_s - self._since > self._patience_s:
            return False
        self._pause_s = min(PAUSE_S_MAX, self._pause_s * 2)
        await asyncio.sleep(pause_s)
        self._asked_s = clock()
        return True


async def patiently(call: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """Return what *call* returns, made again while the coordinator is away; for calls that may be repeated."""
    absence = Absence(patience_s)
    while True:
        try:
            return await call()
        except PASSING as error:
            await absence.bear(error)
