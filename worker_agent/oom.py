"""What the kernel says about processes that it ended for lack of memory.

Its counters say that it happened and how often; its log, where we may read it, says to whom.
Limits: Linux, standard library only; nothing here raises.
"""

import contextlib
import os
import re
import time
from typing import Final, NamedTuple

from worker_agent.cgroups import hierarchies, read_control

_LOG: Final = "/dev/kmsg"
_LOG_S: Final = 0.05  # for reading it
_RECORD_BYTES: Final = 8192
_VICTIM: Final = re.compile(rb"oom-kill:.*task_memcg=(\S*),task=(.*),pid=(\d+),uid=")
_COUNT: Final = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_SYSTEM: Final = "/proc/vmstat"


class Victim(NamedTuple):
    """A process that the kernel ended."""

    pid: int  # as the whole host counts
    name: str


def kill_count(path: str) -> int | None:
    """Return the number of processes the kernel has ended, by a file with a line `oom_kill N`; None: no such line."""
    try:
        found = _COUNT.search(read_control(path).encode())
    except OSError:
        return None
    return int(found[1]) if found else None


def victims_in(group: str) -> tuple[Victim, ...]:
    """Return whom the kernel's log names as ended in or below control groups called *group*, or *group*.SUFFIX.

    Empty when the log cannot be read.
    """
    found: list[Victim] = []
    until = time.monotonic() + _LOG_S
    try:
        fd = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        while time.monotonic() < until:
            try:
                record = os.read(fd, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # older ones were overwritten while we read
            match = _VICTIM.search(record)
            if match and _is_in(match[1].decode(errors="replace"), group):
                found.append(Victim(int(match[3]), match[2].decode(errors="replace")))
    except OSError:
        pass  # the end
    finally:
        os.close(fd)
    return tuple(found)


def _is_in(path: str, group: str) -> bool:
    return any(part == group or part.startswith(f"{group}.") for part in path.split("/"))


class MemoryWatch:
    """The kernel's count for the memory group this process is in, or the nearest that counts."""

    def __init__(self) -> None:
        self._fd = -1
        self._searched = False

    def count(self) -> int:
        """Return how many processes the kernel has ended; negative when nobody counts."""
        if not self._searched:
            self._searched = True
            self._fd = _open_counter()
        if self._fd < 0:
            return -1
        try:
            found = _COUNT.search(os.pread(self._fd, 65536, 0))
        except OSError:
            return -1
        return int(found[1]) if found else -1

    def close(self) -> None:
        """Close the counter."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_counter() -> int:
    """Open the file that counts: version 1 counts where the process was, version 2 in all groups above it as well."""
    paths: list[str] = []
    for hierarchy in hierarchies():
        if not hierarchy.version2 and "memory" in hierarchy.options:
            paths.insert(0, f"{hierarchy.directory}/memory.oom_control")
        directory = hierarchy.directory
        while hierarchy.version2 and directory.startswith(f"{hierarchy.mount}/"):
            paths.append(f"{directory}/memory.events")
            directory = os.path.dirname(directory)
    for path in (*paths, _SYSTEM):
        if kill_count(path) is not None:
            with contextlib.suppress(OSError):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return -1
