"""How a worker becomes one of a cluster on another host, and stays one.

It joins once, with an invitation: it trusts the one authority whose fingerprint it was given, makes a key, and gets
a certificate that says which worker it is. Both are in ``credentials.json`` of its directory (0600). The certificate
is renewed at half of its life, each time with a new key. A worker that was revoked, or away until its certificate
had expired, joins again with a new invitation; for the cluster it is another worker then.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostler import logs
from hostler.access_client import NewCertificate
from hostler.client import Client, open_channel
from hostler.clock import Clock
from hostler.errors import DeadlineExceeded, HostlerError, InvalidRequest, Overloaded, Unauthenticated, Unavailable
from hostler.private_files import write_private
from hostler.settings import Settings
from hostler.tls import Access, Pair, Target, fetch_authority, read_fingerprint, trusted_authority

CREDENTIALS_FILE = "credentials.json"
RENEW_AGAIN_S = 30.0  # after a renewal that failed; less when the certificate's life is short
CONNECT_S = 10.0
JOIN_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Credentials:
    """What makes an agent this worker of this cluster."""

    worker: str
    name: str
    address: str  # HOST:PORT where the certificate is shown
    authority: bytes  # PEM of the one that is trusted
    pair: Pair
    from_us: int
    until_us: int

    @property
    def target(self) -> Target:
        """The coordinator, and what reaching it needs."""
        return Target(self.address, Access(ca=self.authority, pair=self.pair))

    @property
    def renew_at_us(self) -> int:
        """Half of its life."""
        return (self.from_us + self.until_us) // 2


async def join_or_resume(settings: Settings, address: str, directory: Path, name: str, clock: Clock) -> Credentials:
    """The credentials of this worker: those it has while they are good, else new ones for the invitation.

    With an invitation the coordinator is asked whether those it has are still heard, for they may be revoked.

    Raises:
        InvalidRequest: it has none, and no invitation that lets it in.
    """
    kept = read_credentials(directory)
    host = address.rpartition(":")[0]
    is_same = kept is not None and kept.name == name and kept.address.rpartition(":")[0] == host
    is_good = is_same and kept is not None and clock.wall_us() < kept.until_us
    if kept is not None and is_good and (not settings.join or await _is_heard(kept)):
        return kept
    if not settings.join:
        over = kept is not None and is_same
        why = "its certificate has expired" if over else f"the coordinator {address} is not on this host"
        raise InvalidRequest(
            f"{why}: this worker must join with an invitation, which `hostler workers invite` makes there; "
            f"docs/several-hosts.md shows how{_who_has_joined(settings.data_dir, name)}",
            field="join",
        )
    made = await _join_patiently(settings, address, name, clock)
    write_credentials(directory, made)
    logs.get().info("agent.joined", worker=made.worker, until_us=made.until_us)
    return made


def _who_has_joined(data_dir: Path, name: str) -> str:
    """The other workers that a data directory is of, for who has perhaps started the wrong one; mostly nobody."""
    names = sorted(found.parent.name for found in data_dir.glob(f"workers/*/{CREDENTIALS_FILE}"))
    if not names or name in names:
        return ""
    return f". No worker {name} has joined from {data_dir}, but {', '.join(names)}: --name {names[0]} starts that one"


async def _is_heard(kept: Credentials) -> bool:
    """Whether the coordinator does not say that a certificate is over; one that is away says nothing."""
    _, request = await asyncio.to_thread(make_request)
    async with Client(kept.target) as client:
        try:
            await client.access.renew(request)
        except Unauthenticated:
            return False
        except HostlerError:
            return True
    return True


async def _join_patiently(settings: Settings, address: str, name: str, clock: Clock) -> Credentials:
    """As `_join`, for as long as it takes until the coordinator answers; what it refuses is final."""
    said = False
    while True:
        try:
            return await _join(settings, address, name, clock)
        except (Unavailable, DeadlineExceeded, Overloaded) as error:
            if not said:
                logs.get().warning("agent.not_joined", reason=error.message, address=address)
            said = True
        except HostlerError as error:
            raise InvalidRequest(f"this worker cannot join at {address}: {error.message}", field="join") from error
        await asyncio.sleep(JOIN_AGAIN_S)


async def _join(settings: Settings, address: str, name: str, clock: Clock) -> Credentials:
    if settings.tls_ca:
        authority = trusted_authority(settings, address)
    elif settings.ca_fingerprint:
        # Asked for anew each time: what is kept for other programs may be of another time.
        fingerprint = read_fingerprint(settings.ca_fingerprint)
        authority = await asyncio.to_thread(fetch_authority, address, fingerprint)
    else:
        raise InvalidRequest(
            "a worker joins whom it can tell from others: give --ca-fingerprint, as `hostler workers invite` shows it",
            field="ca_fingerprint",
        )
    key, request = await asyncio.to_thread(make_request)
    asked_us = clock.wall_us()
    async with Client(Target(address, Access(ca=authority))) as client:
        got = await client.access.join(settings.join, name, request)
    host = address.rpartition(":")[0]
    return Credentials(
        worker=got.worker,
        name=name,
        address=f"{host}:{got.workers_port}",
        authority=authority,
        pair=Pair(certificate=got.certificate, private_key=key),
        from_us=asked_us,
        until_us=got.expires_at_us,
    )


class Renewal:
    """Keeps the certificate of a running agent good."""

    def __init__(
        self, credentials: Credentials, directory: Path, clock: Clock, on_renewed: Callable[[Target], None]
    ) -> None:
        """*on_renewed* is told how the coordinator is to be reached from then on."""
        self._credentials = credentials
        self._directory = directory
        self._clock = clock
        self._on_renewed = on_renewed

    async def run(self) -> None:
        """Renew at half of each life, until cancelled; what fails is tried again while the certificate is good."""
        while True:
            now_us = self._clock.wall_us()
            held = self._credentials
            await asyncio.sleep(min(max(0.0, (held.renew_at_us - now_us) / 1e6), 3600.0))  # the clock may be set
            if self._clock.wall_us() < held.renew_at_us:
                continue
            try:
                await self._renew()
            except (HostlerError, TimeoutError, OSError) as error:
                reason = str(error) or type(error).__name__
                if self._clock.wall_us() >= held.until_us:
                    reason = "the certificate has expired; start the worker again with a new invitation"
                logs.get().warning("agent.not_renewed", reason=reason)
                life_s = (held.until_us - held.from_us) / 1e6
                await asyncio.sleep(min(RENEW_AGAIN_S, life_s / 10))

    async def _renew(self) -> None:
        held = self._credentials
        key, request = await asyncio.to_thread(make_request)
        asked_us = self._clock.wall_us()
        async with Client(held.target) as client:
            got = await client.access.renew(request)
        renewed = _renewed(held, got, key, asked_us)
        # Nobody leaves a stream that works for one that does not.
        async with open_channel(renewed.target) as channel, asyncio.timeout(CONNECT_S):
            await channel.channel_ready()
        await asyncio.to_thread(write_credentials, self._directory, renewed)
        self._credentials = renewed
        self._on_renewed(renewed.target)
        logs.get().info("agent.renewed", worker=renewed.worker, until_us=renewed.until_us)


def _renewed(held: Credentials, got: NewCertificate, key: bytes, asked_us: int) -> Credentials:
    return Credentials(
        worker=held.worker,
        name=held.name,
        address=held.address,
        authority=held.authority,
        pair=Pair(certificate=got.certificate, private_key=key),
        from_us=asked_us,
        until_us=got.expires_at_us,
    )


def make_request() -> tuple[bytes, bytes]:
    """A new private key and a certificate request signed with it, both in PEM; takes 0.2 s the first time."""
    # Loaded only by workers of other hosts.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, request.public_bytes(serialization.Encoding.PEM)


def read_credentials(directory: Path) -> Credentials | None:
    """What an earlier agent kept in *directory*; None when nothing usable is there."""
    try:
        kept: dict[str, Any] = json.loads((directory / CREDENTIALS_FILE).read_text())
        return Credentials(
            worker=str(kept["worker"]),
            name=str(kept["name"]),
            address=str(kept["address"]),
            authority=base64.b64decode(kept["authority"]),
            pair=Pair(
                certificate=base64.b64decode(kept["certificate"]), private_key=base64.b64decode(kept["private_key"])
            ),
            from_us=int(kept["from_us"]),
            until_us=int(kept["until_us"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_credentials(directory: Path, credentials: Credentials) -> None:
    """Keep them, durably, where nobody else can read; who reads sees the old or the new ones."""
    plain = {
        "worker": credentials.worker,
        "name": credentials.name,
        "address": credentials.address,
        "authority": base64.b64encode(credentials.authority).decode(),
        "certificate": base64.b64encode(credentials.pair.certificate).decode(),
        "private_key": base64.b64encode(credentials.pair.private_key).decode(),
        "from_us": credentials.from_us,
        "until_us": credentials.until_us,
    }
    write_private(directory / CREDENTIALS_FILE, json.dumps(plain).encode())
