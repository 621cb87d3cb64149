"""A worker that had better take no new work says so, and why; and takes work again when the reason is over."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostler.jobs import EndedProcess, Work
from hostler.v1 import workers_pb2
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.whole_worker import Worker
from worker_agent import agent as agent_module
from worker_agent.attempt_events import Unkillable
from worker_agent.draining import DiskRoom, Draining
from worker_agent.shim_link import LinkLost

MIB = 1024 * 1024


@pytest.fixture
def disk(place: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    made = place / "disk"
    made.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(made)], check=True, timeout=20)
    yield made
    subprocess.run(["umount", "--lazy", str(made)], check=True, timeout=20)


def fill(disk: Path, size_bytes: int) -> Path:
    """Take so much of the disk."""
    file = disk / "filler"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(fd, 0, size_bytes)
    os.close(fd)
    return file


async def says(coordinator: FakeCoordinator, reason: str, *, draining: bool = True) -> workers_pb2.WorkerMessage:
    """Wait for a word of the worker about its draining."""

    def look() -> workers_pb2.WorkerMessage | None:
        last = coordinator.messages[-1] if coordinator.messages else None
        return last if last is not None and last.draining is draining and reason in last.draining_reason else None

    return await eventually(look, f"the worker to say {reason!r}")


def test_reasons_come_and_go_by_themselves() -> None:
    """The last to go ends it."""
    draining = Draining()
    assert not draining and draining.reason == ""
    assert draining.begin("a", "one") and draining.begin("b", "two") and not draining.begin("a", "one still")
    assert draining.reason == "one still; two"
    assert draining.end("a") and not draining.end("a")
    assert draining
    assert draining.end("b")
    assert not draining


def test_many_reasons_are_counted() -> None:
    """Nobody reads a hundred of them."""
    draining = Draining()
    for number in range(10):
        draining.begin(str(number), f"r{number}")
    assert draining.reason == "r0; r1; r2; and 7 more"


def test_room_must_be_more_than_the_reserve_before_work_is_taken_again(disk: Path) -> None:
    """So that a disk at the border does not turn it on and off."""
    room = DiskRoom(disk, 4 * MIB)
    assert room.problem() == ""
    fill(disk, 5 * MIB)
    assert "less than the reserve of 4 MiB" in room.problem()
    (disk / "filler").unlink()
    fill(disk, 3 * MIB + MIB // 2)
    assert room.problem(), "4.5 MiB are less than 5"
    (disk / "filler").unlink()
    assert room.problem() == ""
    assert DiskRoom(disk / "absent", 1).problem() == ""


async def test_a_tree_that_cannot_be_killed_drains_its_worker_until_it_is_gone(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """With the pids; what waited is given back, and work is taken again afterwards."""
    stuck, waits, late, after = (bench.key(name) for name in ("stuck", "waits", "late", "after"))
    for key in (stuck, bench.key("other")):
        coordinator.start(key, Work(argv=sh("sleep 60")))
        await coordinator.started(key)
    coordinator.start(waits, Work(argv=sh("true")))
    await eventually(lambda: worker.agent.assignments.held.get(waits), "the third to wait")

    worker.agent.on_event(Unkillable(stuck, (EndedProcess(pid=4711, name="stuck"),)))

    message = await says(coordinator, f"processes of attempt {stuck} cannot be killed: 4711")
    assert message.draining
    assert (await coordinator.over(waits)).never_ran
    assert [each.pid for report in coordinator.reports(stuck) for each in report.survivors] == [4711]
    coordinator.start(late, Work(argv=sh("true")))
    assert (await coordinator.over(late)).never_ran

    coordinator.stop(stuck)
    assert (await coordinator.over(stuck)).HasField("end")
    await says(coordinator, "", draining=False)
    coordinator.start(after, Work(argv=sh("true")))
    assert (await coordinator.over(after)).end.exit_code == 0


async def test_with_little_room_on_its_disk_a_worker_takes_no_work(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs goes on; what comes is given back; with room again it takes work."""
    monkeypatch.setattr(agent_module, "SAMPLE_S", 0.1)
    monkeypatch.setattr(worker.agent, "_disk", DiskRoom(disk, 4 * MIB))
    worker.running.append(asyncio.create_task(worker.agent.keep_sampling()))
    runs, late, after = (bench.key(name) for name in ("runs", "late", "after"))
    coordinator.start(runs, Work(argv=sh(f"while [ ! -e {bench.place}/go ]; do sleep 0.05; done; exit 5")))
    await coordinator.started(runs)

    fill(disk, 6 * MIB)
    assert (await says(coordinator, "less than the reserve of 4 MiB")).disk_full
    coordinator.start(late, Work(argv=sh("true")))
    assert (await coordinator.over(late)).never_ran
    (bench.place / "go").touch()
    assert (await coordinator.over(runs)).end.exit_code == 5

    (disk / "filler").unlink()
    await says(coordinator, "", draining=False)
    coordinator.start(after, Work(argv=sh("true")))
    assert (await coordinator.over(after)).end.exit_code == 0


async def test_what_no_process_could_be_made_for_on_a_full_disk_is_for_another_worker(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was accepted with room, which then was gone: its shims die, it never ran, and that is no fault of the job."""
    monkeypatch.setattr(worker.agent, "_disk", DiskRoom(disk, 4 * MIB))
    full, room = bench.key("full"), bench.key("room")

    async def dies(*_: object) -> None:
        fill(disk, 6 * MIB)
        raise LinkLost("shim 1 closed the connection")

    monkeypatch.setattr(worker.agent._runner._launcher, "make", dies)
    coordinator.start(full, Work(argv=sh("true")))
    assert (await coordinator.over(full)).never_ran

    (disk / "filler").unlink()
    monkeypatch.setattr(worker.agent, "_disk", None)
    worker.agent._undrain(agent_module._DISK)
    coordinator.start(room, Work(argv=sh("true")))
    assert (await coordinator.over(room)).end.cause == "not_started", "with room it is a failure that is told"


async def test_a_goodbye_is_the_last_word(worker: Worker, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind it the coordinator reads nothing: reports that need several messages go before it."""
    said: list[workers_pb2.WorkerMessage] = []
    over = asyncio.Event()

    class Call:
        async def write(self, message: workers_pb2.WorkerMessage) -> None:
            said.append(message)

        async def done_writing(self) -> None:
            over.set()

    for running in worker.running:
        running.cancel()
    await asyncio.gather(*worker.running, return_exceptions=True)
    for number in range(450):
        worker.agent.assignments.prove_never_ran(bench.key(f"n{number}"))
    worker.agent.news.set()
    worker.link._leaving.set()
    call: Any = Call()
    speaking = asyncio.create_task(worker.link._speak(call))
    try:
        async with asyncio.timeout(20):
            await over.wait()
    finally:
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)

    assert [message.HasField("goodbye") for message in said] == [False, False, True]
    assert sum(len(message.reports) for message in said) == 450
