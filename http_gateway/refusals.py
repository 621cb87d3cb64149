"""Whom the gateway turns away by itself, told to the coordinator, which has the audit log.

Refusals are counted for a second: the same refusal of the same caller is one line with a count. What is counted is
bounded, and so is a call; while the coordinator does not answer it is kept, and told later.
"""

import asyncio
from collections import Counter
from typing import NamedTuple, Protocol

from aiohttp import web

from hostler.access_client import TurnedAway
from hostler.errors import HostlerError, Overloaded, PermissionDenied, Unauthenticated
from hostler.policy import KEY_PREFIX
from http_gateway.api import HttpRefused
from http_gateway.auth import peer_address
from http_gateway.callers import Caller

EVERY_S = 1.0
END_S = 1.0  # for the last call, when the gateway ends
KINDS_MAX = 500  # told apart at once; those above are counted together
METHOD_CHARACTERS_MAX = 20


class _Kind(NamedTuple):
    action: str
    principal: str = ""
    credential: str = ""
    address: str = ""
    detail: str = ""


_OTHERS = _Kind("any", detail="more kinds of refusals at once than are told apart")


class Notes(Protocol):
    """The part of `hostler.access_client.AccessClient` that is used here."""

    async def note_refusals(self, refusals: list[TurnedAway]) -> None:
        """Note them in the audit log."""
        ...


class Refusals:
    """Counts and tells. Its `run` is to run as long as requests come; `end` tells the last ones."""

    def __init__(self, access: Notes) -> None:
        self._access = access
        self._counts: Counter[_Kind] = Counter()
        self._wake = asyncio.Event()

    def note(self, request: web.Request, error: HostlerError, caller: Caller | None = None) -> None:
        """Note that a request was turned away; of other errors than those nothing is noted."""
        if not isinstance(error, HttpRefused | Unauthenticated | PermissionDenied | Overloaded):
            return
        word = error.word if isinstance(error, HttpRefused) else error.code.value
        principal = caller.principal if caller is not None else ""
        kind = _Kind(
            action=_action_of(request),
            principal=caller.owner if caller is not None else "",
            credential=principal.removeprefix(KEY_PREFIX) if principal.startswith(KEY_PREFIX) else "",
            address=str(peer_address(request) or ""),
            detail=f"{word}: {error.message}",
        )
        if kind not in self._counts and len(self._counts) >= KINDS_MAX:
            kind = _OTHERS
        self._counts[kind] += 1
        self._wake.set()

    async def run(self) -> None:
        """Tell what was counted, once a second, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(EVERY_S)
            self._wake.clear()
            await self._tell()

    async def end(self) -> None:
        """Tell what is left, if the coordinator takes it soon."""
        try:
            async with asyncio.timeout(END_S):
                await self._tell()
        except TimeoutError:
            return

    async def _tell(self) -> None:
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            await self._access.note_refusals([TurnedAway(*kind, count) for kind, count in counts.items()])
        except (HostlerError, asyncio.CancelledError) as error:
            # Told later, with what has come meanwhile; whether it was noted all the same nobody knows.
            for kind, count in counts.items():
                is_room = kind in self._counts or len(self._counts) < KINDS_MAX
                self._counts[kind if is_room else _OTHERS] += count
            self._wake.set()
            if isinstance(error, asyncio.CancelledError):
                raise


REFUSALS: web.AppKey[Refusals] = web.AppKey("refusals", Refusals)


def _action_of(request: web.Request) -> str:
    # The route and never the path: that is anything, and may hold what nobody wants in a log.
    resource = request.match_info.route.resource
    path = "(no route)" if resource is None else resource.canonical
    return f"{request.method[:METHOD_CHARACTERS_MAX]} {path}"
