"""Whether a worker may join, and whether its certificate is heard. Pure.

The order matters to who guesses: a token that is unknown and one whose secret is wrong are answered alike. A use of
an invitation is counted in the same decision that issues the certificate, so of two joins with one use one wins.
"""

import fnmatch
from typing import Any

from coordinator.admissions import (
    Admissions,
    Certificate,
    CertificateIssued,
    CertificateOver,
    CertificateRevoked,
    Invitation,
    InvitationOver,
    InvitationUsed,
    Invited,
)
from coordinator.capacity import REVOKED, Worker
from coordinator.changes import Change, Quarantined
from coordinator.decisions import Decision
from coordinator.drains import find_worker
from coordinator.effects import Answer, DropSession, Effect
from coordinator.instant import Instant
from coordinator.live import Live
from coordinator.losses import lost_with_their_worker
from hostler.errors import (
    HostlerError,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
)
from hostler.keys import KeyText, is_key

USES_MAX = 1000
EXPIRES_S_MAX = 30 * 86400.0
INVITATIONS_MAX = 1000  # open at once
CERTIFICATES_MAX = 100_000  # known at once
OF_ONE_WORKER_MAX = 8  # good at once; a worker needs two


def checked_invitation(expires_in_s: float, uses: int, name_pattern: str) -> tuple[float, int]:
    """The seconds and the uses that a wish for an invitation means.

    Raises:
        InvalidRequest: it cannot be.
    """
    expires_in_s, uses = expires_in_s or 3600.0, uses or 1
    if not 1.0 <= expires_in_s <= EXPIRES_S_MAX:
        raise InvalidRequest("an invitation is good for a second at least and 30 days at most", field="expires_in_s")
    if uses > USES_MAX:
        raise InvalidRequest(f"an invitation is for at most {USES_MAX} workers", field="uses")
    if len(name_pattern) > 200 or not name_pattern.isprintable() or any(sign in name_pattern for sign in "?[]"):
        raise InvalidRequest("a pattern of names is letters, with * as a wild card", field="name_pattern")
    return expires_in_s, uses


def on_invite(live: Live, invitation: Invitation, reply: Any, now: Instant) -> Decision:
    """Keep an invitation, and forget those that are over."""
    over = [each.id for each in live.admissions.invitations.values() if each.expires_at_us <= now.wall_us]
    changes: list[Change] = [InvitationOver(each) for each in over]
    if len(live.admissions.invitations) - len(over) >= INVITATIONS_MAX:
        return Decision(changes, [Answer(reply, Overloaded(f"there are {INVITATIONS_MAX} open invitations already"))])
    return Decision([*changes, Invited(invitation)], [Answer(reply, None)])


def on_join(live: Live, token: KeyText, certificate: Certificate, reply: Any, now: Instant) -> Decision:
    """Use an invitation for a worker whose certificate was made ready, if it is good for that one."""
    refusal = join_refusal(live.admissions, token, certificate.name, now.wall_us) or _used_before(live, certificate)
    if refusal is not None:
        return Decision([], [Answer(reply, refusal)])
    forgotten = _forgotten(live, now)
    if len(live.admissions.certificates) - len(forgotten) >= CERTIFICATES_MAX:
        error = Overloaded("there are too many certificates; try again when those of workers that left have expired")
        return Decision(forgotten, [Answer(reply, error)])
    invitation = live.admissions.invitations[token.id]
    used = InvitationUsed(invitation.id, invitation.uses_left - 1)
    return Decision([used, *forgotten, CertificateIssued(certificate)], [Answer(reply, None)])


def join_refusal(admissions: Admissions, token: KeyText, name: str, now_us: int) -> HostlerError | None:
    """Why this token lets no worker of this name join; None: it does."""
    invitation = admissions.invitations.get(token.id)
    if invitation is None or not is_key(token, invitation.hash):
        return Unauthenticated("this invitation is not known here; make one with: hostler workers invite")
    if invitation.expires_at_us <= now_us:
        return Unauthenticated("this invitation has expired; make another with: hostler workers invite")
    if invitation.uses_left <= 0:
        return Unauthenticated("this invitation has been used; make another with: hostler workers invite")
    if invitation.name_pattern and not fnmatch.fnmatchcase(name, invitation.name_pattern):
        return PermissionDenied(f"this invitation is for workers named {invitation.name_pattern}, not {name[:200]!r}")
    return None


def on_renew(live: Live, shown: str, certificate: Certificate, reply: Any, now: Instant) -> Decision:
    """List a worker's next certificate beside the one it has *shown* (its serial)."""
    refusal = certificate_refusal(live.admissions, shown, certificate.worker, now.wall_us)
    if refusal:
        return Decision([], [Answer(reply, Unauthenticated(refusal))])
    if (used := _used_before(live, certificate)) is not None:
        return Decision([], [Answer(reply, used)])
    forgotten = _forgotten(live, now)
    serials = {each.serial for each in forgotten if isinstance(each, CertificateOver)}
    good = [each for each in live.admissions.of_worker(certificate.worker) if each.serial not in serials]
    if len(good) >= OF_ONE_WORKER_MAX:
        wait_s = max(0.0, (good[0].expires_at_us - now.wall_us) / 1e6)
        return Decision(forgotten, [Answer(reply, Overloaded("this worker renews too often", retry_after_s=wait_s))])
    name = live.admissions.certificates[shown].name
    return Decision([*forgotten, CertificateIssued(certificate._replace(name=name))], [Answer(reply, None)])


def _used_before(live: Live, certificate: Certificate) -> HostlerError | None:
    # The serial is that of the key in the request: whoever sends a request that he has recorded gets nothing.
    if certificate.serial in live.admissions.certificates:
        return InvalidRequest("this certificate request was used before; make one with a new key", field="request")
    return None


def _forgotten(live: Live, now: Instant) -> list[Change]:
    over = [each for each in live.admissions.certificates.values() if each.expires_at_us <= now.wall_us]
    return [CertificateOver(each.serial) for each in over if not _is_awaited(live.workers.get(each.worker))]


def _is_awaited(worker: Worker | None) -> bool:
    # Its jobs may be waited for without end, until it is revoked: so it must still be known to be of another host.
    return worker is not None and not worker.connected and bool(worker.held)


def on_revoke(live: Live, named: str, reply: Any, now: Instant) -> Decision:
    """Hear a worker's certificates no more; its stream, if there is one, and its jobs end with this decision."""
    found = find_worker(live, named)
    if isinstance(found, InvalidRequest):
        return Decision([], [Answer(reply, found)])
    # Those, too, that have joined and were never there since: whoever took an invitation may call itself like another.
    known = [each for each in live.admissions.certificates.values() if named in (each.worker, each.name)]
    joined = {each.worker for each in known if not each.revoked_at_us} or {each.worker for each in known}
    if isinstance(found, Worker) and (found.id == named or not found.revoked or not joined):
        joined = {named} if found.id == named else joined | {found.id}
    elif not joined:
        return Decision([], [Answer(reply, found)])
    if len(joined) > 1:
        ids = ", ".join(sorted(joined)[:5])
        text = f"{len(joined)} workers have joined as {named[:100]!r}; give the id of one: {ids}"
        return Decision([], [Answer(reply, InvalidRequest(text, field="worker"))])
    (worker,) = joined
    of_it = list(live.admissions.of_worker(worker))
    listed = [each for each in of_it if not each.revoked_at_us]
    good = sum(each.expires_at_us > now.wall_us for each in listed)
    changes: list[Change] = [CertificateRevoked(each.serial, now.wall_us) for each in listed]
    effects: list[Effect] = []
    there = live.workers.get(worker)
    # A worker of this host has no certificate: there is nothing to revoke, and its stream is left alone.
    if there is not None and of_it and not there.revoked:
        changes += [Quarantined(worker, REVOKED), *lost_with_their_worker(live, there, now)]
        effects += [DropSession(worker, superseded=False)] if there.connected else []
    return Decision(changes, [*effects, Answer(reply, good)])


def certificate_refusal(admissions: Admissions, serial: str, worker: str, now_us: int) -> str:
    """Why a certificate that the cluster's authority signed is not heard; empty: it is."""
    known = admissions.certificates.get(serial)
    if known is None or known.worker != worker:
        return "this certificate is not known here any more; join again with a new invitation"
    if known.revoked_at_us:
        return "this worker was revoked; it may join again with a new invitation"
    if known.expires_at_us <= now_us:
        return "this certificate has expired; join again with a new invitation"
    return ""


def claim_refusal(admissions: Admissions, serial: str, worker: str, said_id: str, said_name: str) -> str:
    """Why the holder of a certificate may not call itself so; empty: it may."""
    if said_id not in ("", worker):
        return f"this certificate is worker {worker}'s; it cannot speak for worker {said_id[:64]!r}"
    known = admissions.certificates.get(serial)
    if known is not None and said_name != known.name:
        return f"this worker joined as {known.name!r}; it cannot call itself {said_name[:200]!r}"
    return ""
