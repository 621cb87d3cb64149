"""The wrapper around every call, without a network."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from coordinator.rpc.context import Caller
from coordinator.rpc.guard import Guard
from hostler.policy import LOCAL, Principal
from hostler.v1 import jobs_pb2


class Everybody:
    """Lets everybody in."""

    def caller(self, context: Any) -> Caller:
        """Whoever calls is local."""
        return Caller(LOCAL, resolve=lambda _: LOCAL)

    def is_standing(self, caller: Caller) -> bool:
        """He stays."""
        return True


class Connection:
    """What a handler sees of a call whose caller does not take the answers."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.code: grpc.StatusCode | None = None

    async def write(self, _: bytes) -> None:
        """Nothing arrives."""
        raise self._error

    def set_trailing_metadata(self, _: Any) -> None:
        """Nobody reads it."""

    async def abort(self, code: grpc.StatusCode, _: str) -> None:
        """End the call."""
        self.code = code
        raise grpc.aio.AbortError


@pytest.mark.parametrize(
    ("error", "code", "is_a_fault"),
    [
        (grpc.aio.InternalError("the stream is closed"), grpc.StatusCode.UNAVAILABLE, False),
        (ZeroDivisionError(), grpc.StatusCode.INTERNAL, True),
    ],
)
async def test_a_caller_who_goes_while_he_is_answered_is_no_fault_of_ours(
    error: Exception, code: grpc.StatusCode, is_a_fault: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log names faults of hostler's own, and only those."""

    async def answers(request: jobs_pb2.WatchRequest, principal: Principal) -> AsyncIterator[jobs_pb2.JobEvent]:
        yield jobs_pb2.JobEvent()

    served: Any = Guard(Everybody()).streaming("Jobs/Watch", jobs_pb2.WatchRequest, answers)
    connection = Connection(error)

    with pytest.raises(grpc.aio.AbortError):
        await served.unary_stream(b"", connection)

    assert connection.code is code
    assert ("request.failed" in "".join(capsys.readouterr())) == is_a_fault
