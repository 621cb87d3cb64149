"""Output files of finished jobs: listed, read whole and in parts, as an archive, and gone when their time is over."""

import io
import os
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc.aio
import pytest

from coordinator.blobs import BlobStore
from coordinator.sessions import Sessions
from hostler.errors import FileNotFound, InvalidRequest, JobNotFound, NotFinished, Unavailable
from hostler.files_client import FilesClient, Reading
from hostler.jobs import OutputFile, Outputs
from hostler.lifecycle import State
from hostler.v1 import jobs_pb2, jobs_pb2_grpc
from hostler.wire.errors import error_from_call
from tests.files.stand_ins import JOB, OTHER, StoreStandIn, a_job, an_output, content_of, digest_of, stored
from tests.files.worker_stand_in import connected_worker

CONTENTS = {"a.txt": b"0123456789", "empty": b"", "sub/größe.bin": os.urandom(2_500_000)}


@pytest.fixture
async def finished(blobs: BlobStore, store: StoreStandIn) -> AsyncIterator[list[OutputFile]]:
    """A finished job with three files, one of which could not be kept."""
    kept = [an_output(path, content) for path, content in CONTENTS.items()]
    for content in CONTENTS.values():
        await stored(blobs, content)
    store.add(a_job(JOB, missing=("huge: too large",)), *kept)
    yield kept


async def test_what_is_kept_is_listed_by_path(files: FilesClient, finished: list[OutputFile]) -> None:
    """With what could not be kept."""
    assert await files.outputs(JOB) == Outputs(files=tuple(finished), missing=("huge: too large",))


async def test_a_running_job_lists_what_its_worker_said_last(
    files: FilesClient, store: StoreStandIn, sessions: Sessions, channel: grpc.aio.Channel
) -> None:
    """Marked as live; sorted, and without digests."""
    store.add(a_job(JOB, State.RUNNING))
    listed = tuple(OutputFile(path=path, size_bytes=1, modified_at_us=2) for path in ("b", "a"))
    store.live[JOB] = listed

    async with connected_worker(sessions, channel):
        assert await files.outputs(JOB) == Outputs(files=listed[::-1], live=True)


@pytest.mark.parametrize("state", [State.RUNNING, State.STOPPING])
async def test_without_the_worker_of_a_running_job_nobody_knows_what_there_is(
    files: FilesClient, store: StoreStandIn, state: State
) -> None:
    """An empty list would say that there is nothing."""
    store.add(a_job(JOB, state))

    with pytest.raises(Unavailable, match="the worker that runs the job is not connected"):
        await files.outputs(JOB)


@pytest.mark.parametrize("state", [State.QUEUED, State.ASSIGNED])
async def test_a_job_that_has_not_begun_has_put_out_nothing(
    files: FilesClient, store: StoreStandIn, state: State
) -> None:
    """Whether its worker is connected or not."""
    store.add(a_job(JOB, state))

    assert await files.outputs(JOB) == Outputs(live=True)


@pytest.mark.parametrize("path", CONTENTS)
async def test_a_file_is_read_whole(files: FilesClient, finished: list[OutputFile], path: str) -> None:
    """Also an empty one; size, digest and time come first."""
    async with files.read_output(JOB, path) as reading:
        expected = next(file for file in finished if file.path == path)
        assert (reading.size_bytes, reading.digest) == (expected.size_bytes, expected.digest)
        assert reading.modified_at_us == expected.modified_at_us
        assert await content_of(reading) == CONTENTS[path]


async def test_a_part_of_a_file_is_read(files: FilesClient, finished: list[OutputFile]) -> None:
    """The size is that of the whole; what is beyond the end is cut."""
    for offset, length, expected in ((0, 3, b"012"), (7, 0, b"789"), (7, 99, b"789"), (10, 1, b""), (1 << 40, 0, b"")):
        async with files.read_output(JOB, "a.txt", offset=offset, length=length) as reading:
            assert reading.size_bytes == 10
            assert await content_of(reading) == expected
    with pytest.raises(InvalidRequest):
        async with files.read_output(JOB, "a.txt", offset=1 << 63):
            raise AssertionError


@pytest.mark.parametrize("path", ["", "b", "../a.txt", "/etc/passwd", "./a.txt", "sub//größe.bin", "sub", "A.TXT"])
async def test_only_a_path_as_listed_is_found(files: FilesClient, finished: list[OutputFile], path: str) -> None:
    """Paths are compared, never followed."""
    with pytest.raises(FileNotFound):
        async with files.read_output(JOB, path):
            raise AssertionError


@pytest.mark.parametrize("job", ["", "x", "../" + JOB, OTHER, JOB.upper()])
async def test_an_unknown_job_is_not_found(files: FilesClient, finished: list[OutputFile], job: str) -> None:
    """By all three calls."""
    await _is_not_found(files, job, "")


async def test_a_job_of_another_family_is_not_found(files: FilesClient, finished: list[OutputFile]) -> None:
    """One API does not see what another one made; its own it sees."""
    await _is_not_found(files, JOB, "infernet")
    assert (await files.outputs(JOB, family="pixyz")).files


async def _is_not_found(files: FilesClient, job: str, family: str) -> None:
    with pytest.raises(JobNotFound):
        await files.outputs(job, family=family)
    with pytest.raises(JobNotFound):
        async with files.read_output(job, "a.txt", family=family):
            raise AssertionError
    with pytest.raises(JobNotFound):
        async with files.read_archive(job, family=family):
            raise AssertionError


async def test_all_files_come_as_one_zip_of_known_size(files: FilesClient, finished: list[OutputFile]) -> None:
    """The first word is its exact length."""
    async with files.read_archive(JOB) as reading:
        made = await content_of(reading)
    assert (len(made), reading.digest) == (reading.size_bytes, "")
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == CONTENTS


async def test_a_job_without_files_gives_an_empty_zip(files: FilesClient, store: StoreStandIn) -> None:
    """Which is a valid one."""
    store.add(a_job(JOB))
    async with files.read_archive(JOB) as reading:
        made = await content_of(reading)
    assert len(made) == reading.size_bytes
    assert zipfile.ZipFile(io.BytesIO(made)).namelist() == []


@pytest.mark.parametrize("state", [state for state in State if state is not State.FINISHED])
async def test_there_is_no_archive_before_the_end(files: FilesClient, store: StoreStandIn, state: State) -> None:
    """The refusal says where the job is."""
    store.add(a_job(JOB, state))
    with pytest.raises(NotFinished, match=f"not finished yet; it is {state.word}"):
        async with files.read_archive(JOB):
            raise AssertionError


def _readings(files: FilesClient) -> list[AbstractAsyncContextManager[Reading]]:
    return [files.read_output(JOB, "a.txt"), files.read_archive(JOB)]


@pytest.mark.parametrize("rows_stay", [True, False])
async def test_expired_files_say_so(files: FilesClient, store: StoreStandIn, *, rows_stay: bool) -> None:
    """Whether or not the store still names them."""
    store.add(a_job(JOB), *([an_output("a.txt", b"gone")] if rows_stay else []), expired=True)

    assert (await files.outputs(JOB)).expired
    for reading in _readings(files):
        with pytest.raises(FileNotFound, match="removed when their time was over"):
            async with reading:
                raise AssertionError


async def test_bytes_that_are_gone_are_not_found(
    files: FilesClient, blobs: BlobStore, finished: list[OutputFile]
) -> None:
    """A damaged disk gives an error before the first byte, never a part."""
    blobs.path(digest_of(CONTENTS["a.txt"])).unlink()
    for reading in _readings(files):
        with pytest.raises(FileNotFound, match="gone from"):
            async with reading:
                raise AssertionError


async def test_bytes_that_are_no_message_are_refused(channel: grpc.aio.Channel) -> None:
    """By all three calls."""
    outputs: Any = channel.unary_unary("/hostler.v1.Jobs/ListOutputs")
    output: Any = channel.unary_stream("/hostler.v1.Jobs/ReadOutput")
    archive: Any = channel.unary_stream("/hostler.v1.Jobs/ReadArchive")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: outputs(b"\xff", timeout=20),
        lambda: output(b"\xff", timeout=20).read(),
        lambda: archive(b"\xff", timeout=20).read(),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call()
        assert isinstance(error_from_call(refused.value), InvalidRequest)


async def test_the_first_chunk_has_no_bytes(channel: grpc.aio.Channel, finished: list[OutputFile]) -> None:
    """It says what follows, so that a gateway can write its headers."""
    stub = jobs_pb2_grpc.JobsStub(channel)
    for call in (
        stub.ReadOutput(jobs_pb2.ReadOutputRequest(id=JOB, path="a.txt"), timeout=20),
        stub.ReadArchive(jobs_pb2.ReadArchiveRequest(id=JOB), timeout=20),
    ):
        first = await call.read()
        assert isinstance(first, jobs_pb2.FileChunk)
        assert (first.bytes, first.size_bytes > 0) == (b"", True)
        call.cancel()
