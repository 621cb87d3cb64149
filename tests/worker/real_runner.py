"""A runner over real processes for tests, and the search that proves that nothing of a test is left."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hostler import frames
from worker_agent.attempt_events import Event, OnEvent
from worker_agent.attempts import Ended, Exited, Order
from worker_agent.cgroups import Containment
from worker_agent.process_tree import boot_id, process_name, read_stat
from worker_agent.runner import Runner
from worker_agent.slot_users import FREELY, Confining

T = TypeVar("T")
PATIENCE_S = 20.0


def python(code: str) -> tuple[str, ...]:
    """Return a small Python program as argv; -I and -S keep its start short."""
    return (sys.executable, "-I", "-S", "-c", code)


def sh(code: str) -> tuple[str, ...]:
    """Return a shell snippet as argv."""
    return ("/bin/sh", "-c", code)


async def eventually(look: Callable[[], T | None], what: str, within_s: float = PATIENCE_S) -> T:
    """Return the first true answer of *look*; fail, saying *what* was awaited, when there is none in time."""
    until = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < until, f"waited {within_s} s for {what}"
        await asyncio.sleep(0.005)
    return found


class Bench:
    """Runners one after another on the same directories, as agents come and go, and what they told."""

    def __init__(self, place: Path, prefix: str) -> None:
        self.place = place
        self.prefix = prefix
        self.events: list[Event] = []
        self.generation = 0
        self._cgroup_prefixes: list[str] = []

    def runner(
        self,
        *,
        slots: int = 2,
        process_cap: int = 512,
        idle_surplus_s: float = 60.0,
        containment: Containment = Containment.AUTO,
        start_path: str = "warm",
        confining: Confining = FREELY,
        on_event: OnEvent | None = None,
    ) -> Runner:
        """Return the runner of the next agent; enter it before use. *on_event* hears instead of this bench."""
        self.generation += 1
        runner = Runner(
            data_dir=self.place / "worker",
            runtime_dir=self.place / "run",
            generation=self.generation,
            boot_id=boot_id(),
            slots=slots,
            on_event=on_event or self._note,
            process_cap=process_cap,
            idle_surplus_s=idle_surplus_s,
            containment=containment,
            start_path=start_path,
            confining=confining,
        )
        self._cgroup_prefixes.append(runner._launcher._cgroup_prefix)
        return runner

    def _note(self, *events: Event) -> None:
        self.events += [event.ended() if isinstance(event, Exited) else event for event in events]

    def key(self, name: str) -> str:
        """Return an attempt key that no other test uses."""
        return f"{self.prefix}-{name}.0.1"

    def order(self, name: str, argv: tuple[str, ...], **options: object) -> Order:
        """Return an order in the place of this test."""
        return Order(key=self.key(name), argv=argv, **{"cwd": str(self.place), **options})  # type: ignore[arg-type]

    async def end_all(self, runner: Runner) -> None:
        """End every attempt and every shim of the last runner of a test."""
        for key in list(runner.running()):
            runner.discard(key)
        async with asyncio.timeout(PATIENCE_S):
            await runner.close(stop_jobs=True)

    def ends(self, name: str) -> list[Ended]:
        """Return every end told of an attempt; more than one is an error of the runner."""
        return [each for each in self.events if isinstance(each, Ended) and each.key == self.key(name)]

    async def ended(self, name: str, within_s: float = PATIENCE_S) -> Ended:
        """Wait for the end of an attempt."""
        await eventually(lambda: self.ends(name), f"the end of {name}; events: {self.events}", within_s)
        (ended,) = self.ends(name)
        return ended

    async def appears(self, file: str) -> str:
        """Wait until a program has written *file*, with a line end, in the place of the test; return its text."""
        path = self.place / file

        def look() -> str | None:
            text = path.read_text() if path.exists() else ""
            return text if text.endswith("\n") else None

        return await eventually(look, f"{file} to be written")

    def living(self) -> list[str]:
        """Return the living processes of this test's attempts; a zombie has no environment and is not found."""
        found = []
        for pid in _pids():
            try:
                mark = b"HOSTLER_ATTEMPT=" + self.prefix.encode()
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if not any(entry.startswith(mark) for entry in file.read().split(b"\0")):
                        continue
            except OSError:
                continue
            stat = read_stat(pid)
            if stat is not None:
                found.append(f"{pid} {process_name(pid)} {stat.state}")
        return found

    def cgroups(self) -> list[str]:
        """Return the cgroup directories of this test's shims; other tests may run beside it."""
        return [
            os.path.join(directory, each)
            for directory, folders, _ in os.walk("/sys/fs/cgroup")
            for each in folders
            if each.startswith(tuple(self._cgroup_prefixes or ["none"]))
        ]


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def zombie_children_of(pids: set[int]) -> list[int]:
    """Return the zombies whose parent is one of *pids*."""
    stats = ((pid, read_stat(pid)) for pid in _pids())
    return [pid for pid, stat in stats if stat is not None and stat.state == "Z" and stat.parent in pids]


def streams(ledger: bytes) -> tuple[bytes, bytes, list[tuple[int, int]]]:
    """Return (stdout, stderr, gaps) of a whole ledger."""
    out, err, gaps = bytearray(), bytearray(), []
    for frame in frames.iter_frames(ledger):
        if frame.kind == frames.OUT:
            out += frame.payload
        elif frame.kind == frames.ERR:
            err += frame.payload
        else:
            gaps.append(frames.parse_gap(frame.payload))
    return bytes(out), bytes(err), gaps


def whole_ledger(runner: Runner, key: str, step_bytes: int = 1 << 20) -> bytes:
    """Return the ledger of an attempt as a reader gets it, piece by piece."""
    found = bytearray()
    while piece := runner.read(key, len(found), step_bytes):
        found += piece
    return bytes(found)
