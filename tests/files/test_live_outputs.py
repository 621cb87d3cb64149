"""Output files of running jobs come from their worker: in flat memory, and with an answer whoever goes away."""

import asyncio
import os
from typing import Any

import grpc.aio
import pytest

from coordinator.blobs import BlobStore
from coordinator.sessions import Sessions
from coordinator.shows import HELD_BYTES_MAX, TICKETS_MAX, Shows
from hostler.errors import FileNotFound, HostlerError, InvalidRequest, NotRunning, Overloaded, TooLarge, Unavailable
from hostler.files_client import FilesClient
from hostler.ids import AttemptKey, JobId
from hostler.lifecycle import State
from hostler.v1 import workers_pb2
from hostler.wire.errors import error_from_call
from tests.files.stand_ins import JOB, NOON_US, W1, StoreStandIn, a_job, an_output, content_of, stored
from tests.files.worker_stand_in import connected_worker, head, serving_worker
from tests.support.waiting import eventually, turns

KEY = AttemptKey(JobId(JOB), 0, 1)


@pytest.fixture(autouse=True)
def running(store: StoreStandIn) -> None:
    """A running job on the first worker."""
    store.add(a_job(JOB, State.RUNNING))


async def error_of(call: "grpc.aio.StreamUnaryCall[object, object]") -> HostlerError:
    """What a worker's stream ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return error_from_call(refused.value)


@pytest.mark.parametrize("size", [0, 1, 10_000_000])
async def test_a_file_of_a_running_job_comes_from_its_worker(
    files: FilesClient, sessions: Sessions, channel: grpc.aio.Channel, size: int
) -> None:
    """The worker is told attempt and path; size and time are from when it opened the file."""
    content = os.urandom(size)
    async with serving_worker(sessions, channel, file=content) as worker:
        async with files.read_output(JOB, "file") as reading:
            assert (reading.size_bytes, reading.modified_at_us, reading.digest) == (size, NOON_US, "")
            assert await content_of(reading) == content
        assert [(show.key, show.path, show.offset, show.length) for show in worker.asked] == [(KEY, "file", 0, 0)]
        await eventually(lambda: worker.ended == ["ok"], "the worker's stream ended well")


async def test_a_part_of_a_live_file_is_read(files: FilesClient, sessions: Sessions, channel: grpc.aio.Channel) -> None:
    """The worker sends only that part; nothing beyond the end."""
    async with serving_worker(sessions, channel, file=b"0123456789") as worker:
        for offset, length, expected in ((2, 3, b"234"), (8, 99, b"89"), (10, 0, b""), (99, 1, b"")):
            async with files.read_output(JOB, "file", offset=offset, length=length) as reading:
                assert reading.size_bytes == 10
                assert await content_of(reading) == expected
        assert [(show.offset, show.length) for show in worker.asked] == [(2, 3), (8, 99), (10, 0), (99, 1)]


async def test_what_the_worker_cannot_read_is_not_found(
    files: FilesClient, sessions: Sessions, channel: grpc.aio.Channel
) -> None:
    """In the worker's words."""
    async with serving_worker(sessions, channel):
        with pytest.raises(FileNotFound, match="there is no other"):
            async with files.read_output(JOB, "other"):
                raise AssertionError


async def test_without_its_worker_a_file_is_unavailable(
    files: FilesClient, sessions: Sessions, channel: grpc.aio.Channel
) -> None:
    """Not connected: at once. Connected and silent: after a while."""
    with pytest.raises(Unavailable, match="not connected"):
        async with files.read_output(JOB, "file"):
            raise AssertionError
    async with connected_worker(sessions, channel):
        with pytest.raises(Unavailable, match="did not answer") as failed:
            async with files.read_output(JOB, "file"):
                raise AssertionError
    assert failed.value.field == "worker"


@pytest.mark.parametrize("state", [State.QUEUED, State.ASSIGNED])
async def test_a_job_that_has_not_started_has_no_files(files: FilesClient, store: StoreStandIn, state: State) -> None:
    """No worker is asked."""
    store.add(a_job(JOB, state))
    with pytest.raises(FileNotFound):
        async with files.read_output(JOB, "file"):
            raise AssertionError


async def test_a_slow_reader_slows_the_worker(shows: Shows, sessions: Sessions, channel: grpc.aio.Channel) -> None:
    """Beyond 4 MiB here and what gRPC has on its way, the worker waits."""
    content = bytes(64 * 1024 * 1024)
    async with serving_worker(sessions, channel, file=content) as worker:
        async with shows.open(W1, KEY, "file", 0, 0) as reading:
            received = len(await anext(reading.pieces))
            await eventually(lambda: worker.sent_bytes >= HELD_BYTES_MAX, "the worker has filled the queue")
            for _ in range(20):
                await turns()
            assert worker.sent_bytes < HELD_BYTES_MAX + 24 * 1024 * 1024
            async for piece in reading.pieces:
                received += len(piece)
        assert received == len(content)


async def test_a_worker_that_vanishes_in_the_middle_is_told_to_the_reader(
    files: FilesClient, sessions: Sessions, channel: grpc.aio.Channel
) -> None:
    """Whether its stream breaks or ends too early; a short file is never taken for the whole."""
    for breaks in (True, False):
        async with connected_worker(sessions, channel) as worker, asyncio.timeout(10):
            reader = asyncio.create_task(_read(files))
            show = await worker.next_show()
            call = worker.stream()
            await call.write(head(show, 100))
            await call.write(workers_pb2.OutputPiece(bytes=b"x" * 50))
            if breaks:
                call.cancel()
            else:
                await call.done_writing()
            with pytest.raises(Unavailable):
                await reader


async def _read(files: FilesClient) -> bytes:
    async with files.read_output(JOB, "file") as reading:
        return await content_of(reading)


async def test_an_error_in_the_middle_reaches_the_reader(
    files: FilesClient, sessions: Sessions, channel: grpc.aio.Channel
) -> None:
    """After the first bytes too."""
    async with connected_worker(sessions, channel) as worker:
        reader = asyncio.create_task(_read(files))
        show = await worker.next_show()
        call = worker.stream()
        await call.write(head(show, 100))
        await call.write(workers_pb2.OutputPiece(bytes=b"x", error="it was removed"))
        with pytest.raises(FileNotFound, match="it was removed"):
            await reader
        await call


async def test_a_file_that_grows_is_cut_at_the_size_it_had(
    files: FilesClient, sessions: Sessions, channel: grpc.aio.Channel
) -> None:
    """An HTTP answer has said its length already."""
    async with connected_worker(sessions, channel) as worker:
        reader = asyncio.create_task(_read(files))
        show = await worker.next_show()
        call = worker.stream()
        await call.write(head(show, 5))
        await call.write(workers_pb2.OutputPiece(bytes=b"1234567"))
        assert await reader == b"12345"
        await call.done_writing()
        await call


@pytest.mark.parametrize("sends", [True, False])
async def test_a_reader_that_goes_away_ends_the_workers_stream(
    files: FilesClient, sessions: Sessions, channel: grpc.aio.Channel, shows: Shows, *, sends: bool
) -> None:
    """Whether the worker waits for room at that moment, or has nothing to send."""
    async with connected_worker(sessions, channel) as worker, asyncio.timeout(10):
        reader = asyncio.create_task(_read(files))
        show = await worker.next_show()
        call = worker.stream()
        await call.write(head(show, 1 << 30))
        await call.write(workers_pb2.OutputPiece(bytes=bytes(1000)))
        sending = asyncio.create_task(_send_zeros(call)) if sends else None
        await turns()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await call  # it is answered
        if sending is not None:
            await sending


async def _send_zeros(call: "grpc.aio.StreamUnaryCall[workers_pb2.OutputPiece, object]") -> None:
    try:
        while True:
            await call.write(workers_pb2.OutputPiece(bytes=bytes(1024 * 1024)))
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.InternalError):
        pass


async def test_a_ticket_is_taken_up_once_and_only_while_somebody_waits(
    files: FilesClient, sessions: Sessions, channel: grpc.aio.Channel
) -> None:
    """A second stream and a late one are refused, and do not disturb the first."""
    async with connected_worker(sessions, channel) as worker:
        reader = asyncio.create_task(_read(files))
        show = await worker.next_show()
        first, second, late = worker.stream(), worker.stream(), worker.stream()
        await first.write(head(show, 2))
        await first.write(workers_pb2.OutputPiece(bytes=b"a"))
        await turns()
        await second.write(head(show, 99))
        assert isinstance(await error_of(second), NotRunning)
        await first.write(workers_pb2.OutputPiece(bytes=b"b"))
        assert await reader == b"ab"
        await late.write(head(show, 2))
        assert isinstance(await error_of(late), FileNotFound)


async def test_streams_that_are_no_answer_are_refused(channel: grpc.aio.Channel) -> None:
    """None at all, no ticket, one nobody gave, too large a message, no message."""
    stub: Any = channel.stream_unary("/hostler.v1.Workers/SendOutput")
    too_large = workers_pb2.OutputPiece(ticket="x", bytes=bytes(1200 * 1024)).SerializeToString()
    for content, kind in (
        (None, InvalidRequest),
        (b"", FileNotFound),
        (workers_pb2.OutputPiece(ticket="x").SerializeToString(), FileNotFound),
        (too_large, TooLarge),
        (b"\xff", InvalidRequest),
    ):
        assert isinstance(await error_of(stub(iter([] if content is None else [content]), timeout=20)), kind)


async def test_no_more_than_64_files_are_read_from_workers(
    shows: Shows, sessions: Sessions, channel: grpc.aio.Channel
) -> None:
    """The next is refused at once; those that gave up give their place back."""
    shows = Shows(sessions, answer_s=5)

    async def wait() -> None:
        async with shows.open(W1, KEY, "file", 0, 0):
            raise AssertionError

    async with connected_worker(sessions, channel) as worker:
        waiting = [asyncio.create_task(wait()) for _ in range(TICKETS_MAX)]
        await eventually(lambda: len(worker.session.outbox.shows) == TICKETS_MAX)
        with pytest.raises(Overloaded):
            await wait()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await wait()


async def test_a_job_that_ends_before_its_worker_answers_is_read_from_what_is_kept(
    files: FilesClient, blobs: BlobStore, store: StoreStandIn, sessions: Sessions, channel: grpc.aio.Channel
) -> None:
    """The reader does not see the change of place."""
    await stored(blobs, b"kept")
    async with connected_worker(sessions, channel) as worker:
        reader = asyncio.create_task(_read(files))
        show = await worker.next_show()
        store.add(a_job(JOB), an_output("file", b"kept"))
        call = worker.stream()
        await call.write(workers_pb2.OutputPiece(ticket=show.ticket, error="the workspace is gone"))
        assert await reader == b"kept"
        await call
