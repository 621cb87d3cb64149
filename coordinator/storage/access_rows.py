"""Keys in the database: what is kept of them, and the statements that keep it."""

import sqlite3
from collections.abc import Callable
from typing import Any

from coordinator.access import Key
from coordinator.changes import Change, KeyCreated, KeyForgotten, KeyRevoked, KeyUsed
from hostler.policy import Scope

KEEP_KEY = (
    "INSERT INTO api_key (id, name, owner, scopes, hash, networks, created_at, expires_at, used_at, revoked_at)"
    " VALUES (?,?,?,?,?,?,?,?,?,?)"
)
REVOKE_KEY = "UPDATE api_key SET revoked_at = ? WHERE id = ?"
NOTE_USE = "UPDATE api_key SET used_at = ? WHERE id = ?"
FORGET_KEY = "DELETE FROM api_key WHERE id = ?"
LOAD_KEYS = "SELECT * FROM api_key ORDER BY created_at, id"


def _key_created(out: Any, c: KeyCreated) -> None:
    key = c.key
    out.add(
        KEEP_KEY,
        (
            key.id,
            key.name,
            key.owner,
            ",".join(sorted(key.scopes)),
            key.hash,
            ",".join(key.networks),
            key.created_at_us,
            key.expires_at_us,
            key.used_at_us,
            key.revoked_at_us,
        ),
    )


def _key_revoked(out: Any, c: KeyRevoked) -> None:
    out.add(REVOKE_KEY, (c.at_us, c.id))


def _key_used(out: Any, c: KeyUsed) -> None:
    out.add(NOTE_USE, (c.at_us, c.id))


def _key_forgotten(out: Any, c: KeyForgotten) -> None:
    out.add(FORGET_KEY, (c.id,))


COMPILERS: dict[type, Callable[[Any, Any], None]] = {
    KeyCreated: _key_created,
    KeyRevoked: _key_revoked,
    KeyUsed: _key_used,
    KeyForgotten: _key_forgotten,
}


def load_keys(reader: sqlite3.Connection) -> list[Change]:
    """What makes the keys known again."""
    return [KeyCreated(_key(row)) for row in reader.execute(LOAD_KEYS)]


def _key(row: sqlite3.Row) -> Key:
    known = {scope.value: scope for scope in Scope}
    return Key(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        # A scope that this hostler does not know gives nothing.
        scopes=frozenset(known[word] for word in row["scopes"].split(",") if word in known),
        hash=row["hash"],
        networks=tuple(filter(None, row["networks"].split(","))),
        created_at_us=row["created_at"],
        expires_at_us=row["expires_at"],
        used_at_us=row["used_at"],
        revoked_at_us=row["revoked_at"],
    )
