"""A small disk below a directory: a tmpfs that can be filled to its last byte and emptied again."""

import contextlib
import math
import os
import subprocess
import time
from pathlib import Path

SIZE_MIB = 128  # a worker keeps 64 MiB free when it prepares a workspace
NOTICED_S = 10.0
_FILLER = "filler"


class SmallDisk:
    """The disk on one directory. Limits: needs root; `unmount` must be called, or the mount stays."""

    def __init__(self, directory: Path) -> None:
        """Make the directory and mount the disk there, private to its owner."""
        self.directory = directory
        self.full = False
        self._emptied_at = -math.inf
        directory.mkdir(mode=0o700, parents=True)
        self._mount("mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=0700", "hostler-faults", str(directory))

    def _mount(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=20)

    def fill(self) -> None:
        """Take all the space that is left; what others give free meanwhile is not taken."""
        self.full = True
        fd = os.open(self.directory / _FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            with contextlib.suppress(OSError):
                while os.write(fd, bytes(1 << 20)):
                    pass
        finally:
            os.close(fd)

    def empty(self) -> None:
        """Give the space back."""
        self.full = False
        self._emptied_at = time.monotonic()
        (self.directory / _FILLER).unlink(missing_ok=True)

    @property
    def was_full(self) -> bool:
        """Whether it is full, or was until a moment ago: who could not begin there may be noticed later than that."""
        return self.full or time.monotonic() < self._emptied_at + NOTICED_S

    def unmount(self) -> None:
        """Remove the disk, also while somebody has a file there open."""
        self._mount("umount", "--lazy", str(self.directory))
