"""Keys as pure decisions: which one is good, who may make which, what is noted of them."""

from dataclasses import replace
from typing import Any

import pytest

from coordinator.access import Key, asserted_principal, find_key, is_from
from coordinator.access_decisions import check_new_key, on_create_key, on_key_used, on_revoke_key
from coordinator.changes import KeyCreated, KeyForgotten, KeyRevoked, KeyUsed
from coordinator.instant import Instant
from coordinator.live import Live
from hostler.errors import HostlerError, InvalidRequest, KeyNotFound, PermissionDenied, TooLarge
from hostler.keys import RANDOM_BYTES, make_key
from hostler.policy import ADDRESS, EVERYTHING, LOCAL, ROLES, Principal, Scope

NOW_US = 1_700_000_000_000_000
MINUTE_US = 60_000_000
TEXT = make_key(bytes(range(RANDOM_BYTES)))
KEY = Key(
    id=TEXT.id, name="k", owner="ada", scopes=ROLES["developer"], hash=TEXT.hash, created_at_us=NOW_US - MINUTE_US
)
MANAGER = Principal(name="ada", scopes=ROLES["developer"] | {Scope.KEYS_MANAGE})


def shown(key: Key, text: str = TEXT.text, address: str = "10.1.2.3", now_us: int = NOW_US) -> Key | None:
    """What a shown text is."""
    return find_key({key.id: key}, text, address, now_us)


def test_the_right_text_is_its_key() -> None:
    """And the key's holder is its owner, with its scopes and nothing more."""
    assert shown(KEY) is KEY
    assert KEY.principal == Principal(name="ada", scopes=ROLES["developer"], credential=KEY.id)


@pytest.mark.parametrize(
    "text", ["", "hst_", TEXT.text[:-1], TEXT.text + "A", TEXT.text.replace("hst", "hsj"), TEXT.text.swapcase()]
)
def test_any_other_text_is_none(text: str) -> None:
    """One character is enough."""
    assert shown(KEY, text) is None


def test_a_key_is_good_until_its_end_and_not_at_it() -> None:
    """Not once more after it, either."""
    key = replace(KEY, expires_at_us=NOW_US)

    assert shown(key, now_us=NOW_US - 1) is key
    assert shown(key, now_us=NOW_US) is None
    assert shown(replace(KEY, revoked_at_us=1)) is None


@pytest.mark.parametrize(
    ("address", "networks", "good"),
    [
        ("10.1.2.3", (), True),
        ("", (), True),
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("::ffff:10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8", "192.168.0.0/16"), False),
        ("fd00::1", ("10.0.0.0/8", "fd00::/8"), True),
        ("fd00::1", ("10.0.0.0/8",), False),
        ("", ("0.0.0.0/0",), False),
        ("somewhere", ("0.0.0.0/0", "::/0"), False),
    ],
)
def test_a_key_may_be_good_from_some_networks_only(address: str, networks: tuple[str, ...], good: bool) -> None:
    """An address that is not known is in none."""
    assert is_from(address, networks) is good
    assert (shown(replace(KEY, networks=networks), address=address) is not None) is good


def test_only_a_program_of_this_host_speaks_for_local_users() -> None:
    """Whatever a key's scopes."""
    gateway = Principal(name="g", scopes=frozenset(Scope), credential="0" * 12)

    assert asserted_principal({}, "local", NOW_US, by=LOCAL) is LOCAL
    assert asserted_principal({}, "local", NOW_US, by=gateway) is None


@pytest.mark.parametrize("by", [LOCAL, Principal(name="g", scopes=ROLES["gateway"])])
def test_whoever_may_speaks_for_keys_that_are_good_and_for_addresses(by: Principal) -> None:
    """An address is one, however it is written."""
    keys = {KEY.id: KEY}

    assert asserted_principal(keys, f"key:{KEY.id}", NOW_US, by=by) == KEY.principal
    assert asserted_principal({KEY.id: replace(KEY, revoked_at_us=1)}, f"key:{KEY.id}", NOW_US, by=by) is None
    assert asserted_principal(keys, "address:::ffff:10.0.0.1", NOW_US, by=by) == Principal(
        name="address:10.0.0.1", scopes=ADDRESS, credential="10.0.0.1"
    )
    for nobody in ("ada", "", "address:10.0.0", f"KEY:{KEY.id}", "worker:x"):
        assert asserted_principal(keys, nobody, NOW_US, by=by) is None


# Making


def wanted(**changes: Any) -> Key:
    """A key that somebody asks for."""
    return replace(KEY, scopes=frozenset(), **changes)


@pytest.mark.parametrize("role", ROLES)
def test_nobody_gives_a_scope_that_he_does_not_have(role: str) -> None:
    """Every role, for somebody who has everything but one of its scopes; the answer names that."""
    for scope in ROLES[role]:
        lacking = Principal(name="ada", scopes=frozenset(Scope) - {scope})
        refused = check_new_key(wanted(), [role], lacking)
        assert isinstance(refused, PermissionDenied) and scope in refused.message
    given = check_new_key(wanted(), [role], Principal(name="ada", scopes=ROLES[role]))
    assert isinstance(given, Key) and given.scopes == ROLES[role]


def test_an_administrator_makes_no_gateway() -> None:
    """Only a local user does: whoever speaks for others speaks for everybody."""
    assert isinstance(check_new_key(wanted(), ["gateway"], Principal(name="a", scopes=EVERYTHING)), PermissionDenied)


def test_a_key_for_another_owner_is_made_by_whoever_sees_everybody_s_jobs() -> None:
    """Else it would be a way to them."""
    refused = check_new_key(wanted(owner="bob"), ["viewer"], MANAGER)
    assert isinstance(refused, PermissionDenied) and "jobs:any-owner" in refused.message
    assert isinstance(check_new_key(wanted(owner="bob"), ["viewer"], LOCAL), Key)


@pytest.mark.parametrize(
    ("changes", "words", "field"),
    [
        ({"name": ""}, ["viewer"], "name"),
        ({"name": "x" * 101}, ["viewer"], "name"),
        ({"name": "a\nb"}, ["viewer"], "name"),
        ({"owner": " ada"}, ["viewer"], "owner"),
        ({"owner": "address:10.0.0.1"}, ["viewer"], "owner"),
        ({"owner": "worker:w"}, ["viewer"], "owner"),
        ({}, [], "scopes"),
        ({}, ["everything"], "scopes"),
        ({"networks": ("10.0.0.1/8",)}, ["viewer"], "networks"),
        ({"networks": ("home",)}, ["viewer"], "networks"),
        ({"networks": ("10.0.0.0/8",) * 101}, ["viewer"], "networks"),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_the_field(changes: dict[str, Any], words: list[str], field: str) -> None:
    """Nobody becomes an address or a worker by a key."""
    refused = check_new_key(wanted(**changes), words, LOCAL)

    assert isinstance(refused, InvalidRequest | TooLarge) and refused.field == field


# Decisions


def live_with(*keys: Key) -> Live:
    """A live set that has these keys."""
    live = Live()
    for key in keys:
        live.apply(KeyCreated(key))
    return live


def answer_of(decision: Any) -> Any:
    """What a decision answers."""
    return decision.effects[-1].value


def test_a_key_is_revoked_once() -> None:
    """The first moment stays; another owner's is like one that never was."""
    live, now = live_with(KEY), Instant(NOW_US, 0.0)
    decision = on_revoke_key(live, KEY.id, MANAGER, None, now)
    assert decision.changes == [KeyRevoked(KEY.id, NOW_US)] and answer_of(decision) == KEY.id
    live.apply(decision.changes[0])
    assert not live.access.keys[KEY.id].is_good(NOW_US)

    assert on_revoke_key(live, KEY.id, MANAGER, None, Instant(NOW_US + 9, 0.0)).changes == []
    bob = Principal(name="bob", scopes=MANAGER.scopes)
    for name, by in ((KEY.id, bob), ("0" * 12, MANAGER), ("0" * 12, bob)):
        error = answer_of(on_revoke_key(live, name, by, None, now))
        assert isinstance(error, KeyNotFound) and name in error.message


def test_use_is_noted_once_a_minute() -> None:
    """However often it is used; of a key that is not there, never."""
    live = live_with(KEY)
    first = on_key_used(live, KEY.id, Instant(NOW_US, 0.0)).changes
    assert first == [KeyUsed(KEY.id, NOW_US)]
    live.apply(first[0])

    assert on_key_used(live, KEY.id, Instant(NOW_US + MINUTE_US - 1, 0.0)).changes == []
    assert on_key_used(live, KEY.id, Instant(NOW_US + MINUTE_US, 0.0)).changes != []
    assert on_key_used(live, "0" * 12, Instant(NOW_US, 0.0)).changes == []


def test_there_is_an_end_to_the_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are over stay listed until a new one needs their place, the oldest goes first."""
    monkeypatch.setattr("coordinator.access_decisions.KEYS_MAX", 2)
    old, older = replace(KEY, id="b" * 12, revoked_at_us=NOW_US), replace(KEY, id="a" * 12, expires_at_us=NOW_US)
    new = replace(KEY, id="c" * 12, created_at_us=NOW_US)

    assert isinstance(answer_of(on_create_key(live_with(KEY, replace(KEY, id="d" * 12)), new, None)), HostlerError)
    assert on_create_key(live_with(KEY), new, None).changes == [KeyCreated(new)]
    assert on_create_key(live_with(KEY, old), new, None).changes == [KeyForgotten(old.id), KeyCreated(new)]
    live = live_with(older, old)
    for change in on_create_key(live, new, None).changes:
        live.apply(change)
    assert list(live.access.keys) == [old.id, new.id]
