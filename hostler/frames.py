"""The frame format of segments and ledgers: how bytes of a job's output are kept.

Pure: no clock, no IO, standard library only, because the shim imports it. A frame is a header of
20 bytes and a payload. The checksum is CRC-32 (zlib), not CRC-32C: shims use only the standard
library, which has no CRC-32C. It covers the header after itself and the payload, so a torn or
overwritten frame is found.

A segment holds the frames of many attempts; the *ledger* of one attempt is its OUT, ERR and GAP
frames, which are contiguous. A position counts ledger bytes (headers included) since the
attempt's start and is always at a frame border.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

OUT: Final = 1  # bytes of standard output
ERR: Final = 2  # bytes of standard error
GAP: Final = 3  # bytes that were dropped, see `gap_payload`
SHIM: Final = 16  # JSON: who writes this segment
STARTED: Final = 17  # JSON: written before the program is started
PID: Final = 18  # JSON: the main process, behind STARTED; only in segments of earlier versions
EXIT: Final = 19  # JSON of worker_agent.attempts.Ended

LEDGER_KINDS: Final = frozenset((OUT, ERR, GAP))
OUTPUT_BYTES_MAX: Final = 64 * 1024  # of one OUT or ERR payload
PAYLOAD_BYTES_MAX: Final = 1024 * 1024  # of any payload

_HEADER: Final = struct.Struct("<IIBBHQ")  # payload length, crc, kind, flags, reserved, at_us
_COVERED: Final = struct.Struct("<BBHQ")  # the part of the header that the crc covers
_LENGTHS: Final = struct.Struct("<II")
_GAP: Final = struct.Struct("<QQ")
HEADER_BYTES: Final = _HEADER.size
_COVERED_AT: Final = 8

Buffer = bytes | bytearray | memoryview


class FrameError(ValueError):
    """Bytes that cannot be a frame: a wrong checksum or an impossible length."""


class Frame(NamedTuple):
    """One frame as it was decoded; *end* is the offset just behind it in the buffer it came from."""

    kind: int
    at_us: int  # wall clock, microseconds since the epoch; for display only
    payload: bytes
    end: int


def encode(kind: int, payload: bytes, at_us: int) -> bytes:
    """Return one whole frame. Raises FrameError when the payload is too long for its kind."""
    length = len(payload)
    if length > (OUTPUT_BYTES_MAX if kind in LEDGER_KINDS else PAYLOAD_BYTES_MAX):
        raise FrameError(f"payload of {length} bytes is too long for kind {kind}")
    covered = _COVERED.pack(kind, 0, 0, at_us)
    return _LENGTHS.pack(length, crc32(payload, crc32(covered))) + covered + payload


def gap_payload(out_bytes: int, err_bytes: int) -> bytes:
    """Return the payload of a GAP frame: how many bytes of each stream were dropped here."""
    return _GAP.pack(out_bytes, err_bytes)


def parse_gap(payload: bytes) -> tuple[int, int]:
    """Return (bytes of stdout dropped, bytes of stderr dropped). Raises FrameError for another length."""
    if len(payload) != _GAP.size:
        raise FrameError("a gap payload has 16 bytes")
    out_bytes, err_bytes = _GAP.unpack(payload)
    return out_bytes, err_bytes


def decode(buffer: Buffer, offset: int = 0) -> Frame | None:
    """Return the frame at *offset*, or None when the buffer ends before the frame does.

    Raises:
        FrameError: the checksum is wrong or the length is beyond every limit.
    """
    body = offset + HEADER_BYTES
    if len(buffer) < body:
        return None
    length, crc, kind, _flags, _reserved, at_us = _HEADER.unpack_from(buffer, offset)
    if length > PAYLOAD_BYTES_MAX:
        raise FrameError(f"impossible payload length {length}")
    end = body + length
    if len(buffer) < end:
        return None
    view = memoryview(buffer)
    if crc32(view[offset + _COVERED_AT : end]) != crc:
        raise FrameError(f"wrong checksum at offset {offset}")
    return Frame(kind, at_us, bytes(view[body:end]), end)


def iter_frames(buffer: Buffer, offset: int = 0) -> Iterator[Frame]:
    """Yield the whole frames from *offset* on; stop before an incomplete one. Raises FrameError as `decode` does."""
    while (frame := decode(buffer, offset)) is not None:
        yield frame
        offset = frame.end


def whole_frames(buffer: Buffer) -> int:
    """Return the length of the longest prefix made of whole, valid frames. Never raises.

    No payload is copied; the cost is one checksum per frame.
    """
    view = memoryview(buffer)
    size = len(view)
    offset = 0
    unpack = _LENGTHS.unpack_from
    while size - offset >= HEADER_BYTES:
        length, crc = unpack(view, offset)
        end = offset + HEADER_BYTES + length
        if length > PAYLOAD_BYTES_MAX or end > size or crc32(view[offset + _COVERED_AT : end]) != crc:
            break
        offset = end
    return offset


def output_bytes(buffer: Buffer) -> int:
    """Return how many bytes of stdout and stderr the whole frames of *buffer* hold. Checks nothing."""
    total = offset = 0
    last = len(buffer) - HEADER_BYTES
    unpack = _HEADER.unpack_from
    while offset <= last:
        length, _, kind, _, _, _ = unpack(buffer, offset)
        if kind <= ERR:
            total += length
        offset += HEADER_BYTES + length
    return total


def frame_start(buffer: Buffer, position: int) -> int:
    """Return the offset of the frame that holds byte *position* of *buffer* (or begins there)."""
    offset = 0
    while offset + HEADER_BYTES <= len(buffer):
        end = offset + HEADER_BYTES + _LENGTHS.unpack_from(buffer, offset)[0]
        if end > position:
            return offset
        offset = end
    return offset
