"""The certificate with which a gateway of this data directory serves off loopback, where it has no files of its own.

The cluster's authority signs it. It lies with its key in one private file, whose place `hostler.endpoint` names, and
is made anew at every start and long before it expires; the gateway looks at the file now and then.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hostler import logs
from hostler.endpoint import gateway_certificate
from hostler.private_files import write_private
from hostler.settings import Settings

if TYPE_CHECKING:
    from coordinator.authority import Authority, Shown  # takes long to load

RENEW_S = 10 * 86400.0  # a third of the time for which one is good


class GatewayCertificate:
    """Keeps the file fresh."""

    def __init__(
        self, authority: "Authority", names: tuple[str, ...], data_dir: Path, wall_us: Callable[[], int]
    ) -> None:
        """Prepare; *names* is what the gateway may be called."""
        self._authority = authority
        self._names = names
        self._path = gateway_certificate(data_dir)
        self._wall_us = wall_us

    def write(self) -> None:
        """Make a certificate; readers see the old or the new file, never a part. Raises OSError."""
        pair = self._authority.sign_server(self._names, self._wall_us())
        write_private(self._path, pair.certificate + pair.private_key)

    async def run(self) -> None:
        """Make another one again and again, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await asyncio.to_thread(self.write)
            except OSError as error:
                # The one before is good for two more rounds.
                logs.get().warning("certificate.unusable", error=str(error))


def gateway_certificate_of(
    settings: Settings, host: str, shown: "Shown | None", wall_us: Callable[[], int]
) -> GatewayCertificate:
    """Make one for a gateway on *host*, by the authority of what is *shown*, or else by that of the data directory.

    Blocks. Raises:
        InvalidRequest: the authority cannot be used, or a name cannot stand in a certificate.
    """
    from coordinator.authority import Authority
    from coordinator.ports import names_of_host

    directory = settings.data_dir / "coordinator" / "ca"
    authority = shown.authority if shown is not None else Authority.open(directory, wall_us())
    names = names_of_host([host], (*settings.tls_names, *settings.allowed_hosts))
    made = GatewayCertificate(authority, names, settings.data_dir, wall_us)
    made.write()
    return made
