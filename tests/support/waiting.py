"""Waiting for a condition, with an end; never for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T], what: str = "", *, within_s: float = 10.0) -> T:
    """Return the first true value of *condition*; fails with *what* (or the condition's last value) after a while."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < until, f"{what or condition} did not come true in {within_s} s; last: {found!r}"
        await asyncio.sleep(0.005)
    return found


async def turns(count: int = 50) -> None:
    """Let everything run that could run now: so many turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Awaitable[T]], what: str = "", *, within_s: float = 10.0) -> T:
    """As `eventually`, for a condition that has to be asked for."""
    end = time.monotonic() + within_s
    while not (found := await condition()):
        assert time.monotonic() < end, f"{what or condition} did not come true in {within_s} s; last: {found!r}"
        await asyncio.sleep(0.02)
    return found
