"""With what a gateway off loopback speaks TLS: certificate files, or what the coordinator of this host has made for it.

The certificate also says by which names the gateway may be called: those are allowed in Host headers. Files are
read again when they have changed, so that a renewed certificate needs no restart.
"""

import asyncio
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hostler import logs
from hostler.endpoint import gateway_certificate
from hostler.errors import HostlerError, InvalidRequest
from hostler.settings import Settings
from hostler.tls import is_loopback, read_private

if TYPE_CHECKING:
    from cryptography import x509

LOOK_S = 30.0  # between looks at whether the files have changed
COORDINATOR_S = 10.0  # for the coordinator of this host, which may start at the same moment, to make one
ALPN = ["http/1.1"]


class Certificate:
    """A certificate that is being served with."""

    def __init__(self, certificate: str, private_key: str) -> None:
        """Read it.

        Args:
            certificate: PEM file, with what leads to its authority.
            private_key: PEM file, which nobody else may read; may be the same.

        Raises:
            InvalidRequest: a file cannot be used.
        """
        self._paths = (Path(certificate), Path(private_key))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(ALPN)
        self._seen = self._versions()
        self.names = self._load()

    async def run(self) -> None:
        """Look at the files again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self.look()
            # The owner of the look: whatever it was, the next one is due all the same.
            except Exception as error:
                logs.get().exception("certificate.unusable", error=str(error))

    def look(self) -> None:
        """Serve new connections with what is in the files now, if they have changed and can be used."""
        versions = self._versions()
        if versions == self._seen:
            return
        try:
            self._load()
        except HostlerError as error:
            logs.get().warning("certificate.unusable", error=error.message)
            return
        self._seen = versions

    def _load(self) -> tuple[str, ...]:
        # Here and not above: it costs memory, and a gateway on loopback never needs it.
        from cryptography import x509

        certificate, key = self._paths
        read_private(str(key), "http_private_key")
        try:
            names = _names_in(x509.load_pem_x509_certificate(certificate.read_bytes()))
            # Tried apart: a context that was given a certificate without its key serves nothing any more.
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
                context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise InvalidRequest(
                f"{certificate} and {key} cannot be served with: {error}", field="http_certificate"
            ) from error
        return names

    def _versions(self) -> tuple[tuple[int, int], ...]:
        found = []
        for path in self._paths:
            try:
                stat = path.stat()
            except OSError:
                return ()
            found.append((stat.st_mtime_ns, stat.st_ino))
        return tuple(found)


def certificate_of(settings: Settings, host: str) -> Certificate | None:
    """Return with what these settings serve on *host*; None: on loopback, without TLS. Blocks.

    Raises:
        InvalidRequest: off loopback there is none, or its files cannot be used.
    """
    files = (settings.http_certificate, settings.http_private_key)
    if any(files) and not all(files):
        raise InvalidRequest("http_certificate and http_private_key go together", field="http_certificate")
    if all(files):
        return Certificate(*files)
    if is_loopback(host):
        return None
    made = gateway_certificate(settings.data_dir)
    until = time.monotonic() + COORDINATOR_S
    # A coordinator that has never run here makes none while we wait.
    while not made.exists() and made.parent.is_dir() and time.monotonic() < until:
        time.sleep(0.2)
    if not made.exists():
        raise InvalidRequest(
            f"http is {settings.http!r}: off loopback hostler serves HTTP with TLS only; set http_certificate and "
            "http_private_key to PEM files, or run the gateway with the data directory of a coordinator on this host, "
            "or use 127.0.0.1:PORT and reach it through an SSH tunnel",
            field="http",
        )
    return Certificate(str(made), str(made))


def _names_in(certificate: "x509.Certificate") -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = map(str, found.get_values_for_type(x509.IPAddress))
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def _no_password() -> str:
    # Otherwise OpenSSL asks the terminal.
    raise InvalidRequest("http_private_key is encrypted, and nobody is there to ask", field="http_private_key")
