"""The keys of clients as the edge asks about them: whose one is, whether it is still good, when it was used."""

from collections.abc import Callable
from contextlib import suppress

from coordinator.access import Key, Keys, asserted_principal, find_key
from coordinator.access_decisions import USED_EVERY_US
from hostler.clock import Clock
from hostler.errors import HostlerError, Unauthenticated
from hostler.policy import KEY_PREFIX, Principal

# One text for whatever is wrong: it tells nobody whether a key exists, has expired, or would do from elsewhere.
NO_GOOD = "the key is not good here; whoever runs the cluster makes keys with: hostler keys create"
NO_KEY = "a key is needed here, and none was shown; whoever runs the cluster makes keys with: hostler keys create"


class KeyRing:
    """Looks at the live table of keys anew for every question."""

    def __init__(self, keys: Callable[[], Keys], clock: Clock, on_used: Callable[[str], None]) -> None:
        """Look at what *keys* gives; *on_used* is told the id of a key that was used, at most once a minute."""
        self._keys = keys
        self._clock = clock
        self._on_used = on_used
        self._noted_us: dict[str, int] = {}  # of keys that exist, so it is no longer than their table

    def authenticate(self, text: str, address: str) -> Key:
        """Return the key that *text* is, shown by a caller at *address* (empty: not known).

        Raises:
            Unauthenticated: it is none, or no good; in one text.
        """
        now_us = self._clock.wall_us()
        key = find_key(self._keys(), text, address, now_us)
        if key is None:
            raise Unauthenticated(NO_GOOD if text else NO_KEY)
        self._note(key, now_us)
        return key

    def resolve(self, said: str, by: Principal) -> Principal:
        """Return the principal that *by*, who may speak for others, means with ``key:ID``, ``address:IP`` or ``local``.

        Raises:
            Unauthenticated: there is nobody of that name (any more).
        """
        now_us = self._clock.wall_us()
        found = asserted_principal(self._keys(), said, now_us, by=by)
        if found is None:
            raise Unauthenticated(NO_GOOD if said.startswith(KEY_PREFIX) else NO_KEY)
        key = self._keys().get(found.credential)
        if key is not None:
            self._note(key, now_us)
        return found

    def is_good(self, key_id: str) -> bool:
        """Whether a key that was shown is still good."""
        key = self._keys().get(key_id)
        return key is not None and key.is_good(self._clock.wall_us())

    def _note(self, key: Key, now_us: int) -> None:
        if abs(now_us - max(key.used_at_us, self._noted_us.get(key.id, 0))) < USED_EVERY_US:
            return
        self._noted_us[key.id] = now_us
        with suppress(HostlerError):  # a full inbox: the next minute will do
            self._on_used(key.id)
