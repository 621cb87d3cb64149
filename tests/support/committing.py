"""``python -m tests.support.committing DATABASE FIRST``: commit jobs until killed, and print what is acknowledged."""

import asyncio
import os
import sys
from pathlib import Path

from coordinator.storage.sqlite import SqliteStore
from tests.support.stored import queued


async def commit_until_killed(path: Path, first: int) -> None:
    """Commit jobs in groups of growing size; print a job's number only after its commit was answered."""
    store = await SqliteStore.open(path)
    number, size = first, 1
    while True:
        numbers = range(number, number + size)
        await store.commit([queued(each) for each in numbers], ())
        os.write(1, b"".join(b"%d\n" % each for each in numbers))
        number, size = number + size, size % 20 + 1


if __name__ == "__main__":
    asyncio.run(commit_until_killed(Path(sys.argv[1]), int(sys.argv[2])))
