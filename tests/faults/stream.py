"""The stream of jobs of a fault run: submitted, stopped and observed as its callers would."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hostler.errors import DeadlineExceeded, HostlerError, Overloaded, Unavailable
from hostler.jobs import JobQuery
from tests.cluster.real_cluster import processes_of
from tests.faults.callers import FAMILY, Callers, Undocumented
from tests.faults.patience import comes_true
from tests.faults.programs import Plan, a_plan
from tests.faults.site import Site
from tests.faults.watch import Watch

T = TypeVar("T")
OPEN_MAX = 24  # jobs that are not over; more would only wait
EVERY_S = 0.12
CALL_S = 90.0
_PAUSE_S = 0.1
_PAUSE_S_MAX = 0.5


@dataclass(slots=True)
class Accepted:
    """A job that was acknowledged, or that a call of /start made whose answer did not arrive."""

    plan: Plan
    id: str
    stop_asked: bool = False
    stop_answered: bool = False


@dataclass(slots=True)
class Stream:
    """Jobs until told to end; `violations` gathers what callers were told that cannot be true."""

    site: Site
    seed: int
    jobs: list[Accepted] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    callers: Callers = field(init=False)
    watch: Watch = field(init=False)
    _ending: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.callers = Callers(self.site)
        self.watch = Watch(self.site)

    def end(self) -> None:
        """Submit no further job."""
        self._ending.set()

    async def run(self) -> None:
        """Submit and stop; returns after `end`, when every submission and every stop was answered."""
        chance = random.Random(self.seed)
        await self.callers.meet_workers()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.watch.run())
            async with asyncio.TaskGroup() as calls:
                for number in range(1, 1_000_000):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._ending.wait(), EVERY_S * chance.uniform(0.5, 1.5))
                    await comes_true(self._has_room, CALL_S)
                    if self._ending.is_set():
                        break
                    calls.create_task(self._one(self._plan(chance, number)))
            watching.cancel()

    def _plan(self, chance: random.Random, number: int) -> Plan:
        plan = a_plan(chance, number)
        if self.site.lab is None and (plan.door == "v1" or (plan.door == "start" and not self.site.disks)):
            return plan
        return replace(plan, door="grpc", worker="")  # no gateway there, or no room on a disk to begin at once

    def _has_room(self) -> bool:
        return len(self.jobs) - len(self.watch.outcomes) < OPEN_MAX or self._ending.is_set()

    async def _one(self, plan: Plan) -> None:
        try:
            job = Accepted(plan, await insist(lambda: self.callers.submit(plan), f"I1: job {plan.number} was accepted"))
            self.jobs.append(job)
            if plan.stop_after_s is not None:
                await asyncio.sleep(plan.stop_after_s)
                job.stop_asked = True
                await insist(lambda: self._stop(job), f"I1: job {plan.number} was stopped")
        except Undocumented as error:
            self.violations.append(f"I16: job {plan.number}: {error}")
        except (AssertionError, HostlerError) as error:
            self.violations.append(f"job {plan.number}: {error}")

    async def _stop(self, job: Accepted) -> None:
        """One call; the job is over and nothing of it is left when it returns."""
        proved = await self.callers.stop(job.plan, job.id)
        job.stop_answered = True
        if proved and (left := processes_of({job.id})):
            self.violations.append(f"I4: the stop of job {job.plan.number} was answered, and {left} live")

    async def claim_unanswered(self) -> None:
        """Find the jobs of calls of /start that got no answer: at most one of each call."""
        paths = dict(self.callers.unanswered)
        query = JobQuery(family=FAMILY, limit=1000)
        while paths:
            page = await self.site.client.find(query)
            for job in page.jobs:
                plan = self.callers.unanswered.get(job.spec.work.argv[1])
                if plan is None:
                    continue
                if paths.pop(job.spec.work.argv[1], None) is None:
                    self.violations.append(f"I9: one call of /start made more than one job: {job.id}")
                self.jobs.append(Accepted(plan, job.id))
            if not page.next:
                return
            query = replace(query, after=page.next)

    async def repeat(self) -> None:
        """Submit every job with a key once more: each key answers with the job that it was given first (I9)."""
        keyed = [job for job in self.jobs if job.plan.door != "start"]
        answers = await self.site.client.submit([job.plan.spec(self.site.truth) for job in keyed])
        for job, answer in zip(keyed, answers, strict=True):
            if answer != job.id:
                self.violations.append(f"I9: job {job.plan.number} ({job.id}): its key answered {answer!r} later")


async def insist(call: Callable[[], Awaitable[T]], what: str, within_s: float = CALL_S) -> T:
    """Call until it is answered, as a caller does who wants it done; *what* must have happened in the end."""
    until, pause_s = time.monotonic() + within_s, _PAUSE_S
    while True:
        try:
            return await call()
        except (Unavailable, Overloaded, DeadlineExceeded) as error:
            assert time.monotonic() < until, f"not within {within_s:.0f} s: {what}; last: {error}"
        await asyncio.sleep(pause_s)
        pause_s = min(_PAUSE_S_MAX, pause_s * 1.5)
