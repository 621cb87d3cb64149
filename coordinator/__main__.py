"""``python -m coordinator [--settings JSON]``: run a coordinator until SIGTERM.

Exit codes: 0 ended in order, 2 cannot start as configured, 70 the store can no longer be trusted.
"""

import asyncio
import os
import sys

from hostler.processes import choose_grpc_polling, end_requested, run_program
from hostler.settings import Settings

choose_grpc_polling()

from coordinator.app import Coordinator, EngineFailed  # noqa: E402

EXIT_BROKEN = 70
# The store's thread gives the interpreter up at every row and waits for it again, up to this long while the event
# loop is busy. With Python's 5 ms a commit of ten rows under load took longer than its fsync by far.
SWITCH_S = 0.0005


async def run(settings: Settings) -> int:
    """Serve until told to end, or until the engine fails."""
    try:
        async with end_requested(settings.parent_fd) as ending, Coordinator(settings) as coordinator:
            failed = asyncio.create_task(coordinator.failed())
            asked = asyncio.create_task(ending.wait())
            await asyncio.wait((failed, asked), return_when=asyncio.FIRST_COMPLETED)
            broken = failed.done()
            failed.cancel()
            asked.cancel()
    except EngineFailed:
        return EXIT_BROKEN
    return EXIT_BROKEN if broken else 0


def main() -> int:
    """Run the coordinator and return its exit code."""
    os.umask(0o077)
    sys.setswitchinterval(SWITCH_S)
    return run_program("coordinator", run)


if __name__ == "__main__":
    sys.exit(main())
