"""Signals that a coordinator has a worker pass on, and what the worker answers."""

import signal

from hostler.jobs import Work
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.whole_worker import Worker

CATCHES = Work(argv=sh("trap 'exit 7' USR1; echo up; while :; do sleep 0.01; done"))


async def test_a_signal_is_answered_for_when_the_supervisor_has_it(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Each by its number; for an attempt that does not run, that it was not passed on."""
    key = bench.key("a")
    coordinator.signal(1, key, signal.SIGUSR1)
    assert not await coordinator.signalled(1)

    coordinator.start(key, CATCHES)
    await eventually(lambda: coordinator.log(key) == "up\n", "output")
    coordinator.signal(2, key, signal.SIGUSR1)
    assert await coordinator.signalled(2)
    assert (await coordinator.over(key)).end.exit_code == 7

    coordinator.signal(3, key, signal.SIGUSR1)
    assert not await coordinator.signalled(3)


async def test_an_answer_is_not_said_on_the_next_stream(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """There its number would be another signal's."""
    await coordinator.go()
    await eventually(lambda: not worker.link.connected, "the stream to break")
    worker.agent.news.clear()
    worker.link._signalled[7] = True
    said = len(coordinator.messages)

    await coordinator.come()
    await eventually(lambda: worker.link.connected, "the next one")
    coordinator.signal(1, bench.key("a"), signal.SIGUSR1)

    assert not await coordinator.signalled(1)
    assert [s.number for message in coordinator.messages[said:] for s in message.signalled] == [1]
