"""Refuses what would fill the disk: the room that is kept for the ends of what runs."""

import shutil
import time
from pathlib import Path

from hostler.errors import Unavailable

DISK_LOOK_S = 1.0


class DiskReserve:
    """Refuses what is new while the disk has less free space than the reserve."""

    def __init__(self, directory: Path, reserve_bytes: int) -> None:
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._looked_at = -DISK_LOOK_S
        self._free_bytes = 0

    def check(self) -> None:
        """Raise Unavailable when there is too little space; the disk is looked at once a second."""
        now = time.monotonic()
        if now - self._looked_at >= DISK_LOOK_S:
            self._looked_at = now
            self._free_bytes = shutil.disk_usage(self._directory).free
        if self._free_bytes < self._reserve_bytes:
            raise Unavailable(
                f"the coordinator's disk has {self._free_bytes >> 20} MiB free and keeps a reserve of"
                f" {self._reserve_bytes >> 20} MiB; free some space under {self._directory}",
                retry_after_s=30,
            )
