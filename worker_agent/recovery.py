"""What became of the attempts of an earlier agent: asked at start, before anything new is run.

For each open attempt of the journal the answer is one of: it runs (and is adopted), it ended, it
never ran, or it may have run. "Never ran" needs proof: no segment has a `started` frame of it, and
every shim that could have its order is fenced by our generation or proved dead. A shim that is
alive and silent leaves attempts unknown; it is asked again until it answers or is dead, and what
is found then comes as the runner's events.

What nobody asks for is cleaned away: stale sockets, cgroups and segments of dead shims, and
attempts the journal does not know, which are killed.
"""

import asyncio
import contextlib
import enum
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.jobs import EndedProcess, Receipt
from worker_agent.attempt_events import NeverRan, Unkillable
from worker_agent.attempts import Ended
from worker_agent.cgroups import Cgroup
from worker_agent.ledger import Segment, SegmentIdentity, parse_segment_name, scan_segment, segment_name
from worker_agent.leftover_cgroups import LeftoverCgroups
from worker_agent.orphans import end_of_dead, supervisor_died
from worker_agent.process_tree import is_alive
from worker_agent.runner import Runner
from worker_agent.shim_link import LinkLost, Message, ShimLink

ANSWER_S: Final = 2.0  # for a shim to answer a hello, and to write its first frame
RETRY_S: Final = 0.5
DYING_S: Final = 1.0  # from the moment a killed process has closed its sockets until it counts as dead, on a busy host
SETTLE_S: Final = 5.0  # for what dead shims left to end; what cannot be killed must not keep the agent from its work


class Fate(enum.Enum):
    """What is known of an attempt after recovery."""

    RUNNING = "running"
    ENDED = "ended"
    NEVER_RAN = "never_ran"
    UNKNOWN = "unknown"  # it may have run; the runner's events will tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """One open attempt; *ended* is there exactly when the fate is ENDED."""

    key: str
    fate: Fate
    ended: Ended | None = None


class Recovery:
    """The one recovery of one runner, before its first `start`."""

    def __init__(self, runner: Runner, open_keys: Collection[str]) -> None:
        self._runner = runner
        self._open = set(open_keys)
        self._found: set[int] = set()  # shims of earlier agents; those that the runner has made since are its own
        self._silent: set[int] = set()  # shims that may live and have not answered
        self._dead: set[int] = set()
        self._settled: set[int] = set()  # dead and cleaned away, or the runner's: from then on it knows what they write
        self._fates: dict[str, Recovered] = {}
        self._stubborn: set[str] = set()  # attempts of dead shims whose trees are not ended yet
        self._endings: dict[int, list[asyncio.Task[None]]] = {}  # of those, by shim

    async def run(self) -> dict[str, Recovered]:
        """Return the fate of every open attempt; unknown ones are followed up in the runner's background."""
        segments = await self._scan()
        self._found = {shim for shim, _ in self._names()} | self._sockets()
        # First, because a shim that is taken in and dies at once would take a segment along that nobody needs yet.
        self._place(segments, self._open)
        identities = _identities(segments)
        await asyncio.gather(*(self._ask(shim, identities.get(shim)) for shim in self._found))
        # Again, because fenced shims may have written until they were fenced.
        segments = await self._scan()
        await self._judge(segments)
        for key in self._open - self._fates.keys():
            fate = Fate.UNKNOWN if self._silent or key in self._stubborn else Fate.NEVER_RAN
            self._fates[key] = Recovered(key=key, fate=fate)
        await self._clean(segments, self._open)
        living = self._silent | self._runner.shims()
        await asyncio.to_thread(LeftoverCgroups(self._runner.segments_dir.parent).remove, living.__contains__)
        if self._silent:
            self._runner.own(self._follow_up())
        return self._fates

    # -- what is there

    def _names(self) -> list[tuple[int, int]]:
        parsed = (parse_segment_name(name) for name in os.listdir(self._runner.segments_dir))
        return [each for each in parsed if each is not None]

    def _sockets(self) -> set[int]:
        found = set()
        for name in os.listdir(self._runner.sockets_dir):
            middle = name.removeprefix("shim-").removesuffix(".sock")
            if middle.isdecimal() and name == f"shim-{middle}.sock":
                found.add(int(middle))
        return found

    async def _scan(self) -> list[Segment]:
        directory = self._runner.segments_dir
        found = []
        # In the order of writing. A shim removes no segment; the runner does, when one that it has taken in dies.
        for shim, number in sorted(self._names()):
            path = directory / segment_name(shim, number)
            with contextlib.suppress(FileNotFoundError):
                found.append(await asyncio.to_thread(scan_segment, path, self._open))
        return found

    def _is_dead(self, identity: SegmentIdentity) -> bool:
        return identity.boot_id != self._runner.boot_id or not is_alive(identity.pid, identity.start_ticks)

    # -- asking shims

    async def _ask(self, shim: int, identity: SegmentIdentity | None) -> None:
        """Fence one shim and take it in, or find it dead, or leave it among the silent."""
        path = self._runner.sockets_dir / f"shim-{shim}.sock"
        if identity is None:
            identity = await self._wait_for_identity(shim, path)
        if identity is None:
            # Nobody listens and nobody wrote: no shim of this number can have an order.
            self._dead.add(shim)
            return
        # Of a dead one, too: what it has left runs as its user, until that is buried.
        self._runner.confining.note(shim, identity.uid)
        if self._is_dead(identity):
            self._dead.add(shim)
            return
        link = ShimLink(shim=shim, pid=identity.pid, start_ticks=identity.start_ticks, nonce=identity.nonce, path=path)
        if identity.cgroup:
            Cgroup(identity.cgroup, freezer=identity.freezer).thaw(identity.pid)
        try:
            state = await link.hello(self._runner.generation, ANSWER_S)
        except LinkLost:
            (self._dead if await self._dies(identity) else self._silent).add(shim)
            return
        self._silent.discard(shim)
        self._take_in(link, state)

    async def _dies(self, identity: SegmentIdentity) -> bool:
        """Whether a shim that did not answer is dead, or in a moment."""
        until = time.monotonic() + DYING_S
        while not self._is_dead(identity):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _wait_for_identity(self, shim: int, path: Path) -> SegmentIdentity | None:
        """A shim that was just forked listens already, but may not have written its first frame yet."""
        first = self._runner.segments_dir / f"shim-{shim}.1.segment"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while await _somebody_listens(path):
                    with contextlib.suppress(FileNotFoundError):
                        segment = await asyncio.to_thread(scan_segment, first, ())
                        if segment.identity is not None:
                            return segment.identity
                    await asyncio.sleep(0.02)
                return None
        self._silent.add(shim)
        return None

    def _take_in(self, link: ShimLink, state: Message) -> None:
        for ended in map(Ended.from_json, state["ended"]):
            if ended.key in self._open:
                self._runner.ledgers.place(ended.key, ended.segment, ended.ledger_offset)
                self._fates[ended.key] = Recovered(key=ended.key, fate=Fate.ENDED, ended=ended)
        key = state["key"]
        if key in self._open:
            self._fates[key] = Recovered(key=key, fate=Fate.RUNNING)
        self._settled.add(link.shim)
        self._runner.admit(link, state)
        if key is not None and key not in self._open:
            self._runner.discard(key)

    # -- judging

    async def _judge(self, segments: list[Segment]) -> None:
        for segment in segments:
            parsed = parse_segment_name(segment.path.name)
            assert parsed is not None
            shim = parsed[0]
            if shim in self._silent:
                continue
            for record in segment.attempts:
                if record.key in self._fates or record.key in self._stubborn:
                    continue
                if record.ended is not None and record.key in self._open:
                    self._fates[record.key] = Recovered(key=record.key, fate=Fate.ENDED, ended=record.ended)
                elif not record.exited and shim in self._dead:
                    await self._end_unfinished(shim, record.key)
                elif not record.exited and record.key in self._open:
                    # Its shim is fenced and runs something else: the tree was proved empty, the frame did not fit.
                    receipt = Receipt(verified_by="wait", verified_at_us=time.time_ns() // 1000)
                    ended = supervisor_died(record, segment.path.name, receipt)
                    self._fates[record.key] = Recovered(key=record.key, fate=Fate.ENDED, ended=ended)

    async def _end_unfinished(self, shim: int, key: str) -> None:
        """End what is left of an attempt; what cannot be killed at once goes on being killed, and is told later."""
        ending = self._runner.own(self._end(shim, key))
        await asyncio.wait((ending,), timeout=SETTLE_S)
        if ending.done():
            ending.result()
        else:
            self._stubborn.add(key)
            self._endings.setdefault(shim, []).append(ending)

    async def _end(self, shim: int, key: str) -> None:
        ends = await end_of_dead(self._runner.segments_dir, shim, {key}, self._unkillable)
        if key not in self._open:
            return
        self._fates[key] = Recovered(key=key, fate=Fate.ENDED, ended=ends[key])
        if key in self._stubborn:
            self._stubborn.discard(key)
            self._runner.tell(ends[key])

    def _unkillable(self, key: str, survivors: tuple[EndedProcess, ...]) -> None:
        if key in self._open:
            self._runner.tell(Unkillable(key, survivors))

    # -- cleaning

    def _place(self, segments: list[Segment], keys: Collection[str]) -> None:
        """Note where the ledgers of *keys* are."""
        ledgers = self._runner.ledgers
        for segment in segments:
            parsed = parse_segment_name(segment.path.name)
            for record in segment.attempts:
                if record.key in keys:
                    ledgers.place(record.key, segment.path.name, record.ledger_offset)
            # Noted again as written to, the segment of one that has died since would stay for ever.
            if parsed is not None and parsed[0] in self._found - self._settled:
                ledgers.writes_to(segment.path.name)

    async def _clean(self, segments: list[Segment], keys: Collection[str]) -> None:
        """Note where the ledgers of *keys* are, and remove what dead shims left."""
        self._place(segments, keys)
        for shim in sorted(self._dead):
            burying = self._runner.own(self._bury(shim))
            await asyncio.wait((burying,), timeout=SETTLE_S)
            if burying.done():
                burying.result()
        self._settled |= self._dead
        self._dead.clear()

    async def _bury(self, shim: int) -> None:
        """Remove what a dead shim left, once nothing of its attempts lives, in its cgroup or elsewhere."""
        if shim in self._endings:
            await asyncio.wait(self._endings.pop(shim))
        await end_of_dead(self._runner.segments_dir, shim, (), self._unkillable)
        self._runner.ledgers.shim_gone(shim)
        self._runner.confining.release(shim)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._runner.sockets_dir / f"shim-{shim}.sock")

    # -- the silent

    async def _follow_up(self) -> None:
        unknown = {key for key, each in self._fates.items() if each.fate is Fate.UNKNOWN} - self._stubborn
        while self._silent:
            await asyncio.sleep(RETRY_S)
            identities = _identities(await self._scan())
            for shim in sorted(self._silent):
                self._silent.discard(shim)
                await self._ask(shim, identities.get(shim))
        for key in unknown:
            del self._fates[key]
            if key in self._runner.running():
                self._fates[key] = Recovered(key=key, fate=Fate.RUNNING)
        segments = await self._scan()
        await self._judge(segments)
        await self._clean(segments, unknown)
        for key in unknown:
            found = self._fates.get(key)
            if key in self._stubborn:
                continue  # its end is told when its tree is gone
            if found is None:
                self._runner.tell(NeverRan(key))
            elif found.ended is not None:
                self._runner.tell(found.ended)


def _identities(segments: list[Segment]) -> dict[int, SegmentIdentity]:
    return {each.identity.shim: each.identity for each in segments if each.identity is not None}


async def _somebody_listens(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(os.fspath(path))
    except OSError:
        return False
    writer.close()
    return True


async def recover(runner: Runner, open_keys: Collection[str]) -> dict[str, Recovered]:
    """Return the fate of every attempt in *open_keys*; call it once, before the first `runner.start`."""
    return await Recovery(runner, open_keys).run()
