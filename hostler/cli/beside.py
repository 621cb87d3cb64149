"""Work beside the body of a block, which ends with the block: every asyncio work has an owner."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")
QUIET_S = 3.0  # how long a command that waits says nothing: then what for


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Do *work* beside the body; whatever is left of it is cancelled and awaited at the end of the body.

    Its result, or its failure, is for the body to take; what the body does not take is dropped.
    """
    doing = asyncio.create_task(work)
    try:
        yield doing
    finally:
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
