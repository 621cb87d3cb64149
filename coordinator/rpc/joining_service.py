"""The part of the service Access that is about workers of other hosts: invitations, certificates, revocation."""

import asyncio
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator import joining
from coordinator.admissions import Certificate, Invitation
from coordinator.engine import Engine
from coordinator.rpc.certificates import refused
from coordinator.rpc.context import Caller, Context
from hostler.clock import Clock
from hostler.errors import HostlerError, InvalidRequest, PermissionDenied, Unauthenticated
from hostler.ids import new_uuid
from hostler.keys import INVITATION_PREFIX, RANDOM_BYTES, make_key, read_key
from hostler.policy import Principal
from hostler.v1 import access_pb2

if TYPE_CHECKING:
    from coordinator.authority import Authority, Issued  # take long to load

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(slots=True)
class Reachable:
    """Where workers of other hosts find this coordinator; filled in once it listens."""

    fingerprint: str = ""  # of the authority they are to trust
    address: str = ""  # HOST:PORT where they join; empty: only this host reaches it
    workers_port: int = 0  # where they go with their certificate


class JoiningService:
    """See ``protos/hostler/v1/access.proto``. Who may call what has been decided before."""

    def __init__(
        self, engine: Engine, authority: "Authority | None", reachable: Reachable, clock: Clock, *, lifetime_s: float
    ) -> None:
        """*lifetime_s* is of a worker's certificate; without an authority no other host reaches this coordinator."""
        self._engine = engine
        self._authority = authority
        self._reachable = reachable
        self._clock = clock
        self._lifetime_s = lifetime_s

    async def invite(self, request: access_pb2.InviteRequest, principal: Principal) -> access_pb2.InviteResponse:
        """Invite: durable before the answer; the token is in the answer and nowhere else."""
        self._signing()
        expires_in_s, uses = joining.checked_invitation(request.expires_in_s, request.uses, request.name_pattern)
        token = make_key(secrets.token_bytes(RANDOM_BYTES), INVITATION_PREFIX)
        now_us = self._clock.wall_us()
        invitation = Invitation(
            id=token.id,
            hash=token.hash,
            name_pattern=request.name_pattern,
            uses_left=uses,
            created_at_us=now_us,
            created_by=principal.name,
            expires_at_us=now_us + round(expires_in_s * 1e6),
        )
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._engine.post(lambda live, now: joining.on_invite(live, invitation, reply, now))
        await reply
        return access_pb2.InviteResponse(
            token=token.text,
            fingerprint=self._reachable.fingerprint,
            address=self._reachable.address,
            expires_at_us=invitation.expires_at_us,
        )

    async def join(self, request: access_pb2.JoinRequest, context: Context) -> access_pb2.CertificateResponse:
        """Join: for anybody; nothing is signed for a token that is no good."""
        token = read_key(request.token, INVITATION_PREFIX)
        try:
            if token is None:
                raise Unauthenticated("an invitation is the text `hsj_...` that `hostler workers invite` prints")
            if NAME.fullmatch(request.name) is None:
                raise InvalidRequest("a worker's name is letters, digits, dot, hyphen and underscore", field="name")
            early = joining.join_refusal(self._engine.live.admissions, token, request.name, self._clock.wall_us())
            if early is not None:
                raise early
            worker = new_uuid(secrets.token_bytes(16))
            issued = self._sign(request.request, worker)
            certificate = _listed(issued, worker, request.name)
            reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._engine.post(lambda live, now: joining.on_join(live, token, certificate, reply, now))
            await reply
        except HostlerError as error:
            invitation = token.id if token is not None else ""
            name = request.name[:200]
            refused("worker.join", error.message, name=name, invitation=invitation, peer=context.peer())
            raise
        return self._answer(issued, worker)

    async def renew(self, request: access_pb2.RenewRequest, caller: Caller) -> access_pb2.CertificateResponse:
        """Renew: for the worker whose certificate the connection has shown."""
        if not caller.worker:
            raise PermissionDenied("only a worker that shows a certificate can have another")
        issued = self._sign(request.request, caller.worker)
        certificate = _listed(issued, caller.worker, "")
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._engine.post(lambda live, now: joining.on_renew(live, caller.serial, certificate, reply, now))
        await reply
        return self._answer(issued, caller.worker)

    async def revoke_worker(
        self, request: access_pb2.RevokeWorkerRequest, principal: Principal
    ) -> access_pb2.RevokeWorkerResponse:
        """RevokeWorker: durable before the answer, and the worker's stream is told to end by then."""
        reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._engine.post(lambda live, now: joining.on_revoke(live, request.worker, reply, now))
        return access_pb2.RevokeWorkerResponse(certificates=await reply)

    def _signing(self) -> "Authority":
        if self._authority is None:
            raise InvalidRequest(
                "no other host reaches this coordinator; start it with --grpc ADDRESS:PORT, where the address is "
                "one of this host that others reach; docs/several-hosts.md shows how"
            )
        return self._authority

    def _sign(self, request: bytes, worker: str) -> "Issued":
        return self._signing().sign_worker(request, worker, self._clock.wall_us(), self._lifetime_s)

    def _answer(self, issued: "Issued", worker: str) -> access_pb2.CertificateResponse:
        return access_pb2.CertificateResponse(
            worker=worker,
            certificate=issued.certificate,
            authority=self._signing().pem,
            expires_at_us=issued.expires_at_us,
            workers_port=self._reachable.workers_port,
        )


def _listed(issued: "Issued", worker: str, name: str) -> Certificate:
    return Certificate(issued.serial, worker, name, issued.issued_at_us, issued.expires_at_us)
