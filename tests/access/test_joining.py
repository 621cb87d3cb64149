"""Decisions on invitations and certificates: whatever comes in whatever order, nobody gets in who should not."""

import os
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.admissions import Certificate, Invitation
from coordinator.changes import WorkerSeen
from coordinator.decisions import Decision
from coordinator.effects import Answer, DropSession
from coordinator.instant import Instant
from coordinator.joining import (
    OF_ONE_WORKER_MAX,
    certificate_refusal,
    checked_invitation,
    claim_refusal,
    on_invite,
    on_join,
    on_renew,
    on_revoke,
)
from coordinator.live import Live
from hostler.errors import HostlerError, InvalidRequest, Overloaded, PermissionDenied, Unauthenticated, WorkerNotFound
from hostler.keys import INVITATION_PREFIX, RANDOM_BYTES, KeyText, make_key

NOW = Instant(1_764_072_000_000_000, 1000.0)
HOUR_US = 3_600_000_000


class Cluster:
    """A live set on which decisions are made and applied, as the engine does."""

    def __init__(self) -> None:
        self.live = Live()
        self.now_us = NOW.wall_us
        self.effects: list[Any] = []
        self._serial = 0

    def do(self, decision: Decision) -> Any:
        """Apply a decision; returns what was answered."""
        for change in decision.changes:
            self.live.apply(change)
        self.effects += decision.effects
        return next(effect.value for effect in decision.effects if isinstance(effect, Answer))

    @property
    def now(self) -> Instant:
        """The moment."""
        return Instant(self.now_us, 0.0)

    def invite(self, *, uses: int = 1, pattern: str = "", life_us: int = HOUR_US) -> KeyText:
        """Make an invitation."""
        token = make_key(os.urandom(RANDOM_BYTES), INVITATION_PREFIX)
        invitation = Invitation(token.id, token.hash, pattern, uses, self.now_us, "local", self.now_us + life_us)
        assert self.do(on_invite(self.live, invitation, None, self.now)) is None
        return token

    def certificate(self, worker: str = "id", name: str = "w", life_us: int = 24 * HOUR_US) -> Certificate:
        """A certificate that was signed and is not listed."""
        self._serial += 1
        return Certificate(f"{self._serial:x}", worker, name, self.now_us, self.now_us + life_us)

    def join(self, token: KeyText, certificate: Certificate) -> HostlerError | None:
        """Join with it."""
        return cast("HostlerError | None", self.do(on_join(self.live, token, certificate, None, self.now)))

    def refusal(self, certificate: Certificate) -> str:
        """Why it is not heard now."""
        return certificate_refusal(self.live.admissions, certificate.serial, certificate.worker, self.now_us)


@given(uses=st.integers(1, 5), tries=st.integers(1, 9))
def test_an_invitation_lets_in_as_many_as_it_says(uses: int, tries: int) -> None:
    """And not one more."""
    cluster = Cluster()
    token = cluster.invite(uses=uses)
    answers = [cluster.join(token, cluster.certificate(f"id{number}")) for number in range(tries)]

    assert [answer is None for answer in answers] == [number < uses for number in range(tries)]
    assert len(cluster.live.admissions.certificates) == min(uses, tries)


@given(after_us=st.integers(0, 2 * HOUR_US))
def test_an_invitation_is_good_until_it_expires(after_us: int) -> None:
    """To the microsecond."""
    cluster = Cluster()
    token = cluster.invite()
    cluster.now_us += after_us

    assert (cluster.join(token, cluster.certificate()) is None) == (after_us < HOUR_US)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [("", "any", True), ("gpu-*", "gpu-1", True), ("gpu-*", "gpu", False), ("a", "a", True), ("a", "ab", False)],
)
def test_an_invitation_is_for_the_names_that_fit(pattern: str, name: str, *, fits: bool) -> None:
    """A name that does not fit uses nothing up."""
    cluster = Cluster()
    token = cluster.invite(pattern=pattern)
    answer = cluster.join(token, cluster.certificate(name=name))

    assert answer is None if fits else isinstance(answer, PermissionDenied)
    assert cluster.live.admissions.invitations[token.id].uses_left == (0 if fits else 1)


def test_an_unknown_token_and_a_wrong_secret_are_answered_alike() -> None:
    """Who guesses learns no ids."""
    cluster = Cluster()
    token = cluster.invite()
    wrong = [token._replace(secret="x" * 43), make_key(os.urandom(RANDOM_BYTES), INVITATION_PREFIX)]
    texts = {str(cluster.join(each, cluster.certificate())) for each in wrong}

    assert len(texts) == 1 and "not known here" in texts.pop()
    assert cluster.join(token, cluster.certificate()) is None


def test_only_the_hash_of_a_token_is_kept() -> None:
    """Who steals the database can invite nobody."""
    cluster = Cluster()
    token = cluster.invite()

    assert token.secret not in repr(cluster.live.admissions.invitations)


def test_invitations_that_are_over_are_forgotten_with_the_next() -> None:
    """Their number is bounded by those that are open."""
    cluster = Cluster()
    first = cluster.invite()
    cluster.now_us += HOUR_US
    second = cluster.invite()

    assert set(cluster.live.admissions.invitations) == {second.id} != {first.id}


@pytest.mark.parametrize(
    "wish", [(0.5, 1, ""), (1e9, 1, ""), (float("nan"), 1, ""), (60, 10**6, ""), (60, 1, "[a]"), (60, 1, "\n")]
)
def test_an_invitation_that_cannot_be_is_refused(wish: tuple[float, int, str]) -> None:
    """Not corrected in silence."""
    with pytest.raises(InvalidRequest):
        checked_invitation(*wish)


def test_a_certificate_is_heard_while_it_is_listed_and_not_over() -> None:
    """It is bound to its worker, not only to its serial."""
    cluster = Cluster()
    listed = cluster.certificate()
    assert "not known here" in cluster.refusal(listed)
    assert cluster.join(cluster.invite(), listed) is None

    assert cluster.refusal(listed) == ""
    assert "not known here" in cluster.refusal(listed._replace(worker="other"))
    cluster.now_us = listed.expires_at_us - 1
    assert cluster.refusal(listed) == ""
    cluster.now_us += 1
    assert "has expired" in cluster.refusal(listed)


def test_renewing_adds_a_certificate_and_keeps_the_name() -> None:
    """The one before stays good: a stream that shows it is not cut; each worker has a few at most."""
    cluster = Cluster()
    first = cluster.certificate()
    cluster.join(cluster.invite(), first)
    for _ in range(OF_ONE_WORKER_MAX - 1):
        renewed = cluster.certificate(name="")
        assert cluster.do(on_renew(cluster.live, first.serial, renewed, None, cluster.now)) is None
    one_more = cluster.do(on_renew(cluster.live, first.serial, cluster.certificate(), None, cluster.now))

    assert isinstance(one_more, Overloaded)
    assert cluster.refusal(first) == cluster.refusal(renewed) == ""
    assert cluster.live.admissions.certificates[renewed.serial].name == "w"


def test_no_request_makes_two_certificates() -> None:
    """Neither for who joins nor for who renews, whoever sends it; and the invitation is not used up by it."""
    cluster = Cluster()
    first, other = cluster.certificate("a"), cluster.certificate("b")
    token = cluster.invite(uses=2)
    assert cluster.join(token, first) is None
    assert isinstance(cluster.join(token, first._replace(worker="c")), InvalidRequest)
    assert cluster.join(token, other) is None
    for shown, worker in ((first, "a"), (other, "b")):
        again = first._replace(worker=worker)
        assert isinstance(cluster.do(on_renew(cluster.live, shown.serial, again, None, cluster.now)), InvalidRequest)

    assert cluster.live.admissions.certificates[first.serial] == first


def test_certificates_that_are_over_are_forgotten_with_the_next() -> None:
    """A worker that renews for years leaves no trail."""
    cluster = Cluster()
    held = cluster.certificate()
    cluster.join(cluster.invite(), held)
    for _ in range(20):
        cluster.now_us += 13 * HOUR_US
        renewed = cluster.certificate()
        assert cluster.do(on_renew(cluster.live, held.serial, renewed, None, cluster.now)) is None
        held = renewed

    assert len(cluster.live.admissions.certificates) <= 2


def test_certificates_that_are_over_take_no_room_from_those_who_join(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when nobody renews any more, so that only a join can forget them."""
    monkeypatch.setattr("coordinator.joining.CERTIFICATES_MAX", 2)
    cluster = Cluster()
    for name in ("a", "b"):
        assert cluster.join(cluster.invite(), cluster.certificate(name)) is None
    assert isinstance(cluster.join(cluster.invite(), cluster.certificate("c")), Overloaded)

    cluster.now_us += 25 * HOUR_US

    assert cluster.join(cluster.invite(), cluster.certificate("c")) is None
    assert [each.worker for each in cluster.live.admissions.certificates.values()] == ["c"]


def test_revoking_counts_for_every_certificate_and_ends_the_stream() -> None:
    """Of this worker and of no other; what is revoked is renewed by nobody."""
    cluster = Cluster()
    token = cluster.invite(uses=2)
    first, other = cluster.certificate(), cluster.certificate("id2", "v")
    second = cluster.certificate()
    cluster.join(token, first)
    cluster.join(token, other)
    cluster.do(on_renew(cluster.live, first.serial, second, None, cluster.now))
    seen = WorkerSeen("id", "w", "h", "1", (), 1, "b", "j", 1, 0, "session", cluster.now_us, (), (), ())
    cluster.live.apply(seen)

    assert cluster.do(on_revoke(cluster.live, "w", None, cluster.now)) == 2
    assert DropSession("id", superseded=False) in cluster.effects
    assert "was revoked" in cluster.refusal(first) and "was revoked" in cluster.refusal(second)
    assert cluster.refusal(other) == ""
    again = cluster.do(on_renew(cluster.live, second.serial, cluster.certificate(), None, cluster.now))
    assert isinstance(again, Unauthenticated)
    assert cluster.do(on_revoke(cluster.live, "id", None, cluster.now)) == 0


@pytest.mark.parametrize("was_there", [True, False])
def test_of_workers_that_joined_under_one_name_none_is_revoked_in_place_of_another(*, was_there: bool) -> None:
    """Also when one of them was never there: the answer names both, and either is revoked by its id."""
    cluster = Cluster()
    first, second = cluster.certificate("id1", "w"), cluster.certificate("id2", "w")
    for certificate in (first, second):
        assert cluster.join(cluster.invite(), certificate) is None
    if was_there:
        seen = WorkerSeen("id1", "w", "host", "0", (), 1, "boot", "journal", 1, 0, "session", cluster.now_us)
        cluster.live.apply(seen)

    refusal = cluster.do(on_revoke(cluster.live, "w", None, cluster.now))

    assert isinstance(refusal, InvalidRequest)
    assert refusal.message.endswith("id1, id2")
    assert not cluster.refusal(first)
    assert cluster.do(on_revoke(cluster.live, "id2", None, cluster.now)) == 1
    assert cluster.refusal(second)
    assert not cluster.refusal(first)


def test_a_worker_of_this_host_is_not_cut_off_by_a_revocation() -> None:
    """It shows no certificate, so there is nothing to revoke."""
    cluster = Cluster()
    cluster.live.apply(WorkerSeen("id", "w", "h", "1", (), 1, "b", "j", 1, 0, "session", 0, (), (), ()))

    assert cluster.do(on_revoke(cluster.live, "w", None, cluster.now)) == 0
    assert not any(isinstance(effect, DropSession) for effect in cluster.effects)
    assert isinstance(cluster.do(on_revoke(cluster.live, "nobody", None, cluster.now)), WorkerNotFound)


def test_nobody_calls_itself_what_it_is_not() -> None:
    """Neither by another's id nor by another name."""
    cluster = Cluster()
    held = cluster.certificate()
    cluster.join(cluster.invite(), held)
    claims = [("", "w"), ("id", "w"), ("id2", "w"), ("id", "v")]
    found = [claim_refusal(cluster.live.admissions, held.serial, held.worker, *claim) for claim in claims]

    assert [bool(text) for text in found] == [False, False, True, True]
