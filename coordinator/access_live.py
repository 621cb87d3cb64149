"""Who may call, as a part of the live set. Pure; only `coordinator.live.Live.apply` changes it."""

from collections.abc import Callable
from dataclasses import replace

from coordinator.access import Key
from coordinator.changes import KeyCreated, KeyForgotten, KeyRevoked, KeyUsed


class LiveAccess:
    """Every key there is; the revoked and expired ones too, while there is room."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}  # by id, oldest first
        self.appliers: dict[type, Callable[..., None]] = {
            KeyCreated: self._key_created,
            KeyRevoked: self._key_revoked,
            KeyUsed: self._key_used,
            KeyForgotten: self._key_forgotten,
        }

    def _key_created(self, change: KeyCreated) -> None:
        self.keys[change.key.id] = change.key

    def _key_revoked(self, change: KeyRevoked) -> None:
        self.keys[change.id] = replace(self.keys[change.id], revoked_at_us=change.at_us)

    def _key_forgotten(self, change: KeyForgotten) -> None:
        del self.keys[change.id]

    def _key_used(self, change: KeyUsed) -> None:
        self.keys[change.id] = replace(self.keys[change.id], used_at_us=change.at_us)
