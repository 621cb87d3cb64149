"""What a program needs to reach a coordinator on another host: whom to trust, and what to show.

On one host nothing of this is needed: there the unix socket, or the kernel's word on a loopback caller, is enough. A
key that is set is shown there all the same, and its caller is its holder and nothing more.
Off loopback a coordinator serves with TLS. Whoever calls it trusts exactly one authority: that of a file, or the
one whose SHA-256 fingerprint was given, which the coordinator itself shows on the first contact. Command lines and
gateways show a key, workers the certificate they got when they joined.
"""

import contextlib
import hashlib
import hmac
import ipaddress
import os
import re
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hostler.errors import InvalidRequest, Unavailable
from hostler.keys import read_key
from hostler.settings import Settings, make_private_dir

FETCH_S = 10.0
PINNED_DIRECTORY = "pinned"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Pair:
    """A certificate in PEM, with what leads to its authority, and its private key."""

    certificate: bytes
    private_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Access:
    """What reaching a coordinator takes, and what is shown to it."""

    ca: bytes = b""  # PEM of the one authority that is trusted; empty: no TLS, which is for this host only
    key: str = ""  # "hst_ID_SECRET", shown with every call
    pair: Pair | None = None  # a worker's own, shown when connecting


class Target(NamedTuple):
    """A coordinator to call: its address, and what reaching it needs."""

    address: str  # unix:/path or HOST:PORT
    access: Access | None = None


def needs_access(settings: Settings, address: str) -> bool:
    """Whether calls to *address* need TLS: on another host, or on this one when settings say whom to trust."""
    if address.startswith("unix:"):
        return False
    return bool(settings.tls_ca or settings.ca_fingerprint) or not is_here(address)


def is_here(address: str) -> bool:
    """Whether calls to *address* do not leave this host: a unix socket, or loopback."""
    return address.startswith("unix:") or is_loopback(address.rpartition(":")[0])


def access_of(settings: Settings, address: str) -> Access | None:
    """What calls of a client or a gateway to *address* need and show; None on this host without a key.

    Raises:
        InvalidRequest: the key file that is set is unusable; or it is on another host, and something is missing.
        Unavailable: its authority must be fetched, and it does not answer.
    """
    if not needs_access(settings, address):
        return Access(key=_read_key(settings.key_file)) if settings.key_file else None
    if not settings.key_file:
        raise InvalidRequest(
            f"the coordinator {address} is not on this host: key_file must name a file with a key, made there with "
            "`hostler keys create`; docs/several-hosts.md shows how",
            field="key_file",
        )
    return Access(ca=trusted_authority(settings, address), key=_read_key(settings.key_file))


def target_of(settings: Settings, address: str, *, patience_s: float = 0.0) -> Target:
    """How these settings reach the coordinator at *address*; blocks.

    An authority that must be fetched is asked for again for *patience_s*. Raises as `access_of`.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            return Target(address, access_of(settings, address))
        except Unavailable:
            if time.monotonic() >= until:
                raise
            time.sleep(0.5)


def files_of(settings: Settings) -> Pair | None:
    """The certificate files that this program is to serve with; None when none are set.

    Raises:
        InvalidRequest: only some of it is set, or a file cannot be used.
    """
    if not (settings.tls_certificate or settings.tls_private_key):
        return None
    if not (settings.tls_certificate and settings.tls_private_key):
        raise InvalidRequest("tls_certificate and tls_private_key go together", field="tls_certificate")
    return Pair(
        certificate=_read_pem(settings.tls_certificate, "tls_certificate"),
        private_key=read_private(settings.tls_private_key, "tls_private_key"),
    )


def trusted_authority(settings: Settings, address: str) -> bytes:
    """The one authority that is trusted at *address*, in PEM; blocks where it must be fetched.

    Raises:
        InvalidRequest: none is named, or the coordinator shows another.
        Unavailable: it does not answer.
    """
    if settings.tls_ca:
        return _read_pem(settings.tls_ca, "tls_ca")
    if not settings.ca_fingerprint:
        raise InvalidRequest(
            f"the coordinator {address} is not on this host: ca_fingerprint (which `hostler workers invite` shows "
            "there) or tls_ca must say which authority to trust; docs/several-hosts.md shows how",
            field="ca_fingerprint",
        )
    fingerprint = read_fingerprint(settings.ca_fingerprint)
    kept = settings.data_dir / PINNED_DIRECTORY / f"{fingerprint}.pem"
    with contextlib.suppress(OSError, ValueError):
        pem = kept.read_bytes()
        if hmac.compare_digest(fingerprint_of(pem), fingerprint):
            return pem
    pem = fetch_authority(address, fingerprint)
    with contextlib.suppress(OSError, InvalidRequest):  # only saves asking again
        make_private_dir(kept.parent)
        aside = kept.with_suffix(f".{os.getpid()}.tmp")
        aside.write_bytes(pem)
        aside.replace(kept)
    return pem


def fetch_authority(address: str, fingerprint: str) -> bytes:
    """Ask a coordinator for its certificates and return the one with this fingerprint, in PEM; blocks.

    Nothing is sent on this connection and nothing else is believed of it.

    Raises:
        InvalidRequest: it shows no such certificate.
        Unavailable: it does not answer, or not with TLS.
    """
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the fingerprint is the proof
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), FETCH_S) as plain,
            context.wrap_socket(plain) as connection,
        ):
            shown = _chain_of(connection)
    except ssl.SSLError as error:
        raise Unavailable(f"what answers at {address} does not speak TLS: {error.reason or error}") from error
    except OSError as error:
        raise Unavailable(f"the coordinator {address} cannot be reached: {error.strerror or error}") from error
    for pem in shown:
        if hmac.compare_digest(fingerprint_of(pem), fingerprint):
            return pem
    found = fingerprint_of(shown[-1]) if shown else "none"
    raise InvalidRequest(
        f"the coordinator at {address} shows another authority than the one named: its fingerprint is {found}. "
        "Either this is another cluster, or somebody stands in between",
        field="ca_fingerprint",
    )


def fingerprint_of(pem: bytes) -> str:
    """The SHA-256 of the last certificate of a PEM text, in hex.

    Raises:
        ValueError: there is none.
    """
    found = _PEM.findall(pem)
    if not found:
        raise ValueError("no certificate")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[-1].decode("ascii"))).hexdigest()


def read_fingerprint(text: str) -> str:
    """Read a fingerprint as it is typed: hex digits of any case, with or without colons.

    Raises:
        InvalidRequest: it is no SHA-256.
    """
    plain = text.strip().lower().replace(":", "")
    if _FINGERPRINT.fullmatch(plain) is None:
        raise InvalidRequest("a fingerprint is the 64 hex digits of a SHA-256", field="ca_fingerprint")
    return plain


def is_loopback(host: str) -> bool:
    """Whether *host* is this one: localhost, or a loopback address."""
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_private(name: str, field: str) -> bytes:
    """Read a file with a secret.

    Raises:
        InvalidRequest: it cannot be read, or others can read it too.
    """
    content = _read(name, field)
    if Path(name).stat().st_mode & 0o077:
        raise InvalidRequest(
            f"{field} {name} can be read by others; make it private with: chmod 600 {name}", field=field
        )
    return content


def _read_key(name: str) -> str:
    key = read_key(read_private(name, "key_file").decode(errors="replace"))
    if key is None:
        raise InvalidRequest(
            f"key_file {name} holds no key; it is the text `hst_...` that `hostler keys create` prints",
            field="key_file",
        )
    return key.text


def _chain_of(connection: ssl.SSLSocket) -> list[bytes]:
    """The certificates the other side has shown, in PEM; before Python 3.13 there is no public way to ask."""
    public: Any = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return [ssl.DER_cert_to_PEM_cert(der).encode() for der in public()]
    inner: Any = connection._sslobj  # type: ignore[attr-defined]
    return [each.public_bytes().encode() for each in inner.get_unverified_chain()]


def _read_pem(name: str, field: str) -> bytes:
    content = _read(name, field)
    if _PEM.search(content) is None:
        raise InvalidRequest(f"{field} {name} holds no certificate in PEM", field=field)
    return content


def _read(name: str, field: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{field} {name} cannot be read: {error.strerror}", field=field) from error
