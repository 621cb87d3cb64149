"""Time as something that is passed in, so that tests and the simulation own it."""

import time
from typing import Protocol


class Clock(Protocol):
    """The three times we use, and nothing else reads a clock."""

    def wall_us(self) -> int:
        """Microseconds since the epoch; for display only, may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow; for deadlines inside one process."""
        ...

    def boot_ns(self) -> int:
        """CLOCK_BOOTTIME in nanoseconds: the same for every process of the host, counts sleep."""
        ...


class SystemClock:
    """The host's clocks."""

    def wall_us(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def boot_ns(self) -> int:
        """See `Clock`."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that a test moves by hand; all three times advance together."""

    def __init__(self, *, wall_us: int = 1_700_000_000_000_000) -> None:
        self._wall_us = wall_us
        self._elapsed_s = 0.0

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self._elapsed_s += seconds

    def wall_us(self) -> int:
        """See `Clock`."""
        return self._wall_us + round(self._elapsed_s * 1e6)

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._elapsed_s

    def boot_ns(self) -> int:
        """See `Clock`."""
        return round(self._elapsed_s * 1e9)
