"""TLS files and the cluster key: what a program needs to reach, or to be, a coordinator on another host.

On one host nothing of this is needed: there the unix socket, or the kernel's word on a loopback
caller, is enough. Off loopback a coordinator serves with TLS and takes only callers that present the
cluster key, a secret that all programs of the cluster share.
"""

import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hostler.errors import InvalidRequest
from hostler.settings import Settings

METADATA_KEY = "authorization"
KEY_CHARACTERS_MIN = 32


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Access:
    """How to reach a coordinator that is not on this host."""

    ca: bytes  # PEM of the authority that signed its certificate
    key: str  # the cluster key


class Target(NamedTuple):
    """A coordinator to call: its address, and what reaching it needs."""

    address: str  # unix:/path or HOST:PORT
    access: Access | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Identity:
    """What a coordinator off loopback serves with."""

    certificate: bytes  # PEM, with what leads to the authority
    private_key: bytes
    key: str  # the cluster key its callers must present

    def admits(self, metadata: tuple[tuple[str, str | bytes], ...]) -> bool:
        """Whether a call's metadata presents the cluster key."""
        for name, value in metadata:
            if name == METADATA_KEY and isinstance(value, str):
                # Compared in constant time: how far a guess was right must not be told by the clock.
                return hmac.compare_digest(value.encode(), f"Bearer {self.key}".encode())
        return False


def access_of(settings: Settings, address: str) -> Access | None:
    """What calls to *address* need; None on this host.

    Raises:
        InvalidRequest: it is on another host, and files are missing or unusable.
    """
    if address.startswith("unix:") or is_loopback(address.rpartition(":")[0]):
        return None
    if not (settings.tls_ca and settings.cluster_key_file):
        raise InvalidRequest(
            f"the coordinator {address} is not on this host: tls_ca and cluster_key_file must be set; "
            "docs/several-hosts.md shows how",
            field="coordinator",
        )
    return Access(ca=_read(settings.tls_ca, "tls_ca"), key=_read_key(settings))


def target_of(settings: Settings, address: str) -> Target:
    """How these settings reach the coordinator at *address*. Raises as `access_of`."""
    return Target(address, access_of(settings, address))


def identity_of(settings: Settings) -> Identity | None:
    """What this coordinator serves with off loopback; None when nothing of it is set.

    Raises:
        InvalidRequest: only some of it is set, or a file cannot be used.
    """
    given = (settings.tls_certificate, settings.tls_private_key, settings.cluster_key_file)
    if not (settings.tls_certificate or settings.tls_private_key):
        return None
    if not all(given):
        raise InvalidRequest(
            "tls_certificate, tls_private_key and cluster_key_file go together; docs/several-hosts.md shows how",
            field="tls_certificate",
        )
    return Identity(
        certificate=_read(settings.tls_certificate, "tls_certificate"),
        private_key=_read_private(settings.tls_private_key, "tls_private_key"),
        key=_read_key(settings),
    )


def is_loopback(host: str) -> bool:
    """Whether *host* is this one: localhost, or a loopback address."""
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_key(settings: Settings) -> str:
    key = _read_private(settings.cluster_key_file, "cluster_key_file").decode(errors="replace").strip()
    if len(key) < KEY_CHARACTERS_MIN or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequest(
            f"cluster_key_file {settings.cluster_key_file} holds no key of at least {KEY_CHARACTERS_MIN} printable "
            "characters; make one with: openssl rand -hex 32",
            field="cluster_key_file",
        )
    return key


def _read_private(name: str, field: str) -> bytes:
    content = _read(name, field)
    if Path(name).stat().st_mode & 0o077:
        raise InvalidRequest(
            f"{field} {name} can be read by others; make it private with: chmod 600 {name}", field=field
        )
    return content


def _read(name: str, field: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{field} {name} cannot be read: {error.strerror}", field=field) from error
