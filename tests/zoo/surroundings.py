"""What the programs need around them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def a_small_disk(directory: Path) -> Iterator[Path]:
    """A disk of 4 MiB that a program may fill; needs root, and is an ordinary directory for others."""
    directory.mkdir(mode=0o700)
    if os.geteuid() != 0:
        yield directory
        return
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=4m", "hostler-zoo", str(directory)), check=True, timeout=20)
    try:
        yield directory
    finally:
        subprocess.run(("umount", "--lazy", str(directory)), check=True, timeout=20)
