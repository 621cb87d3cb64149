"""``python -m worker_agent [--settings JSON]``: run a worker until SIGTERM.

Exit codes: 0 ended in order, 2 cannot start as configured, 3 another agent speaks for this worker.
"""

import asyncio
import sys

from hostler import logs
from hostler.errors import InvalidRequest
from hostler.processes import end_requested
from hostler.settings import Settings, from_arguments, set_for_children
from worker_agent import app


async def run(settings: Settings) -> int:
    """Work until told to end."""
    async with end_requested(settings.parent_fd) as ending:
        return await app.run(settings, ending)


def main() -> int:
    """Read the settings, run, and turn what cannot start into one sentence."""
    # Children are started by the launcher alone; gRPC's own fork handlers would only get in the way.
    set_for_children("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        settings = from_arguments(sys.argv[1:])
        logs.configure(level=settings.log_level, form=settings.log_format, program="worker")
        return asyncio.run(run(settings))
    except InvalidRequest as error:
        print(f"hostler worker: {error.message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
