"""What holds after every fault run, checked against what the programs wrote down themselves.

I1 accepted jobs end, I2 one start per attempt, I3 ends are final, I4 stopped is gone, I5 one tree per job, I6 true
ends, I7 true logs, I8 true outputs, I9 one job per key, I10 capacity, I11 epochs and attempts only grow, I12 nothing
is left, I14 all doors say the same, I16 every answer is a documented one, I17 memory stays bounded. I3, I4, I9, I16
and I17 are looked at while the run is on: see stream.py, callers.py and watch.py.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hostler import frames
from hostler.client import Client
from hostler.jobs import End, Job, LogStatus
from hostler.lifecycle import Outcome, State
from tests.cluster.real_cluster import processes_of
from tests.faults.callers import Callers
from tests.faults.history import contradictions
from tests.faults.patience import comes_true
from tests.faults.site import SLOTS, Site
from tests.faults.stream import Accepted, insist

LOG_S = 30.0
GONE_S = 20.0
SHOWN_MAX = 3  # jobs of a run that the command line is asked for: each takes a program's start
RETRIED = ("exit", "signal", "timeout", "not_started")


@dataclass(slots=True)
class Truth:
    """What the programs wrote."""

    starts: Counter[str] = field(default_factory=Counter)  # by attempt
    codes: dict[str, int] = field(default_factory=dict)  # of attempts that came to their last line
    outputs: set[str] = field(default_factory=set)  # attempts that have put out their file
    order: list[tuple[str, str]] = field(default_factory=list)  # (what, attempt) as it was written

    @classmethod
    def read(cls, path: Path) -> "Truth":
        """Read the file."""
        found = cls()
        for line in path.read_text().splitlines():
            what, attempt, *rest = line.split()
            found.order.append((what, attempt))
            if what == "start":
                found.starts[attempt] += 1
            elif what == "end":
                found.codes[attempt] = int(rest[0])
            else:
                found.outputs.add(attempt)
        return found

    def starts_of(self, job: str) -> int:
        """How often a job's program was started."""
        return sum(count for attempt, count in self.starts.items() if attempt.startswith(job))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Ends that a run may see besides those that programs, stops and killed shims explain."""

    causes: Collection[str] = ()  # any attempt may end so, for example as "worker_lost"
    lost_logs: bool = False
    gaps: bool = False  # output may be cut by a full disk, when the end says how much


class Inspection:
    """Compares what the coordinator says with the truth; `violations` is what is wrong."""

    def __init__(self, site: Site, jobs: list[Accepted], allowed: Allowed | None = None) -> None:
        self._site = site
        self._jobs = jobs
        self._allowed = allowed or Allowed()
        self._truth = Truth.read(site.truth)
        self._shim_kills = site.shim_kills | {key[0] for _, _, *key in site.fired() if key}
        self._places: dict[str, tuple[str, int]] = {}  # worker and slots, by attempt
        self.violations: list[str] = []
        self.causes: Counter[str] = Counter()

    def fail(self, invariant: str, job: Accepted, text: str) -> None:
        """Note a violation."""
        self.violations.append(f"{invariant}: job {job.plan.number} ({job.id}): {text}")

    async def run(self) -> None:
        """Look at every job, and then at what is left."""
        client = self._site.client
        await asyncio.gather(*(self._inspect(client, part) for part in _parts(self._jobs, 8)))
        known = {job.id for job in self._jobs}
        for attempt in self._truth.starts:
            if attempt.split(".")[0] not in known:
                self.violations.append(f"I1: {attempt} was started, and nobody was told of such a job")
        self._capacity()
        await self._nothing_left()

    async def agree(self, callers: Callers) -> None:
        """What /v1, start/stop/query and the command line say about each job is what gRPC says (I14)."""
        await asyncio.gather(*(self._agree(callers, part) for part in _parts(self._jobs, 8)))
        for accepted in self._jobs[:SHOWN_MAX]:
            for text in await callers.by_command_line(await self._site.client.get(accepted.id)):
                self.fail("I14", accepted, text)

    async def _agree(self, callers: Callers, jobs: list[Accepted]) -> None:
        for accepted in jobs:
            job = await self._site.client.get(accepted.id)
            if job.end is None:
                continue  # told of already
            look = partial(callers.disagreements, accepted.plan, job)
            for text in await insist(look, f"I14: job {accepted.plan.number} is shown"):
                self.fail("I14", accepted, text)

    async def _inspect(self, client: Client, jobs: list[Accepted]) -> None:
        for accepted in jobs:
            job = await client.get(accepted.id)
            if job.state is not State.FINISHED or job.end is None:
                self.fail("I1", accepted, f"it is {job.state.word} {job.phase} {job.pending_reasons}")
                continue
            self._starts(accepted, job)
            ends = {f"{job.id}.{each.stage}.{each.attempt}": each.end for each in job.past}
            last = f"{job.id}.{job.stage}.{job.attempt}"
            ends[last] = job.end
            slots = job.spec.slots
            self._places |= {f"{job.id}.{each.stage}.{each.attempt}": (each.worker, slots) for each in job.past}
            self._places[last] = (job.worker, slots)
            for key, end in ends.items():
                self.causes[end.cause] += 1
                self._end(accepted, key, end)
                await self._log(client, accepted, key, end)
            for key in self._truth.starts:
                if key.startswith(job.id) and key not in ends:
                    self.fail("I6", accepted, f"{key} was started, and is said never to have run")
            self._outcome(accepted, job, last)
            if last in self._truth.outputs and job.end.cause == "exit":
                await self._output(client, accepted)

    # -- one job

    def _starts(self, accepted: Accepted, job: Job) -> None:
        for key, count in self._truth.starts.items():
            if key.startswith(job.id) and count > 1:
                self.fail("I2", accepted, f"{key} was started {count} times")
        if (count := self._truth.starts_of(job.id)) > 1 + accepted.plan.retries:
            self.fail("I2", accepted, f"it was started {count} times, with {accepted.plan.retries} retries")
        written = [(what, key) for what, key in self._truth.order if key.startswith(job.id)]
        alive = ""
        for what, key in written:
            if what == "start" and alive:
                self.fail("I5", accepted, f"{key} was started while {alive} had not ended")
            if what != "output":
                alive = key if what == "start" else ""

    def _end(self, accepted: Accepted, key: str, end: End) -> None:
        code = self._truth.codes.get(key)
        if end.cause == "exit":
            if end.exit_code != code:
                self.fail("I6", accepted, f"{key} exited with {code}, reported is {end.exit_code}")
        elif end.cause == "stop":
            if not accepted.stop_asked:
                self.fail("I6", accepted, f"{key} was stopped, and nobody asked for it: {end.evidence}")
        elif end.cause == "supervisor_died":
            if key not in self._shim_kills:
                self.fail("I6", accepted, f"{key} is said to have lost its shim, which nobody killed: {end.evidence}")
        elif end.cause not in self._allowed.causes:
            self.fail("I6", accepted, f"{key} ended as {end.cause}: {end.evidence} {end.error}")

    def _capacity(self) -> None:
        """No worker ran more at once than it has slots for (I10), of the programs that say when they ended."""
        used: Counter[str] = Counter()
        for what, key in self._truth.order:
            if key not in self._truth.codes or key not in self._places or what == "output":
                continue
            worker, slots = self._places[key]
            used[worker] += slots if what == "start" else -slots
            if used[worker] > SLOTS:
                self.violations.append(f"I10: with {key} worker {worker} ran {used[worker]} slots of {SLOTS}")

    def _outcome(self, accepted: Accepted, job: Job, last: str) -> None:
        assert job.end is not None
        cause, code = job.end.cause, job.end.exit_code
        expected = {
            "exit": Outcome.FAILED if code else Outcome.SUCCEEDED,
            "stop": Outcome.STOPPED,
            "supervisor_died": Outcome.LOST,
            "worker_lost": Outcome.LOST,
        }.get(cause, job.outcome)
        if job.outcome is not expected:
            self.fail("I6", accepted, f"{last} ended as {cause}, the job {job.outcome.word}")
        if job.outcome is Outcome.FAILED and cause == "exit" and not accepted.stop_asked:
            # Each retry is used before a job fails.
            used = sum(end.end.cause in RETRIED for end in job.past)
            if used < accepted.plan.retries:
                self.fail("I6", accepted, f"it failed after {used} of {accepted.plan.retries} retries")

    async def _log(self, client: Client, accepted: Accepted, key: str, end: End) -> None:
        plan = accepted.plan
        streams = {frames.OUT: bytearray(), frames.ERR: bytearray()}
        status = LogStatus.ARRIVING
        try:
            async with asyncio.timeout(LOG_S):
                attempt = int(key.rpartition(".")[2])
                async for chunk in client.read_log(accepted.id, follow=True, attempt=attempt):
                    status = chunk.status
                    for frame in frames.iter_frames(chunk.frames):
                        if frame.kind in streams:
                            streams[frame.kind] += frame.payload
        except TimeoutError:
            self.fail("I7", accepted, f"the log of {key} is {status.word} after {LOG_S:.0f} s")
            return
        if status is not LogStatus.COMPLETE and not (self._allowed.lost_logs or end.cause == "worker_lost"):
            self.fail("I7", accepted, f"the log of {key} is {status.word}")
        cut = self._allowed.gaps and end.dropped_bytes > 0
        for kind, expected in ((frames.OUT, plan.out), (frames.ERR, plan.err)):
            got = bytes(streams[kind])
            whole = end.cause == "exit" and status is LogStatus.COMPLETE and not cut
            if (got != expected) if whole else not (cut or expected.startswith(got)):
                self.fail(
                    "I7", accepted, f"stream {kind} of {key} ({end.cause}) is {_short(got)}, not {_short(expected)}"
                )

    async def _output(self, client: Client, accepted: Accepted) -> None:
        found = await client.files.outputs(accepted.id)
        digest = hashlib.sha256(accepted.plan.output).hexdigest()
        if [(file.path, file.digest) for file in found.files] != [("made", digest)]:
            self.fail("I8", accepted, f"its outputs are {found}")

    # -- what is left

    async def _nothing_left(self) -> None:
        jobs = {job.id for job in self._jobs}

        def kept() -> list[str]:
            places = [self._site.worker_dir(name) / "work" for name in self._site.workers]
            places.append(self._site.coordinator_dir / "coordinator" / "files" / "staging")
            found = [str(path) for place in places if place.exists() for path in place.iterdir()]
            return found + [f"process {pid}" for pid in processes_of(jobs)]

        if left := await _until_empty(kept):
            self.violations.append(f"I12: left behind: {left}")

    async def after_the_end(self) -> None:
        """What may be left when every part has ended: nothing."""
        if left := await _until_empty(lambda: self._site.left() + self._site.cgroups_left()):
            self.violations.append(f"I12: left behind by the parts: {left}")
        self.violations += contradictions(self._site.coordinator_dir / "coordinator" / "hostler.db")


async def finish(client: Client, jobs: list[Accepted], within_s: float) -> list[str]:
    """Wait until every job is over; returns what is wrong with those that are not."""
    waiting = {job.id: job for job in jobs}
    async for progress in _ended(client, list(waiting), within_s):
        waiting.pop(progress, None)
    found = []
    for job in waiting.values():
        now = await client.get(job.id)
        where = f"{now.state.word} {now.phase} on {now.worker}, attempt {now.attempt} {now.pending_reasons}"
        found.append(f"I1: job {job.plan.number} ({job.id}) is not over {within_s:.0f} s after healing: {where}")
    return found


async def _ended(client: Client, jobs: list[str], within_s: float) -> AsyncIterator[str]:
    async for progress in client.wait(jobs, timeout_s=within_s):
        yield progress.id


async def _until_empty(look: Callable[[], list[str]]) -> list[str]:
    return [] if await comes_true(lambda: not look(), GONE_S) else look()


def _parts(jobs: list[Accepted], count: int) -> list[list[Accepted]]:
    return [jobs[start::count] for start in range(count)]


def _short(content: bytes) -> str:
    return repr(content if len(content) < 80 else content[:30] + b" ... " + content[-40:])
