"""The composition root of the gateway: families, admission and submitter become one application; `serve` opens it.

The gateway holds no state: run as many as you like, end any of them at any time.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Middleware

from hostler import logs
from hostler.client import Client
from hostler.errors import HostlerError, InternalError, InvalidRequest, Unauthenticated
from hostler.peers import owner_of_peer
from hostler.settings import Settings
from http_gateway.admission import Admission
from http_gateway.api import TLS_HEADER, Api, Handler, api_of, guard, refuse_or_break
from http_gateway.apis import (
    altron,
    document,
    health,
    infernet,
    metrics,
    native,
    native_events,
    native_files,
    pixyz,
    start_stop_query,
)
from http_gateway.auth import LocalTrust, OwnerLookup, Site
from http_gateway.batching import Submitter
from http_gateway.callers import note_caller
from http_gateway.connections import HEAD_S, Connection, ConnectionLimits, check_version, connection_factory
from http_gateway.key_checks import NO_GOOD, KeyChecks
from http_gateway.large_bodies import LargeBodies
from http_gateway.measures import HttpMeasures, counting
from http_gateway.networks import parse_networks
from http_gateway.open_requests import OpenRequests
from http_gateway.openapi import document_of
from http_gateway.refusals import REFUSALS, Refusals
from http_gateway.route_policy import RoutePolicy
from http_gateway.standing import Standing

BACKLOG = 512
CONNECTIONS_MAX = 1000
LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what stands for all addresses
END_S = 3.0  # for requests to end in order once the gateway is told to end

APIS: web.AppKey[tuple[Api, ...]] = web.AppKey("apis", tuple)


def make_app(
    client: Client,
    settings: Settings,
    *,
    lookup: OwnerLookup = owner_of_peer,
    secured: bool = False,
    names: tuple[str, ...] = (),
    standing: Standing | None = None,
) -> web.Application:
    """Build the application.

    Args:
        client: the coordinator's; the caller closes it after the application has ended.
        settings: those about who may call and how often, and those of the families, are used.
        lookup: whose socket the other end of a connection is; the kernel's answer.
        secured: every caller needs a key, or must come from an admitted network.
        names: how the gateway may be called besides `allowed_hosts`.
        standing: whether the gateway may speak for its callers; None: it may.

    Raises:
        InvalidRequest: a setting names a network that is none.
        InternalError: a route has no policy.
    """
    networks = parse_networks(settings.admitted_networks, field="admitted_networks")
    closing = asyncio.Event()
    submitter = Submitter(client)
    measures = HttpMeasures()
    policy = RoutePolicy(key_for_processes=settings.key_for_processes)
    pages = document.DocumentPages(lambda: document_of(apis, policy))
    apis = (*_families(client, settings, submitter, measures, closing), pages.api())
    keys = KeyChecks(client.access)
    refusals = Refusals(client.access)
    admission = Admission(
        site=Site(allowed_hosts=(*settings.allowed_hosts, *names)),
        trust=None if secured else LocalTrust(lookup=lookup),
        keys=keys,
        networks=networks,
        policy=policy,
        standing=standing or Standing(None),
        requests_per_s=settings.requests_per_s,
        refusals=refusals,
    )
    opened = OpenRequests(keys, at_once_max=settings.requests_at_once)
    app = web.Application(middlewares=[counting(measures), _edge(admission, opened, apis)])
    app[APIS] = apis
    app[REFUSALS] = refusals
    _mount(app, apis, policy)

    async def close_streams(_: web.Application) -> None:
        closing.set()

    app.cleanup_ctx.append(_running(submitter, opened, refusals))
    app.on_shutdown.append(close_streams)
    return app


def _running(
    submitter: Submitter, opened: OpenRequests, refusals: Refusals
) -> Callable[[web.Application], AsyncIterator[None]]:
    """What runs as long as the application does."""

    async def running(_: web.Application) -> AsyncIterator[None]:
        own = [asyncio.create_task(opened.run()), asyncio.create_task(refusals.run())]
        async with submitter:
            yield
        for each in own:
            each.cancel()
        await asyncio.gather(*own, return_exceptions=True)
        await refusals.end()

    return running


def _mount(app: web.Application, apis: tuple[Api, ...], policy: RoutePolicy) -> None:
    for api in apis:
        for prefix in api.prefixes:
            routes = app.add_routes(
                web.RouteDef(route.method, prefix + route.path, guard(api, route.handler), route.kwargs)
                for route in api.routes
            )
            policy.add(routes, prefix=prefix, first_prefix=api.prefixes[0])
    policy.check()


def _families(
    client: Client, settings: Settings, submitter: Submitter, measures: HttpMeasures, closing: asyncio.Event
) -> tuple[Api, ...]:
    large_bodies = LargeBodies()
    return (
        start_stop_query.StartStopQuery(client, submitter).api(),
        native.Native(client, submitter, large_bodies, closing).api(),
        native_events.NativeEvents(client, closing).api(),
        native_files.NativeFiles(client, large_bodies, upload_bytes_max=settings.upload_bytes_max).api(),
        health.Health(client).api(),
        altron.Altron(client, submitter, large_bodies, settings).api(),
        pixyz.Pixyz(client, submitter, settings).api(),
        infernet.Infernet(client, submitter, large_bodies, settings, closing).api(),
        metrics.MetricsPage(client, measures).api(),
    )


def _edge(admission: Admission, opened: OpenRequests, apis: tuple[Api, ...]) -> Middleware:
    """Make the outermost layer, which also sees requests that no route takes."""

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.request_began()
        watched = None
        try:
            check_version(request)
            caller, rule = await admission.admit(request)
            note_caller(request, caller)
            if not opened.concerns(caller, rule):
                return await handler(request)
            async with opened.holding(request, caller, rule) as watched:
                return await handler(request)
        except HostlerError as error:
            return api_of(request.path, apis).refuse(error)
        except (web.HTTPException, ConnectionError):
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if watched is None or not watched.ended or task is None:
                raise
            task.uncancel()
            return refuse_or_break(request, api_of(request.path, apis), Unauthenticated(NO_GOOD))
        # The owner of whatever a guard did not see; as there, it is logged once and answered.
        except Exception:
            logs.get().exception("request.failed", method=request.method, path=request.path)
            fault = InternalError("a fault of hostler's own; the gateway's log has the details")
            return refuse_or_break(request, api_of(request.path, apis), fault)
        finally:
            if isinstance(connection, Connection):
                connection.request_ended()

    return edge


def _url(scheme: str, host: str, port: int) -> str:
    """How a program of this host calls what listens there."""
    reached = LOOPBACK_OF.get(host, host)
    return f"{scheme}://[{reached}]:{port}" if ":" in reached else f"{scheme}://{reached}:{port}"


async def _only_tls(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[TLS_HEADER[0]] = TLS_HEADER[1]


@asynccontextmanager
async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    connections_max: int = CONNECTIONS_MAX,
    connections_per_address: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve *app* and yield its base URL; leaving ends open streams, then requests.

    Raises:
        InvalidRequest: the address cannot be taken.
    """
    if tls is not None:
        app.on_response_prepare.append(_only_tls)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=END_S)
    await runner.setup()
    try:
        if runner.server is None:
            raise InternalError("the application was not set up")
        limits = ConnectionLimits(in_all=connections_max, per_address=connections_per_address)
        factory = connection_factory(runner.server, apis=app[APIS], limits=limits, tls=tls is not None)
        try:
            listener = await asyncio.get_running_loop().create_server(
                factory, host, port, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=HEAD_S if tls else None
            )
        except OSError as error:
            raise InvalidRequest(
                f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0).lower()}; "
                "give another address with --http 127.0.0.1:PORT, where port 0 takes a free one",
                field="http",
            ) from error
        try:
            taken = listener.sockets[0].getsockname()[1]
            yield _url("http" if tls is None else "https", host, taken)
        finally:
            listener.close()
    finally:
        await runner.cleanup()
