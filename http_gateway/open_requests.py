"""The requests that are being handled: how many of one caller, how many downloads, and whether keys are good still.

Every `RECHECK_S` it is asked again whose the keys of open requests are. A request whose key is good no more ends: with
401 when its answer has not begun, else by breaking the connection.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from hostler import logs
from hostler.errors import HostlerError, Overloaded, Unauthenticated
from http_gateway.auth import peer_address, shown_key
from http_gateway.callers import LOCAL_CALLER, Caller
from http_gateway.key_checks import KeyChecks, block_of
from http_gateway.networks import Address
from http_gateway.route_policy import Rule

RECHECK_S = 10.0
# Of a download that nobody reads the gateway holds what is on the way between it and the coordinator.
DOWNLOADS_MAX = 100
# Of one caller: the others wait for their turn, so that a hundred requests of one do not go before one of another.
BRIEF_AT_ONCE = 4
RETRY_AFTER_S = 1.0


@dataclass(slots=True, eq=False)
class OpenRequest:
    """A request of a caller with a key."""

    task: asyncio.Task[object]
    key: str
    address: Address | None
    ended: bool = False  # because its key is good no more

    def end(self) -> None:
        """End it."""
        self.ended = True
        self.task.cancel()


class OpenRequests:
    """Counts and watches what is open. Its `run` is to run as long as requests come."""

    def __init__(self, keys: KeyChecks, *, at_once_max: int) -> None:
        """Prepare; *at_once_max* is how many one key, or one address without a key, may have open (0: no limit)."""
        self._keys = keys
        self._at_once_max = at_once_max
        self._of_caller: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}  # of those who have something open
        self._with_key: set[OpenRequest] = set()
        self._downloads = 0

    @staticmethod
    def concerns(caller: Caller, rule: Rule | None) -> bool:
        """Whether there is anything to count or watch: a local caller's requests are held without `holding`."""
        return caller is not LOCAL_CALLER or (rule is not None and rule.downloads)

    @asynccontextmanager
    async def holding(
        self, request: web.Request, caller: Caller, rule: Rule | None
    ) -> AsyncIterator[OpenRequest | None]:
        """Count a request while it is handled, and watch it when its caller has shown a key.

        One that is brief waits until few others of its caller are being handled. A local caller never waits.

        Raises:
            Overloaded: the caller, or all together, have too many open.
        """
        is_download = rule is not None and rule.downloads
        if is_download and self._downloads >= DOWNLOADS_MAX:
            raise Overloaded("too many files are being sent; try again in a second", retry_after_s=RETRY_AFTER_S)
        name = caller.principal if caller.shows_key else f"address:{block_of(peer_address(request))}"
        is_counted = caller is not LOCAL_CALLER
        if is_counted and self._at_once_max and self._of_caller[name] >= self._at_once_max:
            raise Overloaded(
                f"{self._at_once_max} requests of this caller are open already; end some", retry_after_s=RETRY_AFTER_S
            )
        watched = self._watched(request) if caller.shows_key else None
        self._downloads += is_download
        self._of_caller[name] += is_counted
        turns = self._turns.setdefault(name, asyncio.Semaphore(BRIEF_AT_ONCE)) if is_counted else None
        try:
            async with AsyncExitStack() as stack:
                if turns is not None and not _may_last(request, rule):
                    await stack.enter_async_context(turns)
                yield watched
        finally:
            self._downloads -= is_download
            self._of_caller[name] -= is_counted
            if not self._of_caller[name]:
                del self._of_caller[name]
                self._turns.pop(name, None)
            if watched is not None:
                self._with_key.discard(watched)

    async def run(self) -> None:
        """Look at the keys of open requests again and again, until cancelled."""
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                await self.recheck()
            # The owner of the look: whatever it was, the next one is due all the same.
            except Exception:
                logs.get().exception("request.failed", call="recheck")

    async def recheck(self) -> None:
        """Look at the keys of open requests, and end those that rest on one that is good no more."""
        shown: dict[tuple[str, Address | None], list[OpenRequest]] = {}
        for each in self._with_key:
            shown.setdefault((each.key, each.address), []).append(each)
        for (key, address), requests in shown.items():
            try:
                await self._keys.caller(key, address)
            except Unauthenticated:
                for each in requests:
                    each.end()
            except HostlerError:
                pass  # the coordinator does not answer now; nothing comes from it either

    def _watched(self, request: web.Request) -> OpenRequest:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is handled outside of a task")
        watched = OpenRequest(task, shown_key(request), peer_address(request))
        self._with_key.add(watched)
        return watched


def _may_last(request: web.Request, rule: Rule | None) -> bool:
    return rule is not None and (rule.lasts or "wait" in request.query)
