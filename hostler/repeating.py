"""Unary calls of a patient client are made again where that is harmless.

That is: calls that change nothing, calls that come to the same when they are made twice, and submissions, to which a
patient client gives an idempotency key each. Streams are resumed by `hostler.client` where they broke off.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio

from hostler.patience import Absence
from hostler.wire.errors import RETRY_KEY

# CreateKey, Invite, Join, Renew, NoteRefusals, Signal, Retry and Remove are not here: a second one is another one, or
# fails.
REPEATED: Final = frozenset(
    f"/hostler.v1.{name}"
    for name in (
        "Jobs/Submit",  # with keys
        "Jobs/Get",
        "Jobs/Explain",
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
        "Access/Authenticate",
        "Access/ListKeys",
        "Access/RevokeKey",
        "Access/RevokeWorker",
    )
)


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
            if (method if isinstance(method, str) else method.decode()) not in REPEATED:
                return call
            try:
                if not await _passes(call) or not await absence.bears():
                    return call
            except asyncio.CancelledError:
                call.cancel()  # gRPC knows of this call only once it is returned, and would leave it open
                raise


async def _passes(call: Any) -> bool:
    code = await call.code()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # of ours it says when to come again; a message too large does not
        return any(key == RETRY_KEY for key, _ in await call.trailing_metadata() or ())
    # Of many calls that are refused at once gRPC shows some as cancelled; one that we cancel ends otherwise.
    return code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
