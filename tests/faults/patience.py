"""Waiting for what may not come: says whether it came, and lets the caller decide what that means."""

import asyncio
import time
from collections.abc import Callable


async def comes_true(condition: Callable[[], object], within_s: float) -> bool:
    """Look again and again until *condition* holds; False when it does not within *within_s* seconds."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.02)
    return True
