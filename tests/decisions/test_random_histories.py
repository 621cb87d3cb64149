"""Whatever happens in whatever order, decisions keep the live set true."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from coordinator.changes import Assigned
from coordinator.placement import obstacle
from tests.support.random_histories import NUMBERS, STEPS, RandomHistory
from tests.support.scene import check_invariants


class Histories(RuleBasedStateMachine):
    """Random submissions, stops, hellos, reports, losses and ticks."""

    def __init__(self) -> None:
        super().__init__()
        self.history = RandomHistory()

    @rule(number=NUMBERS)
    def submit(self, number: int) -> None:
        """One to three items, some with keys, pins and labels."""
        self.history.step("submit", number)

    @rule(number=NUMBERS)
    def join(self, number: int) -> None:
        """With an inventory that may be true or not, sometimes with amnesia."""
        self.history.step("join", number)

    @rule(number=NUMBERS)
    def ask(self, number: int) -> None:
        """A drain, its end, or a release from quarantine."""
        self.history.step("ask", number)

    @rule(number=NUMBERS)
    def leave(self, number: int) -> None:
        """With a goodbye or without."""
        self.history.step("leave", number)

    @rule(number=NUMBERS)
    def start(self, number: int) -> None:
        """Of any attempt there ever was, by its worker or another."""
        self.history.step("start", number)

    @rule(number=NUMBERS)
    def end(self, number: int) -> None:
        """With its log, without one, or with a log that follows."""
        self.history.step("end", number)

    @rule(number=NUMBERS)
    def come_back(self, number: int) -> None:
        """It never ran, or was refused."""
        self.history.step("return", number)

    @rule(number=NUMBERS)
    def survive(self, number: int) -> None:
        """Processes that cannot be ended."""
        self.history.step("survive", number)

    @rule(number=NUMBERS)
    def stop(self, number: int) -> None:
        """Any live job."""
        self.history.step("stop", number)

    @rule(number=NUMBERS)
    def tick(self, number: int) -> None:
        """A second, or long enough to be lost."""
        self.history.step("tick", number)

    @rule(number=NUMBERS)
    def store_log(self, number: int) -> None:
        """A piece of a log that trails its job."""
        self.history.step("store", number)

    @rule(number=NUMBERS)
    def drain(self, number: int) -> None:
        """On or off."""
        self.history.step("drain", number)

    @rule(number=NUMBERS)
    def place(self, number: int) -> None:
        """And nothing that was placed goes beyond what its worker takes."""
        scene = self.history.scene
        before = len(scene.history)
        self.history.step("place", number)
        changes = scene.history[before:]
        for change in changes:
            assert isinstance(change, Assigned)
            worker, wanted = scene.live.workers[change.worker], scene.live.jobs[change.number].placement.key
            assert worker.connected and not worker.draining
            assert wanted.pin in ("", worker.id)
            assert not wanted.slots or worker.slots_used <= worker.window(wanted)
        if not changes:  # nothing could go, so nobody would have taken anything
            for placement in scene.live.heads():
                assert all(obstacle(worker, placement.key) for worker in scene.live.workers.values())

    @invariant()
    def is_true(self) -> None:
        """See `check_invariants`."""
        check_invariants(self.history.scene.live)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seed", range(8))
def test_a_long_random_history_keeps_the_live_set_true(seed: int) -> None:
    """The same steps without a search for the shortest: thousands of them; the seed is in the test's name."""
    random, history = Random(seed), RandomHistory()
    for _ in range(2000):
        history.step(random.choice(STEPS), random.getrandbits(40))

    assert len(history.attempts) > 60, "nothing much happened"
