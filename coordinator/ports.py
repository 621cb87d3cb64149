"""Where the coordinator listens: its gRPC port, and beside it, off loopback, the port of workers from other hosts.

gRPC can ask every caller of a port for a certificate or none, so workers, who have one, and everybody else, who has
a key, come to different ports.
"""

import socket
from collections.abc import Iterable
from typing import NamedTuple

from hostler.endpoint import parse_bind
from hostler.errors import InvalidRequest
from hostler.settings import Settings
from hostler.tls import is_loopback

PORT_MAX = 65535
WILDCARDS = ("0.0.0.0", "::", "")


class Ports(NamedTuple):
    """What is to be bound, and whether with TLS."""

    grpc: tuple[str, int] | None
    workers: tuple[str, int] | None
    secured: bool

    def names(self, settings: Settings) -> tuple[str, ...]:
        """What the coordinator's certificate is for."""
        binds = [bind[0] for bind in (self.grpc, self.workers) if bind is not None]
        return names_of_host(binds, settings.tls_names)

    def host(self, settings: Settings) -> str:
        """How other hosts call this one; empty: they cannot."""
        if self.workers is None or self.grpc is None:
            return ""
        if settings.tls_names:
            return settings.tls_names[0]
        if self.grpc[0] not in WILDCARDS:
            return self.grpc[0]
        return next((name for name in names_of_host([self.grpc[0]], ()) if _is_address(name)), "")


def ports_of(settings: Settings) -> Ports:
    """What the settings ask for.

    Raises:
        InvalidRequest: an address has no usable form, or there is no room for the port of workers.
    """
    tcp = parse_bind(settings.grpc, field="grpc", secured=True) if settings.grpc else None
    workers = parse_bind(settings.workers_bind, field="workers_bind", secured=True) if settings.workers_bind else None
    if workers is not None and tcp is None:
        raise InvalidRequest("workers_bind needs the gRPC port, too: workers join there", field="workers_bind")
    off_loopback = tcp is not None and not is_loopback(tcp[0])
    if off_loopback and workers is None and tcp is not None:
        host, port = tcp
        if port >= PORT_MAX:
            raise InvalidRequest(
                f"the port of workers is the one above {port}, which does not exist; set workers_bind", field="grpc"
            )
        workers = (host, port + 1 if port else 0)
    return Ports(tcp, workers, off_loopback or workers is not None or bool(settings.tls_certificate))


def names_of_host(binds: Iterable[str], named: Iterable[str]) -> tuple[str, ...]:
    """What a certificate must be for, so that callers of these binds find what they called.

    Loopback always; every bind, where a wildcard stands for all addresses of this host and its name; and *named*.
    """
    names = dict.fromkeys(("localhost", "127.0.0.1", "::1", *named))
    for bind in binds:
        if bind in WILDCARDS:
            names |= dict.fromkeys((socket.gethostname(), *_addresses()))
        else:
            names[bind] = None
    return tuple(names)


def _addresses() -> list[str]:
    import psutil  # not needed by a coordinator that is told its address

    found = [each for addresses in psutil.net_if_addrs().values() for each in addresses]
    plain = [each.address.partition("%")[0] for each in found if each.family in (socket.AF_INET, socket.AF_INET6)]
    return [address for address in plain if not is_loopback(address)]


def _is_address(name: str) -> bool:
    return not is_loopback(name) and (":" in name or name.replace(".", "").isdecimal())
