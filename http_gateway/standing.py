"""Whether this gateway may speak for its callers: what a coordinator says of the key that a gateway away from it shows.

A coordinator does not look at what is asserted over a connection whose key lacks `principals:assert`, so whoever calls
would be taken for the key's holder. Until it is known that the key has the scope nobody is let in. It never loses it
afterwards: a key's scopes are for good, and one that is revoked opens nothing.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from hostler.access_client import TurnedAway
from hostler.errors import HostlerError, InvalidRequest, PermissionDenied, Unauthenticated, Unavailable

FIRST_S = 3.0  # for the first answer, before anybody is listened to
SOON_S = 0.2  # between questions until there is an answer
AGAIN_S = 10.0  # between questions afterwards
CANNOT = (
    "the key of key_file lacks the scope principals:assert, so whoever called would be taken for its holder; "
    "make one with: hostler keys create gateway --role gateway"
)
NO_GOOD = (
    "the coordinator does not take the key of key_file: it is unknown, expired, revoked or not good from here; "
    "make one with: hostler keys create gateway --role gateway"
)


class Asserts(Protocol):
    """The part of `hostler.access_client.AccessClient` that is used here."""

    async def note_refusals(self, refusals: Sequence[TurnedAway]) -> None:
        """What needs the scope; to note none does nothing."""
        ...


class Standing:
    """Knows it. Its `run` is to run as long as requests come."""

    def __init__(self, access: Asserts | None) -> None:
        """Ask *access*; None: on the coordinator's own socket, where a gateway is believed without a key."""
        self._access = access
        self._is_known = access is None

    def check(self) -> None:
        """Return when it may speak for others. Raises Unavailable: that is not known yet."""
        if not self._is_known:
            raise Unavailable(
                "the coordinator has not said yet whether this gateway may speak for its callers", retry_after_s=1.0
            )

    async def ask_first(self) -> None:
        """Ask once, for a moment: a gateway that may not is to end before it has served.

        Raises:
            InvalidRequest: it may not.
        """
        try:
            async with asyncio.timeout(FIRST_S):
                await self._ask()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Ask again and again, until cancelled.

        Raises:
            InvalidRequest: it may not, or not any more.
        """
        while self._access is not None:
            await asyncio.sleep(AGAIN_S if self._is_known else SOON_S)
            await self._ask()
        await asyncio.Event().wait()

    async def _ask(self) -> None:
        if self._access is None:
            return
        try:
            await self._access.note_refusals(())
        except PermissionDenied as error:
            raise InvalidRequest(CANNOT, field="key_file") from error
        except Unauthenticated as error:
            raise InvalidRequest(NO_GOOD, field="key_file") from error
        except HostlerError:
            return  # it does not answer; what was known of the key holds
        self._is_known = True
