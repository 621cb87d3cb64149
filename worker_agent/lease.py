"""The lease: one small file that the agent writes and its shims read.

It says until when the worker may go on without having been heard by the coordinator, counted from when a
message was sent that is known to have been heard. A shim whose attempt has the loss policy ``stop`` looks
at it every second and ends the attempt when it has run out: also when the agent is dead or stopped.

Times are nanoseconds of CLOCK_BOOTTIME, which goes on while the host sleeps and never jumps; the boot's id
makes a file of an earlier boot worth nothing. Limits: standard library only, nothing here waits.
"""

import os
import struct
import time
import uuid
import zlib
from pathlib import Path
from typing import Final

NAME: Final = "lease"  # in the worker's runtime directory
LOOK_S: Final = 1.0  # how often a shim looks
_CONTENT: Final = struct.Struct("<16sQ")  # the boot's id, the end
_WHOLE: Final = struct.Struct("<16sQII")  # with a checksum and nothing


def _boot_bytes(boot_id: str) -> bytes:
    try:
        return uuid.UUID(boot_id).bytes
    except ValueError:
        return boot_id.encode()[:16].ljust(16, b"\0")


class LeaseFile:
    """The agent's side: the file, kept open."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        """Open or make it; what an earlier agent wrote stays good. Raises OSError."""
        self._fd = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._boot = _boot_bytes(boot_id)
        self.end_ns = 0

    def extend(self, end_ns: int) -> None:
        """Let the lease end at *end_ns*; an earlier end than the one before is passed over. Never raises OSError."""
        if end_ns <= self.end_ns:
            return
        content = _CONTENT.pack(self._boot, end_ns)
        try:
            os.pwrite(self._fd, _WHOLE.pack(self._boot, end_ns, zlib.crc32(content), 0), 0)
        except OSError:
            return  # the disk is full: the lease runs out, which is the safe side
        self.end_ns = end_ns

    def close(self) -> None:
        """Close the file; the lease goes on until its end."""
        os.close(self._fd)


def remaining_s(directory: str, boot_id: str) -> float:
    """How long the lease goes on, as its file says now; not positive when it is over or nothing can be read."""
    try:
        with open(os.path.join(directory, NAME), "rb", buffering=0) as file:
            content = file.read(_WHOLE.size)
    except OSError:
        return 0.0
    if len(content) != _WHOLE.size:
        return 0.0
    boot, end_ns, checksum, _ = _WHOLE.unpack(content)
    if boot != _boot_bytes(boot_id) or checksum != zlib.crc32(content[: _CONTENT.size]):
        return 0.0
    return float(end_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
