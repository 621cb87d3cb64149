"""Long figures are split into rounds, and a run that was broken off goes on where it was."""

import json
from dataclasses import asdict
from pathlib import Path

from tests.faults.rounds import CUTS, KILLS, Drive, Round, rounds_of
from tests.faults.schedule import Counts

LONG = Counts(kills=1000, cuts=500, pauses=100, clocks=60, fills=21)


def a_result(one: Round, *violations: str) -> str:
    """The line of the state file that a round leaves."""
    done = {"kill": one.kills, "cut": one.cuts}
    told = {"round": asdict(one), "jobs": 7, "done": done, "causes": {"exit": 7}, "seconds": 60.0}
    return json.dumps(told | {"violations": list(violations)}) + "\n"


def test_rounds_are_bounded_and_together_they_have_every_fault_that_was_asked_for() -> None:
    """Those with cuts have kills besides; each has a seed of its own."""
    rounds = rounds_of(LONG, 1001)
    assert sum(one.kills for one in rounds if not one.cuts and not one.fills) == LONG.kills
    for kind in ("cuts", "pauses", "clocks", "fills"):
        assert sum(getattr(one, kind) for one in rounds) == getattr(LONG, kind)
    assert all(one.kills <= KILLS and one.cuts <= CUTS for one in rounds)
    assert [one.seed for one in rounds] == list(range(1001, 1001 + len(rounds)))
    assert rounds_of(Counts(cuts=1), 5) == [Round(seed=5, cuts=1, kills=10)]


async def test_a_round_that_held_is_not_run_again(tmp_path: Path) -> None:
    """Its figures count, and nothing is started for it."""
    rounds = rounds_of(Counts(kills=100, cuts=25), 1)
    state = tmp_path / "state"
    state.write_text("".join(a_result(one) for one in rounds) + a_result(Round(seed=99, kills=50)))

    drive = Drive(rounds, state, beside=1)

    assert await drive.run(within_s=60)
    assert str(drive.figures) == (
        "110 kills, 25 cuts in 3 rounds of 3.0 min altogether; 21 jobs (21 exit); violations: 0"
    )


async def test_a_round_with_a_violation_is_left_for_the_next_time(tmp_path: Path) -> None:
    """It does not count, and with no time left it is not begun."""
    first, second = rounds_of(Counts(kills=100), 1)
    state = tmp_path / "state"
    state.write_text(a_result(first, "I1: job 3 is not over") + a_result(second))

    drive = Drive([first, second], state, beside=1)

    assert not await drive.run(within_s=0)
    assert (drive.figures.rounds, drive.figures.violations) == (1, 0)
