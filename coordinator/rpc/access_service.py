"""The part of the service Access that is about keys: make, list, revoke, and whose one is."""

import asyncio
import secrets

from coordinator.access import Key
from coordinator.access_decisions import EXPIRES_S_MAX, check_new_key, on_create_key, on_revoke_key
from coordinator.engine import Engine
from coordinator.rpc.key_ring import KeyRing
from hostler.clock import Clock
from hostler.errors import HostlerError, InvalidRequest
from hostler.keys import RANDOM_BYTES, make_key
from hostler.policy import KEY_PREFIX, Principal
from hostler.v1 import access_pb2


class AccessService:
    """See ``protos/hostler/v1/access.proto``. Who may call what has been decided before."""

    def __init__(self, engine: Engine, keys: KeyRing, clock: Clock) -> None:
        self._engine = engine
        self._keys = keys
        self._clock = clock

    async def create_key(
        self, request: access_pb2.CreateKeyRequest, principal: Principal
    ) -> access_pb2.CreateKeyResponse:
        """CreateKey: durable before the answer; the text is in the answer and nowhere else."""
        if not 0 <= request.expires_in_s <= EXPIRES_S_MAX:
            raise InvalidRequest("expires_in_s is a number of seconds, 0 for never", field="expires_in_s")
        made = make_key(secrets.token_bytes(RANDOM_BYTES))
        now_us = self._clock.wall_us()
        wanted = Key(
            id=made.id,
            name=request.name,
            owner=request.owner or request.name,
            scopes=frozenset(),
            hash=made.hash,
            created_at_us=now_us,
            networks=tuple(request.networks),
            expires_at_us=now_us + round(request.expires_in_s * 1e6) if request.expires_in_s else 0,
        )
        key = check_new_key(wanted, list(request.scopes), principal)
        if isinstance(key, HostlerError):
            raise key
        reply: asyncio.Future[Key] = asyncio.get_running_loop().create_future()
        self._engine.post(lambda live, now: on_create_key(live, key, reply))
        return access_pb2.CreateKeyResponse(key=_to_proto(await reply), text=made.text)

    async def list_keys(self, request: access_pb2.ListKeysRequest, principal: Principal) -> access_pb2.ListKeysResponse:
        """ListKeys: those of the owners whom the caller sees."""
        keys = await self._engine.look(lambda live: list(live.access.keys.values()))
        return access_pb2.ListKeysResponse(keys=[_to_proto(key) for key in keys if principal.sees(key.owner)])

    async def revoke_key(self, request: access_pb2.RevokeKeyRequest, principal: Principal) -> access_pb2.Key:
        """RevokeKey: durable before the answer."""
        reply: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._engine.post(lambda live, now: on_revoke_key(live, request.id, principal, reply, now))
        revoked = await reply
        return _to_proto(await self._engine.look(lambda live: live.access.keys[revoked]))

    async def authenticate(
        self, request: access_pb2.AuthenticateRequest, principal: Principal
    ) -> access_pb2.AuthenticateResponse:
        """Authenticate: from the live table."""
        key = self._keys.authenticate(request.text, request.address)
        return access_pb2.AuthenticateResponse(
            principal=f"{KEY_PREFIX}{key.id}",
            owner=key.owner,
            scopes=sorted(key.scopes),
            expires_at_us=key.expires_at_us,
        )


def _to_proto(key: Key) -> access_pb2.Key:
    return access_pb2.Key(
        id=key.id,
        name=key.name,
        owner=key.owner,
        scopes=sorted(key.scopes),
        created_at_us=key.created_at_us,
        expires_at_us=key.expires_at_us,
        used_at_us=key.used_at_us,
        revoked_at_us=key.revoked_at_us,
        networks=key.networks,
    )
