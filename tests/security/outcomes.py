"""What comes of many bad inputs sent to one process: how each ended, and how much its memory grew by them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import psutil

GROWTH_BYTES_MAX = 64 * 1024 * 1024
PROBLEMS_MAX = 30

T = TypeVar("T")


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    cases: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    growth_bytes: int = 0
    health_s_max: float = 0.0
    log_lines: int = 0
    seconds: float = 0.0

    def note(self, status: int, problem: str) -> None:
        """Count one input, with what was wrong about its end."""
        self.cases += 1
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if problem:
            self.problems.append(problem)

    def summary(self, name: str) -> str:
        """One line of figures."""
        statuses = " ".join(f"{status}={count}" for status, count in sorted(self.statuses.items()))
        return (
            f"{name}: {self.cases} inputs in {self.seconds:.0f} s, {len(self.problems)} problems, "
            f"memory +{self.growth_bytes / 2**20:.1f} MiB, health at most {self.health_s_max * 1000:.0f} ms, "
            f"{self.log_lines} log lines; {statuses}"
        )


async def send_all(
    inputs: Iterable[T],
    send: Callable[[T], Awaitable[None]],
    *,
    outcome: Outcome,
    process: psutil.Process,
    at_once: int,
    warm_up: int,
) -> None:
    """Send inputs, so many at once, until too much is wrong; *send* notes each in *outcome*.

    The memory of *process* is compared between the input after *warm_up* and the end.
    """
    began, places, before = time.monotonic(), asyncio.Semaphore(at_once), 0

    async def one(each: T) -> None:
        try:
            await send(each)
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        for each in inputs:
            await places.acquire()
            group.create_task(one(each))
            if not before and outcome.cases >= warm_up:
                before = process.memory_info().rss
            if len(outcome.problems) >= PROBLEMS_MAX:
                break
    if before:
        outcome.growth_bytes = max(outcome.growth_bytes, process.memory_info().rss - before)
    if outcome.growth_bytes > GROWTH_BYTES_MAX:
        outcome.problems.append(f"memory has grown by {outcome.growth_bytes} bytes")
    outcome.seconds += time.monotonic() - began
