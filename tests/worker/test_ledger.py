"""Segments: what a shim appends is found again, up to the last whole frame, also when the disk is full."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostler import frames
from worker_agent import ledger
from worker_agent.attempts import Cause, Ended
from worker_agent.ledger import SegmentIdentity, SegmentWriter, read_ledger, scan_segment, segments_of
from worker_agent.ledger_files import LedgerFiles

IDENTITY = SegmentIdentity(7, "boot", 123, 456, "nonce", "/sys/fs/cgroup/x", False)


def an_end(key: str) -> Ended:
    """An end with nothing special in it."""
    return Ended(key=key, started_at_us=1, ended_at_us=2, exit_code=0, signal="", cause=Cause.EXIT)


def write_attempt(writer: SegmentWriter, key: str, output: list[bytes], *, exits: bool = True) -> int:
    """Append one attempt as a shim does; return where its ledger begins."""
    writer.write_vital(frames.encode(frames.STARTED, json.dumps({"key": key}).encode(), 5))
    writer.write_vital(frames.encode(frames.PID, b'{"pid": 99}', 6))
    offset = writer.size
    for piece in output:
        assert writer.write(frames.encode(frames.OUT, piece, 7))
    if exits:
        writer.write_vital(frames.encode(frames.EXIT, json.dumps(an_end(key).to_json()).encode(), 8))
    return offset


def test_a_scan_finds_every_attempt_and_its_end(tmp_path: Path) -> None:
    """Identity, start, pid, ledger and exit of each attempt are read back; an unfinished one has no end."""
    writer = SegmentWriter(tmp_path, IDENTITY)
    first = write_attempt(writer, "a.0.1", [b"one", b"two"])
    write_attempt(writer, "b.0.1", [], exits=False)

    segment = scan_segment(tmp_path / writer.name)

    assert segment.identity == IDENTITY
    a, b = segment.attempts
    assert (a.key, a.started_at_us, a.pid, a.ledger_offset) == ("a.0.1", 5, 99, first)
    assert a.ended == an_end("a.0.1")
    assert a.ledger_bytes == 2 * frames.HEADER_BYTES + 6
    assert (b.exited, b.ended, b.ledger_bytes) == (False, None, 0)
    assert segment.valid_bytes == writer.size


def test_a_scan_reads_only_the_ends_that_are_wanted(tmp_path: Path) -> None:
    """Other attempts are known as exited, which is all that is asked of them."""
    writer = SegmentWriter(tmp_path, IDENTITY)
    write_attempt(writer, "a.0.1", [])
    write_attempt(writer, "b.0.1", [])

    a, b = scan_segment(tmp_path / writer.name, {"b.0.1"}).attempts

    assert (a.exited, a.ended) == (True, None)
    assert b.ended == an_end("b.0.1")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.integers(0, 500), noise=st.binary(max_size=40))
def test_a_torn_tail_hides_nothing_before_it(tmp_path: Path, lost: int, noise: bytes) -> None:
    """Cut anywhere and followed by anything, the frames before the cut are all found."""
    directory = tmp_path / os.urandom(8).hex()
    directory.mkdir()
    writer = SegmentWriter(directory, IDENTITY)
    write_attempt(writer, "a.0.1", [b"x" * 50])
    whole = writer.size
    write_attempt(writer, "b.0.1", [b"y" * 50])
    path = directory / writer.name
    os.truncate(path, max(whole, writer.size - lost))
    with path.open("ab") as file:
        file.write(noise)

    segment = scan_segment(path)

    assert segment.attempts[0].ended == an_end("a.0.1")
    assert segment.valid_bytes >= whole


@given(pieces=st.lists(st.binary(min_size=1, max_size=90), max_size=12), max_bytes=st.integers(1, 300))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_reader_gets_whole_frames_and_never_another_attempt(
    tmp_path: Path, pieces: list[bytes], max_bytes: int
) -> None:
    """Read in steps of any size, the ledger is exactly its frames, and ends before the exit frame."""
    directory = tmp_path / os.urandom(8).hex()
    directory.mkdir()
    writer = SegmentWriter(directory, IDENTITY)
    write_attempt(writer, "before.0.1", [b"other"])
    offset = write_attempt(writer, "a.0.1", pieces)
    write_attempt(writer, "after.0.1", [b"other"])
    found = b""
    while piece := read_ledger(writer.fd, offset, len(found), max_bytes):
        assert len(piece) <= max(max_bytes, frames.HEADER_BYTES + 90)
        found += piece

    assert [each.payload for each in frames.iter_frames(found)] == pieces


def test_a_position_inside_a_frame_is_refused(tmp_path: Path) -> None:
    """A reader with a wrong position is told so; it gets no bytes that look like frames."""
    writer = SegmentWriter(tmp_path, IDENTITY)
    offset = write_attempt(writer, "a.0.1", [b"x" * 100])

    with pytest.raises(frames.FrameError):
        read_ledger(writer.fd, offset, 3, 1000)


def test_a_large_segment_is_left_between_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare` goes on to the next number; both segments say who wrote them."""
    monkeypatch.setattr(ledger, "ROTATE_BYTES", 100)
    writer = SegmentWriter(tmp_path, IDENTITY)
    write_attempt(writer, "a.0.1", [b"x" * 200])

    writer.prepare()

    assert [path.name for path in segments_of(tmp_path, 7)] == ["shim-7.1.segment", "shim-7.2.segment"]
    assert scan_segment(tmp_path / "shim-7.2.segment").identity == IDENTITY


def test_on_a_full_disk_a_frame_is_in_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a frame would hide every frame behind it; and the exit frame gets the reserve."""
    writer = SegmentWriter(tmp_path, IDENTITY)
    offset = write_attempt(writer, "a.0.1", [b"kept"], exits=False)
    real_write = os.write
    room = 30

    def full_write(fd: int, content: bytes) -> int:
        nonlocal room
        if (tmp_path / "shim-7.reserve").stat().st_size == 0:
            return real_write(fd, content)
        if room == 0:
            raise OSError(errno.ENOSPC, "full")
        taken = real_write(fd, content[:room])
        room -= taken
        return taken

    monkeypatch.setattr(os, "write", full_write)
    assert not writer.write(frames.encode(frames.OUT, b"z" * 100, 1))
    assert writer.write_vital(frames.encode(frames.EXIT, json.dumps(an_end("a.0.1").to_json()).encode(), 8))
    monkeypatch.undo()

    (record,) = scan_segment(tmp_path / writer.name).attempts
    assert record.ended == an_end("a.0.1")
    assert [each.payload for each in frames.iter_frames(read_ledger(writer.fd, offset, 0, 1000))] == [b"kept"]


def test_a_segment_goes_when_all_in_it_is_forgotten_and_its_shim_writes_elsewhere(tmp_path: Path) -> None:
    """Not before: a reader may still want the ledger, and a living shim its file."""
    files = LedgerFiles(tmp_path)
    for number in (1, 2):
        (tmp_path / f"shim-7.{number}.segment").touch()
    files.place("a.0.1", "shim-7.1.segment", 10)
    files.place("b.0.1", "shim-7.1.segment", 20)
    files.forget(["a.0.1"])
    files.place("c.0.1", "shim-7.2.segment", 10)
    assert (tmp_path / "shim-7.1.segment").exists()

    files.forget(["b.0.1", "c.0.1"])
    assert [path.name for path in tmp_path.iterdir()] == ["shim-7.2.segment"]

    files.shim_gone(7)
    assert not list(tmp_path.iterdir())
