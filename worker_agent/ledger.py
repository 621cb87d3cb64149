"""Segments: where a shim keeps the frames of its attempts, and how they are read back.

A segment `shim-N.K.segment` is append-only and written by one shim alone. It opens with a SHIM
frame; each attempt adds STARTED, its ledger (OUT, ERR, GAP) and EXIT. Every frame is handed
to write(2) at once: the page cache survives a killed process, so a buffered file object, which
does not, is never used here. Nothing is synced: a host crash is told by the boot id instead.

Limits: standard library only (the shim imports this). A segment never rotates within an attempt.
"""

import contextlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from hostler import frames
from worker_agent.attempts import Ended

if TYPE_CHECKING:
    from pathlib import Path  # the shims do without it: it would be a tenth of what their launcher loads

ROTATE_BYTES: Final = 64 * 1024 * 1024
RESERVE_BYTES: Final = 64 * 1024
_BLOCK_BYTES: Final = 4096  # of a disk, as far as the reserve reckons
_SCAN_BYTES: Final = 4 * 1024 * 1024
_LEDGER_FRAME_MAX: Final = frames.HEADER_BYTES + frames.OUTPUT_BYTES_MAX


class SegmentIdentity(NamedTuple):
    """Who writes a segment: enough to find the shim, to prove it dead and to end what it left."""

    shim: int
    boot_id: str
    pid: int
    start_ticks: int  # /proc/PID/stat field 22
    nonce: str  # what an agent must say in its hello
    cgroup: str = ""  # directory of the shim's own cgroup; empty when there is none
    freezer: bool = False  # True: that directory is a version 1 freezer
    uid: int = 0  # of the user its programs run as; 0: the worker's


@dataclass(slots=True, kw_only=True)
class AttemptRecord:
    """What a segment says about one attempt; nothing says whether it ran before it has exited."""

    key: str
    started_at_us: int
    pid: int = 0  # as earlier versions noted it
    ledger_offset: int = 0
    ledger_bytes: int = 0
    exited: bool = False
    ended: Ended | None = None  # only read for wanted keys
    cgroups: tuple[str, ...] = ()  # directories of the control groups that were made for it


@dataclass(slots=True, kw_only=True)
class Segment:
    """A scanned segment. *valid_bytes* is the length of its whole frames; a torn tail lies behind it."""

    path: "Path"
    identity: SegmentIdentity | None
    attempts: list[AttemptRecord]
    valid_bytes: int


def segment_name(shim: int, number: int) -> str:
    """Return the file name of a shim's segment; *number* counts from 1."""
    return f"shim-{shim}.{number}.segment"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """Return (shim, number) of a segment's file name, or None for any other file."""
    parts = name.split(".")
    if len(parts) != 3 or parts[2] != "segment" or not parts[0].startswith("shim-"):
        return None
    shim, number = parts[0][5:], parts[1]
    return (int(shim), int(number)) if shim.isdecimal() and number.isdecimal() else None


def segments_of(directory: "Path", shim: int) -> "list[Path]":
    """Return the segments of one shim in the order in which they were written."""
    found = []
    for path in directory.glob(f"shim-{shim}.*.segment"):
        parsed = parse_segment_name(path.name)
        if parsed is not None and parsed[0] == shim:
            found.append((parsed[1], path))
    return [path for _, path in sorted(found)]


def last_shim(directory: "Path") -> int:
    """Return the highest number of a shim that has a file in *directory*, a segment or a socket; 0: none has."""
    numbers = (path.name.removeprefix("shim-").partition(".")[0] for path in directory.glob("shim-*"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _append(fd: int, content: bytes) -> int:
    """Write all of *content*; return how much of it the disk took, which is less when it is full."""
    written = 0
    while written < len(content):
        try:
            written += os.write(fd, content[written:] if written else content)
        except OSError:
            # Full disk, quota, or a broken disk: the caller counts what is lost and goes on.
            break
    return written


class SegmentWriter:
    """The shim's side. Frames go in whole or not at all, also on a full disk."""

    def __init__(self, directory: str | os.PathLike[str], identity: SegmentIdentity) -> None:
        """Create segment 1 of the shim and its reserve. Raises OSError when even that does not fit."""
        self._directory = os.fspath(directory)
        self._identity = identity
        self._number = 0
        self._reserve_path = os.path.join(directory, f"shim-{identity.shim}.reserve")
        self._reserved = 0  # bytes kept free
        self.fd = -1
        self.size = 0
        self.name = ""
        self._reserve()
        self._open_next()

    def _open_next(self) -> None:
        number = self._number + 1
        name = segment_name(self._identity.shim, number)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(os.path.join(self._directory, name), flags, 0o600)
        content = json.dumps(self._identity._asdict()).encode()
        frame = frames.encode(frames.SHIM, content, 0)
        if _append(fd, frame) != len(frame):
            os.close(fd)
            os.unlink(os.path.join(self._directory, name))
            raise OSError("no space for a new segment")
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.size, self.name, self._number = fd, len(frame), name, number

    def _reserve(self) -> None:
        try:
            fd = os.open(self._reserve_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
            self._reserved = RESERVE_BYTES
        except OSError:
            # No room now: the next pause between attempts tries again.
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def prepare(self) -> None:
        """Between attempts: rotate a large segment and take the reserve back. Keeps the old segment when it cannot."""
        if self._reserved < RESERVE_BYTES:
            self._reserve()
        if self.size > ROTATE_BYTES:
            try:
                self._open_next()
            except OSError:
                # A full disk: one more attempt in a large segment harms nobody.
                return

    @property
    def has_name(self) -> bool:
        """Whether anybody can still open the segment; not when the data directory was deleted."""
        return os.fstat(self.fd).st_nlink > 0

    def write(self, frame: bytes) -> bool:
        """Append one frame; False when there is no space, and then nothing of it is in the file."""
        try:
            written = os.write(self.fd, frame)
        except OSError:
            written = 0
        if written < len(frame):
            written += _append(self.fd, frame[written:])
        if written == len(frame):
            self.size += written
            return True
        if written:
            os.ftruncate(self.fd, self.size)
        return False

    def write_vital(self, frame: bytes) -> bool:
        """Append a frame that must not be lost, giving up as much of the reserve as it needs when the disk is full.

        What is left of the reserve is for the frames that follow: others would take what was given up at once.
        """
        while not self.write(frame):
            if not self._reserved:
                return False
            self._reserved = max(0, self._reserved - (len(frame) // _BLOCK_BYTES + 2) * _BLOCK_BYTES)
            os.truncate(self._reserve_path, self._reserved)
        return True

    def close(self) -> None:
        """Close the segment and remove the reserve; the segment itself belongs to the agent now."""
        os.close(self.fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._reserve_path)


def scan_segment(path: "Path", wanted: Collection[str] | None = None) -> Segment:
    """Read a segment from its start to its end or to its torn tail.

    Exit frames are parsed into `Ended` only for keys in *wanted* (None: for all).
    Raises FileNotFoundError; never raises for what is in the file.
    """
    segment = Segment(path=path, identity=None, attempts=[], valid_bytes=0)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while buffer := os.pread(fd, _SCAN_BYTES, segment.valid_bytes):
            base = segment.valid_bytes
            try:
                for frame in frames.iter_frames(buffer):
                    _note(segment, frame, base, wanted)
                    segment.valid_bytes = base + frame.end
            except (frames.FrameError, ValueError, KeyError, TypeError):
                # Bytes that are no frame, or a frame that is none of ours: what is behind is not trusted.
                break
            if segment.valid_bytes == base:
                break
    finally:
        os.close(fd)
    return segment


def _note(segment: Segment, frame: frames.Frame, base: int, wanted: Collection[str] | None) -> None:
    kind = frame.kind
    if kind == frames.SHIM:
        segment.identity = SegmentIdentity(**json.loads(frame.payload))
        return
    if kind == frames.STARTED:
        content = json.loads(frame.payload)
        key, cgroups = str(content["key"]), tuple(map(str, content.get("cgroups", ())))
        offset = base + frame.end
        record = AttemptRecord(key=key, started_at_us=frame.at_us, ledger_offset=offset, cgroups=cgroups)
        segment.attempts.append(record)
        return
    if not segment.attempts or segment.attempts[-1].exited:
        raise frames.FrameError("a frame outside of an attempt")
    record = segment.attempts[-1]
    if kind in frames.LEDGER_KINDS:
        record.ledger_bytes = base + frame.end - record.ledger_offset
    elif kind == frames.PID:
        record.pid = int(json.loads(frame.payload)["pid"])
        record.ledger_offset = base + frame.end
    elif kind == frames.EXIT:
        record.exited = True
        if wanted is None or record.key in wanted:
            record.ended = Ended.from_json(json.loads(frame.payload))


def read_ledger(fd: int, ledger_offset: int, from_position: int, max_bytes: int) -> bytes:
    """Return whole ledger frames of one attempt from *from_position* on.

    At most *max_bytes*, but always one whole frame when there is one; empty when there is nothing more.
    It ends before the attempt's exit frame, so the length of the ledger need not be known.

    Raises:
        FrameError: *from_position* is not at a frame border, or the file is damaged there.
    """
    content = os.pread(fd, max(max_bytes, _LEDGER_FRAME_MAX), ledger_offset + from_position)
    end = 0
    for frame in frames.iter_frames(content):
        if frame.kind not in frames.LEDGER_KINDS or (end and frame.end > max_bytes):
            break
        end = frame.end
    return content[:end]
