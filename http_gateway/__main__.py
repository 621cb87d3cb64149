"""``python -m http_gateway``: serves until SIGTERM, SIGINT, or the end of the parent's pipe.

Exit status 0 after an end in order, 2 when the settings do not allow to serve.
"""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hostler import endpoint, logs
from hostler.client import Client
from hostler.errors import InvalidRequest
from hostler.settings import Settings, from_arguments, make_private_dir
from http_gateway.app import CONNECTIONS_MAX, make_app, serve
from http_gateway.auth import PRINCIPAL
from http_gateway.connections import check_parser

RESERVED_FILES = 64  # descriptors that connections may not take


def main() -> int:
    """Run the gateway and return its exit status."""
    try:
        settings = from_arguments(sys.argv[1:])
        logs.configure(level=settings.log_level, form=settings.log_format, program="gateway")
        asyncio.run(run(settings))
    except InvalidRequest as error:
        print(f"hostler gateway: {error.message}", file=sys.stderr)
        return 2
    return 0


async def run(settings: Settings) -> None:
    """Serve until told to end.

    Raises:
        InvalidRequest: the settings do not allow to serve.
    """
    host, port = endpoint.parse_bind(settings.http, field="http")
    check_parser()
    data_dir = make_private_dir(settings.data_dir)
    async with Client(endpoint.coordinator_address(settings), principal=PRINCIPAL) as client:
        app = make_app(client, settings)
        with _told_to_end(settings.parent_fd) as told:
            async with serve(app, host, port, connections_max=_connections_max()) as url:
                endpoint.write_gateway(data_dir, url)
                logs.get().info("gateway.started", url=url, coordinator=client.address)
                await told.wait()
    logs.get().info("gateway.stopped")


@contextmanager
def _told_to_end(parent_fd: int) -> Iterator[asyncio.Event]:
    """Yield an event that a signal, or the end of the parent's pipe, sets."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def parent_spoke() -> None:
        # What the parent writes has no meaning; only the end of the pipe has.
        if not os.read(parent_fd, 4096):
            loop.remove_reader(parent_fd)
            told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    if parent_fd >= 0:
        try:
            loop.add_reader(parent_fd, parent_spoke)
        except OSError as error:
            raise InvalidRequest(
                f"parent_fd is {parent_fd}, which is no open pipe: {error.strerror}", field="parent_fd"
            ) from error
    try:
        yield told
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if parent_fd >= 0:
            loop.remove_reader(parent_fd)


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
