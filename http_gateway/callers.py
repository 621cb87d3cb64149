"""Who calls: what is asserted of them to the coordinator, whose jobs are theirs, and what they may.

Every message to the coordinator that a request gives rise to carries `principal_of(request)`. The coordinator looks
at it again, on its own table of keys: what is known here is a few seconds old at most, and only spares it work.
"""

from dataclasses import dataclass

from aiohttp import web

from hostler.policy import ADDRESS, ADDRESS_PREFIX, KEY_PREFIX, LOCAL, Scope

# What the gateway's client asserts where a handler has not said for whom it asks: nobody is called so, and the
# coordinator refuses. Calls that the gateway makes for itself assert nothing (`OWN`).
UNSAID = "unsaid"
OWN = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is at the other end of a request."""

    principal: str  # "local", "key:ID", "address:IP"; empty: nobody
    owner: str  # whose jobs are this one's
    scopes: frozenset[Scope]

    @property
    def shows_key(self) -> bool:
        """Whether it is known by a key."""
        return self.principal.startswith(KEY_PREFIX)


LOCAL_CALLER = Caller(principal=LOCAL.name, owner=LOCAL.name, scopes=LOCAL.scopes)
NOBODY = Caller(principal="", owner="", scopes=frozenset())

_CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)


def caller_at(address: object) -> Caller:
    """Return who calls from an address of an admitted network without a key."""
    principal = f"{ADDRESS_PREFIX}{address}"
    return Caller(principal=principal, owner=principal, scopes=ADDRESS)


def note_caller(request: web.Request, caller: Caller) -> None:
    """Note who was admitted."""
    request[_CALLER] = caller


def caller_of(request: web.Request) -> Caller:
    """Return who calls. For requests that were admitted; of others it is a fault to ask."""
    caller: Caller = request[_CALLER]
    return caller


def principal_of(request: web.Request) -> str:
    """Return what is asserted of the caller to the coordinator."""
    # Nobody must not be taken for the connection's own principal, which is what an empty one means.
    return caller_of(request).principal or UNSAID


def owner_of(request: web.Request) -> str:
    """Return whose jobs are the caller's."""
    return caller_of(request).owner
