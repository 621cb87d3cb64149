"""How long files, logs and jobs are kept: by age, by size, oldest first, and never more than the limits ask for."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from coordinator import retention as retention_module
from coordinator.blobs import BlobStore, Referenced
from coordinator.changes import JobExpired, LogsExpired
from coordinator.log_store import LogStore
from coordinator.retention import KEYS_S, STEP_BYTES, SWEEP_S, Expire, Limit, Retention
from coordinator.retention_decisions import Expiry
from coordinator.storage.protocol import Expirable, Kept
from hostler.clock import ManualClock
from tests.files.stand_ins import StoreStandIn, files_below, stored
from tests.support.waiting import eventually

DAY_S = 86400.0


class Scene:
    """Finished jobs with one file each, and a retention that makes them expire in the stand-in of the store."""

    def __init__(self, blobs: BlobStore, store: StoreStandIn, log_store: LogStore) -> None:
        self.blobs, self.store, self.log_store = blobs, store, log_store
        self.clock = ManualClock()
        self.steps: list[list[int]] = []  # what was made to expire, call by call
        self.expiries: list[Expiry] = []
        self._digests: dict[int, str] = {}

    async def finish(self, number: int, content: bytes, *, swept: bool = True) -> None:
        """A job ends now, and leaves a file that was used more than an hour ago unless *swept* is false."""
        digest = await stored(self.blobs, content)
        if swept:
            os.utime(self.blobs.path(digest), (1, 1))
        self._digests[number] = digest
        self.store.wanted.add(digest)
        self.store.finished[Kept.FILES].append(Expirable(number, str(number), self.clock.wall_us(), 0))
        self._count_sharers()

    def _count_sharers(self) -> None:
        kept = self.store.finished[Kept.FILES]
        digests = [self._digests[job.number] for job in kept]
        self.store.finished[Kept.FILES] = [
            job._replace(digests=((self._digests[job.number], digests.count(self._digests[job.number])),))
            for job in kept
        ]

    def end(self, number: int, *, ledger_bytes: int = 0) -> None:
        """A job without files ends now, and leaves a log."""
        job = Expirable(number, str(number), self.clock.wall_us(), ledger_bytes)
        self.store.finished[Kept.JOBS].append(job)
        if ledger_bytes:
            self.store.finished[Kept.LOGS].append(job)

    async def expire(self, expiries: Sequence[Expiry]) -> int:
        """As the engine does: once committed, nobody refers to the bytes."""
        if not expiries:
            return 0
        numbers = [each.number for each in expiries]
        self.steps.append(numbers)
        self.expiries += expiries
        kind = {LogsExpired: Kept.LOGS, JobExpired: Kept.JOBS}.get(type(expiries[0]), Kept.FILES)
        for each in (kind, *(Kept if kind is Kept.JOBS else ())):
            self.store.finished[each] = [job for job in self.store.finished[each] if job.number not in numbers]
        self._count_sharers()
        kept = {job.number for job in self.store.finished[Kept.FILES]}
        self.store.wanted = {digest for number, digest in self._digests.items() if number in kept}
        return len(expiries)

    def retention(
        self, *, keep_s: float = 0, bytes_max: int = 0, expire: Expire | None = None, **limits: Limit
    ) -> Retention:
        """With these limits: of files, or of the kinds named."""
        store = self.store.as_store()
        wanted = {Kept.FILES: Limit(keep_s, bytes_max)} | {Kept(name): limit for name, limit in limits.items()}
        return Retention(store, self.blobs, self.log_store, expire or self.expire, limits=wanted, clock=self.clock)


@pytest.fixture
async def scene(blobs: BlobStore, store: StoreStandIn, place: Path) -> AsyncIterator[Scene]:
    """Nothing has finished."""
    log_store = LogStore(place / "logs", lambda pieces: None)
    log_store.open()
    yield Scene(blobs, store, log_store)
    await log_store.close()


async def test_files_expire_when_their_time_is_over(scene: Scene, place: Path) -> None:
    """Those of jobs that ended longer ago, and no others."""
    await scene.finish(1, b"one")
    scene.clock.advance(DAY_S)
    await scene.finish(2, b"two")
    retention = scene.retention(keep_s=2 * DAY_S)
    await retention.look()
    assert scene.steps == []
    scene.clock.advance(DAY_S + 1)
    await retention.look()
    assert scene.steps == [[1]]
    assert len(files_below(place)) == 1


async def test_without_limits_everything_is_kept(scene: Scene, place: Path) -> None:
    """What nobody refers to is swept all the same."""
    await scene.finish(1, b"one")
    os.utime(scene.blobs.path(await stored(scene.blobs, b"nobody's")), (1, 1))
    scene.clock.advance(1000 * DAY_S)
    await scene.retention().look()
    assert scene.steps == []
    assert len(files_below(place)) == 1


async def test_the_oldest_expire_until_the_rest_fits(scene: Scene) -> None:
    """As many as are needed, and not one more."""
    for number in range(5):
        await scene.finish(number, bytes([number]) * 100)
    await scene.retention(bytes_max=250).look()
    assert scene.steps == [[0, 1, 2]]
    assert await scene.blobs.total_bytes() == 200


async def test_bytes_that_are_about_to_be_swept_make_no_job_expire(scene: Scene) -> None:
    """What expired within the last hour is still on disk: a second look must not go on to the next jobs."""
    for number in range(4):
        await scene.finish(number, bytes([number]) * 100, swept=False)
    retention = scene.retention(bytes_max=250)
    for _ in range(3):
        await retention.look()
    assert scene.steps == [[0, 1]]
    assert await scene.blobs.total_bytes() == 400


async def test_jobs_expire_in_bounded_steps(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """By age and by size."""
    monkeypatch.setattr(retention_module, "STEP", 3)
    for number in range(7):
        await scene.finish(number, bytes([number]))
    scene.clock.advance(2)
    await scene.retention(keep_s=1).look()
    assert scene.steps == [[0, 1, 2], [3, 4, 5], [6]]
    scene.steps.clear()
    for number in range(10, 17):
        await scene.finish(number, bytes([number]))
    await scene.retention(bytes_max=1).look()
    assert scene.steps == [[10, 11, 12], [13, 14, 15]]


async def test_an_expiry_that_does_nothing_is_not_repeated_for_ever(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look ends, whatever the engine does."""
    monkeypatch.setattr(retention_module, "STEP", 2)
    for number in range(4):
        await scene.finish(number, bytes([number]))
    scene.clock.advance(2)
    asked: list[list[int]] = []

    async def ignore(expiries: Sequence[Expiry]) -> int:
        if expiries:
            asked.append([each.number for each in expiries])
        return 0

    await scene.retention(keep_s=1, bytes_max=1, expire=ignore).look()
    assert asked == [[0, 1], [0, 1]]


async def test_it_looks_once_at_the_start_and_a_failure_does_not_end_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on until it is cancelled."""
    monkeypatch.setattr(retention_module, "LOOK_S", 0.01)
    calls: list[Sequence[Expiry]] = []

    async def broken(expiries: Sequence[Expiry]) -> int:
        calls.append(expiries)
        raise OSError("the disk fails")

    await scene.finish(1, b"one")
    scene.clock.advance(10)
    running = asyncio.create_task(scene.retention(keep_s=1, expire=broken).run())
    await eventually(lambda: len(calls) >= 2, "it tries again")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_bytes_that_jobs_share_are_freed_with_the_last_of_them(scene: Scene) -> None:
    """They count in parts, so that what they are in the way of expires too, and no more."""
    for number in range(4):
        await scene.finish(number, b"shared" * 100)
    for number in range(4, 8):
        await scene.finish(number, bytes([number]) * 100)
    await scene.retention(bytes_max=250).look()
    assert [number for step in scene.steps for number in step] == [0, 1, 2, 3, 4, 5]


async def test_what_is_referred_to_is_not_summed_up_every_minute(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """While bytes wait for their sweep the store is over its limit, and nothing is to be done about it."""
    sums: list[float] = []
    real = scene.blobs.referenced_bytes

    async def counted(referenced: Referenced) -> int:
        sums.append(scene.clock.monotonic())
        return await real(referenced)

    monkeypatch.setattr(scene.blobs, "referenced_bytes", counted)
    await scene.finish(1, b"x" * 100, swept=False)
    retention = scene.retention(bytes_max=10)
    await retention.look()
    assert len(sums) == 2
    for _ in range(9):
        scene.clock.advance(60)
        await retention.look()
    assert len(sums) == 2
    scene.clock.advance(SWEEP_S)
    await retention.look()
    assert len(sums) == 3


# Logs and jobs


async def test_logs_expire_by_age_and_by_size_oldest_first(scene: Scene) -> None:
    """Files and jobs have limits of their own."""
    for number in range(6):
        scene.end(number, ledger_bytes=100)
        scene.clock.advance(DAY_S)
    await scene.retention(logs=Limit(keep_s=5.5 * DAY_S)).look()
    assert scene.steps == [[0]]
    await scene.retention(logs=Limit(most=300)).look()
    assert scene.steps == [[0], [1, 2]]
    assert {type(each) for each in scene.expiries} == {LogsExpired}
    assert [job.number for job in scene.store.finished[Kept.JOBS]] == [0, 1, 2, 3, 4, 5]


async def test_a_long_log_expires_alone(scene: Scene) -> None:
    """Each piece of it is a row: many of them would keep the engine from everything else."""
    for number in range(4):
        scene.end(number, ledger_bytes=STEP_BYTES // 2 + 1)
    scene.clock.advance(DAY_S)
    await scene.retention(logs=Limit(keep_s=1)).look()
    assert scene.steps == [[0], [1], [2], [3]]


async def test_jobs_are_forgotten_by_age_and_by_number_oldest_first(scene: Scene) -> None:
    """As many as are too many."""
    for number in range(6):
        scene.end(number, ledger_bytes=number)
        scene.clock.advance(DAY_S)
    await scene.retention(jobs=Limit(keep_s=5.5 * DAY_S)).look()
    assert scene.steps == [[0]]
    await scene.retention(jobs=Limit(most=3)).look()
    assert scene.steps == [[0], [1, 2]]
    assert {type(each) for each in scene.expiries} == {JobExpired}


async def test_keys_are_good_for_a_day_whatever_the_limits(scene: Scene) -> None:
    """The store is asked only for jobs without one, or that ended a day ago."""
    await scene.retention(jobs=Limit(keep_s=1, most=1)).look()
    assert scene.store.keyed_before_us == scene.clock.wall_us() - KEYS_S * 1e6


async def test_segments_that_no_log_refers_to_go_at_the_start(scene: Scene, place: Path) -> None:
    """Also those an earlier process left when it was killed between the rows and the bytes."""
    for number in range(1, 4):
        (place / "logs" / f"{number:08d}.log").write_bytes(b"x" * number)
    scene.log_store.open()
    scene.store.segments = {2}
    await scene.retention().look()
    assert files_below(place / "logs") == ["00000002.log"]
