"""Errors over gRPC: a status, a sentence, and in the trailing metadata the stable code and when to try again."""

import math
from types import TracebackType

import grpc
import grpc.aio

from hostler.errors import TO_GRPC, DeadlineExceeded, HostlerError, InternalError, Unavailable, from_code
from hostler.v1 import types_pb2

CODE_KEY = "hostler-code"
FIELD_KEY = "hostler-field"
RETRY_KEY = "hostler-retry-after-s"


def status_of(error: HostlerError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    status: grpc.StatusCode = grpc.StatusCode[TO_GRPC[error.code]]
    return status


def trailers_of(error: HostlerError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata that carries what a status cannot."""
    pairs = [(CODE_KEY, error.code.value)]
    if error.field:
        pairs.append((FIELD_KEY, error.field))
    if error.retry_after_s > 0:
        pairs.append((RETRY_KEY, f"{error.retry_after_s:g}"))
    return tuple(pairs)


def error_to_proto(error: HostlerError) -> types_pb2.Error:
    """Encode the error of one item."""
    return types_pb2.Error(
        code=error.code.value, message=error.message, field=error.field, retry_after_s=error.retry_after_s
    )


def error_from_proto(message: types_pb2.Error) -> HostlerError:
    """Decode the error of one item."""
    return from_code(message.code, message.message, field=message.field, retry_after_s=message.retry_after_s)


def error_from_call(error: grpc.aio.AioRpcError) -> HostlerError:
    """Turn a failed call into the error that was raised on the other side, or the nearest one."""
    trailers = {key: value for key, value in (error.trailing_metadata() or ()) if isinstance(value, str)}
    text = error.details() or error.code().name
    if CODE_KEY in trailers:
        field, retry_after_s = trailers.get(FIELD_KEY, ""), _seconds(trailers.get(RETRY_KEY, ""))
        return from_code(trailers[CODE_KEY], text, field=field, retry_after_s=retry_after_s)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"the coordinator cannot be reached: {text}")
    if error.code() is grpc.StatusCode.CANCELLED:  # our own cancelling is no error of a call
        return Unavailable("the call was broken off before its answer came")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Unavailable(f"what answers there is no hostler coordinator: {text}")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("the coordinator did not answer in time")
    return InternalError(f"{error.code().name}: {text}")


def _seconds(text: str) -> float:
    """Read a number of seconds; what is none counts as not said."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


class Calling:
    """``with CALLING:`` around a call: what it fails with leaves as the error of the other side."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            raise error_from_call(error) from error


CALLING = Calling()
