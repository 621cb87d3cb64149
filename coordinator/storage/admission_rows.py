"""Invitations and certificates of workers in the database."""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from coordinator.admissions import (
    AdmissionChange,
    Certificate,
    CertificateIssued,
    CertificateOver,
    CertificateRevoked,
    Invitation,
    InvitationOver,
    InvitationUsed,
    Invited,
)

KEEP_INVITATION = (
    "INSERT INTO invitation (id, hash, name_pattern, uses_left, created_at, created_by, expires_at)"
    " VALUES (?,?,?,?,?,?,?)"
)
NOTE_USE = "UPDATE invitation SET uses_left = ? WHERE id = ?"
FORGET_INVITATION = "DELETE FROM invitation WHERE id = ?"
KEEP_CERTIFICATE = (
    "INSERT INTO certificate (serial, worker, name, issued_at, expires_at, revoked_at) VALUES (?,?,?,?,?,?)"
)
NOTE_REVOKED = "UPDATE certificate SET revoked_at = ? WHERE serial = ?"
FORGET_CERTIFICATE = "DELETE FROM certificate WHERE serial = ?"
LOAD_INVITATIONS = (
    "SELECT id, hash, name_pattern, uses_left, created_at, created_by, expires_at FROM invitation ORDER BY created_at"
)
LOAD_CERTIFICATES = "SELECT serial, worker, name, issued_at, expires_at, revoked_at FROM certificate ORDER BY issued_at"


def load_admissions(reader: sqlite3.Connection) -> Iterator[AdmissionChange]:
    """Read every invitation and certificate that was not forgotten, oldest first."""
    for row in reader.execute(LOAD_INVITATIONS):
        yield Invited(Invitation(*row))
    for row in reader.execute(LOAD_CERTIFICATES):
        yield CertificateIssued(Certificate(*row))


COMPILERS: dict[type, Callable[[Any, Any], None]] = {
    Invited: lambda out, c: out.add(KEEP_INVITATION, tuple(c.invitation)),
    InvitationUsed: lambda out, c: out.add(NOTE_USE, (c.uses_left, c.id)),
    InvitationOver: lambda out, c: out.add(FORGET_INVITATION, (c.id,)),
    CertificateIssued: lambda out, c: out.add(KEEP_CERTIFICATE, tuple(c.certificate)),
    CertificateRevoked: lambda out, c: out.add(NOTE_REVOKED, (c.at_us, c.serial)),
    CertificateOver: lambda out, c: out.add(FORGET_CERTIFICATE, (c.serial,)),
}
