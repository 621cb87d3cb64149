"""Addresses and networks, as settings and workloads name them. Pure."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from hostler.errors import InvalidRequest

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse_networks(texts: Iterable[str], *, field: str) -> tuple[Network, ...]:
    """Read networks in CIDR form; an address alone is a network of one.

    Raises:
        InvalidRequest: one of them is none, with *field* as the setting's name.
    """
    found = []
    for text in texts:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError as error:
            raise InvalidRequest(
                f"setting {field}: {text[:100]!r} is no network such as 10.0.0.0/8", field=field
            ) from error
    return tuple(found)


def is_within(address: Address | None, networks: Iterable[Network]) -> bool:
    """Whether an address is known and lies in one of some networks."""
    return address is not None and any(address in network for network in networks)
