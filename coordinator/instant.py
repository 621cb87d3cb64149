"""The moment at which something is decided. Pure: whoever decides was given it."""

from typing import NamedTuple


class Instant(NamedTuple):
    """The two times of a batch: one to show, one to measure with."""

    wall_us: int
    monotonic_s: float
