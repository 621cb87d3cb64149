"""Anything that can happen to a coordinator, in any order: each step is a word and a few numbers.

The workers here are free to say what they like: they report attempts that are not theirs, forget,
contradict themselves and come back as others. Decisions must stay true through all of it.
"""

from collections.abc import Callable

from hypothesis import strategies as st

from coordinator.changes import (
    KEEP,
    Assigned,
    Drain,
    Ended,
    LateEnd,
    LogStored,
    Losses,
    Retried,
    Started,
    WorkerDraining,
)
from coordinator.decisions import Decision
from coordinator.drains import on_drain, on_release, on_resume
from coordinator.events import Report
from hostler.ids import AttemptKey
from hostler.lifecycle import ON_A_WORKER
from tests.support.builders import NOON_US, W1, W2, W3, a_report, a_submission, ended, never_ran, some_frames, started
from tests.support.scene import Scene, check_invariants

WORKERS = (W1, W2, W3)
LOSSES = (KEEP, KEEP, Losses(fence_s=12.0, retry=True, crash_limit=2), Losses(lost_after_s=5.0))
LABELS = ((), (), (), (("zone", "a"),))
OF_WORKERS = ("join", "leave", "start", "end", "return", "survive", "store", "drain")
STEPS = ("submit", "stop", "tick", "ask", "place", *OF_WORKERS)
NUMBERS = st.integers(0, (1 << 40) - 1)
STEP = st.tuples(st.sampled_from(STEPS), NUMBERS)
HISTORIES = st.lists(STEP, min_size=1, max_size=60)
INVENTORY_STATES = ("waiting", "running", "ended")


class Digits:
    """Small choices out of one large number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def below(self, limit: int) -> int:
        """The next choice, from 0 to below *limit*."""
        self._number, choice = divmod(self._number, limit)
        return choice


class RandomHistory:
    """Drives a scene step by step and checks what must hold after each."""

    def __init__(self) -> None:
        self.scene = Scene(max_queued=12, lost_after_s=60.0)
        self.attempts: list[AttemptKey] = []  # every one there ever was
        self.sessions = 0
        self.submitted = 0
        self._checked = 0
        self._started: set[str] = set()
        self._retried: dict[int, int] = {}
        self._outcomes: dict[int, object] = {}
        self._steps: dict[str, Callable[[Digits], None]] = {
            "submit": self._submit,
            "join": self._join,
            "leave": self._leave,
            "start": self._start,
            "end": self._end,
            "return": self._return,
            "survive": self._survive,
            "stop": self._stop,
            "tick": self._tick,
            "store": self._store,
            "drain": self._drain,
            "ask": self._ask,
            "place": self._place,
        }

    def step(self, word: str, number: int) -> None:
        """Let one thing happen, and check."""
        self._steps[word](Digits(number))
        self._check()

    # What happens

    def _submit(self, of: Digits) -> None:
        items = []
        for _ in range(1 + of.below(3)):
            self.submitted += 1
            key = ("", "k1", "k2")[of.below(3)]
            items.append(
                a_submission(
                    self.submitted,
                    key=key,
                    digest=b"d%d" % of.below(2) if key else b"",
                    pin=("", "", "", *WORKERS)[of.below(6)],
                    labels=LABELS[of.below(4)],
                    priority=(0, 1, -1)[of.below(3)],
                    slots=(1, 1, 2, 0)[of.below(4)],
                    work=b"w" * (1 + 1500 * of.below(2)),
                    retries=(0, 0, 1, 3)[of.below(4)],
                    losses=LOSSES[of.below(4)],
                )
            )
        self.scene.submit(*items, placing=not of.below(2))

    def _join(self, of: Digits) -> None:
        self.sessions += 1
        worker = WORKERS[of.below(3)]
        known = self.scene.live.workers.get(worker)
        inventory = {}
        for key in known.held if known else ():
            if of.below(4) < 3:
                inventory[key] = INVENTORY_STATES[of.below(3)]
        if self.attempts and of.below(2):
            inventory[self._attempt(of)] = INVENTORY_STATES[of.below(3)]
        amnesia = of.below(8) == 7
        self.scene.join(
            worker,
            session=f"session-{self.sessions}",
            slots=(3, 2, 1, 4)[of.below(4)],
            labels=LABELS[of.below(4)],
            mark=max(0, (known.sequence if known else 0) - (0, 1, 2, -1)[of.below(4)]),
            boot_id=f"boot-{self.sessions}" if amnesia else (known.boot_id if known else "boot-0"),
            generation=known.generation + (0, 1, 1, 1, 1, -1)[of.below(6)] if known else 1,
            instance=(known.instance if known else "") or "one" if of.below(8) else f"instance-{self.sessions}",
            inventory=tuple(inventory.items()),
        )

    def _leave(self, of: Digits) -> None:
        worker = self.scene.live.workers.get(WORKERS[of.below(3)])
        if worker is not None:
            session = worker.session if of.below(8) < 7 else "older"
            before = len(self.scene.history)
            self.scene.leave(worker.id, goodbye=bool(of.below(2)), session=session)
            assert session != "older" or len(self.scene.history) == before, "an older stream spoke for its worker"

    def _attempt(self, of: Digits) -> AttemptKey:
        return self.attempts[-1 - of.below(min(8, len(self.attempts)))]

    def _speaker(self, key: AttemptKey, of: Digits) -> str:
        job = self.scene.live.job(key.job)
        return job.worker if job is not None and job.worker and of.below(6) < 5 else WORKERS[of.below(3)]

    def _say(self, report: Report, of: Digits) -> None:
        """A worker's word moves its own current attempt, or nothing."""
        key, live = report.key, self.scene.live
        worker, job = self._speaker(key, of), live.job(key.job)
        its_own = job is not None and job.state in ON_A_WORKER and (job.worker, job.attempt_key) == (worker, key)
        before = len(self.scene.history)
        self.scene.say(report, worker)
        moved = [change for change in self.scene.history[before:] if not isinstance(change, LateEnd)]
        assert its_own or not moved, f"{worker} moved {key}"

    def _start(self, of: Digits) -> None:
        if self.attempts:
            key = self._attempt(of)
            self._say(started(key), of)

    def _end(self, of: Digits) -> None:
        if not self.attempts:
            return
        key = self._attempt(of)
        ledger = some_frames(b"x" * (1 + of.below(9)))
        end_us = NOON_US + 1 + of.below(1 << 10)
        cause = ("exit", "stop", "signal")[of.below(3)]
        with_ledger = of.below(3)
        if with_ledger == 0:
            report = ended(key, ended_at_us=end_us, cause=cause)
        elif with_ledger == 1:
            report = ended(key, ended_at_us=end_us, ledger=ledger)
        else:
            report = ended(key, ended_at_us=end_us, ledger_bytes=len(ledger))
        self._say(report, of)

    def _return(self, of: Digits) -> None:
        if self.attempts:
            key = self._attempt(of)
            refusal = of.below(3)
            self._say(never_ran(key, ("", "no", "no")[refusal])._replace(elsewhere=refusal == 2), of)

    def _survive(self, of: Digits) -> None:
        if self.attempts:
            key = self._attempt(of)
            survivors = tuple((7 + pid, "stuck") for pid in range(of.below(3)))
            report = a_report(key, started_at_us=NOON_US * of.below(2), survivors=survivors)
            self._say(report, of)

    def _stop(self, of: Digits) -> None:
        jobs = list(self.scene.live.numbers)
        if jobs:
            self.scene.stop(jobs[of.below(len(jobs))], grace_s=float(of.below(3)))

    def _tick(self, of: Digits) -> None:
        self.scene.wait((1.0, 20.0, 61.0, 5.0)[of.below(4)])
        self.scene.tick()

    def _store(self, of: Digits) -> None:
        trailing = list(self.scene.live.trailing.values())
        if trailing:
            log = trailing[of.below(len(trailing))]
            end = log.ledger_bytes if of.below(2) else min(log.log_position + 7, log.ledger_bytes)
            self.scene.apply(LogStored(log.number, log.key, (), end, end - log.log_position, log.past))

    def _drain(self, of: Digits) -> None:
        worker = WORKERS[of.below(3)]
        if worker in self.scene.live.workers:
            self.scene.apply(WorkerDraining(worker, bool(of.below(2))))

    def _ask(self, of: Digits) -> None:
        """Somebody drains a worker, takes that back, or releases it from quarantine."""
        live, worker = self.scene.live, WORKERS[of.below(3)]
        if worker not in live.workers:
            return
        asked = of.below(8)
        if asked == 0:
            drain = Drain(by_us=self.scene.now.wall_us + 10_000_000 * of.below(2), leave=bool(of.below(2)))
            decided = on_drain(live, worker, drain, None)
        elif asked < 4:
            decided = on_resume(live, worker, None)
        else:
            decided = on_release(live, worker, None)
        self.scene.do(Decision(*decided))

    def _place(self, of: Digits) -> None:
        self.scene.place(limit=8 - of.below(8))

    # What must hold

    def _check(self) -> None:
        live = self.scene.live
        check_invariants(live)
        for change in self.scene.history[self._checked :]:
            if isinstance(change, Assigned):
                self.attempts.append(change.key)
                assert change.key.job not in self._started, "a job that was started was given away again"
            elif isinstance(change, Started):
                self._started.add(change.key.job)
            elif isinstance(change, Retried):
                self._started.discard(change.key.job)
                self._retried[change.number] = self._retried.get(change.number, 0) + change.retries
            elif isinstance(change, Ended):
                assert change.number not in self._outcomes, "a final outcome was written twice"
                self._outcomes[change.number] = change.outcome
        self._checked = len(self.scene.history)
        assert live.queued <= self.scene.max_queued + len(self.attempts)
        for number, outcome in self._outcomes.items():
            assert number not in live.jobs, f"a job that ended {outcome} is live"
        for number, count in self._retried.items():
            job = live.jobs.get(number)
            assert job is None or count == job.retried <= job.retries
