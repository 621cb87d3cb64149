"""Large messages are parsed as the library does it, and what would hold everybody up is refused unparsed."""

import time

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordinator.rpc import large_messages
from coordinator.rpc.large_messages import parse_in_pieces, parse_large
from hostler.errors import InvalidRequest, TooLarge
from hostler.v1 import jobs_pb2, types_pb2, workers_pb2
from hostler.wire.jobs import spec_to_proto
from tests.support.builders import a_spec


def a_submission(count: int, **changes: str) -> jobs_pb2.SubmitRequest:
    """Many jobs, each with an environment."""
    message = jobs_pb2.SubmitRequest()
    for number in range(count):
        job = message.jobs.add()
        job.CopyFrom(spec_to_proto(a_spec(name=f"n{number}")))
        job.work.env.update(changes)
    return message


async def test_a_large_call_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is cut; and one that is smaller is not cut."""
    asked = a_submission(2000, A="x" * 200)
    content = asked.SerializeToString()
    assert len(content) > large_messages.PIECE_BYTES
    for piece in (1, 1000, large_messages.PIECE_BYTES, len(content) * 2):
        monkeypatch.setattr(large_messages, "PIECE_BYTES", piece)
        assert await parse_in_pieces(jobs_pb2.SubmitRequest, content) == asked
    assert parse_large(jobs_pb2.SubmitRequest, content) == asked


@given(st.binary(max_size=200), st.integers(0, 3000))
@example(b"\x0b\x0c", 0)
@example(b"\xff" * 11, 0)
@settings(max_examples=200, deadline=None)
def test_bytes_are_a_message_for_both_or_refused(junk: bytes, cut: int) -> None:
    """What is refused here and taken there are groups alone, which nothing of ours has."""
    raw = a_submission(20).SerializeToString()
    raw = raw[: len(raw) - cut] + junk
    before, large_messages.LARGE_BYTES = large_messages.LARGE_BYTES, 0
    try:
        found = parse_large(jobs_pb2.SubmitRequest, raw)
    except InvalidRequest:
        return
    finally:
        large_messages.LARGE_BYTES = before
    try:
        assert found == jobs_pb2.SubmitRequest.FromString(raw)
    except DecodeError as error:
        raise AssertionError(f"it was taken: {raw!r}") from error


async def test_a_map_with_very_many_entries_is_refused_unparsed() -> None:
    """In a job among others, and in what a worker says of itself: 400,000 took more than a second, and more squared."""
    entries = [b"\x0a\x07%07d" % number for number in range(300_000)]
    numbers = {
        each: descriptor.fields_by_name[each].number
        for descriptor, each in (
            (types_pb2.JobSpec.DESCRIPTOR, "work"),
            (types_pb2.Work.DESCRIPTOR, "env"),
            (workers_pb2.Hello.DESCRIPTOR, "labels"),
        )
    }
    work = b"".join(_part(numbers["env"], entry) for entry in entries)
    submission = a_submission(3).SerializeToString() + _part(1, _part(numbers["work"], work))
    hello = _part(1, b"".join(_part(numbers["labels"], entry) for entry in entries))
    for kind, raw in ((jobs_pb2.SubmitRequest, submission), (workers_pb2.WorkerMessage, hello)):
        began_s = time.thread_time()
        with pytest.raises(TooLarge):
            parse_large(kind, raw)
        with pytest.raises(TooLarge):
            await parse_in_pieces(kind, raw)
        assert time.thread_time() - began_s < 0.5


async def test_very_many_fields_are_refused_unparsed() -> None:
    """Empty jobs and empty arguments cost two bytes each."""
    for raw in (b"\x0a\x00" * 200_000, _part(1, _part(1, b"\x0a\x00" * 200_000))):
        with pytest.raises(TooLarge):
            await parse_in_pieces(jobs_pb2.SubmitRequest, raw)


async def test_many_large_parts_are_refused_before_they_hold_others_up() -> None:
    """Counting takes longer than parsing: 64 MiB of empty fields in parts of a parsable size would take a minute."""
    part = _part(1, b"\x0a\x00" * 100_000)
    for raw in (part * 10, _part(1, part * 10)):
        with pytest.raises(TooLarge, match="in its parts"):
            parse_large(jobs_pb2.SubmitRequest, raw)
    with pytest.raises(TooLarge, match="in its parts"):
        await parse_in_pieces(jobs_pb2.SubmitRequest, _part(1, part * 10))


async def test_many_jobs_of_many_words_are_no_such_parts() -> None:
    """Each job of a submission may have as many as it is allowed to: others are served between them."""
    words = types_pb2.JobSpec(work=types_pb2.Work(argv=["a"] * 100_000))
    asked = jobs_pb2.SubmitRequest(jobs=[words] * 6)
    assert await parse_in_pieces(jobs_pb2.SubmitRequest, asked.SerializeToString()) == asked


def _part(number: int, content: bytes) -> bytes:
    length, size = len(content), bytearray()
    while length >= 0x80:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content
