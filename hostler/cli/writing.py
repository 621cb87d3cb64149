"""Writing to our own streams, whatever became of them."""

import os
import select


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, also to a descriptor that somebody has made non-blocking."""
    view = memoryview(content)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
