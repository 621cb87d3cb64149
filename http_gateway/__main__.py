"""``python -m http_gateway``: serves until SIGTERM, SIGINT, or the end of the parent's pipe.

Exit status 0 after an end in order, 2 when the settings do not allow to serve.
"""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hostler.processes import Ending, choose_grpc_polling, end_requested, run_program, settle_memory
from hostler.settings import Settings, make_private_dir, set_for_children

choose_grpc_polling()
# Pydantic would look through the metadata of every installed package for plugins, and run what it finds.
set_for_children("PYDANTIC_DISABLE_PLUGINS", "__all__")

from hostler import endpoint, logs  # noqa: E402
from hostler.client import Client  # noqa: E402
from hostler.errors import InvalidRequest  # noqa: E402
from hostler.tls import Target, is_loopback, target_of  # noqa: E402
from http_gateway.app import CONNECTIONS_MAX, make_app, serve  # noqa: E402
from http_gateway.callers import UNSAID  # noqa: E402
from http_gateway.certificates import Certificate, certificate_of  # noqa: E402
from http_gateway.connections import check_parser  # noqa: E402
from http_gateway.standing import Standing  # noqa: E402

FETCH_S = 60.0  # how long a coordinator on another host may take to show whom it is
# Otherwise gRPC reads ever further ahead of a download that nobody reads: 7 MiB of each; with these it is 3 MiB.
FLAT_READS = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 256 * 1024))
RESERVED_FILES = 64  # descriptors that connections may not take


def main() -> int:
    """Run the gateway and return its exit code."""
    os.umask(0o077)
    return run_program("gateway", run)


async def run(settings: Settings) -> int:
    """Serve until told to end.

    Raises:
        InvalidRequest: the settings do not allow to serve.
    """
    host, port = endpoint.parse_bind(settings.http, field="http", secured=True)
    check_parser()
    certificate = await asyncio.to_thread(certificate_of, settings, host)
    data_dir = make_private_dir(settings.data_dir)
    address = endpoint.coordinator_address(settings)
    # On the coordinator's own socket a gateway speaks for its callers without a key, local ones too, for which no key
    # lets it speak: a key there would only take that away.
    is_at_home = address.startswith("unix:")
    target = (
        Target(address) if is_at_home else await asyncio.to_thread(target_of, settings, address, patience_s=FETCH_S)
    )
    if not is_at_home and target.access is None:
        # From there nobody speaks for others without a key: whoever calls us would be taken for who we are.
        raise InvalidRequest(
            f"a gateway that calls {address} needs key_file with a key of the role gateway; make one with "
            "`hostler keys create NAME --role gateway`, or on the coordinator's host name "
            "its data_dir instead of an address",
            field="key_file",
        )
    async with Client(target, principal=UNSAID, options=FLAT_READS) as client:
        standing = Standing(None if is_at_home else client.access)
        await standing.ask_first()
        secured = certificate is not None
        named = certificate.names if certificate is not None else ()
        names = (*named, host) if is_loopback(host) else named
        app = make_app(client, settings, secured=secured, names=names, standing=standing)
        serving = serve(
            app,
            host,
            port,
            connections_max=_connections_max(),
            connections_per_address=settings.connections_per_address,
            tls=None if certificate is None else certificate.context,
        )
        async with end_requested(settings.parent_fd) as told, serving as url, _looking(certificate):
            endpoint.write_gateway(data_dir, url)
            settle_memory()
            mode = "secured" if secured else "local"
            logs.get().info("gateway.started", url=url, coordinator=client.address, mode=mode)
            await _until_told(told, standing)
    logs.get().info("gateway.stopped")
    return 0


async def _until_told(told: Ending, standing: Standing) -> None:
    """Return when told to end. Raises InvalidRequest: this gateway may not speak for its callers."""
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(told.wait()), asyncio.create_task(standing.run())]
    try:
        for over in (await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED))[0]:
            over.result()
    finally:
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


@asynccontextmanager
async def _looking(certificate: Certificate | None) -> AsyncIterator[None]:
    """Look after the certificate meanwhile."""
    looking = None if certificate is None else asyncio.create_task(certificate.run())
    try:
        yield
    finally:
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


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
