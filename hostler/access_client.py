"""Keys over gRPC: make, list, revoke, and whose one is. A part of `hostler.client.Client`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc.aio

from hostler.v1 import access_pb2, access_pb2_grpc
from hostler.wire.errors import CALLING

CALL_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """A key as it is listed: all but its secret, which nobody has but its holder."""

    id: str
    name: str
    owner: str  # jobs made with it are this one's
    scopes: tuple[str, ...]
    created_at_us: int
    expires_at_us: int = 0  # 0: never
    used_at_us: int = 0  # to the minute; 0: not yet
    revoked_at_us: int = 0  # 0: it is good
    networks: tuple[str, ...] = ()  # callers it is good from; empty: all


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key just made, with the one showing of its text."""

    key: AccessKey
    text: str = field(repr=False)  # "hst_ID_SECRET"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whose a key is."""

    principal: str  # to be asserted in requests: "key:ID"
    owner: str  # whose jobs it makes and sees
    scopes: frozenset[str]
    expires_at_us: int  # 0: never


class AccessClient:
    """The calls about keys. `Client.access` is one."""

    def __init__(self, channel: grpc.aio.Channel, principal: Callable[[str | None], str]) -> None:
        self._stub = access_pb2_grpc.AccessStub(channel)
        self._as = principal

    async def create_key(
        self,
        name: str,
        *,
        scopes: Sequence[str],
        owner: str = "",
        expires_in_s: float = 0.0,
        networks: Sequence[str] = (),
        principal: str | None = None,
    ) -> NewKey:
        """Make a key; its text is in this answer and nowhere else.

        Args:
            name: for people.
            scopes: scopes and names of roles, see `hostler.policy`.
            owner: whose jobs it makes and sees; empty: the name.
            expires_in_s: 0: never.
            networks: from which it is good, as CIDR; empty: from everywhere.
            principal: who asks.

        Raises:
            InvalidRequest: something of it cannot be.
            PermissionDenied: the caller has not what it wants to give.
        """
        request = access_pb2.CreateKeyRequest(
            name=name,
            owner=owner,
            scopes=scopes,
            expires_in_s=expires_in_s,
            networks=networks,
            principal=self._as(principal),
        )
        with CALLING:
            answer = await self._stub.CreateKey(request, timeout=CALL_S)
        return NewKey(key=_key(answer.key), text=answer.text)

    async def list_keys(self, *, principal: str | None = None) -> list[AccessKey]:
        """Return every key the caller may know, the revoked and expired ones too, oldest first."""
        request = access_pb2.ListKeysRequest(principal=self._as(principal))
        with CALLING:
            answer = await self._stub.ListKeys(request, timeout=CALL_S)
        return [_key(key) for key in answer.keys]

    async def revoke_key(self, key: str, *, principal: str | None = None) -> AccessKey:
        """Revoke a key by its id; revoking twice is legal.

        Raises:
            KeyNotFound: there is no such key.
        """
        request = access_pb2.RevokeKeyRequest(id=key, principal=self._as(principal))
        with CALLING:
            return _key(await self._stub.RevokeKey(request, timeout=CALL_S))

    async def authenticate(self, text: str, *, address: str = "") -> Holder:
        """Return whose key *text* is, shown by a caller at *address*. For gateways.

        Raises:
            Unauthenticated: it is no good, or not from there.
        """
        request = access_pb2.AuthenticateRequest(text=text, address=address)
        with CALLING:
            answer = await self._stub.Authenticate(request, timeout=CALL_S)
        return Holder(
            principal=answer.principal,
            owner=answer.owner,
            scopes=frozenset(answer.scopes),
            expires_at_us=answer.expires_at_us,
        )


def _key(message: access_pb2.Key) -> AccessKey:
    return AccessKey(
        id=message.id,
        name=message.name,
        owner=message.owner,
        scopes=tuple(message.scopes),
        created_at_us=message.created_at_us,
        expires_at_us=message.expires_at_us,
        used_at_us=message.used_at_us,
        revoked_at_us=message.revoked_at_us,
        networks=tuple(message.networks),
    )
