"""Jobs.Feed: standard input from a client to a running job, with the client held back as the job reads.

What the client is told as taken is the count of the attempt's shim, so a client that keeps what is not taken loses and
doubles nothing when its call, the worker's agent or this coordinator ends in the middle.
"""

import asyncio
from collections.abc import Iterable

import grpc.aio

from coordinator import decisions
from coordinator.engine import Engine
from coordinator.feeds import Feed, Feeds
from coordinator.rpc.context import Context, parse, visible
from coordinator.sessions import Piece
from coordinator.storage.protocol import Store
from coordinator.watchers import Waiter, Watchers
from hostler.errors import InvalidRequest, NotRunning
from hostler.ids import is_uuid
from hostler.lifecycle import State
from hostler.policy import Principal
from hostler.v1 import jobs_pb2, workers_pb2
from hostler.wire.work import key_from_proto, key_to_proto

SEND_AGAIN_S = 1.0
ASK_AGAIN_S = 0.1  # while it is not known how far the input has come
PIECE_BYTES_MAX = 256 * 1024


class FeedService:
    """See ``protos/hostler/v1/jobs.proto``."""

    def __init__(self, engine: Engine, store: Store, watchers: Watchers, feeds: Feeds) -> None:
        self._engine = engine
        self._store = store
        self._watchers = watchers
        self._feeds = feeds

    async def feed(self, first: jobs_pb2.FeedRequest, context: Context, principal: Principal) -> None:
        """Feed: until the end of the input, the end of the job or the end of the client."""
        job = await self._started(first.id, principal)
        if job is None:
            await context.write(jobs_pb2.FeedResponse(closed=True).SerializeToString())
            return
        live = self._engine.live.job(job)
        if live is None:
            await context.write(jobs_pb2.FeedResponse(closed=True).SerializeToString())
            return
        feed = self._feeds.open(live.attempt_key, live.worker)
        feed.resize(first.rows, first.columns)
        feed.ask()
        ended = Waiter()
        self._engine.post(lambda live, now: decisions.on_wait(live, [job], State.FINISHED, ended))
        reader = asyncio.create_task(self._listen(context, feed, first))
        over = asyncio.create_task(self._over(ended))
        try:
            await self._speak(context, feed, reader, over)
        finally:
            reader.cancel()
            over.cancel()
            await asyncio.gather(reader, over, return_exceptions=True)
            self._watchers.remove(ended)
            self._feeds.close(feed)

    async def _started(self, job_id: str, principal: Principal) -> str | None:
        """Wait for the start of a job; None when it is over already."""
        found = visible(await self._store.get_job(job_id) if is_uuid(job_id) else None, job_id, principal)
        if not found.spec.work.stdin:
            raise NotRunning(f"job {job_id} was submitted without stdin")
        waiter = Waiter()
        try:
            self._engine.post(lambda live, now: decisions.on_wait(live, [job_id], State.RUNNING, waiter))
            if await waiter.absent:
                return None
            (progress,) = await waiter.ready(None)
        finally:
            self._watchers.remove(waiter)
        return None if progress.state is State.FINISHED else job_id

    def _is_past(self, feed: Feed) -> bool:
        """Whether the attempt is over and the job is not: one whose supervisor was killed says nothing more."""
        job = self._engine.live.job(feed.key.job)
        return job is not None and (job.state is State.QUEUED or job.attempt_key != feed.key)

    async def _over(self, ended: Waiter) -> None:
        if not await ended.absent:
            await ended.ready(None)

    async def _listen(self, context: Context, feed: Feed, first: jobs_pb2.FeedRequest) -> None:
        await feed.known.wait()
        expected = feed.received
        message = first
        while not feed.taken_over:
            feed.resize(message.rows, message.columns)
            if message.offset > expected or len(message.bytes) > PIECE_BYTES_MAX:
                raise InvalidRequest("input comes in order, in pieces of at most 256 KiB", field="offset")
            content = message.bytes[expected - message.offset :]
            if content or message.eof:
                feed.offer(expected, content, eof=message.eof)
                expected += len(content)
            if message.eof:
                return
            await feed.room.wait()
            data = await _read(context)
            if not data:
                return
            message = parse(jobs_pb2.FeedRequest, data)

    async def _speak(
        self, context: Context, feed: Feed, reader: "asyncio.Task[None]", over: "asyncio.Task[None]"
    ) -> None:
        said = -1
        while not (over.done() or feed.closed or feed.taken_over):
            if reader.done():
                reader.result()
                if not feed.pending:
                    break
            if feed.known.is_set() and feed.taken != said:
                said = feed.taken
                message = jobs_pb2.FeedResponse(taken=said, received=feed.received, attempt=feed.key.attempt)
                await context.write(message.SerializeToString())
            feed.changed.clear()
            changed = asyncio.create_task(feed.changed.wait())
            waiting = {changed, over} if reader.done() else {changed, over, reader}
            pause_s = SEND_AGAIN_S if feed.known.is_set() else ASK_AGAIN_S
            try:
                done, _ = await asyncio.wait(waiting, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if not done and self._is_past(feed):
                feed.closed = True
            elif not done and (feed.pending or feed.may_have_lost or not feed.known.is_set()):
                feed.send_again()
        closed = over.done() or feed.closed
        message = jobs_pb2.FeedResponse(
            taken=feed.taken,
            closed=closed,
            received=feed.received,
            taken_over=feed.taken_over,
            attempt=feed.key.attempt,
        )
        await context.write(message.SerializeToString())


def piece_to_proto(piece: Piece) -> workers_pb2.FeedAttempt:
    """What a worker is sent."""
    return workers_pb2.FeedAttempt(
        key=key_to_proto(piece.key),
        offset=piece.offset,
        bytes=piece.content,
        eof=piece.eof,
        rows=piece.rows,
        columns=piece.columns,
    )


def note_fed(feeds: Feeds, said: Iterable[workers_pb2.Fed]) -> None:
    """Take in what a worker says."""
    for fed in said:
        feeds.note(key_from_proto(fed.key), fed.taken, fed.received, closed=fed.closed, ended=fed.ended)


async def _read(context: Context) -> bytes:
    message = await context.read()
    return b"" if message is grpc.aio.EOF else message
