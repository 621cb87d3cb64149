"""One fault run: a cluster under a stream of jobs, faults by a seed, healing, and the comparison with the truth."""

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hostler.errors import HostlerError
from hostler.workers import WorkerState
from tests.faults.invariants import Allowed, Inspection, finish
from tests.faults.patience import comes_true
from tests.faults.schedule import Counts, Fault, script
from tests.faults.site import Process, Site
from tests.faults.stream import Stream
from tests.support.netlab import Lab

HEAL_S = 90.0
READY_S = 60.0
RUN_S = 1500.0  # for a whole run: one that hangs must leave its evidence, too
SETTLED_S = 10.0
POINT_S = 1.5  # for a point to be reached
FOUND_S = 3.0  # for a launcher or a shim to be there
_KILLED_INSTEAD = {"agent": "w2"}  # of a point's name; the others are parts
CUTS = ("cut", "deaf", "mute", "flap", "apart")


class Violated(AssertionError):
    """An invariant does not hold; the text says where everything about it lies."""


@dataclass(slots=True)
class Report:
    """What a run did."""

    jobs: int = 0
    done: Counter[str] = field(default_factory=Counter)  # faults by kind
    causes: Counter[str] = field(default_factory=Counter)  # of ends
    errors: Counter[str] = field(default_factory=Counter)  # that the parts have logged
    answers: Counter[str] = field(default_factory=Counter)  # that callers got, by door
    pss_max_bytes: dict[str, int] = field(default_factory=dict)  # by part
    seconds: float = 0.0

    def total(self, kind: str) -> int:
        """How many faults of a kind there were: kill (also at points and of hosts), pause or cut."""
        kinds = {"kill": ("kill", "point", "crash"), "cut": CUTS}.get(kind, (kind,))
        return sum(self.done[name] for name in kinds)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.done.items()))
        causes = ", ".join(f"{count} {cause}" for cause, count in sorted(self.causes.items()))
        logged = "".join(f"\n  logged {count} times: {text}" for text, count in sorted(self.errors.items()))
        return f"{self.jobs} jobs in {self.seconds:.1f} s; faults: {faults}; ends: {causes}{logged}"


class FaultRun:
    """Applies faults to a site; `run` is everything."""

    def __init__(self, seed: int, counts: Counts, *, lab: Lab | None = None, allowed: Allowed | None = None) -> None:
        self.seed = seed
        self._counts = counts
        self.site = Site(lab, small_disks=counts.fills > 0, forked=True, disk_reserve_bytes=1 << 20)
        self.faults = script(random.Random(seed), counts, several_hosts=lab is not None)
        self.stream = Stream(self.site, seed)
        self.report = Report()
        self._allowed = allowed
        self.violations: list[str] = []
        self._began = time.monotonic()
        self._applied: list[str] = []
        self._processes: list[str] = []  # before the parts were ended
        self._busy: set[str] = set()  # parts and hosts that a fault holds

    async def run(self) -> Report:
        """Do it all.

        Raises:
            Violated: something is wrong, with the seed and a directory that holds everything about it.
        """
        inspection: Inspection | None = None
        try:
            try:
                async with asyncio.timeout(RUN_S):
                    await self._start()
                    await self._storm()
                    await self._heal()
                    inspection = await self._inspect()
            finally:
                self._processes = self.site.left()
                await self.stream.callers.close()
                await self.site.down()
            if inspection is not None:
                await inspection.after_the_end()
                self.violations += inspection.violations
        except Exception as error:
            # The owner of the run: whatever broke off, what is known must be kept and told.
            self.violations.append(f"the run broke off: {type(error).__name__}: {error}")
            self.violations += [*self.stream.violations, *self.stream.watch.violations]
            self._leave_evidence()
            raise Violated(self._text()) from error
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.site.remove()  # nobody asks any more
            raise
        finally:
            if self.violations:
                self._leave_evidence()
            self.site.clear()
        if self.violations:
            raise Violated(self._text())
        self.report.errors = Counter(self.site.errors())
        self.report.seconds = time.monotonic() - self._began
        self.site.remove()
        return self.report

    async def _start(self) -> None:
        for name in self.site.parts:
            self.site.start(name)
        assert await self._settled(READY_S), "the cluster did not come up"

    # -- the storm

    async def _storm(self) -> None:
        streaming = asyncio.create_task(self.stream.run())
        try:
            async with asyncio.TaskGroup() as group:
                for fault in self.faults:
                    await asyncio.sleep(fault.after_s)
                    if fault.settled:
                        await self._settled(SETTLED_S)
                    self._note_ends()
                    await self._apply(fault, group)
            self._note_ends()
            if self.site.lab is not None:
                self.site.lab.heal()
        finally:
            self.stream.end()
            until = time.monotonic() + HEAL_S
            while not streaming.done() and time.monotonic() < until:
                self._note_ends()  # of who died at a point that was reached late, while callers wait for it
                await asyncio.wait((streaming,), timeout=0.2)
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
        if streaming.cancelled():
            self.violations.append(f"I1: calls were not answered within {HEAL_S:.0f} s after healing")
        else:
            streaming.result()

    async def _apply(self, fault: Fault, group: asyncio.TaskGroup) -> None:
        await self._until_free(fault)
        at = time.monotonic() - self._began
        verbs: dict[str, Callable[[Fault, asyncio.TaskGroup], object]] = {
            "kill": self._kill,
            "point": self._point,
            "pause": self._pause,
            "clock": self._clock,
            "crash": self._crash,
            "full": self._full,
        }
        done = verbs.get(fault.kind, self._cut)(fault, group)
        if asyncio.iscoroutine(done):
            done = await done
        self.report.done[fault.kind] += 1
        self._applied.append(f"{at:8.3f} {fault}{f' [{done}]' if done else ''}")

    async def _until_free(self, fault: Fault) -> None:
        """Wait until no earlier fault holds what this one is for, so that each is a fault of its own."""
        held = {fault.target, *fault.target.split()}
        if fault.kind == "crash":
            held |= {name for name, part in self.site.parts.items() if part.host == fault.target}
        await comes_true(lambda: self._busy.isdisjoint(held), HEAL_S)

    async def _kill(self, fault: Fault, group: asyncio.TaskGroup) -> str:
        if fault.target in ("launcher", "shim"):
            found = await self._find(fault)
            if found is not None:
                if found.name.startswith("shim"):
                    self.site.kill_shim(found)
                else:
                    found.send(9)
                    found.wait()
                said = f"{found.name} {found.pid} of {found.worker}"
                found.close()
                return said
        # Where no launcher or shim is found, because everything is on its way up, its agent is the next best.
        names = fault.target.split() if fault.target in self.site.parts or " " in fault.target else ["w1"]
        await comes_true(lambda: self._busy.isdisjoint(names), HEAL_S)
        self.site.kill(*names)
        self._again(names, fault.for_s, group)
        return "" if fault.target.startswith(names[0]) else "w1 instead"

    def _again(self, names: list[str], after_s: float, group: asyncio.TaskGroup) -> None:
        """Start parts again after a while."""
        self._busy.update(names)

        async def start() -> None:
            await asyncio.sleep(after_s)
            for name in names:
                self.site.start(name)
                self._busy.discard(name)

        group.create_task(start())

    async def _point(self, fault: Fault, group: asyncio.TaskGroup) -> str:
        """Arm a point and wait a moment until somebody has died there; who did is started again."""
        armed = self.site.points / fault.target
        armed.touch()
        reached = await comes_true(lambda: not armed.exists(), POINT_S)
        armed.unlink(missing_ok=True)
        if not reached:
            # A kill all the same, at a moment by chance.
            self.report.done["kill"] += 1
            self.report.done["point"] -= 1
            place = fault.target.split(".")[0]
            return "not reached; " + await self._kill(replace(fault, target=_KILLED_INSTEAD.get(place, place)), group)
        await asyncio.sleep(0.05)
        self._note_ends()
        return ""

    async def _pause(self, fault: Fault, group: asyncio.TaskGroup) -> str:
        if fault.target in ("launcher", "shim"):
            found = await self._find(fault)
        else:
            process = self.site.parts[fault.target].process
            lives = process is not None and process.poll() is None
            found = Process(process.pid, os.pidfd_open(process.pid), fault.target, "") if lives and process else None
        if found is None:
            self.report.done["pause"] -= 1
            return "nobody was there"
        found.send(19)

        async def go_on() -> None:
            await asyncio.sleep(fault.for_s)
            found.send(18)
            found.close()

        group.create_task(go_on())
        return f"{found.name} {found.pid}"

    async def _find(self, fault: Fault) -> Process | None:
        kind = "launch" if fault.target == "launcher" else "shim-"
        until = time.monotonic() + FOUND_S
        while time.monotonic() < until:
            if found := self.site.below_agents(kind):
                busy = [each for each in found if each.has_children()]
                chosen = (busy or found)[fault.choice % len(busy or found)]
                found.remove(chosen)
                for other in found:
                    other.close()
                return chosen
            await asyncio.sleep(0.05)
        return None

    def _clock(self, fault: Fault, group: asyncio.TaskGroup) -> None:
        self.site.set_clock(fault.target, fault.shift_s)

        async def right() -> None:
            await asyncio.sleep(fault.for_s)
            self.site.set_clock(fault.target, 0.0)

        group.create_task(right())

    def _full(self, fault: Fault, group: asyncio.TaskGroup) -> None:
        disk = self.site.disks[fault.target]
        disk.fill()

        async def empty() -> None:
            await asyncio.sleep(fault.for_s)
            disk.empty()

        group.create_task(empty())

    def _crash(self, fault: Fault, group: asyncio.TaskGroup) -> str:
        self._again(self.site.crash(fault.target), fault.for_s, group)
        return ""

    def _cut(self, fault: Fault, group: asyncio.TaskGroup) -> str:
        lab, host = self.site.lab, fault.target
        assert lab is not None and fault.kind in CUTS
        self._busy.add(host)
        peers = [other for other in lab.hosts if other != host]

        async def hold() -> None:
            if fault.kind == "flap":
                until = time.monotonic() + fault.for_s
                while time.monotonic() < until:
                    lab.cut(host)
                    await asyncio.sleep(0.2)
                    lab.heal(host)
                    await asyncio.sleep(0.2)
            else:
                for peer in peers:
                    if fault.kind == "deaf":
                        lab.drop(peer, host)
                    elif fault.kind == "mute":
                        lab.drop(host, peer)
                if fault.kind == "cut":
                    lab.cut(host)
                elif fault.kind == "apart":
                    lab.partition([], [host])
                await asyncio.sleep(fault.for_s)
            lab.heal(*([host] if fault.kind != "mute" else []))
            self._busy.discard(host)

        group.create_task(hold())
        return ""

    # -- the end

    async def _settled(self, within_s: float) -> bool:
        """Wait until every part answers; False when that did not come."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            self._note_ends()
            with contextlib.suppress(HostlerError, TimeoutError):
                async with asyncio.timeout(1.0):
                    workers = await self.site.client.workers()
                if sum(worker.state is WorkerState.CONNECTED for worker in workers) == len(self.site.workers):
                    return True
            await asyncio.sleep(0.05)
        return False

    def _note_ends(self) -> None:
        """Parts that died at a point are started again; one that ended by itself is a fault of its own."""
        self._applied += [f"{time.monotonic() - self._began:8.3f} {text}" for text in self.site.revive()]

    async def _heal(self) -> None:
        for point in self.site.points.iterdir():
            if point.name != "fired":
                point.unlink()
        if not await self._settled(READY_S):
            self.violations.append(f"I1: not every worker was connected {READY_S:.0f} s after healing")
        await self.stream.claim_unanswered()
        self.violations += await finish(self.site.client, self.stream.jobs, HEAL_S)
        await self.stream.watch.look()
        await self.stream.repeat()

    async def _inspect(self) -> Inspection:
        inspection = Inspection(self.site, self.stream.jobs, self._allowed)
        await inspection.run()
        if self.site.lab is None:
            await inspection.agree(self.stream.callers)
        watch = self.stream.watch
        self.violations += [*watch.bounds(), *watch.violations, *self.stream.violations]
        self.report.answers, self.report.pss_max_bytes = self.stream.callers.answers, watch.pss_max_bytes
        self.report.jobs, self.report.causes = len(self.stream.jobs), inspection.causes
        for part in self.site.parts.values():
            if part.codes:
                self.violations.append(f"{part.name} ended by itself with {part.codes}")
        return inspection

    def _leave_evidence(self) -> None:
        place = self.site.directory
        (place / "script.txt").write_text("\n".join([f"seed {self.seed}, {self._counts}", *self._applied, ""]))
        (place / "violations.txt").write_text("\n".join([*self.violations, ""]))
        (place / "jobs.txt").write_text("".join(f"{job}\n" for job in self.stream.jobs))
        lines = ["when it was inspected:", *self._processes, "", "after the end of the parts:", *self.site.left(), ""]
        (place / "processes.txt").write_text("\n".join(lines))

    def _text(self) -> str:
        first = "\n  ".join(self.violations[:10])
        more = f"\n  and {len(self.violations) - 10} more" if len(self.violations) > 10 else ""
        return f"seed {self.seed}; script, logs, truth and processes are in {self.site.directory}\n  {first}{more}"
