"""What every RPC shares: messages out of raw bytes, errors as statuses, who is calling and whose a job is."""

from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from hostler.errors import HostlerError, InvalidRequest, JobNotFound
from hostler.jobs import Job
from hostler.policy import KEY_PREFIX, LOCAL, Principal, Scope
from hostler.wire.errors import status_of, trailers_of

M = TypeVar("M", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]


def parse(kind: type[M], data: bytes) -> M:
    """Decode a message.

    Raises:
        InvalidRequest: the bytes are no such message.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise wrong(kind.DESCRIPTOR.full_name) from error
    return message


def wrong(name: str) -> InvalidRequest:
    """Return what is said of bytes that are no message of this name."""
    return InvalidRequest(f"the request is not a {name}")


def visible(job: Job | None, job_id: str, principal: Principal, family: str = "") -> Job:
    """Return *job*, which was looked up by *job_id*, where it exists for *principal*.

    Raises:
        JobNotFound: there is none, or it is somebody else's, or another API family's: nothing tells which.
    """
    if job is None or not principal.sees(job.spec.owner) or (family and job.spec.family != family):
        raise JobNotFound(f"job {job_id[:64]!r} not found")
    return job


def owner_seen(principal: Principal) -> str | None:
    """The one owner whose jobs *principal* sees; None: everybody's."""
    return None if principal.may(Scope.JOBS_ANY_OWNER) else principal.name


class Caller:
    """Who is at the other end of a connection, and for whom he may speak."""

    __slots__ = ("_resolve", "asked", "content", "keys", "may_assert", "principal", "request", "serial", "worker")

    def __init__(
        self,
        principal: Principal,
        *,
        may_assert: bool = False,
        resolve: Callable[[str], Principal] | None = None,
        worker: str = "",
        serial: str = "",
    ) -> None:
        """Note who calls.

        Args:
            principal: the connection's own.
            may_assert: whether it is believed for whom it asks.
            resolve: the principal that an asserted name stands for; raises `Unauthenticated`.
            worker: the one worker it may speak as, by its certificate; empty: by none.
            serial: of that certificate.
        """
        self.principal = principal
        self.may_assert = may_assert
        self.worker = worker
        self.serial = serial
        self.keys: set[str] = set()  # ids of the keys on which this call rests
        self._resolve = resolve
        # For the audit log: for whom the request is, the request, and of a submit its bytes.
        self.asked: Principal | None = None
        self.request: Any = None
        self.content = b""

    @property
    def is_local(self) -> bool:
        """Whether it is a program of our own user on this host, and nothing less."""
        return self.principal is LOCAL

    def acting_for(self, asserted: str) -> Principal:
        """The principal of a request: the asserted one where that is believed, else the connection's own.

        Raises:
            Unauthenticated: nobody is called so (any more).
        """
        if not asserted or not self.may_assert or self._resolve is None:
            return self.principal
        found = self._resolve(asserted)
        if asserted == f"{KEY_PREFIX}{found.credential}":
            self.keys.add(found.credential)
        return found


async def fail(context: Context, error: HostlerError) -> None:
    """End a call with an error."""
    context.set_trailing_metadata(trailers_of(error))
    await context.abort(status_of(error), error.message)
