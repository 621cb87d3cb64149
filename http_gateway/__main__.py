"""``python -m http_gateway``: serves until SIGTERM, SIGINT, or the end of the parent's pipe.

Exit status 0 after an end in order, 2 when the settings do not allow to serve.
"""

import resource
import sys

from hostler import endpoint, logs
from hostler.client import Client
from hostler.processes import end_requested, run_program
from hostler.settings import Settings, make_private_dir
from hostler.tls import target_of
from http_gateway.app import CONNECTIONS_MAX, make_app, serve
from http_gateway.auth import PRINCIPAL
from http_gateway.connections import check_parser

RESERVED_FILES = 64  # descriptors that connections may not take


def main() -> int:
    """Run the gateway and return its exit code."""
    return run_program("gateway", run)


async def run(settings: Settings) -> int:
    """Serve until told to end.

    Raises:
        InvalidRequest: the settings do not allow to serve.
    """
    host, port = endpoint.parse_bind(settings.http, field="http")
    check_parser()
    data_dir = make_private_dir(settings.data_dir)
    target = target_of(settings, endpoint.coordinator_address(settings))
    async with Client(target, principal=PRINCIPAL) as client:
        app = make_app(client, settings)
        serving = serve(app, host, port, connections_max=_connections_max())
        async with end_requested(settings.parent_fd) as told, serving as url:
            endpoint.write_gateway(data_dir, url)
            logs.get().info("gateway.started", url=url, coordinator=client.address)
            await told.wait()
    logs.get().info("gateway.stopped")
    return 0


def _connections_max() -> int:
    """How many connections the process's limit of descriptors allows, after raising it as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, soft - RESERVED_FILES)


if __name__ == "__main__":
    sys.exit(main())
