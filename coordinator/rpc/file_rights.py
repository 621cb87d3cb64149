"""Whose stored bytes are: of whoever stored them, and of the owners of the jobs that refer to them.

A worker of another host may read what the jobs that it has now need.

The name of bytes is their digest, which whoever has guessed the content has too: knowing it is no right to them.
What somebody has stored is remembered in memory only. After a restart he stores it again, as he must anyway when
an hour has passed in which no job referred to it.
"""

from collections import OrderedDict
from collections.abc import Collection

from coordinator.access import WORKER_PREFIX
from coordinator.rpc.context import owner_seen
from coordinator.storage.protocol import Store
from hostler.policy import Principal, Scope

STORED_MAX = 100_000  # (owner, digest) that are remembered; the oldest is forgotten


class FileRights:
    """Says which bytes somebody may have."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stored: OrderedDict[tuple[str, str], None] = OrderedDict()

    def note_stored(self, principal: Principal, digest: str) -> None:
        """Remember who stored some bytes."""
        owner = owner_seen(principal)
        if owner is None or owner.startswith(WORKER_PREFIX):  # what workers store is asked of the jobs that they have
            return
        self._stored[owner, digest] = None
        self._stored.move_to_end((owner, digest))
        while len(self._stored) > STORED_MAX:
            self._stored.popitem(last=False)

    async def hidden(self, principal: Principal, digests: Collection[str]) -> set[str]:
        """Return those of *digests* that do not exist for *principal*."""
        owner = owner_seen(principal)
        if owner is None:
            return set()
        if owner.startswith(WORKER_PREFIX):
            return set(digests) - await self._store.files_for(owner.removeprefix(WORKER_PREFIX), digests)
        asked = {digest for digest in digests if (owner, digest) not in self._stored}
        if not asked:
            return asked
        scripts = principal.may(Scope.WORKLOADS_READ)  # a definition names its script, and whoever reads it reads that
        return asked - await self._store.files_of(owner, asked, scripts=scripts)
