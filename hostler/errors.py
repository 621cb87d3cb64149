"""What can go wrong, once: the exception tree and the two tables to gRPC and HTTP.

Pure: the tables hold the names of gRPC status codes, so that nothing here imports grpc.

    HostlerError
      InvalidRequest      the request is wrong; `field` says where
      TooLarge            a body, message or list is over its limit
      Unauthenticated     the caller is not known
      PermissionDenied    the caller is known and may not
      JobNotFound         no such job, or not this caller's
      WorkerNotFound      no such worker, or it is not connected
      WorkloadNotFound    no such workload
      FileNotFound        no such file: stored bytes, or an output of a job
      KeyNotFound         no API key of this id
      NotFinished         the job must be over first
      KeyConflict         the idempotency key was used with another body
      NotRunning          the job is not in a state that allows this
      Overloaded          a queue is full; try again later
      Unavailable         the coordinator cannot serve now (disk full, stopping, not reachable)
      DeadlineExceeded    the answer did not come in time
      InternalError       a fault of hostler's own

A failure is logged once, by whoever ends its journey. An API family may show another HTTP status
where its document says so; it then overrides it in one visible table of its own module.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class ErrorCode(StrEnum):
    """The stable word for each error, the same over HTTP, gRPC and the command line."""

    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    JOB_NOT_FOUND = "job_not_found"
    WORKER_NOT_FOUND = "worker_not_found"
    WORKLOAD_NOT_FOUND = "workload_not_found"
    FILE_NOT_FOUND = "file_not_found"
    KEY_NOT_FOUND = "key_not_found"
    NOT_FINISHED = "not_finished"
    KEY_CONFLICT = "key_conflict"
    NOT_RUNNING = "not_running"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"


class HostlerError(Exception):
    """Base of every error a caller can see; never raised itself."""

    code = ErrorCode.INTERNAL

    def __init__(self, message: str, *, field: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidRequest(HostlerError):
    """The request is wrong and nothing was done."""

    code = ErrorCode.INVALID_REQUEST


class TooLarge(HostlerError):
    """A body, message or list is over its limit and nothing was done."""

    code = ErrorCode.TOO_LARGE


class Unauthenticated(HostlerError):
    """The caller is not known."""

    code = ErrorCode.UNAUTHENTICATED


class PermissionDenied(HostlerError):
    """The caller is known and may not."""

    code = ErrorCode.PERMISSION_DENIED


class JobNotFound(HostlerError):
    """No job has this id, or it is not this caller's."""

    code = ErrorCode.JOB_NOT_FOUND


class WorkerNotFound(HostlerError):
    """No worker has this id, or it is not connected."""

    code = ErrorCode.WORKER_NOT_FOUND


class WorkloadNotFound(HostlerError):
    """No workload has this name."""

    code = ErrorCode.WORKLOAD_NOT_FOUND


class FileNotFound(HostlerError):
    """There is no such file: no stored bytes of this name, or no such output of the job."""

    code = ErrorCode.FILE_NOT_FOUND


class KeyNotFound(HostlerError):
    """No API key has this id, or it is not this caller's."""

    code = ErrorCode.KEY_NOT_FOUND


class NotFinished(HostlerError):
    """The job must be over before this can be answered."""

    code = ErrorCode.NOT_FINISHED


class KeyConflict(HostlerError):
    """The idempotency key was used before with another body."""

    code = ErrorCode.KEY_CONFLICT


class NotRunning(HostlerError):
    """The job is not in a state that allows this."""

    code = ErrorCode.NOT_RUNNING


class Overloaded(HostlerError):
    """A queue is full; nothing was done, try again after `retry_after_s`."""

    code = ErrorCode.OVERLOADED


class Unavailable(HostlerError):
    """The coordinator cannot serve now; whether the request took effect may be unknown.

    With the field `worker` it has answered, and the worker that it asked is away, or does not answer.
    """

    code = ErrorCode.UNAVAILABLE


class DeadlineExceeded(HostlerError):
    """The answer did not come in time; whether the request took effect is unknown."""

    code = ErrorCode.DEADLINE_EXCEEDED


class InternalError(HostlerError):
    """A fault of hostler's own."""

    code = ErrorCode.INTERNAL


BY_CODE: Mapping[ErrorCode, type[HostlerError]] = MappingProxyType(
    {
        kind.code: kind
        for kind in (
            InvalidRequest,
            TooLarge,
            Unauthenticated,
            PermissionDenied,
            JobNotFound,
            WorkerNotFound,
            WorkloadNotFound,
            FileNotFound,
            KeyNotFound,
            NotFinished,
            KeyConflict,
            NotRunning,
            Overloaded,
            Unavailable,
            DeadlineExceeded,
            InternalError,
        )
    }
)

TO_HTTP: Mapping[ErrorCode, int] = MappingProxyType(
    {
        ErrorCode.INVALID_REQUEST: 400,
        ErrorCode.TOO_LARGE: 413,
        ErrorCode.UNAUTHENTICATED: 401,
        ErrorCode.PERMISSION_DENIED: 403,
        ErrorCode.JOB_NOT_FOUND: 404,
        ErrorCode.WORKER_NOT_FOUND: 404,
        ErrorCode.WORKLOAD_NOT_FOUND: 404,
        ErrorCode.FILE_NOT_FOUND: 404,
        ErrorCode.KEY_NOT_FOUND: 404,
        ErrorCode.NOT_FINISHED: 425,
        ErrorCode.KEY_CONFLICT: 409,
        ErrorCode.NOT_RUNNING: 409,
        ErrorCode.OVERLOADED: 429,
        ErrorCode.UNAVAILABLE: 503,
        ErrorCode.DEADLINE_EXCEEDED: 504,
        ErrorCode.INTERNAL: 500,
    }
)

TO_GRPC: Mapping[ErrorCode, str] = MappingProxyType(
    {
        ErrorCode.INVALID_REQUEST: "INVALID_ARGUMENT",
        ErrorCode.TOO_LARGE: "RESOURCE_EXHAUSTED",
        ErrorCode.UNAUTHENTICATED: "UNAUTHENTICATED",
        ErrorCode.PERMISSION_DENIED: "PERMISSION_DENIED",
        ErrorCode.JOB_NOT_FOUND: "NOT_FOUND",
        ErrorCode.WORKER_NOT_FOUND: "NOT_FOUND",
        ErrorCode.WORKLOAD_NOT_FOUND: "NOT_FOUND",
        ErrorCode.FILE_NOT_FOUND: "NOT_FOUND",
        ErrorCode.KEY_NOT_FOUND: "NOT_FOUND",
        ErrorCode.NOT_FINISHED: "FAILED_PRECONDITION",
        ErrorCode.KEY_CONFLICT: "ALREADY_EXISTS",
        ErrorCode.NOT_RUNNING: "FAILED_PRECONDITION",
        ErrorCode.OVERLOADED: "RESOURCE_EXHAUSTED",
        ErrorCode.UNAVAILABLE: "UNAVAILABLE",
        ErrorCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
        ErrorCode.INTERNAL: "INTERNAL",
    }
)


def from_code(code: str, message: str, *, field: str = "", retry_after_s: float = 0.0) -> HostlerError:
    """Make the exception for a code that came over the wire; unknown codes give InternalError."""
    try:
        kind = BY_CODE[ErrorCode(code)]
    except ValueError:
        kind = InternalError
    return kind(message, field=field, retry_after_s=retry_after_s)
