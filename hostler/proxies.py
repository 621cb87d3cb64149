"""How a call shows that it came through a proxy: by the names of its headers, or of its metadata.

Whoever is behind a proxy is not known by the connection, which is the proxy's own; so both doors, HTTP and gRPC, ask
such a caller for a key. No header's value is believed. Pure.
"""

from collections.abc import Iterable
from itertools import repeat
from typing import Final

PROXY_HEADERS: Final = frozenset(
    (
        "forwarded",
        "via",
        "x-forwarded",
        "x-real-ip",
        "x-client-ip",
        "client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-cluster-client-ip",
    )
)
PROXY_PREFIX: Final = "x-forwarded-"
THROUGH_A_PROXY: Final = "the call came through a proxy, and none is trusted; call hostler directly, or show a key"


def shows_proxy(names: Iterable[str]) -> bool:
    """Whether one of these names of headers, in any case, is one that proxies add."""
    lowered = set(map(str.lower, names))
    return not PROXY_HEADERS.isdisjoint(lowered) or any(map(str.startswith, lowered, repeat(PROXY_PREFIX)))
