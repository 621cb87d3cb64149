"""Every cause is known in all the places that speak of causes, and gives one outcome."""

import pytest

from coordinator.ends import LOSS_CAUSES, outcome_of
from hostler.causes import CAUSES
from hostler.jobs import RETRY_CAUSES, UNPROVED_CAUSES
from hostler.lifecycle import Outcome


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_a_cause_gives_the_outcome_that_is_written_down(cause: str) -> None:
    """Of an exit its code decides."""
    if cause == "exit":
        assert (outcome_of(cause, 0), outcome_of(cause, 1)) == (Outcome.SUCCEEDED, Outcome.FAILED)
    else:
        assert outcome_of(cause, 0) is CAUSES[cause].outcome


def test_no_list_of_causes_knows_another() -> None:
    """A cause that nobody explains would be told as unknown."""
    assert set(RETRY_CAUSES) | UNPROVED_CAUSES | LOSS_CAUSES <= CAUSES.keys()
    assert {"memory_limit", "output_limit", "out_of_memory"} <= set(RETRY_CAUSES)
