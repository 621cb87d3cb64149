"""The composition root of the gateway: families, trust and submitter become one application; `serve` opens it.

The gateway holds no state: run as many as you like, end any of them at any time.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Middleware

from hostler import logs
from hostler.client import Client
from hostler.errors import HostlerError, InternalError, InvalidRequest
from hostler.peers import owner_of_peer
from hostler.settings import Settings
from http_gateway.api import Api, Handler, api_of, guard, refuse_or_break
from http_gateway.apis import altron, health, infernet, metrics, native, native_files, pixyz, start_stop_query
from http_gateway.auth import LocalTrust, OwnerLookup, Principals
from http_gateway.batching import Submitter
from http_gateway.connections import Connection, connection_factory
from http_gateway.large_bodies import LargeBodies
from http_gateway.measures import HttpMeasures, counting
from http_gateway.networks import parse_networks

BACKLOG = 512
CONNECTIONS_MAX = 1000
END_S = 3.0  # for requests to end in order once the gateway is told to end

APIS: web.AppKey[tuple[Api, ...]] = web.AppKey("apis", tuple)


def make_app(client: Client, settings: Settings, *, lookup: OwnerLookup = owner_of_peer) -> web.Application:
    """Build the application.

    Args:
        client: the coordinator's; the caller closes it after the application has ended.
        settings: `allowed_hosts` and those of the families are used.
        lookup: whose socket the other end of a connection is; the kernel's answer.

    Raises:
        InvalidRequest: a setting names a network that is none.
    """
    closing = asyncio.Event()
    submitter = Submitter(client)
    measures = HttpMeasures()
    large_bodies = LargeBodies()
    apis = (
        start_stop_query.StartStopQuery(client, submitter).api(),
        native.Native(client, submitter, large_bodies, closing).api(),
        native_files.NativeFiles(client, large_bodies, upload_bytes_max=settings.upload_bytes_max).api(),
        health.Health(client).api(),
        altron.Altron(client, submitter, large_bodies, settings).api(),
        pixyz.Pixyz(client, submitter, settings).api(),
        infernet.Infernet(client, submitter, large_bodies, settings, closing).api(),
        metrics.MetricsPage(client, measures).api(),
    )
    networks = parse_networks(settings.admitted_networks, field="admitted_networks")
    principals = Principals(key_digests=settings.api_keys_sha256, networks=networks)
    trust = LocalTrust(allowed_hosts=settings.allowed_hosts, lookup=lookup)
    for_networks: set[web.AbstractRoute] = set()
    app = web.Application(middlewares=[counting(measures), _edge(trust, principals, apis, for_networks)])
    app[APIS] = apis
    for api in apis:
        for prefix in api.prefixes:
            routes = app.add_routes(
                web.RouteDef(route.method, prefix + route.path, guard(api, route.handler), route.kwargs)
                for route in api.routes
            )
            if api.open_to_networks:
                for_networks.update(routes)

    async def submitting(_: web.Application) -> AsyncIterator[None]:
        async with submitter:
            yield

    async def close_streams(_: web.Application) -> None:
        closing.set()

    app.cleanup_ctx.append(submitting)
    app.on_shutdown.append(close_streams)
    return app


def _edge(
    trust: LocalTrust, principals: Principals, apis: tuple[Api, ...], for_networks: Set[web.AbstractRoute]
) -> Middleware:
    """Make the outermost layer, which also sees requests that no route takes."""

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.request_began()
        try:
            from_network = principals.name(request)
            trust.admit(request, vouched_for=from_network and request.match_info.route in for_networks)
            return await handler(request)
        except HostlerError as error:
            return api_of(request.path, apis).refuse(error)
        except (web.HTTPException, ConnectionError):
            raise
        # The owner of whatever a guard did not see; as there, it is logged once and answered.
        except Exception:
            logs.get().exception("request.failed", method=request.method, path=request.path)
            fault = InternalError("a fault of hostler's own; the gateway's log has the details")
            return refuse_or_break(request, api_of(request.path, apis), fault)
        finally:
            if isinstance(connection, Connection):
                connection.request_ended()

    return edge


@asynccontextmanager
async def serve(
    app: web.Application, host: str, port: int, *, connections_max: int = CONNECTIONS_MAX
) -> AsyncIterator[str]:
    """Serve *app* on a loopback address and yield its base URL; leaving ends open streams, then requests.

    Raises:
        InvalidRequest: the address cannot be taken.
    """
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=END_S)
    await runner.setup()
    try:
        if runner.server is None:
            raise InternalError("the application was not set up")
        factory = connection_factory(runner.server, apis=app[APIS], connections_max=connections_max)
        try:
            listener = await asyncio.get_running_loop().create_server(factory, host, port, backlog=BACKLOG)
        except OSError as error:
            raise InvalidRequest(
                f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0).lower()}; "
                "give another address with --http 127.0.0.1:PORT, where port 0 takes a free one",
                field="http",
            ) from error
        try:
            taken = listener.sockets[0].getsockname()[1]
            yield f"http://[{host}]:{taken}" if ":" in host else f"http://{host}:{taken}"
        finally:
            listener.close()
    finally:
        await runner.cleanup()
