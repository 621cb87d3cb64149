"""How long files are kept: by age, by size, oldest first, and never more than the limits ask for."""

import asyncio
import os
from pathlib import Path

import pytest

from coordinator import retention as retention_module
from coordinator.blobs import BlobStore
from coordinator.retention import Retention
from coordinator.storage.protocol import Expirable
from hostler.clock import ManualClock
from tests.files.stand_ins import StoreStandIn, files_below, stored
from tests.support.waiting import eventually

DAY_S = 86400.0


class Scene:
    """Finished jobs with one file each, and a retention that makes them expire in the stand-in of the store."""

    def __init__(self, blobs: BlobStore, store: StoreStandIn) -> None:
        self.blobs, self.store = blobs, store
        self.clock = ManualClock()
        self.steps: list[list[int]] = []  # what was made to expire, call by call
        self._digests: dict[int, str] = {}

    async def finish(self, number: int, content: bytes, *, swept: bool = True) -> None:
        """A job ends now, and leaves a file that was used more than an hour ago unless *swept* is false."""
        digest = await stored(self.blobs, content)
        if swept:
            os.utime(self.blobs.path(digest), (1, 1))
        self._digests[number] = digest
        self.store.wanted.add(digest)
        self.store.finished.append(Expirable(number, str(number), self.clock.wall_us(), len(content)))

    async def expire(self, numbers: list[int]) -> None:
        """As the engine does: once committed, nobody refers to the files."""
        self.steps.append(numbers)
        self.store.finished = [job for job in self.store.finished if job.number not in numbers]
        kept = {job.number for job in self.store.finished}
        self.store.wanted = {digest for number, digest in self._digests.items() if number in kept}

    def retention(self, *, keep_s: float = 0, bytes_max: int = 0) -> Retention:
        """With these limits."""
        store = self.store.as_store()
        return Retention(store, self.blobs, self.expire, keep_s=keep_s, bytes_max=bytes_max, clock=self.clock)


@pytest.fixture
def scene(blobs: BlobStore, store: StoreStandIn) -> Scene:
    """Nothing has finished."""
    return Scene(blobs, store)


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

    async def ignore(numbers: list[int]) -> None:
        asked.append(numbers)

    store = scene.store.as_store()
    await Retention(store, scene.blobs, ignore, keep_s=1, bytes_max=1, clock=scene.clock).look()
    assert asked == [[0, 1], [0, 1]]


async def test_it_looks_once_at_the_start_and_a_failure_does_not_end_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on until it is cancelled."""
    monkeypatch.setattr(retention_module, "LOOK_S", 0.01)
    calls: list[list[int]] = []

    async def broken(numbers: list[int]) -> None:
        calls.append(numbers)
        raise OSError("the disk fails")

    await scene.finish(1, b"one")
    scene.clock.advance(10)
    store = scene.store.as_store()
    running = asyncio.create_task(Retention(store, scene.blobs, broken, keep_s=1, bytes_max=0, clock=scene.clock).run())
    await eventually(lambda: len(calls) >= 2, "it tries again")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
