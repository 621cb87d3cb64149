"""The certificates that workers of other hosts show: whose a connection's is, and whether it is still heard.

That the cluster's authority signed it, and for calling, TLS has checked before a call is seen here. What TLS cannot
know is asked at every call and, on open streams, with every message: whether it was revoked, and whether its time
has passed meanwhile.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from coordinator.access import WORKER_PREFIX
from coordinator.admissions import Admissions
from coordinator.joining import certificate_refusal, claim_refusal
from coordinator.rpc.context import Caller, Context
from hostler import logs
from hostler.clock import Clock
from hostler.errors import PermissionDenied, Unauthenticated
from hostler.policy import Principal, Scope

COMMON_NAME = "x509_common_name"
PEM = "x509_pem_cert"
READ_MAX = 4096  # certificates whose serial is remembered


# A worker fetches the inputs of its attempts and stores what they put out.
SCOPES = frozenset({Scope.FILES_WRITE, Scope.OUTPUTS_READ})


class Certificates:
    """Looks at the live set; keeps nothing of what it has found there."""

    def __init__(self, admissions: Callable[[], Admissions], clock: Clock) -> None:
        self._admissions = admissions
        self._clock = clock
        self._serials: OrderedDict[bytes, str] = OrderedDict()

    def caller(self, context: Context) -> Caller | None:
        """The worker whose certificate a call's connection has shown; None when it has shown none.

        Raises:
            Unauthenticated: it is not heard any more.
        """
        found = context.auth_context()
        if not found or COMMON_NAME not in found:
            return None
        worker, serial = _first(found, COMMON_NAME).decode(errors="replace"), self._serial(_first(found, PEM))
        principal = Principal(name=WORKER_PREFIX + worker, scopes=SCOPES, credential=serial)
        caller = Caller(principal, worker=worker, serial=serial)
        self.check(caller, context)
        return caller

    def is_standing(self, caller: Caller) -> bool:
        """Whether the certificate of a caller, if it has one, is still heard."""
        return not self._refusal(caller)

    def check(self, caller: Caller, context: Context) -> None:
        """Raises Unauthenticated when the certificate of a caller, if it has one, is not heard any more."""
        if refusal := self._refusal(caller):
            refused("certificate", refusal, worker=caller.worker, serial=caller.serial, peer=context.peer())
            raise Unauthenticated(refusal)

    def check_claim(self, caller: Caller, context: Context, worker: str, name: str) -> None:
        """Raises PermissionDenied when the holder of a certificate calls itself what it is not."""
        if not caller.worker:
            return
        if refusal := claim_refusal(self._admissions(), caller.serial, caller.worker, worker, name):
            refused("worker.hello", refusal, worker=caller.worker, serial=caller.serial, peer=context.peer())
            raise PermissionDenied(refusal)

    def _refusal(self, caller: Caller) -> str:
        if not caller.serial:
            return ""
        return certificate_refusal(self._admissions(), caller.serial, caller.worker, self._clock.wall_us())

    def _serial(self, pem: bytes) -> str:
        serial = self._serials.get(pem)
        if serial is None:
            from cryptography import x509  # a coordinator that no other host reaches has no use for it

            serial = self._serials[pem] = f"{x509.load_pem_x509_certificate(pem).serial_number:x}"
            if len(self._serials) > READ_MAX:
                self._serials.popitem(last=False)
        return serial


def refused(action: str, reason: str, **about: str) -> None:
    """Note that somebody was turned away."""
    logs.get().warning("access.refused", action=action, reason=reason, **about)


def _first(found: Any, name: str) -> bytes:
    value: bytes = next(iter(found.get(name) or (b"",)))
    return value
