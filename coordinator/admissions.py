"""Which workers of other hosts may come in: open invitations, certificates that are good, and the changes to both.

Pure. A certificate counts only while its serial is listed here: whatever else the cluster's authority may have
signed (before a backup was restored, say) is not heard. Those that are over by age are forgotten in time.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Invitation(NamedTuple):
    """A token with which workers join; of its secret only the hash is known."""

    id: str
    hash: bytes
    name_pattern: str  # of the workers that may join with it, with * as a wild card; empty: any
    uses_left: int
    created_at_us: int
    created_by: str  # the principal who asked for it
    expires_at_us: int


class Certificate(NamedTuple):
    """A certificate of a worker."""

    serial: str  # hex digits
    worker: str  # its subject
    name: str  # under which the worker joined
    issued_at_us: int
    expires_at_us: int
    revoked_at_us: int = 0  # 0: it is good


class Invited(NamedTuple):
    """Somebody made an invitation."""

    invitation: Invitation


class InvitationUsed(NamedTuple):
    """A worker joined with it."""

    id: str
    uses_left: int


class InvitationOver(NamedTuple):
    """It has expired and is forgotten."""

    id: str


class CertificateIssued(NamedTuple):
    """A worker has a new certificate; those before it stay good until they end."""

    certificate: Certificate


class CertificateRevoked(NamedTuple):
    """A certificate is not heard any more."""

    serial: str
    at_us: int


class CertificateOver(NamedTuple):
    """It has expired and is forgotten."""

    serial: str


AdmissionChange = Invited | InvitationUsed | InvitationOver | CertificateIssued | CertificateRevoked | CertificateOver


class Admissions:
    """Every invitation and certificate that is not over."""

    def __init__(self) -> None:
        self.invitations: dict[str, Invitation] = {}
        self.certificates: dict[str, Certificate] = {}  # by serial

    def of_worker(self, worker: str) -> Iterator[Certificate]:
        """The certificates of a worker, oldest first."""
        return (each for each in self.certificates.values() if each.worker == worker)

    def appliers(self) -> dict[type, Callable[[Any], None]]:
        """What makes each change true."""
        return {
            Invited: self._invited,
            InvitationUsed: self._used,
            InvitationOver: self._invitation_over,
            CertificateIssued: self._issued,
            CertificateRevoked: self._revoked,
            CertificateOver: self._certificate_over,
        }

    def _invited(self, change: Invited) -> None:
        self.invitations[change.invitation.id] = change.invitation

    def _used(self, change: InvitationUsed) -> None:
        self.invitations[change.id] = self.invitations[change.id]._replace(uses_left=change.uses_left)

    def _invitation_over(self, change: InvitationOver) -> None:
        del self.invitations[change.id]

    def _certificate_over(self, change: CertificateOver) -> None:
        del self.certificates[change.serial]

    def _issued(self, change: CertificateIssued) -> None:
        self.certificates[change.certificate.serial] = change.certificate

    def _revoked(self, change: CertificateRevoked) -> None:
        known = self.certificates[change.serial]
        self.certificates[change.serial] = known._replace(revoked_at_us=change.at_us)
