"""One simulated cluster and its whole life: what is in it, what happens, and what must hold at the end.

`run` takes a seed and does everything that follows from it; the same seed gives the same life, to the last event.
"""

import asyncio
import gc
import hashlib
import random
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.simulation.checker import Checker
from tests.simulation.clients import Customer
from tests.simulation.database import database
from tests.simulation.faults import Faults
from tests.simulation.host import SimulatedShim
from tests.simulation.network import Network
from tests.simulation.nodes import SUPERSEDED, AgentNode, CoordinatorNode, Node
from tests.simulation.operators import Operator
from tests.simulation.surroundings import surroundings
from tests.simulation.virtual_loop import EPOCH_US, PROCESS, Deadlock, NumberedRun, SimulatedProcess, VirtualLoop

HEALED_AFTER_S = 40.0  # of life with faults
QUIET_WITHIN_S = 500.0  # after healing: the longest job, retries with their pauses, and lost workers
UNWANTED_S = 60.0  # after healing: every worker is back and has ended what nobody waits for
TRACED = 50
PLACE = "/dev/shm"  # files that nobody wants to keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What came of a seed."""

    seed: int
    kind: str  # see `kind_of`
    violation: str  # empty: every invariant held
    trace: tuple[str, ...]  # the last events
    digest: str  # of all events
    events: int
    starts: int
    jobs: int
    checks: int
    commits: dict[str, int]  # how often each kind of change was made durable
    virtual_s: float


def kind_of(seed: int) -> str:
    """What a life is about.

    *usual*: what everybody does. *losses*: jobs of the policy stop, tried again after losses, with short leases.
    *copies*: a worker's directory is copied, and two agents speak for it.
    """
    return random.Random(seed).choices(("usual", "losses", "copies"), (5, 4, 1))[0]


class World:
    """Everything there is."""

    slots = 2
    lost_after_s = 20.0

    def __init__(self, seed: int, directory: Path) -> None:
        self.seed = seed
        self._place = str(directory)
        self.kind = kind_of(seed)
        self.chance = random.Random(seed)
        self.loop = VirtualLoop(self.chance)
        self.network = Network(self.loop, self.chance)
        self.checker = Checker(self)
        self.violation = ""
        self.trace: deque[str] = deque(maxlen=TRACED)
        self.on_note: Callable[[str], None] | None = None
        self._hash = hashlib.blake2b(digest_size=16)
        self.events = 0
        self.digest = ""
        self.over = False
        self.excused_ends: tuple[Any, ...] = (SUPERSEDED,) if self.kind == "copies" else ()
        self.heartbeat_s = 2.0 if self.kind == "usual" else self.chance.choice((0.5, 1.0, 2.0))
        self.store_full_until = self.slow_until = 0.0
        self.log_disk_full = False
        self.dooms: list[str] = []
        self.breaks: list[str] = []
        self.healed = False
        self.late_commands = self.chance.choice((0.0, 0.5))  # how many are overtaken by what comes after them
        self.coordinator = CoordinatorNode(self, "coordinator", directory / "c")
        self.agents = [AgentNode(self, f"w{n}", directory / f"w{n}") for n in range(self.chance.choice((1, 2, 2, 3)))]
        self.copies: list[AgentNode] = []  # of data directories, with agents of their own
        for node in (self.coordinator, *self.agents):
            node.skew_us = self.chance.choice((0, 0, self.chance.randint(-3_600_000_000, 3_600_000_000)))
        self.faults = Faults(self)
        self.customers = [Customer(self, name) for name in ("ada", "ben")]
        busy = {"usual": 0.15, "losses": 0.6, "copies": 1.0}[self.kind]
        self.operator = Operator(self) if self.chance.random() < busy else None
        self.people = SimulatedProcess("people", self)

    # What others ask of it

    def wall_us(self) -> int:
        """The wall clock of the process whose code runs now."""
        process = PROCESS.get()
        return EPOCH_US + round(self.loop.now * 1e6) + (process.wall_offset_us if process is not None else 0)

    def note(self, *facts: Any) -> None:
        """Add to the trace."""
        if self.over:
            return
        process = PROCESS.get()
        line = f"{self.loop.now:.6f} {process.name if process else '-'}: {' '.join(map(str, facts))}"
        line = line.replace(self._place, "")
        self.events += 1
        self._hash.update(line.encode())
        self.trace.append(line)
        if self.on_note is not None:
            self.on_note(line)

    def failed(self, text: str) -> None:
        """An invariant does not hold: nothing that comes later matters."""
        if not self.violation and not self.over and self.checker.losses.is_asked(text):
            self.note("VIOLATION", text)
            self.violation = text
            self.loop.stop()

    def store_fault(self) -> str:
        """What becomes of the commit that is being made."""
        if self.breaks:
            return self.breaks.pop(0)
        return "full" if self.loop.now < self.store_full_until else ""

    def slow_commit_s(self) -> float:
        """How much longer a commit takes."""
        return self.chance.uniform(0.05, 3.0) if self.loop.now < self.slow_until else 0.0

    def doom_of_spawn(self, shim: SimulatedShim) -> str:
        """Whether a shim dies while it starts a program."""
        return self.dooms.pop(0) if self.dooms else ""

    def processes(self) -> Iterator[SimulatedProcess]:
        """Everything that may be paused."""
        for node in (self.coordinator, *self.everyone):
            if node.process is not None:
                yield node.process
        for shim in self.shims():
            yield shim.process

    @property
    def everyone(self) -> "list[AgentNode]":
        """Every agent's place, also those of copies."""
        return [*self.agents, *self.copies]

    def shims(self) -> list[SimulatedShim]:
        """Those that live."""
        hosts = dict.fromkeys(agent.host for agent in self.everyone)
        return [shim for host in hosts for shim in host.shims.values()]

    def server_is_gone(self, process: SimulatedProcess) -> None:
        """Nobody answers at the coordinator's address."""
        if self.network.server is not None and self.network.server.process is process:
            self.network.server = None

    def coordinator_is_down(self) -> None:
        """Somebody starts it again."""
        self._start_later(self.coordinator, self.chance.uniform(0.1, 6.0))

    def agent_is_down(self, agent: AgentNode, *, soon: bool = False) -> None:
        """The same for an agent."""
        self._start_later(agent, self.chance.uniform(0.1, 1.5 if soon else 10.0))

    def _start_later(self, node: "CoordinatorNode | AgentNode", delay_s: float) -> None:
        def start() -> None:
            if not node.runs and not (isinstance(node, AgentNode) and node.is_removed):
                node.start()

        self.loop.call_as(None, delay_s, start)

    # Its life

    def live(self, keep: list[Any] | None = None) -> None:
        """Run from the first start to the last check, and let everything go, or put it into *keep*."""
        with surroundings(self):
            life = self.loop.create_task(self._live())
            try:
                self.loop.run_until_complete(life)
            except Deadlock:
                self.failed("I1: nothing will ever happen again")
            except RuntimeError:
                if not self.violation:
                    raise
            self.digest, self.over = self._hash.hexdigest(), True
            self.loop.set_exception_handler(lambda *_: None)
            for node in (self.coordinator, *self.everyone):
                node.kill()
            for shim in self.shims():
                shim.die()
            if keep is not None:
                keep.append((self, life))
                return
            self.loop.close()
            del life
            # Here, where their world still surrounds them, what the processes had comes to its end.
            gc.collect()

    async def _live(self) -> None:
        self.coordinator.start()
        for agent in self.agents:
            agent.start()
        jobs = self.chance.randint(3, 8)
        lives = [self.loop.spawn(self.people, customer.live(jobs, HEALED_AFTER_S * 0.8)) for customer in self.customers]
        if self.operator is not None:
            lives.append(self.loop.spawn(self.people, self.operator.work()))
        await self.faults.run(self.loop.now + HEALED_AFTER_S)
        self.note("healed")
        self.healed = True
        self.faults.heal()
        await self._grow_quiet(lives)
        if not self.violation:
            for customer in self.customers:
                await self.loop.spawn(self.people, customer.compare_all())
            self._check_what_is_left()
        if self.loop.errors:
            self.failed(f"I16: {self.loop.errors[0]}")

    async def _grow_quiet(self, lives: list["asyncio.Task[None]"]) -> None:
        until = self.loop.now + QUIET_WITHIN_S
        reason = ""
        while self.loop.now < until:
            await asyncio.sleep(1.0)
            reason = self._unrest(lives)
            if not reason:
                return
            if self.loop.now > until - QUIET_WITHIN_S + UNWANTED_S:
                self._check_unwanted()
        self.failed(f"I1: {QUIET_WITHIN_S} s after healing {reason}")

    def _check_unwanted(self) -> None:
        """I12: what is said to be lost is ended when its worker is back."""
        for agent in self.agents:
            for program in agent.host.programs:
                job = self.checker.jobs[self.checker.numbers[program.job]]
                if program.alive and program.key in self.checker.settled:
                    word = job.final.outcome.word if job.final is not None else "goes on"
                    self.failed(f"I12: {program.key} still lives, its job {word}")

    def _unrest(self, lives: list["asyncio.Task[None]"]) -> str:
        """What is not over."""
        for life in lives:
            if not life.done():
                continue
            if life.exception() is not None:
                raise life.exception() or AssertionError
        open_jobs = [facts.id for facts in self.checker.jobs.values() if facts.final is None]
        if open_jobs:
            return f"jobs are not over: {open_jobs}"
        for agent in self.agents:
            if not agent.runs or agent.agent is None:
                return f"agent {agent.name} does not run"
            if agent.agent.assignments.held:
                return f"agent {agent.name} holds {agent.agent.assignments.held}"
            if any(program.alive for program in agent.host.programs):
                return f"programs live on {agent.name}"
        if not all(life.done() for life in lives):
            return "clients wait"
        if self.network.server is None:
            return "the coordinator does not run"
        live = self._engine().live
        if live.trailing:
            return f"logs still arrive: {list(live.trailing)}"
        if not all(worker.connected or worker.id in self._former(live) for worker in live.workers.values()):
            return "a worker is not connected"
        return ""

    def _engine(self) -> Any:
        handlers = self.network.server._handlers  # type: ignore[union-attr]
        return handlers["/hostler.v1.Workers/Connect"].stream_stream.__wrapped__.__self__._engine

    def _former(self, live: Any) -> set[str]:
        """Workers whose id was lost before it was kept: the newest of a name is the one that speaks."""
        newest = {worker.name: worker.id for worker in live.workers.values() if worker.connected}
        return {worker.id for worker in live.workers.values() if newest.get(worker.name, worker.id) != worker.id}

    def _check_what_is_left(self) -> None:
        """I12: nothing."""
        live = self._engine().live
        for worker in live.workers.values():
            if worker.held or worker.slots_used:
                self.failed(f"I12: worker {worker.name} holds {list(worker.held)}, {worker.slots_used} slots")
        if live.jobs or live.keys or live.queued or live.delayed:
            self.failed(f"I12: the live set keeps {list(live.jobs)}, {live.queued} queued")
        for agent in self.agents:
            assert agent.agent is not None and agent.runner is not None
            journal, assignments, runner = agent.agent.journal, agent.agent.assignments, agent.runner
            if journal.open_attempts or journal.tombstones:
                self.failed(f"I12: the journal of {agent.name} keeps {journal.open_attempts} {journal.tombstones}")
            if assignments.slots_used or assignments.active:
                self.failed(f"I12: {agent.name} uses {assignments.slots_used} slots, {assignments.active} are active")
            if runner.running() or runner.queues.queued:
                self.failed(f"I12: the runner of {agent.name} has {list(runner.running())}")
            work = agent.worker_dir / "work"
            if work.exists() and list(work.iterdir()):
                self.failed(f"I12: workspaces are left on {agent.name}: {list(work.iterdir())}")
            living = {f"shim-{shim._identity.shim}." for shim in agent.host.shims.values()}
            segments = [p.name for p in (agent.worker_dir / "segments").glob("*.segment")]
            left = [name for name in segments if not any(name.startswith(each) for each in living)]
            if left:
                self.failed(f"I12: segments of no shim are left on {agent.name}: {left}")


@contextmanager
def _quiet_collection() -> Iterator[None]:
    """Collect between lives only: what a dead process had must not come to an end in the middle of one."""
    was_on = gc.isenabled()
    gc.disable()
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if was_on:
            gc.enable()


def run(
    seed: int,
    mutant: Callable[[], AbstractContextManager[Any]] = nullcontext,
    on_note: Any = None,
    keep: list[Any] | None = None,
) -> Life:
    """Live the life of a seed; *mutant* makes a context in which a guard of the product is switched off.

    What is put into *keep* has not been let go: a process that ends soon saves the time which that takes.
    """
    directory = Path(tempfile.mkdtemp(prefix="hs-", dir=PLACE if Path(PLACE).is_dir() else None))
    NumberedRun.made = 0
    database().empty()
    try:
        with _quiet_collection(), mutant():
            world = World(seed, directory)
            world.on_note = on_note
            world.live(keep)
            life = Life(
                seed=seed,
                kind=world.kind,
                violation=world.violation,
                trace=tuple(world.trace),
                digest=world.digest,
                events=world.events,
                starts=sum(len(found) for found in world.checker.starts.values()),
                jobs=len(world.checker.jobs),
                checks=world.checker.checks,
                commits=dict(world.checker.commits),
                virtual_s=world.loop.now - 1000.0,
            )
            return life
    finally:
        shutil.rmtree(directory, ignore_errors=True)


__all__ = ["Life", "Node", "World", "run"]
