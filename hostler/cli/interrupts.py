"""Ctrl-C and its relatives, for commands that stand for a job."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

from hostler.cli.beside import beside

STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
PRESSES_TO_LEAVE = 3


class Interrupts:
    """What the person at the terminal has asked for so far."""

    def __init__(self) -> None:
        self.presses = 0  # of Ctrl-C
        self.stop_signal = 0  # SIGTERM or SIGHUP once one came
        self.heard = asyncio.Event()

    def listen(self) -> None:
        """Take the signals over, for the running event loop; the third Ctrl-C leaves without looking back."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._pressed)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._told, number)

    @property
    def status(self) -> int:
        """The exit status of a command that was ended like this."""
        return 128 + (self.stop_signal or signal.SIGINT)

    async def before(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do *work* unless an interrupt comes first; say whether it was done. Its failures are raised."""
        async with beside(work) as doing, beside(self.heard.wait()) as heard:
            await asyncio.wait({doing, heard}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                return False
            doing.result()
            return True

    def _pressed(self) -> None:
        self.presses += 1
        if self.presses >= PRESSES_TO_LEAVE:
            # A private cluster ends when our descriptors close; a shared one goes on stopping the job.
            os._exit(self.status)
        self.heard.set()

    def _told(self, number: int) -> None:
        self.stop_signal = number
        self.heard.set()
