"""The blob store: what is answered is there, what was given up is not, and no name leads out of its directory."""

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path

import pytest

from coordinator import blobs as blobs_module
from coordinator.blobs import PLACES, UNUSED_S, BlobStore, Lane
from hostler.clock import ManualClock
from hostler.errors import FileNotFound, InvalidRequest, Unavailable
from tests.files.stand_ins import NO_DIGESTS, digest_of, files_below, stored
from tests.support.waiting import eventually, turns


async def read_all(blobs: BlobStore, digest: str, offset: int = 0, length: int = 0) -> bytes:
    """The bytes of a range."""
    return b"".join([piece async for piece in blobs.read(digest, offset, length)])


async def keeps_nothing(digests: Collection[str]) -> set[str]:
    """Nobody refers to anything."""
    return set()


def age(blobs: BlobStore, digest: str, seconds: float) -> None:
    """Make the last use of a blob so much older."""
    path = blobs.path(digest)
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 2 * 1024 * 1024 + 1])
async def test_what_was_put_is_read_back_by_its_digest(blobs: BlobStore, size: int) -> None:
    """Also nothing at all, and more than one piece; both files and directories are private."""
    content = os.urandom(size)
    digest = await stored(blobs, content)

    assert digest == digest_of(content)
    assert await blobs.size(digest) == size
    assert await read_all(blobs, digest) == content
    assert await blobs.total_bytes() == size
    assert stat.S_IMODE(blobs.path(digest).stat().st_mode) == 0o600
    assert stat.S_IMODE(blobs.path(digest).parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 0, b"0123456789"), (3, 0, b"3456789"), (3, 4, b"3456"), (8, 100, b"89"), (10, 0, b""), (1 << 62, 5, b"")],
)
async def test_a_range_is_cut_at_the_end(blobs: BlobStore, offset: int, length: int, expected: bytes) -> None:
    """What is asked for beyond the last byte is not there, and no error."""
    digest = await stored(blobs, b"0123456789")

    assert await read_all(blobs, digest, offset, length) == expected


@pytest.mark.parametrize("name", NO_DIGESTS)
async def test_a_name_that_is_no_digest_names_nothing(blobs: BlobStore, name: str) -> None:
    """It never becomes a path: it is missing, or the request is wrong."""
    with pytest.raises(InvalidRequest):
        blobs.path(name)
    assert await blobs.size(name) is None
    assert await blobs.touch([name]) == {name}
    with pytest.raises(FileNotFound):
        await read_all(blobs, name)


async def test_an_upload_that_is_given_up_leaves_nothing(blobs: BlobStore, place: Path) -> None:
    """By an exception of the caller, after bytes were written."""
    with pytest.raises(RuntimeError):
        async with blobs.receive(0) as incoming:
            await incoming.write(b"x" * 100_000)
            raise RuntimeError

    assert files_below(place) == []
    assert await blobs.total_bytes() == 0


async def test_a_cancelled_upload_leaves_nothing(blobs: BlobStore, place: Path) -> None:
    """Also when a thread was at work for it; the descriptor is closed after that."""
    begun = asyncio.Event()

    async def upload() -> None:
        async with blobs.receive(0) as incoming:
            begun.set()
            while True:
                await incoming.write(b"x" * 100_000)

    task = asyncio.create_task(upload())
    await begun.wait()
    await eventually(lambda: files_below(place), "the upload has begun")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await eventually(lambda: files_below(place) == [], "the staged file is gone")


async def test_what_an_earlier_process_left_half_received_is_removed(blobs: BlobStore, place: Path) -> None:
    """And what is stored is counted."""
    digest = await stored(blobs, b"kept")
    (place / "files" / "staging" / "half").write_bytes(b"xxx")
    again = BlobStore(place / "files", reserve_bytes=0)
    again.open()

    assert files_below(place) == [digest]
    assert await again.total_bytes() == 4


async def test_the_same_bytes_are_kept_once_and_noted_as_used(blobs: BlobStore, place: Path) -> None:
    """The file is touched and not written anew."""
    digest = await stored(blobs, b"same")
    age(blobs, digest, 5000)
    before = blobs.path(digest).stat()
    assert await stored(blobs, b"same") == digest
    after = blobs.path(digest).stat()

    assert files_below(place) == [digest]
    assert after.st_ino == before.st_ino
    assert after.st_mtime > before.st_mtime + 4000
    assert await blobs.total_bytes() == 4


async def test_a_damaged_file_is_replaced(blobs: BlobStore) -> None:
    """When it has not the length it must have."""
    digest = await stored(blobs, b"whole")
    blobs.path(digest).write_bytes(b"wh")
    await stored(blobs, b"whole")

    assert await read_all(blobs, digest) == b"whole"


@pytest.mark.parametrize("content", [b"123", b"12345"])
async def test_another_length_than_announced_is_refused(blobs: BlobStore, place: Path, content: bytes) -> None:
    """Fewer bytes, or more."""
    with pytest.raises(InvalidRequest):
        async with blobs.receive(4) as incoming:
            await incoming.write(content)
            await incoming.commit()

    assert files_below(place) == []


async def test_what_does_not_fit_is_refused_before_its_first_byte(place: Path) -> None:
    """The reserve stays free, and what was promised to others counts."""
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    blobs = BlobStore(place / "files", reserve_bytes=free // 2)
    blobs.open()
    with pytest.raises(Unavailable) as refused:
        async with blobs.receive(free * 3 // 4):
            raise AssertionError
    assert refused.value.retry_after_s > 0
    async with blobs.receive(free // 3):
        with pytest.raises(Unavailable):
            async with blobs.receive(free // 3):
                raise AssertionError
    async with blobs.receive(free // 3):
        pass  # the promise was given back


async def test_an_upload_of_unknown_size_ends_at_the_reserve(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle, and leaves nothing."""
    real = os.fstatvfs
    written = 0

    def shrinking(fd: int) -> os.statvfs_result:
        nonlocal written
        written += 1
        found = list(real(fd))
        found[4] = 0 if written > 2 else found[4]  # f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "fstatvfs", shrinking)
    blobs = BlobStore(place / "files", reserve_bytes=1)
    blobs.open()
    with pytest.raises(Unavailable):
        async with blobs.receive(0) as incoming:
            for _ in range(5):
                await incoming.write(b"x")
    assert files_below(place) == []


@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_a_full_disk_is_an_answer(
    blobs: BlobStore, place: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whether the write says so or the sync; afterwards the store serves again."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(Unavailable) as refused:
            async with blobs.receive(0) as incoming:
                await incoming.write(b"x")
                await incoming.commit()
    assert "full" in refused.value.message
    assert files_below(place) == []
    assert await read_all(blobs, await stored(blobs, b"x")) == b"x"


async def test_at_most_four_are_received_at_once(blobs: BlobStore) -> None:
    """The fifth waits until one has ended."""
    inside: list[int] = []
    go = asyncio.Event()

    async def receive(number: int) -> None:
        async with blobs.receive(0):
            inside.append(number)
            await go.wait()

    tasks = [asyncio.create_task(receive(number)) for number in range(PLACES[Lane.UPLOAD] + 1)]
    await eventually(lambda: len(inside) == PLACES[Lane.UPLOAD], "four are inside")
    await turns()
    assert len(inside) == PLACES[Lane.UPLOAD]
    go.set()
    await asyncio.gather(*tasks)
    assert len(inside) == PLACES[Lane.UPLOAD] + 1


async def test_a_sweep_removes_what_is_old_and_not_referred_to(blobs: BlobStore, place: Path) -> None:
    """Young, referred and read ones stay; the count follows."""
    old, young, wanted, read = [await stored(blobs, name) for name in (b"old", b"young", b"wanted", b"read")]
    for digest in (old, wanted, read):
        age(blobs, digest, 4000)

    async def referenced(digests: Collection[str]) -> set[str]:
        return {wanted}.intersection(digests)

    async with blobs.using([read]) as missing:
        assert missing == set()
        age(blobs, read, 4000)
        assert await blobs.sweep(referenced) == 3

    assert files_below(place) == sorted([young, wanted, read])
    assert await blobs.total_bytes() == len(b"youngwantedread")
    assert await blobs.referenced_bytes(referenced) == len(b"wanted")


async def test_a_store_that_was_opened_just_now_sweeps_nothing(blobs: BlobStore, place: Path) -> None:
    """While nobody was there, nobody could use what he had stored; and a clock may have jumped over that hour."""
    clock = ManualClock()
    again = BlobStore(place / "files", reserve_bytes=0, monotonic=clock.monotonic)
    digest = await stored(blobs, b"old")
    age(blobs, digest, 100_000)
    clock.advance(50_000)
    again.open()

    clock.advance(UNUSED_S - 1)
    assert await again.sweep(keeps_nothing) == 0
    clock.advance(2)
    assert await again.sweep(keeps_nothing) == 3


async def test_what_is_used_during_a_sweep_stays(blobs: BlobStore) -> None:
    """Between the question to the store and the removal somebody may put the same bytes again."""
    digest = await stored(blobs, b"again")
    age(blobs, digest, 4000)

    async def meanwhile(digests: Collection[str]) -> set[str]:
        await blobs.touch([digest])
        return set()

    assert await blobs.sweep(meanwhile) == 0
    assert await blobs.size(digest) == 5


async def test_a_use_is_noted_and_the_missing_are_named(blobs: BlobStore) -> None:
    """That is how a job is checked before it is accepted: what is touched is not swept for an hour."""
    here, gone = await stored(blobs, b"here"), digest_of(b"gone")
    age(blobs, here, 4000)

    assert await blobs.touch([here, gone]) == {gone}
    assert await blobs.sweep(keeps_nothing) == 0


async def test_a_blob_cut_short_is_an_error_and_no_short_answer(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader is never told that a part is the whole."""
    monkeypatch.setattr(blobs_module, "READ_BYTES", 2)
    digest = await stored(blobs, b"123456")
    pieces = blobs.read(digest)
    assert await anext(pieces) == b"12"
    blobs.path(digest).write_bytes(b"12")
    with pytest.raises(Unavailable):
        await anext(pieces)


async def test_slow_uploads_do_not_keep_small_files_and_outputs_waiting(blobs: BlobStore) -> None:
    """Each kind has places of its own."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(PLACES[Lane.UPLOAD]):
            await stack.enter_async_context(blobs.receive())
        for lane in (Lane.OUTPUT, Lane.SMALL):
            async with asyncio.timeout(5), blobs.receive(3, lane) as incoming:
                await incoming.write(b"abc")
                assert (await incoming.commit()).size_bytes == 3


async def test_an_upload_that_finds_no_place_is_told_to_come_again(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not left waiting."""
    monkeypatch.setattr("coordinator.blobs.PLACE_S", 0.05)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(PLACES[Lane.UPLOAD]):
            await stack.enter_async_context(blobs.receive())
        with pytest.raises(Unavailable) as refused:
            async with blobs.receive():
                pass

    assert refused.value.retry_after_s > 0
