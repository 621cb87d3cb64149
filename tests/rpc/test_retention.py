"""What finished jobs leave goes when its time is over, and nothing else does; what is asked for then says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec.structs
import pytest

from coordinator.app import Coordinator
from coordinator.changes import LogsExpired
from coordinator.storage.sqlite import SqliteStore
from hostler.client import Client, LogChunk
from hostler.endpoint import coordinator_socket
from hostler.errors import JobNotFound
from hostler.explanation import explain
from hostler.ids import AttemptKey
from hostler.jobs import LogStatus
from hostler.settings import Settings
from hostler.v1 import workers_pb2
from tests.support.builders import a_spec, some_frames
from tests.support.fake_worker import ENDED, RUNNING, FakeWorker
from tests.support.waiting import eventually, until

LOG = some_frames(b"one\n", b"two\n")
AT_ONCE_S = 1e-6


class Site:
    """A coordinator that is started anew with other limits, and its one worker."""

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        self.settings = settings
        self.logs = data_dir / "coordinator" / "logs"
        self.database = data_dir / "coordinator" / "hostler.db"
        self.address = f"unix:{coordinator_socket(data_dir)}"
        self.worker = FakeWorker(self.address)
        self.held: list[tuple[AttemptKey, workers_pb2.HeldState.ValueType]] = []

    @contextlib.asynccontextmanager
    async def up(self, **limits: float) -> AsyncIterator[Client]:
        """Run it with these limits; the worker connects, and its streams break off at the end."""
        settings = msgspec.structs.replace(self.settings, **limits)
        async with Coordinator(settings), Client(self.address) as client:
            await asyncio.wait_for(client.describe(wait_for_ready=True), 10)
            self.worker.received.clear()
            await self.worker.connect(self.held)
            await self.worker.open_push()
            yield client
            await self.worker.break_off()

    async def runs(self, client: Client, *, key: str = "") -> AttemptKey:
        """A job runs, and what it has written by now is stored."""
        before = len(self.worker.starts)
        await client.submit_one(a_spec(key=key))
        attempt = (await self.worker.takes(before + 1))[-1]
        await self.worker.report_started(attempt)
        await self.worker.push(attempt, 0, LOG)
        await self.worker.stored(attempt, len(LOG))
        return attempt

    async def finishes(self, client: Client, *, key: str = "", ledger_bytes: int = len(LOG)) -> AttemptKey:
        """A job ran to its end."""
        attempt = await self.runs(client, key=key)
        await self.worker.report_ended(attempt, ledger_bytes=ledger_bytes)
        assert await client.wait_one(attempt.job, timeout_s=10)
        await eventually(lambda: attempt in self.worker.acknowledged)
        return attempt

    def segments(self) -> list[str]:
        """The log segments on disk."""
        return sorted(path.name for path in self.logs.iterdir())


@pytest.fixture
async def site(settings: Settings, data_dir: Path) -> AsyncIterator[Site]:
    """Nothing runs yet."""
    made = Site(settings, data_dir)
    yield made
    await made.worker.close()


async def read(client: Client, job: str, *, follow: bool = False) -> tuple[bytes, LogChunk]:
    """The frames of a job's log, and the last chunk."""
    chunks = [chunk async for chunk in client.read_log(job, follow=follow)]
    return b"".join(chunk.frames for chunk in chunks), chunks[-1]


async def status(client: Client, job: str) -> LogStatus:
    """How much of a job's log is held."""
    return (await client.get(job)).log_status


async def until_expired(client: Client, job: str) -> None:
    """Wait for the log's end."""

    async def expired() -> bool:
        return await status(client, job) is LogStatus.EXPIRED

    await until(expired)


async def until_forgotten(client: Client, job: str) -> None:
    """Wait until a job is not found."""

    async def forgotten() -> bool:
        try:
            await client.get(job)
        except JobNotFound:
            return True
        return False

    await until(forgotten)


async def test_a_log_goes_when_its_time_is_over(site: Site) -> None:
    """With its bytes on disk; whoever asks, also a follower, is told. Its job stays."""
    async with site.up() as client:
        attempt = await site.finishes(client)
        assert (await read(client, attempt.job))[0] == LOG
    assert site.segments() == ["00000001.log"]

    async with site.up(logs_keep_s=AT_ONCE_S) as client:
        await until_expired(client, attempt.job)
        for follow in (False, True):
            found, last = await asyncio.wait_for(read(client, attempt.job, follow=follow), 10)
            assert (found, last.end, last.status) == (b"", True, LogStatus.EXPIRED)
        job = await client.get(attempt.job)
        assert (job.log_bytes, job.log_position) == (8, len(LOG))
        told = explain(await client.explanations.of(attempt.job))
        assert "Its log is no longer kept." in told.next and told.attempts[0].sentences
        await eventually(lambda: site.segments() == [])


async def test_nothing_of_a_live_job_ever_goes(site: Site) -> None:
    """Its log is in the same segment as one that expires."""
    async with site.up() as client:
        over = await site.finishes(client)
        live = await site.runs(client)
    site.held = [(live, RUNNING)]

    async with site.up(logs_keep_s=AT_ONCE_S, jobs_keep_s=AT_ONCE_S, logs_bytes_max=1, jobs_max=1) as client:
        await until_forgotten(client, over.job)
        assert (await read(client, live.job))[0] == LOG
        assert site.segments() == ["00000001.log"]
        await site.worker.push(live, len(LOG), LOG)
        await site.worker.stored(live, len(LOG) * 2)
        assert (await read(client, live.job))[0] == LOG * 2


async def test_a_log_that_still_arrives_does_not_go(site: Site) -> None:
    """Though its job ended long ago; once it is whole it may."""
    async with site.up() as client:
        late = await site.finishes(client, ledger_bytes=len(LOG) * 2)
        other = await site.finishes(client)
    site.held = [(late, ENDED)]

    async with site.up(logs_keep_s=AT_ONCE_S, jobs_keep_s=AT_ONCE_S) as client:
        await until_expired(client, other.job)
        assert await status(client, late.job) is LogStatus.ARRIVING
        await site.worker.push(late, len(LOG), LOG)
        found, last = await asyncio.wait_for(read(client, late.job, follow=True), 10)
        assert (found, last.status) == (LOG * 2, LogStatus.COMPLETE)
    site.held = []

    async with site.up(logs_keep_s=AT_ONCE_S) as client:
        await until_expired(client, late.job)


async def test_bytes_without_a_row_go_at_the_start(site: Site) -> None:
    """A coordinator was killed after the commit and before it had removed them."""
    async with site.up() as client:
        attempt = await site.finishes(client)
    store = await SqliteStore.open(site.database)
    await store.commit([LogsExpired(1, len(LOG), 1)], [])
    await store.close()
    (site.logs / "00000007.log").write_bytes(b"pushed, and its commit never came")

    async with site.up() as client:
        await eventually(lambda: site.segments() == [])
        assert await status(client, attempt.job) is LogStatus.EXPIRED
        following = await site.finishes(client)
        assert site.segments() == ["00000008.log"]
        assert (await read(client, following.job))[0] == LOG


async def test_a_job_that_expired_is_not_found(site: Site) -> None:
    """By nobody, like one that never was; the last one stays."""
    async with site.up() as client:
        old = await site.finishes(client)
        last = await site.finishes(client)

    async with site.up(jobs_keep_s=AT_ONCE_S) as client:
        await until_forgotten(client, old.job)
        for call in (client.stop(old.job), client.wait_one(old.job, timeout_s=5), read(client, old.job)):
            with pytest.raises(JobNotFound):
                await call
        assert (await client.get(last.job)).log_status is LogStatus.COMPLETE


async def test_a_key_is_good_for_a_day_whatever_the_limits(site: Site) -> None:
    """Whoever repeats a submission would run it twice."""
    async with site.up() as client:
        keyed = await site.finishes(client, key="mine")
        old = await site.finishes(client)
        await site.finishes(client)

    async with site.up(jobs_keep_s=AT_ONCE_S, jobs_max=1) as client:
        await until_forgotten(client, old.job)
        assert await client.submit_one(a_spec(key="mine")) == keyed.job


async def test_the_oldest_logs_go_when_they_are_too_many_bytes(site: Site) -> None:
    """As many as needed."""
    async with site.up() as client:
        jobs = [(await site.finishes(client)).job for _ in range(4)]

    async with site.up(logs_bytes_max=2 * len(LOG)) as client:
        await until_expired(client, jobs[1])
        assert [(await status(client, job)).word for job in jobs] == ["expired", "expired", "complete", "complete"]
        assert (await read(client, jobs[3]))[0] == LOG
