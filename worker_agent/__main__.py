"""``python -m worker_agent [--settings JSON]``: run a worker until SIGTERM.

Exit codes: 0 ended in order, 2 cannot start as configured, 3 another agent speaks for this worker.
"""

import os
import sys

from hostler.processes import choose_grpc_polling, end_requested, run_program
from hostler.settings import Settings, set_for_children

choose_grpc_polling()

from worker_agent import app  # noqa: E402


async def run(settings: Settings) -> int:
    """Work until told to end."""
    async with end_requested(settings.parent_fd) as ending:
        return await app.run(settings, ending)


def main() -> int:
    """Run the worker and return its exit code."""
    # What we write is for nobody else; jobs get the mask that we were started with (see the launcher).
    set_for_children("HOSTLER_UMASK", f"{os.umask(0o077):o}")
    # Children are started by the launcher alone; gRPC's own fork handlers would only get in the way.
    set_for_children("GRPC_ENABLE_FORK_SUPPORT", "0")
    return run_program("worker", run)


if __name__ == "__main__":
    sys.exit(main())
