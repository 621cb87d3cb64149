"""Who may call, in local mode: processes of our own user (or root), on this host, and no foreign web page.

A call is trusted without a key when all hold: the kernel says that the other end of the connection
belongs to our user or to root; the Host header names this host; no header shows a proxy; no header
shows a page of another site. Keys and other modes come beside this class, not into it: where the
settings name keys, `Keys` is asked besides.
"""

import asyncio
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from aiohttp import web

from hostler import logs
from hostler.errors import ErrorCode, PermissionDenied, Unauthenticated
from hostler.peers import owner_of_peer
from http_gateway.api import HttpRefused

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
PRINCIPAL = "local"
KEY_HEADER = "x-api-key"

OwnerLookup = Callable[[tuple[str, int], tuple[str, int]], int | None]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_PROXY_HEADERS = ("forwarded", "via")
_PROXY_PREFIX = "x-forwarded-"


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
        shown = request.headers.get(KEY_HEADER, "").encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(shown).hexdigest()
        # All of them are compared, whichever it is: the time says nothing.
        if not any([hmac.compare_digest(digest, known) for known in self._digests]):
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

    def admit(self, request: web.Request) -> None:
        """Return when the caller is trusted.

        Raises:
            HttpRefused: 421, the Host header names another host.
            Unauthenticated: it came through a proxy, or nobody knows whose connection it is.
            PermissionDenied: another user's process, or a page of another site.
        """
        host = self._check_host(request)
        for name in map(str.lower, request.headers):
            if name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIX):
                raise Unauthenticated("the call came through a proxy, and none is trusted; call hostler directly")
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


def _check_origin(request: web.Request, host: str) -> None:
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.lower() != f"{request.scheme}://{host}".lower()
    if foreign or site.lower() not in ("same-origin", "none"):
        raise PermissionDenied("the call comes from a web page of another site, which may not use hostler")
