"""Many faults in bounded rounds: each a fault run of its own, so that a long figure can be broken off and resumed.

A round that held is a line of the state file and is not run again; one with violations, or that was broken off, is.
Rounds are processes of their own and may run beside each other; each has its cluster, directory and seed.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.schedule import Counts

KILLS = 50  # of a round on one host
CUTS = 25  # of a round on several hosts
KILLS_BESIDE_CUTS = 10
FILLS = 7  # of a round with small disks
KILLS_BESIDE_FILLS = 6
KINDS = ("kills", "pauses", "cuts", "clocks", "fills")
ENDING_S = 120.0  # for a round that is to break off


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One fault run."""

    seed: int
    kills: int = 0
    pauses: int = 0
    cuts: int = 0
    clocks: int = 0
    fills: int = 0

    @property
    def counts(self) -> Counts:
        """Its faults."""
        return Counts(kills=self.kills, pauses=self.pauses, cuts=self.cuts, clocks=self.clocks, fills=self.fills)

    @property
    def arguments(self) -> list[str]:
        """What `python -m tests.faults` gets to run it again."""
        given = [f"--{kind}={count}" for kind in KINDS if (count := getattr(self, kind))]
        return ["--one", f"--seed={self.seed}", *given]


def rounds_of(counts: Counts, seed: int) -> list[Round]:
    """Split so many faults into rounds with the seeds from *seed* on; those on several hosts have kills besides.

    Kinds alternate, so that each has had its share wherever one breaks off.
    """
    plain = max(-(-counts.kills // KILLS), -(-counts.pauses // KILLS), -(-counts.clocks // KILLS))
    labs = -(-counts.cuts // CUTS)
    small = -(-counts.fills // FILLS)
    made: list[dict[str, int]] = []
    for kills, pauses, clocks in zip(
        _parts(counts.kills, plain), _parts(counts.pauses, plain), _parts(counts.clocks, plain), strict=True
    ):
        made.append({"kills": kills, "pauses": pauses, "clocks": clocks})
    others = [{"cuts": cuts, "kills": KILLS_BESIDE_CUTS} for cuts in _parts(counts.cuts, labs)]
    others += [{"fills": fills, "kills": KILLS_BESIDE_FILLS} for fills in _parts(counts.fills, small)]
    mixed = [each for pair in _in_turn(made, others) for each in pair]
    return [Round(seed=number, **given) for number, given in enumerate(mixed, seed)]


def _parts(total: int, count: int) -> list[int]:
    return [total * (part + 1) // count - total * part // count for part in range(count)]


def _in_turn(one: Sequence[dict[str, int]], other: Sequence[dict[str, int]]) -> Iterator[list[dict[str, int]]]:
    for place in range(max(len(one), len(other))):
        yield [each[place] for each in (one, other) if place < len(each)]


@dataclass(slots=True)
class Figures:
    """What many rounds did."""

    rounds: int = 0
    jobs: int = 0
    done: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    seconds: float = 0.0

    def add(self, result: dict[str, Any]) -> None:
        """Add what a round said at its end."""
        self.rounds += 1
        self.jobs += result["jobs"]
        self.done.update(result["done"])
        self.causes.update(result["causes"])
        self.violations += len(result["violations"])
        self.seconds += result["seconds"]

    def __str__(self) -> str:
        """The one line."""
        kinds = ("kill", "cut", "pause", "clock", "full")
        faults = ", ".join(f"{self.done[kind]:,} {kind}s" for kind in kinds if self.done[kind])
        causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(self.causes.items()))
        return (
            f"{faults or 'no faults'} in {self.rounds} rounds of {self.seconds / 60:.1f} min altogether; "
            f"{self.jobs:,} jobs ({causes}); violations: {self.violations}"
        )


class Drive:
    """Runs rounds; `figures` grows, and the state file with it."""

    def __init__(self, rounds: Sequence[Round], state: Path, *, beside: int) -> None:
        """*beside*: so many rounds at a time."""
        self.figures = Figures()
        self._state = state
        held = self._read(rounds)
        self._waiting = [each for each in rounds if each not in held]
        self._beside = beside

    def _read(self, rounds: Sequence[Round]) -> list[Round]:
        if not self._state.exists():
            return []
        held = []
        for line in self._state.read_text().splitlines():
            result = json.loads(line)
            one = Round(**result["round"])
            if one in rounds and not result["violations"]:
                self.figures.add(result)
                held.append(one)
        return held

    async def run(self, within_s: float) -> bool:
        """Run what is not done yet; after *within_s* seconds no further round begins. False: some are left."""
        until = asyncio.get_running_loop().time() + within_s
        async with asyncio.TaskGroup() as group:
            for _ in range(self._beside):
                group.create_task(self._work(until))
        return not self._waiting

    async def _work(self, until: float) -> None:
        while self._waiting and asyncio.get_running_loop().time() < until:
            one = self._waiting.pop(0)
            result = await self._run_one(one) | {"round": asdict(one)}
            self.figures.add(result)
            with self._state.open("a") as file:
                file.write(json.dumps(result) + "\n")
            for text in result["violations"]:
                print(f"seed {one.seed}: {text}", file=sys.stderr)
            print(f"[{one.seed}] {self.figures}", flush=True)

    async def _run_one(self, one: Round) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.faults", "--json", *one.arguments]
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            out, _ = await child.communicate()
        except asyncio.CancelledError:
            child.terminate()  # it ends its cluster first
            await asyncio.wait_for(child.wait(), ENDING_S)
            raise
        try:
            result: dict[str, Any] = json.loads(out.splitlines()[-1])
        except (IndexError, ValueError):
            said = f"the round ended with {child.returncode} and said nothing"
            result = {"jobs": 0, "done": {}, "causes": {}, "violations": [said], "seconds": 0.0}
        return result
