"""Why this worker takes no new work, if it does not: reasons come and go by themselves, and the last to go ends it.

Limits: one event loop; nothing here is kept. The room on the disk is asked of the kernel, which does not wait.
"""

import os
from pathlib import Path
from typing import Final

_AGAIN: Final = 1.25  # times the reserve: so much must be free before work is taken again
_SHOWN_MAX: Final = 3


class Draining:
    """The reasons of one worker; true while there is any."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}  # by name, in order

    def __bool__(self) -> bool:
        """Whether the worker wants no further work."""
        return bool(self._reasons)

    def __contains__(self, name: str) -> bool:
        """Whether a reason is there."""
        return name in self._reasons

    @property
    def reason(self) -> str:
        """Every reason, for people; empty: none."""
        texts = list(self._reasons.values())
        more = len(texts) - _SHOWN_MAX
        return "; ".join([*texts[:_SHOWN_MAX], *([f"and {more} more"] if more > 0 else [])])

    def begin(self, name: str, text: str) -> bool:
        """Take no new work because of *text*; whether the reason was not there before."""
        is_new = name not in self._reasons
        self._reasons[name] = text
        return is_new

    def end(self, name: str) -> bool:
        """A reason is over; whether it was there."""
        return self._reasons.pop(name, None) is not None


class DiskRoom:
    """Whether the disk of a directory has room for new work, which would else fail half-way and take others along."""

    def __init__(self, directory: Path, reserve_bytes: int) -> None:
        """*reserve_bytes*: with less than this free nothing new is taken; 0: whatever is free."""
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._short = False

    def problem(self) -> str:
        """Say why there is no room; empty: there is."""
        wanted = self._reserve_bytes * (_AGAIN if self._short else 1.0)
        try:
            status = os.statvfs(self._directory)
        except OSError:
            return ""  # who writes there will be told
        free_bytes = status.f_bavail * status.f_frsize
        self._short = free_bytes < wanted
        if not self._short:
            return ""
        return (
            f"{free_bytes >> 20} MiB are free on the disk of {self._directory}, less than the reserve of"
            f" {self._reserve_bytes >> 20} MiB; new work is taken when there is more"
        )
