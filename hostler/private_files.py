"""Files that only their owner may read, written so that readers and a crash find the old one or the new one, whole."""

import os
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Put *content* in place of what is at *path*: mode 0600, on the disk before this returns.

    Two writers at once are not for this. Raises OSError; the file that was there then stays.
    """
    aside = path.with_name(f"{path.name}.new")
    aside.unlink(missing_ok=True)  # of a writer that was killed
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the names in a directory on the disk before this returns. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
