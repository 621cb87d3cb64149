"""Tells who calls: by the key that is shown, by our unix socket, or by the kernel's word about a loopback port."""

import os
from collections.abc import Callable
from urllib.parse import unquote

from coordinator.rpc.certificates import Certificates
from coordinator.rpc.context import Caller, Context
from coordinator.rpc.key_ring import NO_GOOD, KeyRing
from hostler.errors import Unauthenticated
from hostler.peers import owner_of_peer
from hostler.policy import LOCAL, Scope
from hostler.proxies import THROUGH_A_PROXY, shows_proxy

OwnerLookup = Callable[[tuple[str, int], tuple[str, int]], int | None]

KEY_HEADER = "x-api-key"
BEARER_HEADER = "authorization"
BEARER = "bearer "
SOCKET_ADDRESS = "127.0.0.1"  # what a caller on the unix socket counts as, for keys that are good from some networks


class Gatekeeper:
    """Names the caller of every call; a key that is shown counts, and nothing besides it."""

    def __init__(
        self,
        keys: KeyRing,
        *,
        secured: bool = False,
        lookup: OwnerLookup = owner_of_peer,
        certificates: Certificates | None = None,
    ) -> None:
        """Prepare.

        Args:
            keys: whose key is whose.
            secured: every TCP port speaks TLS: there the kernel's word counts for nothing.
            lookup: who owns the peer's socket; the kernel's answer.
            certificates: whom a client certificate makes of the caller, and whether it is still heard.
        """
        self.tcp_address: tuple[str, int] | None = None
        self._keys = keys
        self._secured = secured
        self._lookup = lookup
        self._certificates = certificates

    def caller(self, context: Context) -> Caller:
        """Return who is calling.

        Raises:
            Unauthenticated: nobody we know, a key that is no good, or none and a proxy in between.
        """
        kind, host, port = _peer(context)
        metadata = tuple(context.invocation_metadata() or ())
        shown = _shown(metadata)
        if shown is not None:
            return self._by_key(shown, SOCKET_ADDRESS if kind == "unix" else host)
        is_direct = not shows_proxy(name for name, _ in metadata)
        if kind == "unix" and is_direct:
            # The socket is in a directory only our user may enter; gateway and agents come this way.
            return self._local(may_assert=True)
        if self._certificates is not None and (found := self._certificates.caller(context)) is not None:
            return found
        if not is_direct:
            raise Unauthenticated(THROUGH_A_PROXY)
        if self._secured:
            raise Unauthenticated("this port serves only callers that show a key; see docs/access.md")
        if self.tcp_address is not None and kind in ("ipv4", "ipv6"):
            own = self.tcp_address if kind == "ipv4" else ("::1", self.tcp_address[1])
            if self._lookup((host, port), own) in (os.getuid(), 0):
                return self._local(may_assert=False)
        raise Unauthenticated(
            "without a key this port serves only programs of the user who runs the coordinator, on this host"
        )

    def is_standing(self, caller: Caller) -> bool:
        """Whether a call that was let in would be let in still, as far as its keys go."""
        if self._certificates is not None and not self._certificates.is_standing(caller):
            return False
        return all(map(self._keys.is_good, caller.keys))

    def _local(self, *, may_assert: bool) -> Caller:
        return Caller(LOCAL, may_assert=may_assert, resolve=lambda said: self._keys.resolve(said, LOCAL))

    def _by_key(self, text: str, address: str) -> Caller:
        key = self._keys.authenticate(text, address)
        own = key.principal
        caller = Caller(
            own,
            may_assert=own.may(Scope.PRINCIPALS_ASSERT),
            resolve=lambda said: self._keys.resolve(said, own),
        )
        caller.keys.add(key.id)
        return caller


def _peer(context: Context) -> tuple[str, str, int]:
    """The kind of the peer's address (unix, ipv4, ipv6), its host and its port."""
    kind, _, rest = unquote(context.peer()).partition(":")
    host, _, port = rest.rpartition(":")
    return kind, host.strip("[]"), int(port) if port.isdecimal() else 0


def _shown(metadata: tuple[tuple[str, str | bytes], ...]) -> str | None:
    """The key that a call shows; None: it shows none.

    Raises:
        Unauthenticated: it shows two, or credentials of another kind.
    """
    found: set[str] = set()
    for name, value in metadata:
        if name == KEY_HEADER and isinstance(value, str):
            found.add(value.strip())
        elif name == BEARER_HEADER and isinstance(value, str):
            if value[: len(BEARER)].lower() != BEARER:
                raise Unauthenticated(NO_GOOD)
            found.add(value[len(BEARER) :].strip())
    if len(found) > 1:
        raise Unauthenticated(NO_GOOD)
    return found.pop() if found else None
