"""The zip writer: the length is known before, other programs can read it, the same files give the same bytes."""

import io
import os
import zipfile
import zlib
from pathlib import Path

import pytest

from coordinator import archive
from coordinator.archive import Member, archive_bytes, archive_pieces
from tests.files.stand_ins import NOON_US


def a_member(place: Path, path: str, content: bytes, at_us: int = NOON_US) -> Member:
    """A file on disk, and what it is called in the archive."""
    source = place / f"{abs(hash((path, content))):x}"
    source.write_bytes(content)
    return Member(path, source, len(content), at_us)


def written(members: list[Member]) -> bytes:
    """The archive, in one piece."""
    pieces = list(archive_pieces(members))
    assert all(len(piece) <= archive.PIECE_BYTES_MAX for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_the_length_is_exact_and_every_file_is_in_it(place: Path, count: int) -> None:
    """Also for no file at all; every third is empty, and names have all kinds of letters."""
    contents = {f"ordner {n % 7}/größe-{n}-日本.txt": os.urandom(n % 3 * 100) for n in range(count)}
    members = [a_member(place, path, content) for path, content in contents.items()]
    made = written(members)

    assert len(made) == archive_bytes(members)
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == contents
        assert {entry.compress_type for entry in opened.infolist()} <= {zipfile.ZIP_STORED}


@pytest.mark.parametrize("size", [1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 3_500_000])
def test_files_of_more_than_a_piece_are_whole(place: Path, size: int) -> None:
    """Around the size of a piece and above."""
    content = os.urandom(size)
    members = [a_member(place, "a", content), a_member(place, "b", b"")]
    made = written(members)

    assert len(made) == archive_bytes(members)
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        assert opened.read("a") == content
        assert opened.testzip() is None


def test_the_record_in_front_says_what_follows(place: Path) -> None:
    """Sizes and checksum stand before the bytes, so that a reader of a stream can use them."""
    made = written([a_member(place, "a.txt", b"content")])

    assert made[:4] == b"PK\x03\x04"
    assert int.from_bytes(made[6:8], "little") & 0x08 == 0
    assert int.from_bytes(made[14:18], "little") == zlib.crc32(b"content")
    assert int.from_bytes(made[18:22], "little") == int.from_bytes(made[22:26], "little") == 7


def test_the_same_files_give_the_same_bytes_with_their_times(place: Path) -> None:
    """Times are those of the files, in UTC; years that a zip cannot hold are moved to the nearest."""
    times = {"now": NOON_US, "never": 0, "far": (1 << 62) - 1}
    members = [a_member(place, name, name.encode(), at_us) for name, at_us in times.items()]
    for member in members:
        os.utime(member.source, (1, 1))
    made = written(members)

    assert made == written(members)
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        found = {entry.filename: entry.date_time for entry in opened.infolist()}
    assert found == {
        "now": (2023, 11, 14, 22, 13, 20),
        "never": (1980, 1, 1, 0, 0, 0),
        "far": (2107, 12, 31, 23, 59, 58),
    }


@pytest.mark.parametrize("count", [0, 1, 5])
def test_what_is_too_large_for_32_bits_is_written_in_64(
    place: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """With the limits moved down, so that small files take that way: sizes, positions, the count and the directory."""
    monkeypatch.setattr(archive, "ZIP64_FROM", 50)
    monkeypatch.setattr(archive, "ZIP64_FROM_MEMBERS", 3)
    contents = {f"{n}.bin": os.urandom(n * 30) for n in range(count)}
    members = [a_member(place, path, content) for path, content in contents.items()]
    made = written(members)

    assert len(made) == archive_bytes(members)
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == contents


def test_the_length_of_an_archive_above_4_gib_is_known_without_reading(place: Path) -> None:
    """Only a real one is long; its records have the wide fields."""
    large = Member("large.bin", place / "nowhere", 5 << 30, NOON_US)
    small = Member("small.bin", place / "nowhere", 5, NOON_US)

    plain = archive_bytes([small, small]) - 5 * 2
    wide = archive_bytes([large, small]) - 5 - (5 << 30)
    assert wide - plain == 20 + 20 + 12 + 56 + 20 + 0  # local, central, position of the second, end, locator


def test_a_file_that_is_shorter_than_it_should_be_is_an_error(place: Path) -> None:
    """Better no archive than a wrong one."""
    member = a_member(place, "a", b"12345")
    member.source.write_bytes(b"123")
    with pytest.raises(OSError, match="shorter"):
        written([member])
