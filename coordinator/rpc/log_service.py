"""Reads logs for clients: from any position, following, with flat memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from coordinator.changes import Extent
from coordinator.log_store import LogStore
from coordinator.rpc.context import visible
from coordinator.storage.protocol import LogExtents, Store
from coordinator.watchers import Watchers
from hostler import frames
from hostler.errors import InvalidRequest, JobNotFound, Unavailable
from hostler.ids import AttemptKey, JobId, is_uuid
from hostler.jobs import LogStatus
from hostler.lifecycle import State
from hostler.policy import Principal
from hostler.v1 import jobs_pb2, types_pb2
from hostler.wording import beyond_log_text

CHUNK_BYTES_MAX = 1024 * 1024
LOOK_AGAIN_S = 5.0  # a follower looks at the store at least so often, whatever it was told


class LogService:
    """Jobs.ReadLog."""

    def __init__(self, store: Store, logs: LogStore, watchers: Watchers) -> None:
        self._store = store
        self._logs = logs
        self._watchers = watchers

    async def read_log(
        self, request: jobs_pb2.ReadLogRequest, principal: Principal
    ) -> AsyncIterator[jobs_pb2.LogChunk]:
        """Yield the ledger of an attempt from a position on.

        Raises:
            InvalidRequest: the position is beyond what is held; what was read once is durable, and its end never is.
            JobNotFound: there is no such job, or no such attempt, and without `follow` it need not be waited for.
        """
        job_id = request.id
        if not is_uuid(job_id):
            visible(None, job_id, principal)
        place = _Place(request.stage, request.attempt, int(getattr(request, "from")))
        goes_on = request.follow and (request.go_on or not request.attempt)
        may_come: bool | None = None
        with self._watchers.log_reader(job_id) as changed:
            while True:
                changed.clear()
                key = AttemptKey(JobId(job_id), place.stage, place.attempt) if place.attempt else None
                found = await self._store.find_log(job_id, key, place.position)
                visible(None if found is None else found.job, job_id, principal)
                assert found is not None
                if may_come is None:
                    # The log of an attempt that is still to begin may come as far as its follower asks.
                    waits = found.job.state in (State.QUEUED, State.ASSIGNED)
                    may_come = goes_on and waits and not found.over
                if place.position > found.job.log_position and not (may_come and _has_more(found)):
                    raise _beyond(found, place.position)
                found_piece = await self._piece(found, place.position)
                if found_piece is None:
                    place = _Place(found.stage, found.attempt, place.position)
                    continue
                start, piece = found_piece
                if piece:
                    # From the first byte on it is this attempt's log, also when another attempt follows.
                    place = _Place(found.stage, found.attempt, start + len(piece))
                    yield _chunk(found, start, piece)
                elif goes_on and not (found.attempt and _has_more(found)):
                    # Nothing more comes of this attempt, or there is none yet: the next one's log is read from its
                    # own beginning, whichever the job has come to meanwhile.
                    following = await self._next_attempt(found, changed)
                    if following is None and found.job.state is not State.FINISHED:
                        continue  # it is over by now: what is said of its log must be of then
                    if following is None:
                        yield _chunk(found, place.position, b"", end=True)
                        return
                    # Whoever asked before there was any attempt meant this one with the position.
                    place = following if found.attempt else following._replace(position=place.position)
                elif request.follow and _has_more(found):
                    place = _Place(found.stage, found.attempt, place.position)
                    await _change(changed)
                else:
                    if not found.job.log_position:
                        await self._check_was(job_id, place)
                    yield _chunk(found, place.position, b"", end=True)
                    return

    async def _check_was(self, job_id: str, place: "_Place") -> None:
        """Refuse an attempt that is higher than every one of its stage. Raises JobNotFound."""
        job = await self._store.get_job(job_id)
        if job is None or not place.attempt:
            return
        attempts = [(past.stage, past.attempt) for past in job.past] + [(job.stage, job.attempt)]
        if not any(stage == place.stage and attempt >= place.attempt for stage, attempt in attempts):
            of_stage = f" of stage {place.stage}" if place.stage or job.spec.stages else ""
            raise JobNotFound(f"attempt {place.attempt}{of_stage} of job {job_id} has no log: it has not run")

    async def _next_attempt(self, found: LogExtents, changed: asyncio.Event) -> "_Place | None":
        """Wait for the attempt that came after this one; None when the job is over without one."""
        while True:
            changed.clear()
            job = await self._store.get_job(found.job.id)
            if job is None:
                return None
            attempts = [(past.stage, past.attempt) for past in job.past] + [(job.stage, job.attempt)]
            later = [each for each in attempts if each[1] and each > (found.stage, found.attempt)]
            if later:
                return _Place(*min(later), 0)
            if job.state is State.FINISHED:
                return None
            await _change(changed)

    async def _piece(self, found: LogExtents, position: int) -> tuple[int, bytes] | None:
        """Whole frames from *position* on, at most about a mebibyte, and where they begin; None: look again."""
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
            key = AttemptKey(JobId(found.job.id), found.stage, found.attempt)
            now = await self._store.find_log(found.job.id, key, position)
            if now is None or now.extents != found.extents:
                return None  # it expired between the look and the reading
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


def _beyond(found: LogExtents, position: int) -> InvalidRequest:
    text = beyond_log_text(position, found.stage, found.attempt, found.job.log_position)
    return InvalidRequest(text, field="from")


def _has_more(found: LogExtents) -> bool:
    """Whether something may follow what is held of this attempt's log."""
    return not found.over or found.job.log_status is LogStatus.ARRIVING
