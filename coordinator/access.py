"""Keys of clients as they are kept, whether one that is shown is good, and who asks with it.

Pure. Whether a key is good is asked again at every call and, of open streams, every few seconds: nothing of
an earlier answer is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hostler.keys import is_key, read_key
from hostler.policy import ADDRESS, ADDRESS_PREFIX, KEY_PREFIX, LOCAL, Principal, Scope

WORKER_PREFIX = "worker:"  # of the principal of a worker that shows its certificate
RESERVED_PREFIXES = (KEY_PREFIX, ADDRESS_PREFIX, WORKER_PREFIX)  # no key makes anybody one of these
# What an unknown key is compared with, so that its answer takes as long as that of a wrong secret.
_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of a client. Its secret is kept by nobody here."""

    id: str
    name: str
    owner: str
    scopes: frozenset[Scope]
    hash: bytes
    created_at_us: int
    networks: tuple[str, ...] = ()  # CIDR; empty: good from everywhere
    expires_at_us: int = 0  # 0: never
    used_at_us: int = 0
    revoked_at_us: int = 0

    def is_good(self, now_us: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return not self.revoked_at_us and not (self.expires_at_us and now_us >= self.expires_at_us)

    @property
    def principal(self) -> Principal:
        """Who asks with it."""
        return Principal(name=self.owner, scopes=self.scopes, credential=self.id)


Keys = Mapping[str, Key]  # by id


def find_key(keys: Keys, text: str, address: str, now_us: int) -> Key | None:
    """The key that *text* is, shown by a caller at *address*; None when there is none that is good, whatever is wrong.

    An empty address is one that is not known: a key that is good from some networks only is not good from there.
    """
    shown = read_key(text)
    if shown is None:
        return None
    key = keys.get(shown.id)
    if not is_key(shown, key.hash if key is not None else _NO_HASH) or key is None:
        return None
    return key if key.is_good(now_us) and is_from(address, key.networks) else None


def is_from(address: str, networks: Sequence[str]) -> bool:
    """Whether *address* is in one of *networks*; no networks: it does not matter."""
    if not networks:
        return True
    found = plain_address(address)
    return found is not None and any(found in ip_network(network) for network in networks)


def plain_address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address; one of IPv4 that came over IPv6 is given as what it is."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def asserted_principal(keys: Keys, said: str, now_us: int, *, by: Principal) -> Principal | None:
    """Who a caller that may assert speaks for; None when there is nobody of that name (any more).

    That somebody is a local user of this host only a program of this host can know, so a key is not believed it.
    """
    if said == LOCAL.name:
        return LOCAL if by == LOCAL else None
    if said.startswith(KEY_PREFIX):
        key = keys.get(said.removeprefix(KEY_PREFIX))
        return key.principal if key is not None and key.is_good(now_us) else None
    if said.startswith(ADDRESS_PREFIX):
        address = plain_address(said.removeprefix(ADDRESS_PREFIX))
        if address is not None:
            return Principal(name=f"{ADDRESS_PREFIX}{address}", scopes=ADDRESS, credential=str(address))
    return None
