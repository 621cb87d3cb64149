"""The invariants, checked whenever something becomes durable, a program starts or ends, or somebody is told something.

The numbers are those of the invariants of the project's reliability rules:
I1 nothing acknowledged is lost, and everything ends; I2 no attempt starts twice, no job more often than allowed;
I3 what is final never changes; I4 nothing of a job lives once its end is said; I5 one living tree per job;
I6 a reported end is the true end; I7 a log is what the program wrote; I9 one key, one job; I10 slots are respected;
I11 epochs and sequences only grow; I12 nothing is left behind.
"""

import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator.changes import (
    Assigned,
    Change,
    Ended,
    JobQueued,
    LogStored,
    Retried,
    Returned,
    StageEnded,
    Started,
    StopRequested,
)
from hostler.ids import AttemptKey
from hostler.lifecycle import Outcome
from tests.simulation.losses import LossChecks, spoken
from tests.simulation.programs import SimulatedProgram, Truth

if TYPE_CHECKING:
    from tests.simulation.world import World


class Violation(Exception):
    """An invariant does not hold."""


@dataclass(slots=True)
class JobFacts:
    """What is durable about a job."""

    id: str
    queued: JobQueued
    current: AttemptKey | None = None  # the attempt that is on a worker
    retries: int = 0
    final: Ended | None = None
    stop_at: float | None = None


@dataclass(slots=True)
class Checker:
    """Keeps what is durable and what is true, and compares the two."""

    world: "World"
    jobs: dict[int, JobFacts] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    keys: dict[tuple[str, str], int] = field(default_factory=dict)
    assigned: dict[str, AttemptKey] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    starts: dict[str, list[Truth]] = field(default_factory=dict)
    stage_starts: dict[tuple[str, int], int] = field(default_factory=dict)  # (job, stage) -> how often it was started
    programs: dict[str, SimulatedProgram] = field(default_factory=dict)  # by attempt
    alive: dict[str, list[SimulatedProgram]] = field(default_factory=dict)  # by job
    never_ran: dict[str, str] = field(default_factory=dict)  # attempt -> who said so
    settled: set[str] = field(default_factory=set)  # attempts that are over, durably
    recorded: set[str] = field(default_factory=set)  # attempts whose shim was killed between the record and the start
    unknown_logs: set[str] = field(default_factory=set)  # of attempts whose end nobody had seen
    log_positions: dict[str, int] = field(default_factory=dict)
    checks: int = 0
    commits: Counter[str] = field(default_factory=Counter)
    losses: LossChecks = field(init=False)

    def __post_init__(self) -> None:
        """See `losses`."""
        self.losses = LossChecks(self)

    def fail(self, invariant: str, text: str) -> None:
        """An invariant does not hold: this run is over."""
        self.world.failed(f"{invariant}: {text}")

    # Durable facts

    def opened(self, epoch: int) -> None:
        """A coordinator has opened the store."""
        if epoch <= self.epoch:
            self.fail("I11", f"epoch {epoch} after {self.epoch}")
        self.epoch = epoch

    def committed(self, epoch: int, changes: Any) -> None:
        """A commit has just become durable."""
        if changes and epoch != self.epoch:
            self.fail("I11", f"a commit of epoch {epoch}, and the epoch is {self.epoch}")
        self.commits += spoken(changes)
        for change in changes:
            self.checks += 1
            self.losses.take(change)
            self._take(change)

    def _take(self, change: Change) -> None:
        if isinstance(change, JobQueued):
            self._queued(change)
            return
        number = getattr(change, "number", None)
        if isinstance(change, LogStored):
            held = self.log_positions.get(str(change.key), 0)
            if change.position < held or (change.extents and change.extents[0].position != held):
                self.fail("I7", f"the log of {change.key} goes from {held} to {change.position}")
            self.log_positions[str(change.key)] = change.position
            return
        if not isinstance(change, Assigned | Returned | Started | StopRequested | Ended | Retried | StageEnded):
            return
        assert number is not None
        job = self.jobs[number]
        if job.final is not None:
            self.fail("I3", f"{type(change).__name__} of job {job.id}, which is final")
        if isinstance(change, Assigned):
            self._assigned(job, change)
        elif isinstance(change, Started):
            if str(change.key) not in self.starts and str(change.key) not in self.recorded:
                self.fail("I6", f"{change.key} is reported as started and never was")
        elif isinstance(change, StopRequested):
            job.stop_at = self.world.loop.now
        else:
            self._over(job, change)

    def _queued(self, change: JobQueued) -> None:
        if change.number in self.jobs or change.id in self.numbers:
            self.fail("I3", f"job {change.number} is queued twice")
        self.jobs[change.number] = JobFacts(change.id, change, retries=change.retries)
        self.numbers[change.id] = change.number
        if change.key:
            pair = (change.owner, change.key)
            if pair in self.keys:
                self.fail("I9", f"two jobs for the key {change.key}")
            self.keys[pair] = change.number

    def _assigned(self, job: JobFacts, change: Assigned) -> None:
        if change.sequence <= self.sequences.get(change.worker, 0):
            self.fail("I11", f"sequence {change.sequence} of worker {change.worker} is not above the last")
        self.sequences[change.worker] = change.sequence
        if job.current is not None:
            self.fail("I5", f"{change.key} is assigned while {job.current} is on a worker")
        if str(change.key) in self.assigned:
            self.fail("I2", f"{change.key} is assigned twice")
        self.assigned[str(change.key)] = change.key
        job.current = change.key

    def _over(self, job: JobFacts, change: "Returned | Ended | Retried | StageEnded") -> None:
        key = str(change.key)
        was_settled = key in self.settled  # a job that waits for another attempt is named by the one before
        self.settled.add(key)
        program = self.programs.get(key)
        outcome = change.outcome if isinstance(change, Ended | Retried) else Outcome.NONE
        said_dead = isinstance(change, Ended) and change.cause == "supervisor_died"
        if said_dead and program is not None and not program.orphan:
            # A worker that says this of an attempt whose shim lives would have forgotten it.
            self.fail("I6", f"the shim of {key} is said to have died, and lives")
        if isinstance(change, Returned):
            self._claim_never_ran(key, f"returned ({change.reason})")
        elif outcome is not Outcome.LOST:
            # Of the one that is lost it is said that it may still run.
            if self.alive.get(job.id):
                self.fail("I4", f"{type(change).__name__} of {key}, and its program lives")
            if was_settled:
                pass
            elif change.started_at_us == 0:
                self._claim_never_ran(key, f"ended {outcome.word} without a start")
            else:
                self._compare_end(key, program, change)
        if not isinstance(change, Returned):
            self.losses.concluded(job.id, change)
        if isinstance(change, Ended | Retried) and change.ledger_bytes < 0:
            self.unknown_logs.add(key)
        if isinstance(change, Ended):
            job.final = change
        if isinstance(change, StageEnded):
            job.retries = change.following.retries
        job.current = None

    def _claim_never_ran(self, key: str, who: str) -> None:
        self.never_ran[key] = who
        if key in self.starts:
            self.fail("I6", f"{key} ran, and is said never to have run: {who}")

    def _compare_end(self, key: str, program: SimulatedProgram | None, change: Any) -> None:
        if program is None:
            self.fail("I6", f"the end of {key} is reported, and it never started")
            return
        if isinstance(change, StageEnded):
            said: tuple[int | None, str] = (0, "")
        elif isinstance(change, Ended):
            said = (change.exit_code, change.signal)
        else:
            return
        status = program.status
        if status is None:
            self.fail("I6", f"the end of {key} is reported, and its program has not ended")
            return
        if os.WIFSIGNALED(status):
            true: tuple[int | None, str] = (None, signal.Signals(os.WTERMSIG(status)).name)
        else:
            true = (os.waitstatus_to_exitcode(status), "")
        if said != true:
            self.fail("I6", f"{key} ended with {true}, reported is {said}")

    # The truth

    def program_started(self, program: SimulatedProgram, truth: Truth) -> None:
        """A program has just been started."""
        self.checks += 1
        key = program.key
        self.starts.setdefault(key, []).append(truth)
        self.programs[key] = program
        self.alive.setdefault(program.job, []).append(program)
        if len(self.starts[key]) > 1:
            self.fail("I2", f"{key} was started twice")
        if key not in self.assigned:
            self.fail("I1", f"{key} was started before its assignment was durable")
            return
        if key in self.never_ran:
            self.fail("I6", f"{key} starts, and was said never to run: {self.never_ran[key]}")
        job = self.jobs[self.numbers[program.job]]
        if job.final is not None and job.final.outcome is not Outcome.LOST:
            self.fail("I4", f"{key} starts after the job's end was said")
        stage = (program.job, program.stage)
        count = self.stage_starts[stage] = self.stage_starts.get(stage, 0) + 1
        self.losses.started(program, count)
        self._check_slots(program)

    def _check_slots(self, program: SimulatedProgram) -> None:
        if program.host.worker in self.losses.copied:
            return
        running = 0
        for other in program.host.programs:
            job = self.jobs[self.numbers[other.job]]
            if job.current is not None and str(job.current) == other.key:
                running += job.queued.slots
        if running > self.world.slots:
            self.fail("I10", f"{running} slots are taken on {program.host.name}, which has {self.world.slots}")

    def program_ended(self, program: SimulatedProgram) -> None:
        """A process of a program has ended."""
        living = self.alive.get(program.job, [])
        if not program.alive and program in living:
            living.remove(program)

    # What somebody is told

    def told_accepted(self, job_id: str, owner: str, key: str) -> None:
        """A client has an id."""
        if job_id not in self.numbers:
            self.fail("I1", f"job {job_id} is acknowledged and not durable")
        elif key and self.keys.get((owner, key)) != self.numbers[job_id]:
            self.fail("I9", f"the key {key} is answered with another job")

    def told_finished(self, job_id: str, outcome: Outcome) -> None:
        """A client is told that a job is over."""
        job = self.jobs[self.numbers[job_id]]
        if job.final is None:
            self.fail("I3", f"job {job_id} is said to be over, and is not, durably")
        elif job.final.outcome is not outcome:
            self.fail("I3", f"job {job_id} is said to have {outcome.word}, it {job.final.outcome.word}")
        elif outcome is not Outcome.LOST and self.alive.get(job_id):
            self.fail("I4", f"job {job_id} is said to be over, and its program lives")

    def told_started(self, job_id: str) -> None:
        """A client is told that a program runs, or ran."""
        facts = self.jobs[self.numbers[job_id]]
        if facts.final is None and not any(job == job_id for job, _ in self.stage_starts):
            self.fail("I6", f"job {job_id} is said to run and was never started")

    def told_acknowledged(self, key: str) -> None:
        """An agent is told that it may forget an end."""
        attempt = AttemptKey.parse(key)
        number = self.numbers.get(attempt.job)
        if number is not None and self.jobs[number].current == attempt:
            self.fail("I1", f"the end of {key} is acknowledged and not durable")

    def told_stored(self, key: str, position: int) -> None:
        """An agent is told how much of a log it may drop."""
        if position > self.log_positions.get(key, 0):
            self.fail("I7", f"the log of {key} is acknowledged up to {position}, durable are {self.log_positions}")
