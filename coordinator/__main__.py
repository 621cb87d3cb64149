"""``python -m coordinator [--settings JSON]``: run a coordinator until SIGTERM.

Exit codes: 0 ended in order, 2 cannot start as configured, 70 the store can no longer be trusted.
"""

import asyncio
import os
import sys

from coordinator.app import Coordinator
from hostler import logs
from hostler.errors import InvalidRequest
from hostler.processes import end_requested
from hostler.settings import Settings, from_arguments

EXIT_BROKEN = 70
# The store's thread gives the interpreter up at every row and waits for it again, up to this long while the event
# loop is busy. With Python's 5 ms a commit of ten rows under load took longer than its fsync by far.
SWITCH_S = 0.0005


async def run(settings: Settings) -> int:
    """Serve until told to end, or until the engine fails."""
    async with end_requested(settings.parent_fd) as ending, Coordinator(settings) as coordinator:
        failed = asyncio.create_task(coordinator.failed())
        asked = asyncio.create_task(ending.wait())
        await asyncio.wait((failed, asked), return_when=asyncio.FIRST_COMPLETED)
        broken = failed.done()
        failed.cancel()
        asked.cancel()
    return EXIT_BROKEN if broken else 0


def main() -> int:
    """Read the settings, run, and turn what cannot start into one sentence."""
    os.umask(0o077)
    sys.setswitchinterval(SWITCH_S)
    try:
        settings = from_arguments(sys.argv[1:])
        logs.configure(level=settings.log_level, form=settings.log_format, program="coordinator")
        return asyncio.run(run(settings))
    except InvalidRequest as error:
        print(f"hostler coordinator: {error.message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
