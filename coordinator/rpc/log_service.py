"""Reads logs for clients: from any position, following, with flat memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from coordinator.changes import Extent
from coordinator.log_store import LogStore
from coordinator.rpc.context import Caller, parse
from coordinator.storage.protocol import LogExtents, Store
from coordinator.watchers import Watchers
from hostler import frames
from hostler.errors import JobNotFound, Unavailable
from hostler.ids import AttemptKey, JobId, is_uuid
from hostler.jobs import LogStatus
from hostler.lifecycle import State
from hostler.v1 import jobs_pb2, types_pb2

CHUNK_BYTES_MAX = 1024 * 1024
LOOK_AGAIN_S = 5.0  # a follower looks at the store at least so often, whatever it was told


class LogService:
    """Jobs.ReadLog."""

    def __init__(self, store: Store, logs: LogStore, watchers: Watchers) -> None:
        self._store = store
        self._logs = logs
        self._watchers = watchers

    async def read_log(self, data: bytes, caller: Caller) -> AsyncIterator[jobs_pb2.LogChunk]:
        """Yield the ledger of an attempt from a position on."""
        request = parse(jobs_pb2.ReadLogRequest, data)
        job_id = request.id
        if not is_uuid(job_id):
            raise JobNotFound(f"job {job_id[:64]!r} not found")
        place = _Place(request.stage, request.attempt, int(getattr(request, "from")))
        with self._watchers.log_reader(job_id) as changed:
            while True:
                changed.clear()
                key = AttemptKey(JobId(job_id), place.stage, place.attempt) if place.attempt else None
                found = await self._store.find_log(job_id, key, place.position)
                if found is None:
                    raise JobNotFound(f"job {job_id} not found")
                start, piece = await self._piece(found, place.position)
                if piece:
                    # From the first byte on it is this attempt's log, also when another attempt follows.
                    place = _Place(found.stage, found.attempt, start + len(piece))
                    yield _chunk(found, start, piece)
                elif _has_more(found):
                    if not request.follow:
                        yield _chunk(found, place.position, b"", end=True)
                        return
                    place = place if not found.attempt else _Place(found.stage, found.attempt, place.position)
                    await _change(changed)
                elif request.follow and not request.attempt and _another_follows(found):
                    # The attempt is over and another may follow: its log goes on from its own beginning.
                    if not await self._has_next_attempt(found, changed):
                        yield _chunk(found, place.position, b"", end=True)
                        return
                    place = _Place(0, 0, 0)
                else:
                    yield _chunk(found, place.position, b"", end=True)
                    return

    async def _has_next_attempt(self, found: LogExtents, changed: asyncio.Event) -> bool:
        """Wait until the job has a later attempt; False when it is over without one."""
        while True:
            changed.clear()
            job = await self._store.get_job(found.job.id)
            if job is not None and (job.stage, job.attempt) > (found.stage, found.attempt):
                return True
            if job is None or job.state is State.FINISHED:
                return False
            await _change(changed)

    async def _piece(self, found: LogExtents, position: int) -> tuple[int, bytes]:
        """Whole frames from *position* on, at most about a mebibyte, and where they begin."""
        if found.inline:
            start = frames.frame_start(found.inline, position)
            return start, found.inline[start:]
        run: list[Extent] = []
        size = 0
        for extent in found.extents:
            if run and (size + extent.length > CHUNK_BYTES_MAX or extent.position != run[-1].position + run[-1].length):
                break
            run.append(extent)
            size += extent.length
        if not run:
            return position, b""
        try:
            piece = await self._logs.read(run)
        except OSError as error:
            raise Unavailable(f"a log segment cannot be read: {error}") from error
        skip = frames.frame_start(piece, position - run[0].position) if position > run[0].position else 0
        return run[0].position + skip, piece[skip:]


class _Place(NamedTuple):
    """How far a reader has come; attempt 0: the current one, whichever that will be."""

    stage: int
    attempt: int
    position: int


async def _change(changed: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(LOOK_AGAIN_S):
            await changed.wait()
    except TimeoutError:
        pass


def _chunk(found: LogExtents, position: int, piece: bytes, *, end: bool = False) -> jobs_pb2.LogChunk:
    job = found.job
    return jobs_pb2.LogChunk(
        position=position,
        frames=piece,
        end=end,
        status=types_pb2.LogStatus.ValueType(job.log_status),
        lost_bytes=job.log_lost_bytes,
        attempt=found.attempt,
        stage=found.stage,
    )


def _another_follows(found: LogExtents) -> bool:
    """Whether an attempt comes, or may come, after this one."""
    job = found.job
    return job.state is not State.FINISHED or (job.stage, job.attempt) > (found.stage, found.attempt)


def _has_more(found: LogExtents) -> bool:
    """Whether something may follow what is held of this attempt's log."""
    return not found.over or found.job.log_status is LogStatus.ARRIVING
