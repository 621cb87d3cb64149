"""Writes a zip whose length is known before its first byte: members stored, sizes and checksums in front of them.

Written by hand because what libraries offer cannot be given a member's time, or writes sizes behind the bytes, which
readers of streams do not understand. The same members give the same bytes. Members and archives above 4 GiB and more
than 65,535 members use the zip64 records. Each file is read twice: for its CRC-32, then for its bytes.
"""

import errno
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

PIECE_BYTES_MAX = 256 * 1024
GATHER_BELOW_BYTES = 64 * 1024  # smaller parts go together
ZIP64_FROM = 0xFFFFFFFF  # this and more do not fit the fields of 32 bits
ZIP64_FROM_MEMBERS = 0xFFFF
VERSION, VERSION_ZIP64 = 20, 45
MADE_ON_UNIX = 3 << 8
UTF8_NAMES = 0x0800
STORED = 0
REGULAR_FILE = 0o100644 << 16
EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)
LATEST = datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC)

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_ZIP64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_ZIP64 = struct.Struct("<4sIQI")
_TIME_EXTRA = struct.Struct("<2HBI")  # seconds since the epoch: the other field has no time zone
_EXTRA_HEADER = struct.Struct("<2H")


class Member(NamedTuple):
    """A file to be put into an archive."""

    path: str  # in the archive, with "/"
    source: Path
    size_bytes: int
    modified_at_us: int


def archive_bytes(members: Sequence[Member]) -> int:
    """The exact length of the archive of these members."""
    position = central = 0
    for member in members:
        central += len(_central(member, 0, position))
        position += len(_local(member, 0)) + member.size_bytes
    return position + central + len(_end(len(members), position, central))


def archive_pieces(members: Sequence[Member]) -> Iterator[bytes]:
    """Yield the archive in pieces of at most 256 KiB; an empty one means that a large file is being read through.

    Raises:
        OSError: a file cannot be read, or is not as long as it is said to be.
    """
    gathered = bytearray()
    for part in _parts(members):
        if len(gathered) + len(part) > PIECE_BYTES_MAX:
            yield bytes(gathered)
            gathered.clear()
        if gathered or 0 < len(part) < GATHER_BELOW_BYTES:
            gathered += part
        else:  # as it is: copying every byte of a large file would take longer than reading it
            yield part
    if gathered:
        yield bytes(gathered)


def _parts(members: Sequence[Member]) -> Iterator[bytes]:
    directory: list[bytes] = []
    position = 0
    for member in members:
        with member.source.open("rb", buffering=0) as file:
            checksum = 0
            piece = b""
            for piece in _read(file.fileno(), member):
                checksum = zlib.crc32(piece, checksum)
                if member.size_bytes > PIECE_BYTES_MAX:
                    yield b""
            head = _local(member, checksum)
            directory.append(_central(member, checksum, position))
            position += len(head) + member.size_bytes
            yield head
            if 0 < member.size_bytes <= PIECE_BYTES_MAX:
                yield piece  # it is the only one
            elif member.size_bytes:
                yield from _read(file.fileno(), member)
    size = 0
    for record in directory:
        size += len(record)
        yield record
    yield _end(len(members), position, size)


def _read(fd: int, member: Member) -> Iterator[bytes]:
    offset = 0
    while offset < member.size_bytes:
        piece = os.pread(fd, min(PIECE_BYTES_MAX, member.size_bytes - offset), offset)
        if not piece:
            raise OSError(errno.EIO, "the stored file is shorter than it was", str(member.source))
        offset += len(piece)
        yield piece


def _local(member: Member, checksum: int) -> bytes:
    """The record in front of a member's bytes."""
    name = member.path.encode()
    size = member.size_bytes
    extra = _time_extra(member)
    if size >= ZIP64_FROM:
        extra += _EXTRA_HEADER.pack(1, 16) + struct.pack("<2Q", size, size)
        size = 0xFFFFFFFF
    version = VERSION_ZIP64 if size == 0xFFFFFFFF else VERSION
    fields = (version, _flags(name), STORED, *_dos_time(member), checksum, size, size, len(name), len(extra))
    return _LOCAL.pack(b"PK\x03\x04", *fields) + name + extra


def _central(member: Member, checksum: int, position: int) -> bytes:
    """The record of a member in the directory at the end."""
    name = member.path.encode()
    size = member.size_bytes
    large = [size, size] if size >= ZIP64_FROM else []
    if position >= ZIP64_FROM:
        large.append(position)
        position = 0xFFFFFFFF
    if size >= ZIP64_FROM:
        size = 0xFFFFFFFF
    extra = _time_extra(member)
    if large:
        extra += _EXTRA_HEADER.pack(1, 8 * len(large)) + struct.pack(f"<{len(large)}Q", *large)
    version = VERSION_ZIP64 if large else VERSION
    fields = (MADE_ON_UNIX | version, version, _flags(name), STORED, *_dos_time(member), checksum, size, size)
    lengths = (len(name), len(extra), 0, 0, 0)
    return _CENTRAL.pack(b"PK\x01\x02", *fields, *lengths, REGULAR_FILE, position) + name + extra


def _end(members: int, position: int, size: int) -> bytes:
    """What closes an archive whose directory begins at *position* and has *size* bytes."""
    records = b""
    if members >= ZIP64_FROM_MEMBERS or position >= ZIP64_FROM or size >= ZIP64_FROM:
        made = (MADE_ON_UNIX | VERSION_ZIP64, VERSION_ZIP64, 0, 0)
        records = _END_ZIP64.pack(b"PK\x06\x06", _END_ZIP64.size - 12, *made, members, members, size, position)
        records += _LOCATOR_ZIP64.pack(b"PK\x06\x07", 0, position + size, 1)
        # Whatever fits stands here too; what does not is all ones.
        members = 0xFFFF if members >= ZIP64_FROM_MEMBERS else members
        position = 0xFFFFFFFF if position >= ZIP64_FROM else position
        size = 0xFFFFFFFF if size >= ZIP64_FROM else size
    return records + _END.pack(b"PK\x05\x06", 0, 0, members, members, size, position, 0)


def _flags(name: bytes) -> int:
    return 0 if name.isascii() else UTF8_NAMES


def _dos_time(member: Member) -> tuple[int, int]:
    """Time and date in steps of two seconds, in UTC, moved into the years that fit."""
    seconds = min(max(member.modified_at_us // 1_000_000, int(EARLIEST.timestamp())), int(LATEST.timestamp()))
    at = datetime.fromtimestamp(seconds, UTC)
    return at.hour << 11 | at.minute << 5 | at.second // 2, (at.year - 1980) << 9 | at.month << 5 | at.day


def _time_extra(member: Member) -> bytes:
    seconds = min(max(member.modified_at_us // 1_000_000, 0), 0x7FFFFFFF)
    return _TIME_EXTRA.pack(0x5455, 5, 1, seconds)
