"""What must hold where workers are lost, drained or doubled; a part of the checker.

A job of the policy *stop* whose loss is concluded runs no more, and only then may another attempt follow. What no lease
can end is excused: a program whose supervisor is stopped, or was killed while its agent was dead or cut off too.
Two agents with one directory run attempts of which the other knows nothing: of jobs that such a worker had is asked
only that they end once and for all, and that the agents come under quarantine.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from coordinator.changes import (
    Assigned,
    Change,
    DrainAsked,
    Ended,
    JobQueued,
    LateEnd,
    Losses,
    Quarantined,
    Retried,
    StageEnded,
    WorkerSeen,
)
from hostler.lifecycle import Outcome
from hostler.wire.ends import end_from_bytes
from tests.simulation.programs import SimulatedProgram

if TYPE_CHECKING:
    from tests.simulation.checker import Checker
    from tests.simulation.nodes import AgentNode

GONE_CAUSES = frozenset({"lease", "host_restarted"})  # a job of the policy stop that is lost so runs no more
WAKING_S = 6.0  # for a supervisor that was stopped to end a program, with the longest grace there is
TURNS_MAX = 5  # of agents that speak for one worker, before they must have come under quarantine
TURNS_S = 60.0
# Not asked of jobs that a worker with two agents had.
NOT_ASKED = ("I2:", "I4:", "I5:", "I6:", "I7:")


class LossChecks:
    """Drains, quarantines, losses and what may follow them."""

    def __init__(self, checker: "Checker") -> None:
        self._checker = checker
        self._losses: dict[str, Losses] = {}  # by job
        self._names: dict[str, str] = {}  # of workers, by id
        self._places: dict[str, str] = {}  # attempt -> worker
        self._asked: set[str] = set()  # workers that somebody has ever drained
        self._drained: set[str] = set()  # those that are drained now
        self._quarantined: set[str] = set()
        self._retries: Counter[tuple[str, int]] = Counter()
        self._crashes: Counter[str] = Counter()
        self._again: Counter[tuple[str, int]] = Counter()  # attempts that may follow the first
        self._gone: set[str] = set()  # attempts that are known not to run any more
        self._speakers: dict[str, AgentNode] = {}  # who was heard last as a worker, by its name
        self._turns: dict[str, list[float]] = {}
        self.copied: set[str] = set()  # names of workers whose directory was copied
        self.doubled: set[str] = set()  # jobs that such a worker had

    # What is durable

    def take(self, change: Change) -> None:
        """A change has become durable; those of jobs are taken before the checker's own look at them."""
        fail = self._checker.fail
        if isinstance(change, JobQueued):
            self._losses[change.id] = change.losses
        elif isinstance(change, WorkerSeen):
            self._names[change.id] = change.name
            if change.session and change.id in self._quarantined:
                fail("rule 11", f"worker {change.name} is heard while it is quarantined")
        elif isinstance(change, Quarantined):
            self._take_quarantine(change)
        elif isinstance(change, DrainAsked):
            (self._drained.discard if change.drain is None else self._drained.add)(change.id)
            self._asked.add(change.id)
        elif isinstance(change, Assigned):
            self._take_assignment(change)
        elif isinstance(change, Retried):
            self._take_retry(change)
        elif isinstance(change, LateEnd):
            self._take_late_end(change)

    def _take_quarantine(self, change: Quarantined) -> None:
        if not change.reason:
            self._quarantined.discard(change.id)
            self.begin_anew()
            return
        self._quarantined.add(change.id)
        if self._names[change.id] not in self.copied:
            self._checker.fail("rule 11", f"worker {change.id} is quarantined and was never copied: {change.reason}")

    def _take_assignment(self, change: Assigned) -> None:
        worker = change.worker
        self._places[str(change.key)] = worker
        if worker in self._drained:
            self._checker.fail("rule 13", f"{change.key} is given to {worker}, which is drained")
        if worker in self._quarantined:
            self._checker.fail("rule 11", f"{change.key} is given to {worker}, which is quarantined")
        if self._names[worker] in self.copied:
            self.doubled.add(change.key.job)

    def _take_retry(self, change: Retried) -> None:
        fail, job, stage = self._checker.fail, change.key.job, (change.key.job, change.key.stage)
        losses = self._losses[job]
        self._again[stage] += 1
        self._retries[stage] += change.retries
        self._crashes[job] += change.crashes
        if self._retries[stage] > self._checker.jobs[change.number].retries:
            fail("I2", f"{change.key} is tried again for the {self._retries[stage]}th time")
        if change.crashes and (not losses.retry or self._crashes[job] >= losses.crash_limit):
            fail("rule 9", f"{change.key} is tried again after loss {self._crashes[job]} of {losses.crash_limit}")
        if change.cause == "drain":
            if change.crashes:
                fail("rule 9", f"the drain of {change.key} counts as a loss")
            if self._places[str(change.key)] not in self._asked:
                fail("rule 13", f"{change.key} was drained, and nobody asked for it")
        elif not change.retries and not change.crashes:
            fail("rule 9", f"{change.key} is tried again after {change.cause}, which counts as nothing")

    def _take_late_end(self, change: LateEnd) -> None:
        key = str(change.key)
        program = self._checker.programs.get(key)
        if key not in self._checker.settled:
            self._checker.fail("I3", f"a late end of {key}, which is not over")
        end = end_from_bytes(change.end)
        if end.started_at_us and not program and key not in self._checker.recorded:
            self._checker.fail("I6", f"a late end of {key}, which never started")
        elif end.cause == "exit" and program is not None and program.status != (end.exit_code or 0) << 8:
            self._checker.fail("I6", f"the late end of {key} is {end.exit_code}, and it ended with {program.status}")

    def concluded(self, job: str, change: "Ended | Retried | StageEnded") -> None:
        """An attempt is over: after that, what is *gone* does not run any more."""
        if isinstance(change, StageEnded):
            self._losses[job] = change.following.losses
            return
        is_gone = isinstance(change, Retried) or (change.outcome is Outcome.LOST and change.cause in GONE_CAUSES)
        if not is_gone or not self._losses[job].fence_s:
            return
        self._gone.add(str(change.key))
        for program in self._checker.alive.get(job, ()):
            if program.key == str(change.key) and not self._is_excused(program):
                self._checker.fail("I5", f"{program.key} is said to run no more ({change.cause}), and lives")

    # The truth

    def started(self, program: SimulatedProgram, count: int) -> None:
        """A program has been started; it is the *count*-th of its stage."""
        fail = self._checker.fail
        if count > 1 + self._again[program.job, program.stage]:
            fail("I2", f"stage {program.stage} of job {program.job} is started for the {count}th time")
        if program.key in self._gone:
            fail("I5", f"{program.key} starts, and was said not to run any more")
        for other in self._checker.alive[program.job]:
            if other is not program and not self._is_excused(other):
                fail("I5", f"{program.key} starts while {other.key} lives")

    def _is_excused(self, program: SimulatedProgram) -> bool:
        """Whether what should end it cannot."""
        process = program.shim.process
        woken_s = self._checker.world.loop.now - process.resumed_at
        return program.orphan or process.paused or woken_s < WAKING_S

    # Copies

    def copy_made(self, name: str) -> None:
        """From now on two agents may speak for this worker."""
        self.copied.add(name)
        known = [key for key, worker in self._places.items() if self._names[worker] == name]
        self.doubled.update(key.partition(".")[0] for key in known)

    def connected(self, node: "AgentNode") -> None:
        """An agent is heard as a worker."""
        name, now = node.settings.name, self._checker.world.loop.now
        before = self._speakers.get(name)
        self._speakers[name] = node
        if before in (None, node):
            return
        turns = self._turns[name] = [at for at in self._turns.get(name, []) if now - at < TURNS_S] + [now]
        if len(turns) > TURNS_MAX:
            self._checker.fail("rule 11", f"agents of worker {name} took turns {len(turns)} times")

    def begin_anew(self) -> None:
        """What is known of agents that take turns goes with a coordinator, a boot, and the end of a quarantine."""
        self._turns.clear()
        self._speakers.clear()

    def is_asked(self, text: str) -> bool:
        """Whether a contradiction counts."""
        return not text.startswith(NOT_ASKED) or not any(job in text for job in self.doubled)


def spoken(changes: Any) -> Counter[str]:
    """How often each kind of change was made; a retry by its cause."""
    return Counter(f"Retried {c.cause}" if isinstance(c, Retried) else type(c).__name__ for c in changes)
