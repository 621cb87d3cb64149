"""Who may call, and who the caller is. In local mode: processes of our own user (or root), on this host.

A call is trusted without a key when all hold: the kernel says that the other end of the connection
belongs to our user or to root; the Host header names this host; no header shows a proxy; no header
shows a page of another site. Keys and other modes come beside `LocalTrust`, not into it: where the
settings name keys, `Keys` is asked besides. `Principals` names the caller; an API whose callers are
told apart may be open to the networks that the settings admit, and only there the first of these
conditions does not apply to callers from them. A key names its caller and admits nobody.
"""

import asyncio
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from aiohttp import web

from hostler import logs
from hostler.errors import ErrorCode, PermissionDenied, Unauthenticated
from hostler.peers import owner_of_peer
from http_gateway.api import HttpRefused
from http_gateway.networks import Address, Network, is_within

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
PRINCIPAL = "local"
KEY_HEADER = "x-api-key"
BEARER = "bearer "
DIGEST_CHARACTERS = 16  # of a key's digest, in the name of the principal who shows it

OwnerLookup = Callable[[tuple[str, int], tuple[str, int]], int | None]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_PROXY_HEADERS = ("forwarded", "via")
_PROXY_PREFIX = "x-forwarded-"
_PRINCIPAL: web.RequestKey[str] = web.RequestKey("principal", str)


def peer_address(request: web.Request) -> Address | None:
    """Return the address at the other end of the connection; None: it has none, or it has gone.

    An IPv4 address that came over an IPv6 socket is given as what it is. No header is looked at.
    """
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    try:
        address = ip_address(peer[0]) if peer else None
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def principal_of(request: web.Request) -> str:
    """Return who calls: ``key:DIGEST``, ``address:IP`` or ``local``. For requests that were admitted."""
    principal: str = request.get(_PRINCIPAL, PRINCIPAL)
    return principal


class Principals:
    """Names the caller of a request: by the key it shows, else by its admitted address, else as a local one."""

    def __init__(self, *, key_digests: Iterable[str] = (), networks: Iterable[Network] = ()) -> None:
        """Prepare the decision.

        Args:
            key_digests: SHA-256 in hex of the keys; any other key counts as none.
            networks: whose every address is a principal of its own.
        """
        self._digests = tuple(digest.lower() for digest in key_digests)
        self._networks = tuple(networks)

    def name(self, request: web.Request) -> bool:
        """Note who calls, for `principal_of`; whether the settings admit the network of the caller."""
        from_network = self._by_network(request)
        request[_PRINCIPAL] = self._by_key(request) or from_network or PRINCIPAL
        return bool(from_network)

    def _by_key(self, request: web.Request) -> str:
        if not self._digests:
            return ""
        shown = [request.headers.get(KEY_HEADER, "")]
        credentials = request.headers.get("Authorization", "")
        if credentials[: len(BEARER)].lower() == BEARER:
            shown.append(credentials[len(BEARER) :].strip())
        for digest in map(_digest, filter(None, shown)):
            if _is_known(digest, self._digests):
                return f"key:{digest[:DIGEST_CHARACTERS]}"
        return ""

    def _by_network(self, request: web.Request) -> str:
        if not self._networks:
            return ""
        address = peer_address(request)
        return f"address:{address}" if is_within(address, self._networks) else ""


class Keys:
    """Decides whether a request shows one of the keys whose digests the settings hold."""

    def __init__(self, digests: Iterable[str]) -> None:
        """Prepare the decision for *digests*: SHA-256 in hex; without any, no key is needed."""
        self._digests = tuple(digest.lower() for digest in digests)

    def check(self, request: web.Request) -> None:
        """Return when the caller shows a key, or when none is needed.

        Raises:
            HttpRefused: 401, in the words of the PiXYZ API, whose header it is.
        """
        if not self._digests:
            return
        if not _is_known(_digest(request.headers.get(KEY_HEADER, "")), self._digests):
            raise HttpRefused(401, ErrorCode.UNAUTHENTICATED, "Invalid token", headers={"WWW-Authenticate": KEY_HEADER})


class LocalTrust:
    """Decides for each request whether its caller is trusted."""

    def __init__(
        self, *, allowed_hosts: Iterable[str] = (), lookup: OwnerLookup = owner_of_peer, own_uid: int | None = None
    ) -> None:
        """Prepare the decision.

        Args:
            allowed_hosts: names besides localhost that a Host header may carry, without a port.
            lookup: who owns the peer's socket; the kernel's answer.
            own_uid: whose calls are trusted besides root's; None: this process's user.
        """
        self._hosts = frozenset((*LOCAL_HOSTS, *(name.lower() for name in allowed_hosts)))
        self._lookup = lookup
        self._trusted = frozenset((0, os.getuid() if own_uid is None else own_uid))
        # The kernel is asked once for a connection, at its first request: a socket that its owner
        # has closed meanwhile has no owner any more. The answer goes with the connection.
        self._owners: WeakKeyDictionary[asyncio.BaseTransport, int | None] = WeakKeyDictionary()

    def admit(self, request: web.Request, *, vouched_for: bool = False) -> None:
        """Return when the caller is trusted; one who is *vouched_for* may be another user's process.

        Raises:
            HttpRefused: 421, the Host header names another host.
            Unauthenticated: it came through a proxy, or nobody knows whose connection it is.
            PermissionDenied: another user's process, or a page of another site.
        """
        host = self._check_host(request)
        for name in map(str.lower, request.headers):
            if name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIX):
                raise Unauthenticated("the call came through a proxy, and none is trusted; call hostler directly")
        if not vouched_for:
            self._check_owner(request)
        _check_origin(request, host)

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

    def _check_owner(self, request: web.Request) -> None:
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
            raise Unauthenticated("it is unknown whose connection this is; call from this host and keep it open")
        if owner not in self._trusted:
            raise PermissionDenied("hostler serves only the user who started it; call as that user")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _is_known(digest: str, known: tuple[str, ...]) -> bool:
    # All of them are compared, whichever it is: the time says nothing.
    return any([hmac.compare_digest(digest, each) for each in known])


def _check_origin(request: web.Request, host: str) -> None:
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.lower() != f"{request.scheme}://{host}".lower()
    if foreign or site.lower() not in ("same-origin", "none"):
        raise PermissionDenied("the call comes from a web page of another site, which may not use hostler")
