"""Whose the keys are that callers show: the coordinator's answer, kept for a few seconds in a table of bounded size.

A refusal is kept as well, and each counts against the address that it came from: who shows many keys that are no good
waits, and costs the coordinator nothing. A key that was good lately is asked about all the same, so that a bad
neighbour at one address locks nobody out. No key is kept, only the digest of its text.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from hostler.access_client import Holder
from hostler.clock import SystemClock
from hostler.errors import Overloaded, Unauthenticated
from hostler.keys import read_key
from hostler.policy import Scope
from http_gateway.callers import Caller
from http_gateway.networks import Address
from http_gateway.token_buckets import TokenBuckets

FRESH_S = 10.0  # with RECHECK_S of http_gateway.open_requests, and a call, well below the 30 s that are promised
KEPT_MAX = 10_000
LOCKS = 64
FAILURES_PER_S = 1.0  # of one address
FAILURES_BURST = 20.0
NO_GOOD = "the key is not known, has expired or was revoked, or is not good from this address"


class Authenticates(Protocol):
    """The part of `hostler.access_client.AccessClient` that is used here."""

    async def authenticate(self, text: str, *, address: str = "") -> Holder:
        """Return whose key it is. Raises Unauthenticated."""
        ...


class _Answer(NamedTuple):
    caller: Caller | None  # None: the key is no good
    fresh_until_s: float


class KeyChecks:
    """Asks whose keys are."""

    def __init__(self, access: Authenticates, *, wall_us: Callable[[], int] | None = None) -> None:
        """Prepare; *wall_us* is the time by which keys expire."""
        self._access = access
        self._wall_us = wall_us or SystemClock().wall_us
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        # Who shows a key that is being asked about waits for that answer.
        self._locks = tuple(asyncio.Lock() for _ in range(LOCKS))
        self._failures = TokenBuckets(per_s=FAILURES_PER_S, burst=FAILURES_BURST)

    async def caller(self, text: str, address: Address | None) -> Caller:
        """Return whose key *text* is, shown by a caller at *address*.

        Raises:
            Unauthenticated: it is no good.
            Overloaded: too many that are no good came from this address.
            HostlerError: the coordinator does not answer.
        """
        place = block_of(address)
        name = hashlib.sha256(f"{address}\0{text}".encode("utf-8", "surrogateescape")).digest()
        answer = self._fresh(name)
        if answer is None:
            async with self._locks[name[0] % LOCKS]:
                answer = self._fresh(name) or await self._ask(name, text, address, place)
        if answer.caller is not None:
            return answer.caller
        if wait_s := self._failures.take(place, _now_s()):
            raise _too_many(wait_s)
        raise Unauthenticated(NO_GOOD)

    def _fresh(self, name: bytes) -> _Answer | None:
        answer = self._answers.get(name)
        return answer if answer is not None and _now_s() < answer.fresh_until_s else None

    async def _ask(self, name: bytes, text: str, address: Address | None, place: str) -> _Answer:
        before = self._answers.get(name)
        was_good = before is not None and before.caller is not None
        wait_s = self._failures.wait_s(place, _now_s())
        if wait_s and not was_good:
            raise _too_many(wait_s)
        asked_at_s = _now_s()
        caller = None
        fresh_s = FRESH_S
        if read_key(text) is not None:
            try:
                holder = await self._access.authenticate(text, address=str(address or ""))
            except Unauthenticated:
                pass
            else:
                caller = _caller_of(holder)
                if holder.expires_at_us:
                    fresh_s = min(fresh_s, max(0.0, (holder.expires_at_us - self._wall_us()) / 1e6))
        answer = self._answers[name] = _Answer(caller, asked_at_s + fresh_s)
        self._answers.move_to_end(name)
        if len(self._answers) > KEPT_MAX:
            self._answers.popitem(last=False)
        return answer


def block_of(address: Address | None) -> str:
    """Return what counts as one place: an address, of IPv6 the network that one host has to itself."""
    if address is None or address.version == 4:
        return str(address)
    return f"{int(address) >> 64:x}::/64"


def _caller_of(holder: Holder) -> Caller:
    known = frozenset(Scope)
    scopes = frozenset(Scope(scope) for scope in holder.scopes if scope in known)
    return Caller(principal=holder.principal, owner=holder.owner, scopes=scopes)


def _too_many(wait_s: float) -> Overloaded:
    return Overloaded("too many keys that are no good came from this address; wait a moment", retry_after_s=wait_s)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
