"""Jobs.Feed: standard input from a client to a running job, with the client held back as the job reads."""

import asyncio

import grpc.aio

from coordinator import decisions
from coordinator.engine import Engine
from coordinator.feeds import Feed, Feeds
from coordinator.rpc.context import Context, parse, visible
from coordinator.storage.protocol import Store
from coordinator.watchers import Waiter, Watchers
from hostler.errors import InvalidRequest, NotRunning
from hostler.ids import is_uuid
from hostler.lifecycle import State
from hostler.policy import Principal
from hostler.v1 import jobs_pb2

SEND_AGAIN_S = 1.0
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

    async def _over(self, ended: Waiter) -> None:
        if not await ended.absent:
            await ended.ready(None)

    async def _listen(self, context: Context, feed: Feed, first: jobs_pb2.FeedRequest) -> None:
        expected = 0
        message = first
        while True:
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
        while not (over.done() or feed.closed):
            if reader.done():
                reader.result()
                if not feed.pending:
                    break
            if feed.taken != said:
                said = feed.taken
                await context.write(jobs_pb2.FeedResponse(taken=said).SerializeToString())
            feed.changed.clear()
            changed = asyncio.create_task(feed.changed.wait())
            waiting = {changed, over} if reader.done() else {changed, over, reader}
            try:
                done, _ = await asyncio.wait(waiting, timeout=SEND_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if not done:
                feed.send_again()
        closed = over.done() or feed.closed
        await context.write(jobs_pb2.FeedResponse(taken=feed.taken, closed=closed).SerializeToString())


async def _read(context: Context) -> bytes:
    message = await context.read()
    return b"" if message is grpc.aio.EOF else message
