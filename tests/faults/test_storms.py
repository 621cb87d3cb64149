"""A stream of jobs under many faults: what the coordinator says is what the programs wrote down.

The seed of a run is in its test's name, and in its evidence; `python -m tests.faults` does the same by a plain command
and goes on where it was broken off.
"""

import pytest

from tests.faults.__main__ import run_alone
from tests.faults.rounds import Figures, Round, rounds_of
from tests.faults.schedule import Counts

LONG = rounds_of(Counts(kills=1000, cuts=500, pauses=100, clocks=60, fills=21), 1001)


async def storm(one: Round, figures: Figures) -> None:
    """One run; its figures are printed, and pytest shows them with -s and with a failure."""
    result = await run_alone(one)
    figures.add(result)
    print(f"\nseed {one.seed}: {result['text']}")
    assert not result["violations"], f"again: python -m tests.faults {' '.join(one.arguments)}"
    # Who is to be paused may be dead.
    asked = {"kill": one.kills, "cut": one.cuts, "clock": one.clocks, "full": one.fills, "pause": one.pauses - 1}
    assert all(result["done"].get(kind, 0) >= count for kind, count in asked.items()), result["done"]


@pytest.mark.timeout(600)
async def test_twenty_kills(figures: Figures) -> None:
    """Agents, launchers, shims, coordinator, gateway, also two at once, at named points and while they start."""
    await storm(Round(seed=20, kills=20), figures)


@pytest.mark.timeout(600)
async def test_five_cuts_between_hosts(figures: Figures) -> None:
    """Both ways, one way, flapping; the coordinator serves with TLS and workers show certificates."""
    await storm(Round(seed=5, cuts=5), figures)


@pytest.mark.ci
@pytest.mark.timeout(1600)
@pytest.mark.parametrize(
    "one",
    [
        Round(seed=101, kills=40, pauses=3, clocks=3),
        Round(seed=102, kills=40, pauses=3, clocks=3),
        Round(seed=103, cuts=15, kills=5),
        Round(seed=104, fills=4, kills=4),
    ],
    ids=lambda one: str(one.seed),
)
async def test_a_hundred_kills_and_twenty_cuts_with_the_quick_ones(one: Round, figures: Figures) -> None:
    """Pauses of 1 to 30 s lie over the kills, wall clocks jump by up to an hour, disks are full to the last byte."""
    await storm(one, figures)


@pytest.mark.long
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("one", LONG, ids=[str(one.seed) for one in LONG])
async def test_a_thousand_kills_five_hundred_cuts_and_a_hundred_pauses(one: Round, figures: Figures) -> None:
    """In rounds; hosts crash as well."""
    await storm(one, figures)
