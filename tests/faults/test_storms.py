"""A stream of jobs under many faults: what the coordinator says is what the programs wrote down.

The seed of a run is in its test's name; `python -m tests.faults` replays one.
"""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.faults.invariants import Allowed
from tests.faults.run import FaultRun
from tests.faults.schedule import Counts
from tests.support.netlab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Three hosts of its own; whatever happens they are removed."""
    with Lab(f"hf{uuid4().hex[:10]}", 3) as made:
        yield made


async def storm(seed: int, counts: Counts, lab: Lab | None = None, allowed: Allowed | None = None) -> None:
    """One run; its figures are printed, and pytest shows them with -s and with a failure."""
    report = await FaultRun(seed, counts, lab=lab, allowed=allowed).run()
    print(f"\nseed {seed}: {report}")
    for kind, count in (("kill", counts.kills), ("pause", counts.pauses), ("cut", counts.cuts), ("full", counts.fills)):
        assert report.total(kind) >= count - (kind == "pause"), report  # who is to be paused may be dead


@pytest.mark.timeout(240)
async def test_twenty_kills() -> None:
    """Agents, launchers, shims, coordinator, gateway, also two at once and while they start."""
    await storm(20, Counts(kills=20))


@pytest.mark.ci
@pytest.mark.timeout(240)
async def test_five_cuts_between_hosts(lab: Lab) -> None:
    """Both ways, one way, flapping, for 1 to 4 s; the coordinator serves with TLS and the cluster key."""
    await storm(5, Counts(cuts=5, cut_s_max=4.0), lab)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [101, 102])
async def test_fifty_kills_pauses_and_jumping_clocks(seed: int) -> None:
    """Pauses of 1 to 5 s lie over the kills, and wall clocks jump by up to an hour."""
    await storm(seed, Counts(kills=50, pauses=5, clocks=5))


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_twenty_cuts_with_kills_and_crashing_hosts(lab: Lab) -> None:
    """Cuts of 1 to 8 s, and hosts on which everything dies at once."""
    await storm(201, Counts(cuts=20, kills=10), lab)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_disks_that_are_full_for_a_while() -> None:
    """Those of coordinator and workers, to the last byte, for 0.5 to 3 s; a log may then have gaps that it tells of."""
    await storm(301, Counts(fills=7, kills=6), allowed=Allowed(gaps=True))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1001, 1011))
async def test_a_hundred_kills_ten_times(seed: int) -> None:
    """1,000 kills and 100 pauses."""
    await storm(seed, Counts(kills=100, pauses=10, clocks=5))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2001, 2011))
async def test_fifty_cuts_ten_times(seed: int, lab: Lab) -> None:
    """500 cuts."""
    await storm(seed, Counts(cuts=50, kills=20), lab)
