"""What people do meanwhile: submit, submit again, stop, wait, follow logs; everything they are told is checked.

They use the real client. An answer that does not come leaves the outcome unknown, as it would for them.
"""

import asyncio
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostler import frames
from hostler.client import Client
from hostler.errors import DeadlineExceeded, HostlerError, InternalError, Overloaded, Unavailable
from hostler.jobs import JobSpec, LogStatus, Stage, Work
from hostler.lifecycle import Outcome, State
from hostler.workloads import Workload
from tests.simulation.programs import Behaviour

if TYPE_CHECKING:
    from tests.simulation.world import World

PASSING = (Unavailable, DeadlineExceeded, InternalError, Overloaded)
STEP = Workload(name="step", argv=Behaviour(0.05, output_bytes=100).argv())
LONG_STEP = Workload(name="long_step", argv=Behaviour(3.0, output_bytes=100).argv())
THEMES = ("anything", "anything", "retries", "logs", "bursts")
LOSS_THEMES = ("long", "long", "long", "anything", "retries", "logs", "bursts")
SHORT_RUN_S = 0.003
BURST = 60
ENDLESS_S = 5000.0  # ends only by a stop, or by what happens to its host


@dataclass(slots=True)
class Reading:
    """How far somebody has read a log."""

    count: int = 0  # bytes of output
    rest: bytes = b""  # of a frame that has not come wholly


class Customer:
    """Somebody with jobs."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.chance: random.Random = world.chance
        self.theme = self.chance.choice(THEMES if world.kind == "usual" else LOSS_THEMES)
        self.accepted: dict[str, JobSpec] = {}
        self.outcomes: dict[str, Outcome] = {}

    async def live(self, jobs: int, within_s: float) -> None:
        """Submit *jobs* jobs and see each to its end."""
        async with Client("unix:/simulated") as client:
            await self._register(client)
            lives = [
                asyncio.create_task(self._job(client, number, self.chance.random() * within_s))
                for number in range(jobs)
            ]
            if self.theme == "bursts":
                lives += [asyncio.create_task(self._burst(client, n, self.chance.random() * within_s)) for n in (1, 2)]
            await asyncio.gather(*lives)

    async def _burst(self, client: Client, number: int, delay_s: float) -> None:
        """Many short jobs at once, so that some wait in shims behind others; and something breaks meanwhile."""
        await asyncio.sleep(delay_s)
        stops = self._chooses_stop()
        specs = [
            JobSpec(
                work=Work(
                    argv=Behaviour(self.chance.random() * SHORT_RUN_S).argv(), loss_policy="stop" if stops else ""
                ),
                owner=self.name,
                on_lost="retry" if stops else "",
                key=f"{self.name}-burst-{number}-{place}",
            )
            for place in range(BURST)
        ]
        self.world.loop.call_as(None, self.chance.random() * 0.4, self.world.faults.strike)
        answers: list[str | HostlerError] = []
        while not answers or any(isinstance(answer, HostlerError) for answer in answers):
            try:
                answers = await client.submit(specs)
            except PASSING:
                await asyncio.sleep(0.5)
        left = {str(answer) for answer in answers}
        while left:
            try:
                async for progress in client.wait(sorted(left), timeout_s=20.0):
                    if progress.state is State.FINISHED:
                        self._told(progress.id, progress.outcome)
                        left.discard(progress.id)
            except PASSING:
                await asyncio.sleep(0.5)

    async def _register(self, client: Client) -> None:
        while True:
            try:
                await client.workloads.apply([STEP, LONG_STEP])
                return
            except PASSING:
                await asyncio.sleep(0.5)

    def _behaviour(self) -> Behaviour:
        chance = self.chance
        kind = chance.random()
        if self.theme == "retries" and chance.random() < 0.7:
            size = chance.choice((30, 40_000, 200_000))
            return Behaviour(chance.uniform(0.05, 6.0), failures=chance.randint(1, 3), output_bytes=size, pieces=4)
        if self.theme == "long" and chance.random() < 0.7:
            return Behaviour(chance.uniform(4.0, 40.0), output_bytes=30, pieces=2, stubborn=chance.random() < 0.3)
        if self.theme == "logs" and chance.random() < 0.7:
            return Behaviour(chance.uniform(0.5, 10.0), output_bytes=chance.choice((2000, 20_000, 300_000)), pieces=20)
        if kind < 0.35:
            return Behaviour(chance.random() * SHORT_RUN_S, output_bytes=chance.choice((0, 50)))
        if kind < 0.55:
            return Behaviour(chance.uniform(0.05, 3.0), output_bytes=chance.choice((0, 200, 20_000)), pieces=3)
        if kind < 0.7:
            return Behaviour(chance.uniform(3.0, 40.0), output_bytes=chance.choice((100, 200_000)), pieces=8)
        if kind < 0.85:
            size = chance.choice((30, 30, 40_000))
            return Behaviour(chance.uniform(0.01, 2.0), failures=chance.randint(1, 3), output_bytes=size, pieces=2)
        if kind < 0.92:
            return Behaviour(ENDLESS_S, stubborn=chance.random() < 0.5)
        leaves = chance.random() < 0.3
        return Behaviour(chance.uniform(1.0, 60.0), stubborn=chance.random() < 0.5, leaves=leaves)

    def _spec(self, number: int) -> JobSpec:
        chance = self.chance
        key = f"{self.name}-{number}" if chance.random() < 0.6 else ""
        if chance.random() < 0.12:
            stages = tuple(Stage(workload=chance.choice(("step", "long_step"))) for _ in range(chance.randint(2, 3)))
            return JobSpec(work=Work(), owner=self.name, key=key, stages=stages)
        behaviour = self._behaviour()
        if behaviour.run_s == ENDLESS_S:
            key = f"{self.name}-{number}"  # whoever cannot name it could not stop it
        stops = self._chooses_stop()
        return JobSpec(
            work=Work(
                argv=behaviour.argv(),
                loss_policy="stop" if stops else "",
                grace_s=chance.choice((0.0, 0.5, 2.0)),
                timeout_s=chance.choice((0.0, 0.0, 8.0)),
            ),
            owner=self.name,
            key=key,
            slots=chance.choice((1, 1, 1, 2)),
            priority=chance.choice((0, 0, 1)),
            retries=chance.randint(0, 3) if behaviour.failures else None,
            start_within_s=chance.uniform(0.5, 15.0) if chance.random() < 0.15 else 0.0,
            on_lost="retry" if stops and chance.random() < 0.8 else "",
            crash_limit=chance.choice((0, 1, 2, 3)) if stops else 0,
        )

    def _chooses_stop(self) -> bool:
        """Whether a job is to be ended where its worker is lost."""
        return self.world.kind != "usual" and self.chance.random() < 0.7

    async def _job(self, client: Client, number: int, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        spec = self._spec(number)
        job = await self._submit(client, spec)
        if job is None:
            return
        doing = [self._see_the_end(client, job)]
        endless = bool(spec.work.argv) and json.loads(spec.work.argv[1])[0] == ENDLESS_S
        if endless or self.chance.random() < (0.6 if self.theme == "retries" else 0.35):
            doing.append(self._stop(client, job, self.chance.random() * 12 if self.chance.random() < 0.6 else 0.0))
        if self.chance.random() < 0.3 and not spec.stages:
            doing.append(self._follow(client, job))
        if self.chance.random() < 0.3:
            doing.append(self._see_the_start(client, job))
        await asyncio.gather(*doing)

    async def _submit(self, client: Client, spec: JobSpec) -> str | None:
        job: str | None = None
        while True:
            try:
                answer = await client.submit_one(spec)
            except PASSING:
                if not spec.key:
                    return None  # it may have been taken; nobody will ever ask for it by its id
                await asyncio.sleep(self.chance.uniform(0.1, 1.0))
                continue
            self.world.note("accepted", answer, spec.key)
            self.world.checker.told_accepted(answer, self.name, spec.key)
            if job is not None and answer != job:
                self.world.failed(f"I9: the key {spec.key} gave {job} and then {answer}")
            job = answer
            self.accepted[job] = spec
            if not spec.key or self.chance.random() < 0.7:
                return job

    async def _see_the_end(self, client: Client, job: str) -> None:
        while True:
            try:
                async for progress in client.wait([job], timeout_s=20.0):
                    if progress.state is State.FINISHED:
                        self._told(job, progress.outcome)
                        return
            except PASSING:
                await asyncio.sleep(0.5)

    def _told(self, job: str, outcome: Outcome) -> None:
        self.world.note("told finished", job, outcome.word)
        self.world.checker.told_finished(job, outcome)
        if self.outcomes.setdefault(job, outcome) is not outcome:
            self.world.failed(f"I3: job {job} {self.outcomes[job].word}, and then {outcome.word}")

    async def _see_the_start(self, client: Client, job: str) -> None:
        while True:
            try:
                async for progress in client.wait([job], until=State.RUNNING, timeout_s=20.0):
                    if progress.state is State.FINISHED:
                        self._told(job, progress.outcome)
                    else:
                        self.world.checker.told_started(job)
                    return
            except PASSING:
                await asyncio.sleep(0.5)

    async def _stop(self, client: Client, job: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:
            try:
                found = await client.stop(job, grace_s=self.chance.choice((0.0, 1.0, None)), wait_s=10.0)
            except PASSING:
                await asyncio.sleep(0.5)
                continue
            if found.state is State.FINISHED:
                self._told(job, found.outcome)
            # Said once and taken: that it is stopping is durable, and nobody has to ask again.
            return

    async def _follow(self, client: Client, job: str) -> None:
        """Follow the log through all attempts, beginning again from the start when it breaks."""
        while True:
            read: dict[int, Reading] = {}
            try:
                async for chunk in client.read_log(job, follow=True):
                    key = f"{job}.0.{chunk.attempt}"
                    self._compare(key, chunk.frames, read.setdefault(chunk.attempt, Reading()))
                    if chunk.end:
                        return
            except PASSING:
                await asyncio.sleep(0.5)
                continue
            return

    def _compare(self, key: str, ledger: bytes, reading: Reading) -> None:
        """What is read of a log is what the program wrote, from the beginning."""
        ledger = reading.rest + ledger
        end, pieces = 0, []
        for frame in frames.iter_frames(ledger):
            pieces.append(frame.payload)
            end = frame.end
        content, reading.rest = b"".join(pieces), ledger[end:]
        program = self.world.checker.programs.get(key)
        written = program.written if program is not None else b""
        if not written.startswith(content, reading.count):
            self.world.failed(f"I7: the log of {key} is not what it wrote: {content[:200]!r} at {reading.count}")
        reading.count += len(content)

    async def compare_all(self) -> None:
        """At the end: the log of every attempt there was, and every outcome once more."""
        async with Client("unix:/simulated") as client:
            for job in self.accepted:
                found = await client.get(job)
                if found.state is not State.FINISHED:
                    self.world.failed(f"I1: job {job} is {found.state.word} at the end")
                self._told(job, found.outcome)
            mine = [key for key in self.world.checker.programs if key.partition(".")[0] in self.accepted]
            for key in mine:
                await self._compare_log(client, key)

    async def _compare_log(self, client: Client, key: str) -> None:
        job, stage, attempt = key.split(".")
        reading, status = Reading(), LogStatus.ARRIVING
        try:
            async for chunk in client.read_log(job, stage=int(stage), attempt=int(attempt)):
                self._compare(key, chunk.frames, reading)
                status = chunk.status
        except HostlerError as error:
            self.world.failed(f"I7: the log of {key} cannot be read: {error!r}")
        program = self.world.checker.programs[key]
        # What was in the pipe is lost with the shim; and the log of an attempt that is lost before its worker could say
        # that it began counts as complete and empty, although it may have run.
        excused = program.orphan or key in self.world.checker.unknown_logs
        written = reading.count if excused else len(program.written)
        if status is LogStatus.ARRIVING:
            self.world.failed(f"I7: the log of {key} is never complete")
        if status is LogStatus.COMPLETE and reading.count != written:
            self.world.failed(f"I7: the log of {key} is complete with {reading.count} of {written} bytes")
