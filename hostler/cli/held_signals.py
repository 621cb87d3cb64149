"""Signals for jobs that do not run yet: they are held, and a job gets them once it runs.

As the kernel does it with a signal that is blocked, a kind is held once, however often it comes.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from hostler.cli.beside import QUIET_S
from hostler.client import Client
from hostler.errors import HostlerError, NotRunning
from hostler.jobs import Job
from hostler.lifecycle import State

AGAIN_S = 0.1  # between two tries, when a job ran and does not any more


class HeldSignals:
    """Passes signals on to jobs once they run."""

    def __init__(self, client: Client) -> None:
        """Prepare; see `open`."""
        self._client = client
        self._held: dict[tuple[str, int], asyncio.Task[None]] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, client: Client) -> AsyncIterator[Self]:
        """Hold signals for the time of a block; what is held at its end is dropped."""
        held = cls(client)
        try:
            yield held
        finally:
            left = list(held._held.values())
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def hold(self, job: str, number: int, say: Callable[[str], None], *, alone: bool) -> None:
        """Pass signal *number* on once *job* runs; *say* says for people why that has not been done yet, or fails."""
        key = job, number
        if key not in self._held:
            doing = self._held[key] = asyncio.create_task(self._pass_on(job, number, say, alone=alone))
            doing.add_done_callback(lambda _: self._held.pop(key))

    async def _pass_on(self, job: str, number: int, say: Callable[[str], None], *, alone: bool) -> None:
        try:
            while await self._runs(job, number, say):
                try:
                    await self._client.signal(job, number, alone=alone)
                    return
                except NotRunning:  # it has ended, or waits for its next attempt
                    await asyncio.sleep(AGAIN_S)
        except HostlerError as error:
            say(f"{signal_text(number)} was not passed on: {error.message}")

    async def _runs(self, job: str, number: int, say: Callable[[str], None]) -> bool:
        """Wait until the job runs; False: it is over."""
        found: Job | None = await self._client.wait_one(job, until=State.RUNNING, timeout_s=QUIET_S)
        if found is None:
            say(f"job {job} does not run yet; it gets {signal_text(number)} once it does")
            found = await self._client.wait_one(job, until=State.RUNNING)
        return found is not None and found.state is not State.FINISHED


def signal_text(number: int) -> str:
    """What people call a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
