"""What will go wrong and when: a list of faults that a seed determines.

A seed repeats the faults and their pauses; which moment of the program one meets is the machine's choice.
"""

import random
from dataclasses import dataclass

from tests.faults.failing import AGENT_POINTS, COORDINATOR_POINTS, GATEWAY_POINTS, LAUNCHER_POINTS, SHIM_POINTS

# How often each is killed, in proportion. Two names: at the same time.
_KILLED = {"w1": 4, "w2": 4, "coordinator": 6, "gateway": 3, "launcher": 3, "shim": 4, "coordinator w1": 2}
_PAUSED = {"w1": 3, "w2": 3, "coordinator": 3, "gateway": 1, "launcher": 2, "shim": 3}
_CUTS = ("cut", "cut", "deaf", "mute", "flap", "apart")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    kind: str  # kill, point, pause, clock, crash, full, or one of the cuts: cut, deaf, mute, flap, apart
    target: str  # parts, "launcher", "shim", a point, or a host of the lab
    after_s: float  # since the fault before it
    for_s: float  # until it is undone
    settled: bool = False  # wait first until everything is connected
    choice: int = 0  # which of several launchers or shims
    shift_s: float = 0.0  # of a clock

    def __str__(self) -> str:
        """One line of the script that a failure leaves behind."""
        more = f" by {self.shift_s:.0f} s" if self.shift_s else ""
        first = " when settled" if self.settled else ""
        return f"+{self.after_s:.2f} s{first}: {self.kind} {self.target}{more} for {self.for_s:.2f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many faults of each kind."""

    kills: int = 0
    pauses: int = 0
    cuts: int = 0
    clocks: int = 0
    fills: int = 0  # of the disks of coordinator and workers, which then are small
    pause_s_max: float = 30.0
    cut_s_max: float = 8.0


def script(chance: random.Random, counts: Counts, *, several_hosts: bool) -> list[Fault]:
    """Faults in a random order; a lab has no gateway, and without one nothing can be cut."""
    found = [_kill(chance, several_hosts) for _ in range(counts.kills)]
    found += [_pause(chance, counts.pause_s_max, several_hosts) for _ in range(counts.pauses)]
    found += [_clock(chance, several_hosts) for _ in range(counts.clocks)]
    found += [_fill(chance) for _ in range(counts.fills)]
    if several_hosts:
        found += [_cut(chance, counts.cut_s_max) for _ in range(counts.cuts)]
    chance.shuffle(found)
    return found


def _pick(chance: random.Random, weights: dict[str, int], several_hosts: bool) -> str:
    names = [name for name in weights if not (several_hosts and name == "gateway")]
    return chance.choices(names, [weights[name] for name in names])[0]


def _kill(chance: random.Random, several_hosts: bool) -> Fault:
    after_s, for_s = chance.uniform(0.02, 0.5), chance.choice((0.0, 0.0, chance.uniform(0, 1.0)))
    settled = chance.random() < 0.6
    if several_hosts and chance.random() < 0.15:
        return Fault(kind="crash", target=chance.choice(("h2", "h3")), settled=settled, after_s=after_s, for_s=for_s)
    if chance.random() < 0.3:
        places = [AGENT_POINTS, COORDINATOR_POINTS, LAUNCHER_POINTS + SHIM_POINTS]
        points = chance.choice(places if several_hosts else [*places, GATEWAY_POINTS])
        return Fault(kind="point", target=chance.choice(points), settled=settled, after_s=after_s, for_s=for_s)
    target = _pick(chance, _KILLED, several_hosts)
    return Fault(
        kind="kill", target=target, settled=settled, choice=chance.getrandbits(16), after_s=after_s, for_s=for_s
    )


def _pause(chance: random.Random, pause_s_max: float, several_hosts: bool) -> Fault:
    return Fault(
        kind="pause",
        target=_pick(chance, _PAUSED, several_hosts),
        after_s=chance.uniform(0.1, 0.5),
        for_s=pause_s_max ** chance.random(),  # from 1 s on, and short ones more often
        settled=chance.random() < 0.5,
        choice=chance.getrandbits(16),
    )


def _clock(chance: random.Random, several_hosts: bool) -> Fault:
    names = ("coordinator", "w1", "w2") if several_hosts else ("coordinator", "gateway", "w1", "w2")
    return Fault(
        kind="clock",
        target=chance.choice(names),
        after_s=chance.uniform(0.1, 0.5),
        for_s=chance.uniform(1.0, 3.0),
        shift_s=chance.choice((-3600.0, 3600.0)) * chance.random(),
    )


def _fill(chance: random.Random) -> Fault:
    return Fault(
        kind="full",
        target=chance.choice(("coordinator", "coordinator", "w1", "w2")),
        after_s=chance.uniform(0.3, 1.5),
        for_s=chance.uniform(0.5, 3.0),
        settled=chance.random() < 0.7,
    )


def _cut(chance: random.Random, cut_s_max: float) -> Fault:
    return Fault(
        kind=chance.choice(_CUTS),
        target=chance.choice(("h1", "h2", "h2", "h3", "h3")),
        after_s=chance.uniform(0.1, 1.0),
        for_s=chance.uniform(1.0, cut_s_max),
        settled=chance.random() < 0.7,
    )
