"""What every request must show of where it comes from, and when a caller on this host needs no key.

`Site` holds in every mode, for every method: the Host header names this host, and nothing shows a page of another
site. `LocalTrust` is for gateways on loopback: the kernel says that the other end of the connection belongs to our
user or to root, and no header shows a proxy. `shown_key` finds the key that a caller shows. Who is let in is decided
in `http_gateway.admission`.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from aiohttp import web

from hostler import logs
from hostler.errors import PermissionDenied, Unauthenticated
from hostler.peers import owner_of_peer
from hostler.proxies import THROUGH_A_PROXY, shows_proxy
from http_gateway.api import HttpRefused
from http_gateway.key_checks import NO_GOOD
from http_gateway.networks import Address

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
KEY_HEADER = "x-api-key"
ADDRESSES_KEPT = 1024  # of callers; taking one apart costs more than the rest of the look at its request
BEARER = "bearer "
NO_KEY_IN_IT = (
    "the header that shows a key holds none; send x-api-key: KEY or Authorization: Bearer KEY, "
    "or neither header where no key is needed"
)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

OwnerLookup = Callable[[tuple[str, int], tuple[str, int]], int | None]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_BROWSER_HEADERS = ("Origin", "Referer", "Cookie", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest")


def peer_address(request: web.Request) -> Address | None:
    """Return the address at the other end of the connection; None: it has none, or it has gone.

    An IPv4 address that came over an IPv6 socket is given as what it is. No header is looked at.
    """
    return address_of(request.transport)


def address_of(transport: asyncio.BaseTransport | None) -> Address | None:
    """Return the address at the other end of a connection, as `peer_address` does."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return _address(peer[0]) if peer else None


@lru_cache(maxsize=ADDRESSES_KEPT)
def _address(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def shown_key(request: web.Request) -> str:
    """Return the key that a request shows, as ``x-api-key`` or as a bearer; empty: it has neither header.

    Raises:
        Unauthenticated: a header is there and holds no key, or the request shows two.
    """
    shown = {value.strip() for value in request.headers.getall(KEY_HEADER, ())}
    for credentials in request.headers.getall("Authorization", ()):
        if credentials[: len(BEARER)].lower() != BEARER:  # a parser leaves no blank at the end of an empty one
            raise Unauthenticated(NO_KEY_IN_IT)
        shown.add(credentials[len(BEARER) :].strip())
    if len(shown) > 1:
        raise Unauthenticated(NO_GOOD)
    # Who meant to show a key must not get the rights of a caller without one, because his variable was empty.
    if "" in shown:
        raise Unauthenticated(NO_KEY_IN_IT)
    return shown.pop() if shown else ""


class Site:
    """Decides whether a request was meant for this host, and comes from no page of another site."""

    def __init__(self, *, allowed_hosts: Iterable[str] = ()) -> None:
        """Prepare the decision; *allowed_hosts* are names besides localhost that a Host header may carry."""
        self._hosts = frozenset((*LOCAL_HOSTS, *map(_as_in_header, allowed_hosts)))

    def check(self, request: web.Request) -> None:
        """Return when the request is meant for us.

        Raises:
            HttpRefused: 421, the Host header names another host.
            PermissionDenied: it comes from a page of another site, or could.
        """
        host = self._check_host(request)
        _check_origin(request, f"{request.scheme}://{host}".lower())

    def _check_host(self, request: web.Request) -> str:
        host = request.headers.get("Host", "")
        target = request.raw_path  # may be absolute, and then names a host too
        for name in (host,) if target.startswith(("/", "*")) else (host, urlsplit(target).netloc):
            match = _HOST.fullmatch(name)
            if match is None or match[1].lower() not in self._hosts:
                raise HttpRefused(
                    421,
                    "misdirected_request",
                    "the Host header names another host; use localhost or 127.0.0.1, or add the name to allowed_hosts",
                )
        return host


class LocalTrust:
    """Decides whether the caller is a program of our own user, or of root, on this host."""

    def __init__(self, *, lookup: OwnerLookup = owner_of_peer, own_uid: int | None = None) -> None:
        """Prepare the decision.

        Args:
            lookup: who owns the peer's socket; the kernel's answer.
            own_uid: whose calls are trusted besides root's; None: this process's user.
        """
        self._lookup = lookup
        self._trusted = frozenset((0, os.getuid() if own_uid is None else own_uid))
        # The kernel is asked once for a connection, at its first request: a socket that its owner
        # has closed meanwhile has no owner any more. The answer goes with the connection.
        self._owners: WeakKeyDictionary[asyncio.BaseTransport, int | None] = WeakKeyDictionary()

    def check(self, request: web.Request) -> None:
        """Return when the caller is trusted.

        Raises:
            Unauthenticated: it came through a proxy, or nobody knows whose connection it is.
            PermissionDenied: another user's process.
        """
        check_direct(request)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the caller has gone")
        try:
            owner = self._owners[transport]
        except KeyError:
            peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            owner = self._owners[transport] = self._lookup(peer[:2], local[:2]) if peer and local else None
            if owner not in self._trusted:
                logs.get().warning("request.refused", owner=owner, peer=peer)
        if owner is None:
            raise Unauthenticated(
                "it is unknown whose connection this is; call from this host and keep it open, or show a key"
            )
        if owner not in self._trusted:
            raise PermissionDenied(
                "without a key hostler serves only the user who started it; call as that user, or show a key"
            )


def check_direct(request: web.Request) -> None:
    """Return when no header shows a proxy. Raises Unauthenticated: who is behind it only a key can say."""
    if shows_proxy(request.headers):
        raise Unauthenticated(THROUGH_A_PROXY)


def _as_in_header(host: str) -> str:
    try:
        return f"[{ip_address(host)}]" if ":" in host else host.lower()
    except ValueError:
        return host.lower()


def _check_origin(request: web.Request, own: str) -> None:
    headers = request.headers
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    referer = headers.get("Referer") if site is None and origin is None else None
    foreign = origin is not None and origin.lower() != own
    foreign = foreign or (site is not None and site.lower() not in ("same-origin", "none"))
    foreign = foreign or (referer is not None and _origin_of(referer) != own)
    if foreign:
        raise PermissionDenied("the call comes from a web page of another site, which may not use hostler")
    if request.method in SAFE_METHODS or request.content_type == "application/json":
        return
    # What a form of a foreign page can send is no JSON; programs say whatever they like (curl: a form).
    is_ours = origin is not None or referer is not None or (site or "").lower() == "same-origin"
    if not is_ours and any(name in headers for name in _BROWSER_HEADERS):
        raise PermissionDenied("a web page of another site may have sent this; send JSON as application/json")


def _origin_of(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}".lower()
