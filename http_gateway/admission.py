"""Who is let in, once for all families: credentials, the rule of the route, and how much one caller may ask for.

In local mode a program of our own user needs no key, and a caller of an admitted network needs none where the rule
says so. In secured mode everybody else needs one, for everything but the routes that are anybody's. A key that is
shown counts in both modes: its caller is the key's, and nothing more.
"""

import asyncio
from collections.abc import Iterable

from aiohttp import web

from hostler.errors import HostlerError, Overloaded, PermissionDenied, Unauthenticated
from hostler.keys import KEY_PREFIX
from hostler.policy import Door
from http_gateway.auth import LocalTrust, Site, check_direct, peer_address, shown_key
from http_gateway.callers import LOCAL_CALLER, NOBODY, Caller, caller_at
from http_gateway.key_checks import KeyChecks, block_of
from http_gateway.networks import Address, Network, is_within
from http_gateway.refusals import Refusals
from http_gateway.route_policy import RoutePolicy, Rule
from http_gateway.standing import Standing
from http_gateway.token_buckets import TokenBuckets

NO_KEY = "a key is needed here: send it as x-api-key, or as Authorization: Bearer"
PENALTY_S = 1.0  # for which the refusal of a caller who asks too often is held back; it says to wait so long
BURST_S = 2.0  # a bucket holds what comes in so long


class Admission:
    """Decides about each request."""

    def __init__(
        self,
        *,
        site: Site,
        trust: LocalTrust | None,
        keys: KeyChecks,
        networks: Iterable[Network],
        policy: RoutePolicy,
        standing: Standing,
        requests_per_s: float,
        refusals: Refusals,
    ) -> None:
        """Prepare the decision.

        Args:
            site: where requests may come from at all.
            trust: in local mode; None: secured mode, in which the kernel's word about a caller counts for nothing.
            keys: whose keys are.
            networks: whose callers need no key where a rule says so.
            policy: the rules.
            standing: whether the gateway may speak for anybody; until then only what is anybody's is served.
            requests_per_s: of one key, or of one address without a key; 0: no limit. A local caller has none.
            refusals: where it is noted who is turned away.
        """
        self._site = site
        self._trust = trust
        self._keys = keys
        self._networks = tuple(networks)
        self._policy = policy
        self._standing = standing
        self._refusals = refusals
        self._buckets = TokenBuckets(per_s=requests_per_s, burst=requests_per_s * BURST_S)

    async def admit(self, request: web.Request) -> tuple[Caller, Rule | None]:
        """Return who calls, and the rule of the route, which is None where no route takes the request.

        Raises:
            HttpRefused: 421, it was meant for another host.
            Unauthenticated: who calls is not known.
            PermissionDenied: a foreign page, or a caller who may not.
            Overloaded: the caller asks too often.
            Unavailable: it is not known yet whether this gateway may speak for its callers.
        """
        caller: Caller | None = None
        try:
            self._site.check(request)
            rule = self._policy.rule_of(request)
            if rule is None or rule.door is not Door.ANYBODY:
                self._standing.check()
            address = peer_address(request)
            try:
                caller = await self._caller(request, rule, address)
            except Unauthenticated:
                if self._trust is None:
                    await self._slow_down(f"address:{block_of(address)}")
                raise
            if caller is not LOCAL_CALLER:
                await self._slow_down(caller.principal if caller.shows_key else f"address:{block_of(address)}")
            if rule is not None and rule.door is not Door.ANYBODY:
                check_scopes(caller, rule)
        except HostlerError as error:
            self._refusals.note(request, error, caller)
            raise
        return caller, rule

    async def _caller(self, request: web.Request, rule: Rule | None, address: Address | None) -> Caller:
        key = shown_key(request)
        if key and not (self._trust is not None and rule is not None and rule.other_keys and _is_other(key, request)):
            return await self._keys.caller(key, address)
        if rule is not None and rule.networks and is_within(address, self._networks):
            check_direct(request)
            return caller_at(address)
        if self._trust is not None:
            self._trust.check(request)
            return LOCAL_CALLER
        if rule is not None and rule.door is Door.ANYBODY:
            return NOBODY
        raise Unauthenticated(NO_KEY)

    async def _slow_down(self, bucket: str) -> None:
        wait_s = self._buckets.take(bucket, asyncio.get_running_loop().time())
        if wait_s:
            # Held back, so that a caller who repeats at once whatever is refused costs little.
            await asyncio.sleep(PENALTY_S)
            raise Overloaded("too many requests; slow down", retry_after_s=wait_s)


def _is_other(key: str, request: web.Request) -> bool:
    """Whether a key is another server's, in the one header in which clients of the PiXYZ API must send one."""
    return not key.startswith(f"{KEY_PREFIX}_") and "Authorization" not in request.headers


def check_scopes(caller: Caller, rule: Rule) -> None:
    """Return when a caller has all that a route needs. Raises PermissionDenied, which names what is missing."""
    missing = [scope for scope in rule.scopes if scope not in caller.scopes]
    if missing:
        raise PermissionDenied(f"this needs the scope {missing[0]}, which the caller does not have")
