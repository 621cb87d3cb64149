"""A coordinator that other hosts reach, for tests in one process, and what its callers do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coordinator.app import Coordinator
from hostler.access_client import NewCertificate, NewInvitation
from hostler.client import Client
from hostler.endpoint import coordinator_socket
from hostler.settings import Settings, load
from hostler.tls import Access, Pair, Target, fetch_authority
from worker_agent.joining import make_request

HEARTBEAT_S = 60.0  # so few that none is expected during a test


class Site(NamedTuple):
    """A coordinator as other hosts see it, and as its own does."""

    coordinator: Coordinator
    local: Client
    data_dir: Path

    @property
    def address(self) -> str:
        """Of the port for keys, where workers join."""
        return self.coordinator.grpc_address

    @property
    def workers_address(self) -> str:
        """Of the port for certificates."""
        return f"127.0.0.1:{self.coordinator.workers_port}"

    async def invite(self, pattern: str = "", uses: int = 1, expires_in_s: float = 60.0) -> NewInvitation:
        """An invitation, as the command line makes it."""
        return await self.local.access.invite(name_pattern=pattern, uses=uses, expires_in_s=expires_in_s)


class Joined(NamedTuple):
    """A worker that has joined."""

    id: str
    target: Target
    pair: Pair


def settings_of(data_dir: Path, **changed: Any) -> Settings:
    """Both ports on loopback, as a test must have them; off loopback the second one comes by itself."""
    given: dict[str, Any] = {"grpc": "127.0.0.1:0", "workers_bind": "127.0.0.1:0", "heartbeat_s": HEARTBEAT_S} | changed
    return load(data_dir=data_dir, disk_reserve_bytes=0, sample_workloads=False, **given)


@contextlib.asynccontextmanager
async def served(data_dir: Path, **changed: Any) -> AsyncIterator[Site]:
    """A coordinator that other hosts reach."""
    async with (
        Coordinator(settings_of(data_dir, **changed)) as running,
        Client(f"unix:{coordinator_socket(data_dir)}") as local,
    ):
        yield Site(running, local, data_dir)


async def key_file(site: Site, *scopes: str) -> str:
    """A file with a new key."""
    path = site.data_dir / "key"
    path.write_text((await site.local.access.create_key("gateway", scopes=scopes)).text + "\n")
    path.chmod(0o600)
    return str(path)


async def join(site: Site, name: str = "w", invitation: NewInvitation | None = None) -> Joined:
    """Join as the agent does."""
    invitation = invitation or await site.invite()
    key, request = make_request()
    got = await ask_to_join(site, invitation, name, request)
    authority = await pinned(site, invitation.fingerprint)
    pair = Pair(certificate=got.certificate, private_key=key)
    return Joined(got.worker, Target(f"127.0.0.1:{got.workers_port}", Access(ca=authority, pair=pair)), pair)


async def ask_to_join(site: Site, invitation: NewInvitation, name: str, request: bytes = b"") -> NewCertificate:
    """The call alone."""
    authority = await pinned(site, invitation.fingerprint)
    async with Client(Target(site.address, Access(ca=authority))) as client:
        return await client.access.join(invitation.token, name, request or make_request()[1])


async def pinned(site: Site, fingerprint: str) -> bytes:
    """The authority of this fingerprint, as the coordinator shows it."""
    return await asyncio.to_thread(fetch_authority, site.address, fingerprint)


def refusals(lines: Sequence[MutableMapping[str, Any]]) -> list[str]:
    """What was noted of those who were turned away."""
    return [str(line["action"]) for line in lines if line["event"] == "access.refused"]
