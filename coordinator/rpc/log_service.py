"""Reads logs for clients: from any position, following, with flat memory."""

import asyncio
from collections.abc import AsyncIterator

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
        key = AttemptKey(JobId(job_id), request.stage, request.attempt) if request.attempt else None
        position = int(getattr(request, "from"))
        with self._watchers.log_reader(job_id) as changed:
            while True:
                changed.clear()
                found = await self._store.find_log(job_id, key, position)
                if found is None:
                    raise JobNotFound(f"job {job_id} not found")
                start, piece = await self._piece(found, position)
                if piece:
                    yield self._chunk(found, start, piece)
                    position = start + len(piece)
                elif _no_more(found, key) or not request.follow:
                    yield self._chunk(found, position, b"", end=True)
                    return
                else:
                    try:
                        async with asyncio.timeout(LOOK_AGAIN_S):
                            await changed.wait()
                    except TimeoutError:
                        continue

    def _chunk(self, found: LogExtents, position: int, piece: bytes, *, end: bool = False) -> jobs_pb2.LogChunk:
        job = found.job
        return jobs_pb2.LogChunk(
            position=position,
            frames=piece,
            end=end,
            status=types_pb2.LogStatus.ValueType(job.log_status),
            lost_bytes=job.log_lost_bytes,
            attempt=job.attempt,
        )

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


def _no_more(found: LogExtents, key: AttemptKey | None) -> bool:
    """Whether nothing can follow what is held."""
    job = found.job
    if key is not None and (key.stage, key.attempt) != (job.stage, job.attempt):
        return True
    return job.state is State.FINISHED and job.log_status is not LogStatus.ARRIVING
