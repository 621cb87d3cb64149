"""What a benchmark has left behind, by the directory it was told to use."""

import os
from pathlib import Path


def processes_of(place: Path) -> list[str]:
    """The command lines of live processes that name *place*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(place) in line:
                found.append(line)
    return found
