"""Keys, invitations and certificates of workers over gRPC. A part of `hostler.client.Client`."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc.aio

from hostler.audit import Entry
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


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInvitation:
    """What a worker needs to join, with the one showing of the token."""

    token: str = field(repr=False)  # "hsj_ID_SECRET"
    fingerprint: str  # of the authority it is to trust: SHA-256 in hex
    address: str  # HOST:PORT where it joins
    expires_at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCertificate:
    """What a worker got when it joined or renewed."""

    worker: str
    certificate: bytes  # PEM
    expires_at_us: int
    workers_port: int  # where it is to be shown, on the host that was called


class TurnedAway(NamedTuple):
    """Requests of one caller that a gateway has turned away within about a second, for one reason."""

    action: str  # method and route
    principal: str  # empty: nobody known
    credential: str  # the id of the key that was shown
    address: str
    detail: str  # why
    times: int


class AccessClient:
    """The calls about keys, invitations and certificates. `Client.access` is one."""

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

    async def invite(
        self, *, name_pattern: str = "", expires_in_s: float = 0.0, uses: int = 0, principal: str | None = None
    ) -> NewInvitation:
        """Make a token with which workers join; it is in this answer and nowhere else.

        Args:
            name_pattern: of the workers that may join with it, with * as a wild card; empty: any.
            expires_in_s: 0: an hour.
            uses: how many workers; 0: one.
            principal: who asks.

        Raises:
            InvalidRequest: something of it cannot be, or no other host reaches this coordinator.
        """
        request = access_pb2.InviteRequest(
            name_pattern=name_pattern, expires_in_s=expires_in_s, uses=uses, principal=self._as(principal)
        )
        with CALLING:
            answer = await self._stub.Invite(request, timeout=CALL_S)
        return NewInvitation(
            token=answer.token,
            fingerprint=answer.fingerprint,
            address=answer.address,
            expires_at_us=answer.expires_at_us,
        )

    async def revoke_worker(self, worker: str, *, principal: str | None = None) -> int:
        """Hear a worker's certificates no more; returns how many were good. *worker* is an id or a name.

        Raises:
            WorkerNotFound: there is none.
        """
        request = access_pb2.RevokeWorkerRequest(worker=worker, principal=self._as(principal))
        with CALLING:
            return (await self._stub.RevokeWorker(request, timeout=CALL_S)).certificates

    async def join(self, token: str, name: str, request: bytes) -> NewCertificate:
        """Join as a worker of this name; *request* is a certificate request in PEM.

        Raises:
            Unauthenticated: the token is no good; the text says why.
            PermissionDenied: it is not for this name.
        """
        with CALLING:
            answer = await self._stub.Join(
                access_pb2.JoinRequest(token=token, name=name, request=request), timeout=CALL_S
            )
        return _certificate(answer)

    async def renew(self, request: bytes) -> NewCertificate:
        """Get the next certificate of the worker whose certificate this connection shows.

        Raises:
            Unauthenticated: it is not heard any more.
        """
        with CALLING:
            return _certificate(await self._stub.Renew(access_pb2.RenewRequest(request=request), timeout=CALL_S))

    async def read_audit(
        self, *, after: int = 0, limit: int = 0, principal: str | None = None
    ) -> AsyncGenerator[Entry, None]:
        """Yield the entries of the audit log after the one of this number, oldest first, up to the newest.

        Args:
            after: a number; 0: from the first that is kept.
            limit: of entries; 0: all.
            principal: who asks.

        Raises:
            PermissionDenied: the caller may not read it.
        """
        request = access_pb2.ReadAuditRequest(after=after, limit=limit, principal=self._as(principal))
        call = self._stub.ReadAudit(request)
        try:
            with CALLING:
                async for message in call:
                    values = {name: getattr(message, name) for name in Entry._fields}
                    yield Entry(**values | {"hash": message.hash.hex()})
        finally:
            call.cancel()

    async def note_refusals(self, refusals: Sequence[TurnedAway]) -> None:
        """Note in the audit log whom a gateway has turned away by itself. For gateways."""
        messages = [access_pb2.TurnedAway(**refusal._asdict()) for refusal in refusals]
        with CALLING:
            await self._stub.NoteRefusals(access_pb2.NoteRefusalsRequest(refusals=messages), timeout=CALL_S)


def _certificate(message: access_pb2.CertificateResponse) -> NewCertificate:
    return NewCertificate(
        worker=message.worker,
        certificate=message.certificate,
        expires_at_us=message.expires_at_us,
        workers_port=message.workers_port,
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
