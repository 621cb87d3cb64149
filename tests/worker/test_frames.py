"""The frame format: what is written is what is read, and nothing else is taken for it."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler import frames

KINDS = st.sampled_from([frames.OUT, frames.ERR, frames.GAP, frames.SHIM, frames.STARTED, frames.PID, frames.EXIT])
FRAMES = st.tuples(KINDS, st.binary(max_size=300), st.integers(0, 2**64 - 1))


@given(st.lists(FRAMES, max_size=8))
def test_frames_are_read_back_as_they_were_written(written: list[tuple[int, bytes, int]]) -> None:
    """Kind, payload and time survive, in order, and each end is the next start."""
    buffer = b"".join(frames.encode(*each) for each in written)

    found = list(frames.iter_frames(buffer))

    assert [(each.kind, each.payload, each.at_us) for each in found] == written
    assert frames.whole_frames(buffer) == len(buffer)
    assert not found or found[-1].end == len(buffer)


def test_a_frame_is_laid_out_as_its_document_says() -> None:
    """Programs in other languages read what `ReadLog` sends by docs/logs.md."""
    covered = bytes([2, 0, 0, 0]) + (1_764_072_000_000_000).to_bytes(8, "little")
    payload = b"no such file\n"
    header = len(payload).to_bytes(4, "little") + crc32(covered + payload).to_bytes(4, "little") + covered

    assert frames.encode(frames.ERR, payload, 1_764_072_000_000_000) == header + payload
    assert frames.gap_payload(3, 5) == (3).to_bytes(8, "little") + (5).to_bytes(8, "little")


@given(st.lists(FRAMES, min_size=1, max_size=4), st.data())
def test_a_torn_tail_is_cut_at_the_last_whole_frame(
    written: list[tuple[int, bytes, int]], choose: st.DataObject
) -> None:
    """Whatever length of the last frame is missing, the frames before it stay and no error is raised."""
    encoded = [frames.encode(*each) for each in written]
    whole = len(b"".join(encoded[:-1]))
    kept = choose.draw(st.integers(0, len(encoded[-1]) - 1))

    torn = b"".join(encoded)[: whole + kept]

    assert frames.whole_frames(torn) == whole
    assert len(list(frames.iter_frames(torn))) == len(encoded) - 1
    assert frames.decode(torn, whole) is None


@given(FRAMES, st.data())
def test_a_changed_byte_is_found(written: tuple[int, bytes, int], choose: st.DataObject) -> None:
    """One flipped bit anywhere gives an error or an incomplete frame, never another frame."""
    buffer = bytearray(frames.encode(*written))
    at = choose.draw(st.integers(0, len(buffer) - 1))
    buffer[at] ^= 1 << choose.draw(st.integers(0, 7))

    try:
        found = frames.decode(buffer)
    except frames.FrameError:
        found = None

    assert found is None
    assert frames.whole_frames(buffer) == 0


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frames_are_never_fatal(noise: bytes) -> None:
    """`whole_frames` answers for anything."""
    assert 0 <= frames.whole_frames(noise) <= len(noise)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_gap_says_how_much_of_each_stream_was_dropped(out_bytes: int, err_bytes: int) -> None:
    """Both counts survive."""
    assert frames.parse_gap(frames.gap_payload(out_bytes, err_bytes)) == (out_bytes, err_bytes)


def test_output_payloads_end_at_64_kib_and_all_others_at_1_mib() -> None:
    """The bounds hold for writers, so readers may rely on them."""
    frames.encode(frames.OUT, bytes(64 * 1024), 0)
    frames.encode(frames.EXIT, bytes(1024 * 1024), 0)
    with pytest.raises(frames.FrameError):
        frames.encode(frames.ERR, bytes(64 * 1024 + 1), 0)
    with pytest.raises(frames.FrameError):
        frames.encode(frames.EXIT, bytes(1024 * 1024 + 1), 0)
