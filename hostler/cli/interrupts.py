"""Ctrl-C and its relatives, for commands that stand for a job."""

import asyncio
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from hostler.cli.beside import beside

# What ends a program unless it says otherwise: the second one of them stops the job with all its processes.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
PASSED_ON = (
    *STOP_SIGNALS,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGCONT,
)
PRESSES_TO_LEAVE = 3
WAITING_MAX = 64
LAST_WORDS_S = 1.0  # how long leaving may take


class Interrupts:
    """What the person at the terminal has asked for so far."""

    def __init__(self) -> None:
        self.presses = 0  # of Ctrl-C
        self.stop_signal = 0  # SIGTERM or SIGHUP once one came
        self.stops = 0  # how many of them came
        self.heard = asyncio.Event()
        self.resized = asyncio.Event()  # our terminal has another size
        self.waiting: deque[int] = deque(maxlen=WAITING_MAX)  # signals for the job, in order
        self.before_leaving: Callable[[], None] = lambda: None

    def listen(self) -> None:
        """Take the signals over, for the running event loop; the third Ctrl-C leaves without looking back.

        A signal that our caller has us ignore, as nohup does with SIGHUP, is left alone.
        """
        loop = asyncio.get_running_loop()
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._told, number)
        loop.add_signal_handler(signal.SIGWINCH, self.resized.set)

    @property
    def status(self) -> int:
        """The exit status of a command that was ended like this."""
        return 128 + (self.stop_signal or signal.SIGINT)

    async def before(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do *work* unless an interrupt comes first; say whether it was done. Its failures are raised."""
        async with beside(work) as doing, beside(self._ended()) as ended:
            await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                return False
            doing.result()
            return True

    async def _ended(self) -> None:
        """Until a signal comes that would have ended us; without a job to suspend, we are suspended alone."""
        while True:
            await self.heard.wait()
            self.heard.clear()
            while self.waiting:
                number = self.waiting.popleft()
                if number == signal.SIGTSTP:
                    suspend()
                elif number != signal.SIGCONT:
                    return

    def _told(self, number: int) -> None:
        if number == signal.SIGINT:
            self.presses += 1
            if self.presses >= PRESSES_TO_LEAVE:
                # A private cluster ends when our descriptors close; a shared one goes on stopping the job.
                self.before_leaving()
                os._exit(self.status)
        elif number in STOP_SIGNALS:
            self.stop_signal = number
            self.stops += 1
        self.waiting.append(number)
        self.heard.set()


def briefly(show: Callable[..., None], *arguments: Any, **options: Any) -> None:
    """Print something before we leave, but do not stay for a reader that takes nothing."""

    def work() -> None:
        with suppress(OSError):
            show(*arguments, **options)

    printing = threading.Thread(target=work, daemon=True)
    printing.start()
    printing.join(LAST_WORDS_S)


def suspend() -> None:
    """Stop this process until somebody continues it, as Ctrl-Z does to a program that does not mind."""
    os.kill(os.getpid(), signal.SIGSTOP)
