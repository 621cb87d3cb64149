"""The lease: one small file that the agent writes and its shims read.

It says until when the worker may go on without having been heard by the coordinator, counted from when a
message was sent that is known to have been heard. A shim whose attempt has the loss policy ``stop`` looks
at it every second and ends the attempt when it has run out: also when the agent is dead or stopped.

A lease that is extended after it had run out is another one: its *term* is higher by one. What was taken on
under an earlier term is neither begun nor goes on, for the coordinator may have given it to another worker.

Times are nanoseconds of CLOCK_BOOTTIME, which goes on while the host sleeps and never jumps; the boot's id
makes a file of an earlier boot worth nothing. Limits: standard library only, nothing here waits.
"""

import os
import struct
import time
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path  # the shims do without it: it would be a tenth of what their launcher loads

NAME: Final = "lease"  # in the worker's runtime directory
LOOK_S: Final = 1.0  # how often a shim looks
_CONTENT: Final = struct.Struct("<16sQI")  # the boot's id, the end, the term
_WHOLE: Final = struct.Struct("<16sQII")  # with a checksum


def _boot_bytes(boot_id: str) -> bytes:
    try:
        content = bytes.fromhex(boot_id.replace("-", ""))
    except ValueError:
        content = b""
    return content if len(content) == 16 else boot_id.encode()[:16].ljust(16, b"\0")


class LeaseFile:
    """The agent's side: the file, kept open."""

    def __init__(self, directory: "Path", boot_id: str) -> None:
        """Open or make it; what an earlier agent wrote stays good. Raises OSError."""
        self._fd = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._boot = _boot_bytes(boot_id)
        self.end_ns, self.term = _parse(os.pread(self._fd, _WHOLE.size, 0), self._boot)

    def extend(self, end_ns: int) -> None:
        """Let the lease end at *end_ns*; an earlier end than the one before is passed over. Never raises OSError."""
        if end_ns <= self.end_ns:
            return
        had_run_out = 0 < self.end_ns < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        term = self.term + 1 if had_run_out else self.term
        content = _CONTENT.pack(self._boot, end_ns, term)
        try:
            os.pwrite(self._fd, _WHOLE.pack(self._boot, end_ns, term, zlib.crc32(content)), 0)
        except OSError:
            return  # the disk is full: the lease runs out, which is the safe side
        self.end_ns, self.term = end_ns, term

    def close(self) -> None:
        """Close the file; the lease goes on until its end."""
        os.close(self._fd)


def _parse(content: bytes, boot: bytes) -> tuple[int, int]:
    """The end and the term; an end of 0 when there is no lease of this boot."""
    if len(content) == _WHOLE.size:
        of_boot, end_ns, term, checksum = _WHOLE.unpack(content)
        if of_boot == boot and checksum == zlib.crc32(content[: _CONTENT.size]):
            return end_ns, term
    return 0, 1


def remaining_s(directory: str, boot_id: str, term: int = 0) -> float:
    """How long the lease goes on, as its file says now; not positive when it is over or nothing can be read.

    *term*: of the lease that is asked for, which is over when there is a later one; 0: any.
    """
    try:
        with open(os.path.join(directory, NAME), "rb", buffering=0) as file:
            content = file.read(_WHOLE.size)
    except OSError:
        return 0.0
    end_ns, found = _parse(content, _boot_bytes(boot_id))
    if not end_ns or (term and term != found):
        return 0.0
    return float(end_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
