"""The engine without its store and loop: decisions are applied to a live set at once, and effects are kept."""

from collections.abc import Sequence
from typing import Any, TypeVar

from coordinator import decisions
from coordinator.capacity import Worker
from coordinator.changes import Change
from coordinator.decisions import Decision, Submission
from coordinator.effects import AttachSession, Effect, SendStart
from coordinator.events import Report
from coordinator.instant import Instant
from coordinator.live import Job, Live
from coordinator.placement import place
from coordinator.refusals import never_taken
from hostler.errors import HostlerError
from hostler.ids import AttemptKey
from hostler.lifecycle import ON_A_WORKER, State
from tests.support.builders import NOON, W1, a_hello, a_submission, ended, later, started

E = TypeVar("E")


class Scene:
    """A live set, its history, and an hour hand."""

    def __init__(self, *, max_queued: int = 1000, lost_after_s: float = 600.0) -> None:
        self.live = Live()
        self.now: Instant = NOON
        self.history: list[Change] = []
        self.max_queued = max_queued
        self.lost_after_s = lost_after_s
        self._numbers = 0

    def do(self, decision: Decision, *, placing: bool = True) -> list[Effect]:
        """Apply a decision and place what can be placed, as the engine does at the end of a batch."""
        for change in decision.changes:
            self.apply(change)
        effects = list(decision.effects)
        if placing:
            effects += self.place()
        return effects

    def apply(self, change: Change) -> None:
        """Make a change true and remember it."""
        self.live.apply(change)
        self.history.append(change)

    def place(self, limit: int = 1000) -> list[SendStart]:
        """Assign what can be assigned; returns the commands, in order."""
        sent: list[SendStart] = []

        def assign(job: Job, worker: Worker, why: str) -> None:
            change, effect = decisions.assignment(job, worker, self.now, why)
            self.apply(change)
            sent.append(effect)

        place(self.live, assign, limit=limit)
        for change in list(never_taken(self.live, self.now, limit=limit)):
            self.apply(change)
        return sent

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now = later(seconds, self.now)

    # What happens

    def submit(self, *items: Submission, placing: bool = True) -> list[str | HostlerError]:
        """Submit items; the answer has one result for each."""
        decision = decisions.on_submit(self.live, items, None, self.now, max_queued=self.max_queued)
        (answer,) = decision.effects
        self.do(decision, placing=placing)
        results: list[str | HostlerError] = answer.value  # type: ignore[union-attr]
        return results

    def queue(self, count: int = 1, *, placing: bool = False, **changes: Any) -> list[str]:
        """Submit so many like jobs with new ids; they are not placed unless asked."""
        items = [a_submission(self._numbers + place, **changes) for place in range(1, count + 1)]
        self._numbers += count
        ids = self.submit(*items, placing=placing)
        assert all(isinstance(found, str) for found in ids), ids
        return [str(found) for found in ids]

    def join(self, worker: str = W1, *, placing: bool = False, **changes: Any) -> list[Effect]:
        """A worker introduces itself."""
        return self.do(decisions.on_hello(self.live, a_hello(worker, **changes), None, self.now), placing=placing)

    def leave(self, worker: str = W1, *, goodbye: bool = False, session: str = "session-1") -> list[Effect]:
        """A worker's stream ends."""
        return self.do(decisions.on_worker_left(self.live, worker, session, goodbye, self.now), placing=False)

    def say(self, report: Report, worker: str = W1, *, placing: bool = False) -> list[Effect]:
        """A worker reports."""
        return self.do(decisions.on_report(self.live, worker, report, self.now), placing=placing)

    def stop(self, job: str, grace_s: float = -1.0) -> list[Effect]:
        """Somebody asks for the end of a job."""
        return self.do(decisions.on_stop(self.live, job, grace_s, "ada", None, self.now), placing=False)

    def tick(self) -> list[Effect]:
        """A second has passed; the engine looks at its deadlines."""
        return self.do(
            decisions.on_tick(self.live, self.now, lost_after=lambda _: self.lost_after_s, lease_s=8.0), placing=False
        )

    # Shorter stories

    def assigned(self, **changes: Any) -> AttemptKey:
        """A job that worker 1 was told to run; the worker joins first when it is not there."""
        if W1 not in self.live.workers:
            self.join()
        (job,) = self.queue(**changes)
        self.place()
        assert self.job(job).state is State.ASSIGNED
        return self.job(job).attempt_key

    def running(self, **changes: Any) -> AttemptKey:
        """A job whose program runs on worker 1."""
        key = self.assigned(**changes)
        self.say(started(key))
        return key

    def trailing(self, ledger_bytes: int = 5000) -> AttemptKey:
        """A finished job of worker 1 whose log has not arrived."""
        key = self.running()
        self.say(ended(key, ledger_bytes=ledger_bytes))
        return key

    # What is seen

    def job(self, job_id: str) -> Job:
        """A job that is live."""
        found = self.live.job(job_id)
        assert found is not None, f"{job_id} is not live"
        return found

    def worker(self, worker: str = W1) -> Worker:
        """A known worker."""
        return self.live.workers[worker]

    def last(self, kind: type[E]) -> E:
        """The latest change of a kind."""
        return next(change for change in reversed(self.history) if isinstance(change, kind))


def only(effects: Sequence[Effect], kind: type[E]) -> list[E]:
    """The effects of one kind, in order."""
    return [effect for effect in effects if isinstance(effect, kind)]


def verdicts(effects: Sequence[Effect]) -> dict[AttemptKey, str]:
    """The verdicts of a welcome."""
    (attached,) = only(effects, AttachSession)
    return {key: kind for key, kind, _ in attached.verdicts}


def check_invariants(live: Live) -> None:
    """What holds after every change, whatever happened."""
    waiting: dict[object, int] = {}
    held: dict[AttemptKey, int] = {}
    for number, job in live.jobs.items():
        assert live.numbers[job.id] == number
        assert job.state is not State.FINISHED, "a job that is over has left"
        if number in live.delayed:
            assert job.state is State.QUEUED and job.due_at_us
            continue
        if job.state is State.QUEUED:
            waiting[job.placement.key] = waiting.get(job.placement.key, 0) + 1
            assert live.classes[job.placement.key] is job.placement, "a waiting job is in a queue nobody looks at"
            assert (-job.priority, number) in job.placement.heap
            assert job.worker == ""
        if job.state in ON_A_WORKER:
            held[job.attempt_key] = number
            assert live.workers[job.worker].held[job.attempt_key] == number
    for key, log in live.trailing.items():
        assert log.key == key and log.log_position < log.ledger_bytes
    assert live.queued == sum(waiting.values()) + len(live.delayed)
    assert {key: found.waiting for key, found in live.classes.items()} == waiting
    assert len(live.numbers) == len(live.jobs)
    assert sum(len(worker.held) for worker in live.workers.values()) == len(held), "an attempt is held twice"
    for pair, number in live.keys.items():
        assert (live.jobs[number].owner, live.jobs[number].key) == pair
    for worker in live.workers.values():
        used = sum(live.jobs[number].placement.key.slots for number in worker.held.values())
        assert worker.slots_used == used
        assert worker.connected == bool(worker.session)
