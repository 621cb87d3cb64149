"""What follows from making, revoking and using keys. Pure."""

from ipaddress import ip_network
from typing import Any

from coordinator.access import RESERVED_PREFIXES, Key
from coordinator.changes import Change, KeyCreated, KeyForgotten, KeyRevoked, KeyUsed
from coordinator.decisions import Decision
from coordinator.effects import Answer
from coordinator.instant import Instant
from coordinator.live import Live
from hostler.errors import HostlerError, InvalidRequest, KeyNotFound, PermissionDenied, TooLarge
from hostler.policy import Principal, Scope, scopes_of

NAME_CHARACTERS_MAX = 100
NETWORKS_MAX = 100
KEYS_MAX = 10_000  # those that are over stay listed until a new one needs their place
EXPIRES_S_MAX = 100 * 365 * 86400.0
USED_EVERY_US = 60_000_000


def check_new_key(wanted: Key, words: list[str], caller: Principal) -> Key | HostlerError:
    """Complete a key that somebody asks for with what its *words* give, or say why he cannot have it.

    Nobody gives what he has not: no scope, and no other owner's jobs, unless he sees everybody's anyway.
    """
    for field, text in (("name", wanted.name), ("owner", wanted.owner)):
        if not 0 < len(text) <= NAME_CHARACTERS_MAX or not text.isprintable() or text != text.strip():
            return InvalidRequest(f"{field} has 1 to {NAME_CHARACTERS_MAX} printable characters", field=field)
    if wanted.owner.startswith(RESERVED_PREFIXES):
        return InvalidRequest(f"an owner cannot begin with {', '.join(RESERVED_PREFIXES)}", field="owner")
    try:
        scopes = scopes_of(words)
    except ValueError as error:
        return InvalidRequest(str(error), field="scopes")
    if not scopes:
        return InvalidRequest("a key without a scope is good for nothing; name a role or scopes", field="scopes")
    lacking = sorted(scopes - caller.scopes)
    if lacking:
        return PermissionDenied(f"nobody can give what he has not; you lack: {', '.join(lacking)}", field="scopes")
    if not caller.sees(wanted.owner):
        return PermissionDenied(
            f"keys of another owner than your own ({caller.name}) need the scope {Scope.JOBS_ANY_OWNER}", field="owner"
        )
    if len(wanted.networks) > NETWORKS_MAX:
        return TooLarge(f"{len(wanted.networks)} networks; at most {NETWORKS_MAX}", field="networks")
    networks = []
    for network in wanted.networks:
        try:
            networks.append(str(ip_network(network)))
        except ValueError:
            return InvalidRequest(
                f"{network[:60]!r} is no network; give CIDR, for example 10.1.0.0/16", field="networks"
            )
    return Key(
        id=wanted.id,
        name=wanted.name,
        owner=wanted.owner,
        scopes=scopes,
        hash=wanted.hash,
        created_at_us=wanted.created_at_us,
        networks=tuple(networks),
        expires_at_us=wanted.expires_at_us,
    )


def on_create_key(live: Live, key: Key, reply: Any) -> Decision:
    """Keep a key that was checked; when there are too many, in place of the oldest that is over."""
    changes: list[Change] = [KeyCreated(key)]
    if len(live.access.keys) >= KEYS_MAX:
        over = next((each.id for each in live.access.keys.values() if not each.is_good(key.created_at_us)), "")
        if not over:
            return Decision([], [Answer(reply, TooLarge(f"{KEYS_MAX} keys are good; revoke some of them first"))])
        changes.insert(0, KeyForgotten(over))
    return Decision(changes, [Answer(reply, key)])


def on_revoke_key(live: Live, key_id: str, caller: Principal, reply: Any, now: Instant) -> Decision:
    """Revoke a key; one that is revoked stays as it was. Another owner's is like one that never was."""
    key = live.access.keys.get(key_id)
    if key is None or not caller.sees(key.owner):
        return Decision([], [Answer(reply, KeyNotFound(f"there is no key {key_id[:64]!r}", field="id"))])
    if key.revoked_at_us:
        return Decision([], [Answer(reply, key_id)])
    return Decision([KeyRevoked(key_id, now.wall_us)], [Answer(reply, key_id)])


def on_key_used(live: Live, key_id: str, now: Instant) -> Decision:
    """Note that a key was used, at most once a minute."""
    key = live.access.keys.get(key_id)
    if key is None or abs(now.wall_us - key.used_at_us) < USED_EVERY_US:
        return Decision([], [])
    return Decision([KeyUsed(key_id, now.wall_us)], [])
