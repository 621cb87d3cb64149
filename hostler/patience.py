"""How a client goes on while its coordinator is away: it asks again, with growing pauses, while its patience lasts.

Only what may be repeated is: calls that change nothing, calls that come to the same when they are made twice, and
submissions, to which a patient client gives an idempotency key each. Streams are resumed by `hostler.client` where
they broke off. Limits: one event loop; no state but that of the call.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio

from hostler.errors import DeadlineExceeded, HostlerError, Overloaded, Unavailable
from hostler.wire.errors import RETRY_KEY

PATIENCE_S: Final = 30.0
PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 2.0
PASSING: Final = (Unavailable, DeadlineExceeded, Overloaded)  # errors that may be over a moment later

# CreateKey, Invite, Join, Signal, Retry and Remove are not here: a second one is another one, or fails.
_REPEATED: Final = frozenset(
    f"/hostler.v1.{name}"
    for name in (
        "Jobs/Submit",  # with keys
        "Jobs/Get",
        "Jobs/List",
        "Jobs/Stop",
        "Jobs/ListOutputs",
        "Cluster/ListWorkers",
        "Cluster/DrainWorker",
        "Cluster/ResumeWorker",
        "Cluster/ReleaseWorker",
        "Cluster/Describe",
        "Cluster/Metrics",
        "Records/Put",
        "Records/Find",
        "Workloads/Apply",
        "Workloads/Get",
        "Workloads/List",
        "Access/ListKeys",
        "Access/RevokeKey",
        "Access/RevokeWorker",
    )
)


class Absence:
    """One caller's view of a coordinator that does not answer: since when, and when to ask again."""

    def __init__(self, patience_s: float) -> None:
        """Begin; it has been heard until now. *patience_s* 0: nothing is ever asked again."""
        self._patience_s = patience_s
        self.heard()

    def heard(self) -> None:
        """Note an answer: what follows is another absence."""
        self._since: float | None = None
        self._pause_s = PAUSE_S_MIN

    async def bear(self, error: HostlerError) -> None:
        """Wait until it is time to ask again.

        Raises:
            HostlerError: *error*, when patience would be over by then, or asking again would not help.
        """
        if not isinstance(error, PASSING) or not await self.bears():
            raise error

    async def bears(self) -> bool:
        """Wait until it is time to ask again; False, at once, when patience would be over by then."""
        now = asyncio.get_running_loop().time()
        self._since = now if self._since is None else self._since
        pause_s = self._pause_s * random.uniform(0.5, 1.0)  # so that many clients do not come back at once
        if now + pause_s - self._since > self._patience_s:
            return False
        self._pause_s = min(PAUSE_S_MAX, self._pause_s * 2)
        await asyncio.sleep(pause_s)
        return True


class Repeating(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc, type-arg, unused-ignore]
    """Makes unary calls again that failed because the coordinator was away, or had too much to do."""

    def __init__(self, patience_s: float) -> None:
        """Repeat for *patience_s* at most, counted from a call's first failure."""
        self._patience_s = patience_s

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        """Return the first call that did not fail in passing, or the last one."""
        method = client_call_details.method
        absence = Absence(self._patience_s)
        while True:
            call = await continuation(client_call_details, request)
            if (method if isinstance(method, str) else method.decode()) not in _REPEATED:
                return call
            if not await _passes(call) or not await absence.bears():
                return call


async def _passes(call: Any) -> bool:
    code = await call.code()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # of ours it says when to come again; a message too large does not
        return any(key == RETRY_KEY for key, _ in await call.trailing_metadata() or ())
    # Of many calls that are refused at once gRPC shows some as cancelled; one that we cancel ends otherwise.
    return code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
