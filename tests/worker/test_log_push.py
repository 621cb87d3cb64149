"""Logs on their way to a coordinator that cannot take them, and logs that cannot be read."""

from itertools import pairwise

import pytest

from hostler.jobs import Work
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.whole_worker import Worker

LONG = Work(argv=sh("head -c 20000 /dev/zero; exit 4"))


async def test_a_log_that_is_refused_is_pushed_again_after_a_growing_pause(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """A full disk at the coordinator costs a push now and then; when there is room the log arrives."""
    coordinator.has_room = False
    key = bench.key("a")
    coordinator.start(key, LONG)

    await eventually(lambda: len(coordinator.refused) >= 5, "five refusals")
    gaps = [later - before for before, later in pairwise(coordinator.refused)]
    coordinator.has_room = True
    await eventually(lambda: coordinator.log(key) == "\0" * 20000, "the log to arrive")

    assert all(gap > 0.05 for gap in gaps), gaps
    assert gaps[3] > 2 * gaps[0], gaps
    await eventually(lambda: key not in worker.agent.assignments.held, "the attempt to be let go")


async def test_a_log_that_cannot_be_read_costs_the_log_and_not_the_worker(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged segment: the end is told, the attempt is let go, and the stream stays up."""
    key = bench.key("a")
    place = worker.runner.ledgers.place

    def damage(key: str, segment: str, offset: int) -> None:
        place(key, segment, offset + 3)  # no border of a frame

    monkeypatch.setattr(worker.runner.ledgers, "place", damage)
    coordinator.start(key, LONG)

    report = await coordinator.over(key)

    assert report.end.exit_code == 4
    await eventually(lambda: key not in worker.agent.assignments.held, "the attempt to be let go")
    assert len(coordinator.hellos) == 1 and worker.link.connected
    assert coordinator.log(key) == ""


async def test_a_signal_that_this_host_does_not_know_is_passed_over(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Real-time signals are sent; the numbers that the C library keeps for itself cost nothing."""
    key = bench.key("a")
    coordinator.start(key, Work(argv=sh("sleep 60")))
    await coordinator.started(key)

    worker.agent.on_signal(key, 33)
    worker.agent.on_signal(key, 200)
    worker.agent.on_signal(key, 35)

    assert (await coordinator.over(key)).end.signal == "SIG35"
