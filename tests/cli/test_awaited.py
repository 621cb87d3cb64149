"""What must happen before a job that waits can start: a sentence for each code, and for several workers."""

import pytest

from hostler.awaited import awaited
from hostler.pending import Code, Nearest, Pending, Reason

ROOM = "It starts when a worker that may run it has room."
OF_THE_JOB = (Code.AHEAD, Code.NO_WORKER, Code.BACKOFF, Code.BEHIND, Code.TURN)
CODES_OF_WORKERS = [code for code in Code if code not in OF_THE_JOB]
PASSING = {
    Code.DISK_FULL: "It starts when a worker that may run it has more room on its disk.",
    Code.DRAINING: "It starts when a worker that may run it takes new work again.",
    Code.NO_FREE_SLOT: ROOM,
    Code.PROCESSES: ROOM,
    Code.SENT_AHEAD: ROOM,
}


@pytest.mark.parametrize("code", CODES_OF_WORKERS)
def test_nobody_is_told_to_wait_for_room_where_something_else_must_happen(code: Code) -> None:
    """Whoever adds a code says what must happen: only what passes by itself is waited for."""
    reasons = (Reason(code=code, text="why", workers=1),)
    nearest = Nearest(worker="w", name="b", missing=("why",), codes=(code,))

    said = awaited(Pending(reasons=reasons, nearest=nearest), pinned=code is Code.OTHER_WORKER)

    if code in PASSING:
        assert said == PASSING[code]
    else:
        assert "room" not in said and "it starts when " in said


def test_a_job_whose_turn_comes_waits_for_nothing() -> None:
    """A worker has room for it."""
    turn = (Reason(code=Code.TURN, text="a worker has room, and gets it in a moment"),)
    assert awaited(Pending(reasons=turn), pinned=False) == "It is given to a worker in a moment."


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (Code.DRAINED, "3 drained workers, for example b, is given work again (hostler workers resume b)"),
        (
            Code.QUARANTINED,
            "3 workers under quarantine, for example b, is released from its quarantine (hostler workers release b)",
        ),
        (Code.LEFT, "3 workers that have left, for example b, is started again"),
        (Code.UNREACHABLE, "3 unreachable workers, for example b, can be reached again"),
    ],
)
def test_where_any_of_several_workers_would_do_it_is_said(code: Code, says: str) -> None:
    """One of them is an example, and no more."""
    reasons = (Reason(code=code, text="two", workers=2), Reason(code=code, text="one", workers=1))
    nearest = Nearest(worker="w", name="b", missing=("why",), codes=(code,))
    said = awaited(Pending(reasons=reasons, nearest=nearest), pinned=False)
    assert f"it starts when any of the {says}, or when another one joins that may run it." in said


def test_all_that_must_happen_to_the_nearest_worker_is_said() -> None:
    """A drained one that is away takes nothing when it is given work again."""
    reasons = (Reason(code=Code.DRAINED, text="why", workers=1),)
    nearest = Nearest(worker="w", name="b", missing=("a", "b"), codes=(Code.DRAINED, Code.UNREACHABLE))
    said = awaited(Pending(reasons=reasons, nearest=nearest), pinned=True)
    assert said.endswith("when b is given work again (hostler workers resume b) and can be reached again.")
