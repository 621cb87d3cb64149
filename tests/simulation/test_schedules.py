"""The cluster under simulated faults: every invariant holds in every life. `docs/simulation.md` says what is real."""

from collections import Counter

import pytest

from tests.simulation.lives import live, told

QUICK = 500
# What must have happened for the rules of losses to have been looked at, and how often at least.
SEEN = ("Retried lease", "Retried host_restarted", "Retried supervisor_died", "Retried drain", "LateEnd", "Quarantined")
SEEN_MIN = 10
CI = 2000


@pytest.mark.timeout(900)
def test_every_invariant_holds_in_five_hundred_lives() -> None:
    """Processes die and hang, hosts lose power, links break, disks fill; nothing promised is broken."""
    lives = live(0, QUICK)

    assert len(lives) == QUICK
    assert told(lives) == ""
    assert sum(life["starts"] for life in lives) > 5 * QUICK
    assert sum(life["checks"] for life in lives) > 20 * QUICK
    made: Counter[str] = sum((Counter(life["commits"]) for life in lives), Counter())
    assert {kind for kind in SEEN if made[kind] < SEEN_MIN} == set()


@pytest.mark.ci
@pytest.mark.timeout(3000)
def test_every_invariant_holds_in_two_thousand_lives() -> None:
    """The same with those that follow."""
    lives = live(QUICK, CI - QUICK)

    assert len(lives) == CI - QUICK
    assert told(lives) == ""


@pytest.mark.timeout(300)
def test_the_same_seed_gives_the_same_life() -> None:
    """To the last event, also in another process: what a test finds can be looked at again."""
    first, second = live(20_000, 4), live(20_000, 4)

    assert [life["digest"] for life in first] == [life["digest"] for life in second]
    assert len({life["digest"] for life in first}) == 4
