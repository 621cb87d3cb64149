"""Logs on their way to a coordinator that cannot take them, and logs that cannot be read."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from hostler.jobs import Work
from hostler.v1 import types_pb2, workers_pb2
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.whole_worker import Worker
from worker_agent.agent import Agent
from worker_agent.journal import Journal
from worker_agent.log_push import FORGOTTEN_MAX, LogPush
from worker_agent.process_tree import boot_id

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


async def test_of_attempts_that_were_let_go_little_is_noted(tmp_path: Path) -> None:
    """Their end is acknowledged on the other stream: a stream that stays up for a year must not grow by it."""
    journal = Journal.open(tmp_path, boot_id())
    agent = Agent(journal, 2)
    push = LogPush(None, agent, "session")  # type: ignore[arg-type]
    held = agent.assignments.held
    jobs = [f"job{number}" for number in range(10 * FORGOTTEN_MAX)]

    class Call:
        async def read(self) -> Any:
            for gone in [key for key in held if key != "job0.0.1"]:
                del held[gone]
            if not jobs:
                return grpc.aio.EOF
            key = types_pb2.AttemptKey(job=jobs.pop(0), stage=0, attempt=1)
            agent.assignments.adopt(f"{key.job}.0.1", running=True, ended=None)
            return workers_pb2.LogReceipt(marks=[workers_pb2.LogMark(key=key, received=5, stored=5)])

    await push._listen(Call())
    journal.close()

    assert len(push._received) <= FORGOTTEN_MAX + 1
    assert push._received["job0.0.1"] == 5


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
