"""The stream of jobs of a fault run: submitted, stopped and observed as its callers would."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp

from hostler.errors import DeadlineExceeded, HostlerError, Overloaded, Unavailable
from hostler.jobs import JobQuery
from hostler.lifecycle import Outcome, State
from tests.cluster.real_cluster import processes_of
from tests.faults.patience import comes_true
from tests.faults.programs import Plan, a_plan
from tests.faults.site import Site

T = TypeVar("T")
OPEN_MAX = 24  # jobs that are not over; more would only wait
EVERY_S = 0.12
CALL_S = 90.0
_PAUSE_S = 0.1
_ANSWER = aiohttp.ClientTimeout(total=5)


@dataclass(slots=True)
class Accepted:
    """A job that was acknowledged."""

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
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # of ends, as first seen
    _ending: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self) -> None:
        """Submit no further job."""
        self._ending.set()

    async def run(self) -> None:
        """Submit and stop; returns after `end`, when every submission and every stop was answered."""
        chance = random.Random(self.seed)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._observe())
            async with asyncio.TaskGroup() as calls:
                for number in range(1, 1_000_000):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._ending.wait(), EVERY_S * chance.uniform(0.5, 1.5))
                    await comes_true(self._has_room, CALL_S)
                    if self._ending.is_set():
                        break
                    calls.create_task(self._one(a_plan(chance, number)))
            watching.cancel()

    def _has_room(self) -> bool:
        return len(self.jobs) - len(self.outcomes) < OPEN_MAX or self._ending.is_set()

    async def _one(self, plan: Plan) -> None:
        try:
            submit = self._submit_by_http if plan.by_http and self.site.lab is None else self._submit
            job = Accepted(plan, await insist(lambda: submit(plan), f"job {plan.number} was accepted"))
            self.jobs.append(job)
            if plan.stop_after_s is not None:
                await asyncio.sleep(plan.stop_after_s)
                job.stop_asked = True
                await insist(lambda: self._stop(job), f"job {plan.number} was stopped")
        except (AssertionError, HostlerError) as error:
            self.violations.append(f"I1: job {plan.number}: {error}")

    async def _submit(self, plan: Plan) -> str:
        (answer,) = await self.site.client.submit([plan.spec(self.site.truth)], timeout_s=5.0)
        if isinstance(answer, HostlerError):
            raise answer
        return answer

    async def _submit_by_http(self, plan: Plan) -> str:
        url = self.site.gateway_url
        if not url:
            raise Unavailable("the gateway has not said where it listens")
        body = {"jobs": [plan.item(self.site.truth)]}
        try:
            async with (
                aiohttp.ClientSession(timeout=_ANSWER) as session,
                session.post(f"{url}/v1/jobs", json=body) as answer,
            ):
                content = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"the gateway: {error}") from error
        if answer.status in (429, 503, 504):
            raise Unavailable(f"the gateway answered {answer.status}")
        assert answer.status == 200, f"POST /v1/jobs answered {answer.status}: {content}"
        (found,) = content["jobs"]
        if "id" not in found:
            raise Unavailable(f"the gateway: {found}")
        return str(found["id"])

    async def _stop(self, job: Accepted) -> None:
        """One call; the job is over and nothing of it is left when it returns."""
        found = await self.site.client.stop(job.id, grace_s=job.plan.grace_s, wait_s=5.0)
        if found.state is not State.FINISHED:
            raise Unavailable("it is still stopping")
        job.stop_answered = True
        if found.end is not None and found.end.nothing_left and (left := processes_of({job.id})):
            self.violations.append(f"I4: the stop of job {job.plan.number} was answered, and {left} live")

    async def _observe(self) -> None:
        while True:
            with contextlib.suppress(HostlerError):
                await self.observe()
            await asyncio.sleep(0.3)

    async def observe(self) -> None:
        """Look at every job once: an outcome that was seen may not change."""
        async for page in self.site.client.find_brief(JobQuery()):
            for brief in page:
                now = brief.outcome if brief.state is State.FINISHED else Outcome.NONE
                before = self.outcomes.get(brief.id, now)
                if before is not now:
                    self.violations.append(f"I3: job {brief.id} was {before.word}, and is {now.word or 'open'}")
                if now:
                    self.outcomes[brief.id] = now


async def insist(call: Callable[[], Awaitable[T]], what: str, within_s: float = CALL_S) -> T:
    """Call until it is answered, as a caller does who wants it done; *what* must have happened in the end."""
    until = time.monotonic() + within_s
    while True:
        try:
            return await call()
        except (Unavailable, Overloaded, DeadlineExceeded) as error:
            assert time.monotonic() < until, f"not within {within_s:.0f} s: {what}; last: {error}"
        await asyncio.sleep(_PAUSE_S)
