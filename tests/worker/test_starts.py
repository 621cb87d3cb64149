"""What starts mean is found out once for those that say the same, and for no other."""

from typing import Any

import pytest

from hostler.jobs import Work
from hostler.v1 import types_pb2, workers_pb2
from hostler.wire.work import work_to_bytes
from worker_agent import starts
from worker_agent.local_policy import Mode, Policy, Refusal, decide
from worker_agent.starts import Starts

WORK = Work(argv=("x", "y"), env={"A": "1"}, loss_policy="stop")


def start(sequence: int, work: Work = WORK, *, workload: str = "", **secrets: str) -> workers_pb2.Start:
    """Return the coordinator's word for an attempt."""
    key = types_pb2.AttemptKey(job=f"j{sequence}", attempt=1)
    return workers_pb2.Start(
        sequence=sequence, key=key, work=work_to_bytes(work), slots=sequence, workload=workload, secrets=secrets
    )


def test_starts_of_the_same_work_differ_in_what_is_their_own() -> None:
    """The key, the sequence, the slots and the time to begin are each one's; all else is the same."""
    understands = Starts()
    first = understands.understood(start(1))
    later = start(2)
    later.start_within_s = 5.0
    second = understands.understood(later)
    assert (first.order.key, second.order.key) == ("j1.0.1", "j2.0.1")
    assert (first.sequence, second.sequence, first.slots, second.slots) == (1, 2, 1, 2)
    assert not first.start_by_s and second.start_by_s
    assert first.order[1:] == second.order[1:] and first.digest == second.digest


def test_the_same_work_in_a_row_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one in between is read again, and so is what comes after it."""
    read: list[Work] = []

    def noted(policy: Policy, work: Work, *others: Any) -> Work | Refusal:
        read.append(work)
        return decide(policy, work, *others)

    monkeypatch.setattr(starts, "decide", noted)
    understands = Starts(Policy(pids_max=9))
    for sequence, work in enumerate((WORK, WORK, Work(argv=("z",)), WORK, WORK), 1):
        assert understands.understood(start(sequence, work)).order.argv == work.argv
    assert [work.argv[0] for work in read] == ["x", "z", "x"]


def test_what_was_found_out_under_other_conditions_is_not_used() -> None:
    """The term of the lease, and the workload that the policy asks for, are part of what is asked."""
    understands = Starts(Policy(mode=Mode.NAMED, workloads=("a",)))
    assert not understands.understood(start(1, workload="a")).refusal
    assert understands.understood(start(2, workload="b")).refusal
    assert understands.understood(start(3)).refusal
    terms = [understands.understood(start(4, workload="a"), term=term).order.lease for term in (1, 2, 2, 1)]
    assert terms == [1, 2, 2, 1]


def test_secrets_are_for_their_attempt_alone() -> None:
    """The same work without them, or with others, has none of them."""
    understands = Starts()
    plain = understands.understood(start(1)).order
    first, second = understands.understood(start(2, S="s1")).order, understands.understood(start(3, S="s2")).order
    again = understands.understood(start(4)).order
    assert (first.env["S"], second.env["S"], first.masked) == ("s1", "s2", ("S",))
    assert "S" not in plain.env and "S" not in again.env and not again.masked


def test_what_is_not_understood_is_refused_each_time() -> None:
    """And what is understood between them is run."""
    understands = Starts()
    strange = start(1)
    strange.work = b"\xff\xff"
    assert "does not understand" in understands.understood(strange).refusal
    assert not understands.understood(start(2)).refusal
    assert "does not understand" in understands.understood(strange).refusal
