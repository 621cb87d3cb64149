"""The cluster's own authority: made at the first start, it signs the coordinator's certificate and those of workers.

Its key is in ``DATA/coordinator/ca/ca.key`` (0600) and nowhere else. Certificates are good for one thing each: the
coordinator's for being called, a worker's for calling. With certificate files in the settings those are shown to
callers instead, and this authority signs for workers only. Loaded only by a coordinator that other hosts reach:
the library behind it takes as long to load as all the rest.
"""

import datetime
import hashlib
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hostler.errors import InvalidRequest
from hostler.private_files import write_private
from hostler.tls import Pair, fingerprint_of

AUTHORITY_DAYS = 3650
SERVER_DAYS = 30
BACKDATED_S = 300.0  # clocks of hosts differ
REQUEST_BYTES_MAX = 16 * 1024
RSA_BITS_MIN = 2048
SERIAL_BYTES = 19  # a serial has 20 at most, and is positive
KEY_FILE = "ca.key"
CERTIFICATE_FILE = "ca.pem"

_Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate that was just signed."""

    serial: str  # hex digits
    certificate: bytes  # PEM
    issued_at_us: int
    expires_at_us: int


class Authority:
    """Signs; holds the key in memory."""

    def __init__(self, key: _Key, certificate: x509.Certificate) -> None:
        """See `open`."""
        self._key = key
        self._certificate = certificate
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = fingerprint_of(self.pem)

    @classmethod
    def open(cls, directory: Path, now_us: int) -> Self:
        """Read the authority of *directory*, or make one there if there is none.

        Raises:
            InvalidRequest: its files cannot be used.
        """
        key_path, certificate_path = directory / KEY_FILE, directory / CERTIFICATE_FILE
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            directory.chmod(0o700)
            if not certificate_path.exists():
                # A key without its certificate is what a start that broke off left: nothing was signed with it.
                made = cls._make(now_us)
                write_private(key_path, _pem_of(made._key))
                write_private(certificate_path, made.pem)
                return made
            if key_path.stat().st_mode & 0o077:
                raise InvalidRequest(f"{key_path} can be read by others; make it private with: chmod 600 {key_path}")
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidRequest(f"the cluster's authority in {directory} cannot be used: {error}") from error
        if not isinstance(key, _Key) or _public(key) != _public(certificate):
            raise InvalidRequest(f"{key_path} is not the key of {certificate_path}")
        if certificate.not_valid_after_utc <= _moment(now_us):
            raise InvalidRequest(
                f"the cluster's authority has expired; move {directory} away, start again, and invite every worker anew"
            )
        return cls(key, certificate)

    @classmethod
    def _make(cls, now_us: int) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        # A name of its own: certificates of another cluster then fail as those of an unknown authority.
        label = hashlib.sha256(_public(key)).hexdigest()[:12]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hostler cluster {label}")])
        builder = _builder(name, name, now_us, days=AUTHORITY_DAYS).public_key(key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(key, builder.sign(key, hashes.SHA256()))

    def sign_server(self, names: Iterable[str], now_us: int) -> Pair:
        """A new key and its certificate, followed by the authority's, for these addresses and names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hostler coordinator")])
        builder = _builder(subject, self._certificate.subject, now_us, days=SERVER_DAYS)
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), critical=False)
        certificate = self._sign(builder, key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH)
        pem = certificate.public_bytes(serialization.Encoding.PEM) + self.pem
        return Pair(certificate=pem, private_key=_pem_of(key))

    def sign_worker(self, request: bytes, worker: str, now_us: int, lifetime_s: float) -> Issued:
        """A certificate for the key of a certificate request (PEM), with *worker* as its subject.

        Its serial is that of the key: who lists it sees when a request is sent a second time.

        Raises:
            InvalidRequest: it is no request, or its key is too weak.
        """
        key = _key_of(request)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, worker)])
        builder = _builder(
            subject, self._certificate.subject, now_us, days=0, seconds=lifetime_s, serial=_serial_of(key)
        )
        certificate = self._sign(builder, key, ExtendedKeyUsageOID.CLIENT_AUTH)
        return Issued(
            serial=f"{certificate.serial_number:x}",
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            issued_at_us=now_us,
            expires_at_us=_microseconds(certificate.not_valid_after_utc),
        )

    def _sign(
        self, builder: x509.CertificateBuilder, key: "_PublicKey", purpose: x509.ObjectIdentifier
    ) -> x509.Certificate:
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.public_key(key).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        return builder.add_extension(own, critical=False).sign(self._key, hashes.SHA256())


_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class Shown:
    """The certificate that callers are shown: files of the settings, or one of the authority's, renewed in time."""

    def __init__(
        self, authority: Authority, files: Pair | None, names: tuple[str, ...], wall_us: Callable[[], int]
    ) -> None:
        """*names* are what the authority's certificate is for; *files*, when given, are shown instead."""
        self.authority = authority
        self._files = files
        self._names = names
        self._wall_us = wall_us
        self._own: Pair | None = None
        self._renew_at_us = 0

    @property
    def fingerprint(self) -> str:
        """What callers pin: of the authority, or of the last certificate of the files."""
        return fingerprint_of(self._files.certificate) if self._files is not None else self.authority.fingerprint

    def pair(self) -> Pair:
        """The certificate and its key, as they are to be shown now."""
        if self._files is not None:
            return self._files
        now_us = self._wall_us()
        if self._own is None or now_us >= self._renew_at_us:
            self._own = self.authority.sign_server(self._names, now_us)
            self._renew_at_us = now_us + round(SERVER_DAYS * 86400e6 * 2 / 3)
        return self._own


def _builder(
    subject: x509.Name, issuer: x509.Name, now_us: int, *, days: int, seconds: float = 0.0, serial: int = 0
) -> x509.CertificateBuilder:
    now = _moment(now_us)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.serial_number(serial or x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(seconds=BACKDATED_S))
    return builder.not_valid_after(now + datetime.timedelta(days=days, seconds=seconds))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} cannot stand in a certificate; use ASCII", field="tls_names") from error


def _key_of(request: bytes) -> _PublicKey:
    if len(request) > REQUEST_BYTES_MAX:
        raise InvalidRequest("the certificate request is too long", field="request")
    try:
        read = x509.load_pem_x509_csr(request)
        signed, key = read.is_signature_valid, read.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise InvalidRequest("this is no certificate request in PEM", field="request") from error
    if not signed:
        raise InvalidRequest("the certificate request is not signed by its own key", field="request")
    strong = isinstance(key, ed25519.Ed25519PublicKey)
    strong = strong or (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= 256)
    strong = strong or (isinstance(key, rsa.RSAPublicKey) and RSA_BITS_MIN <= key.key_size <= 8192)
    if not strong or not isinstance(key, _PublicKey):
        raise InvalidRequest("the key is too weak: P-256, Ed25519 or RSA with 2048 bits and more", field="request")
    return key


def _public(holder: _Key | x509.Certificate) -> bytes:
    return _bytes_of(holder.public_key())


def _bytes_of(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _serial_of(key: _PublicKey) -> int:
    return int.from_bytes(hashlib.sha256(_bytes_of(key)).digest()[:SERIAL_BYTES])


def _pem_of(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _moment(us: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(us // 1_000_000, datetime.UTC)


def _microseconds(moment: datetime.datetime) -> int:
    return round(moment.timestamp()) * 1_000_000
