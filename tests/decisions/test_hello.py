"""A worker introduces itself: its inventory is reconciled with what it was given, before any new work."""

from typing import Any

import pytest

from coordinator import decisions
from coordinator.changes import Ended, LogLost, LogStored, Quarantined, Returned, WorkerSeen
from coordinator.effects import Answer, AttachSession, DropSession, Effect, SendStart, SendStop
from hostler.errors import PermissionDenied
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_from_bytes
from tests.support.builders import W1, W2, a_hello, a_key, a_report, ended, never_ran
from tests.support.scene import Scene, check_invariants, only, verdicts


def the_mark(effects: list[Effect]) -> int:
    """The mark of a welcome."""
    (attached,) = only(effects, AttachSession)
    return attached.mark


def test_a_new_worker_is_welcomed_and_gets_work_afterwards() -> None:
    """The welcome comes before any command."""
    scene = Scene()
    scene.queue()

    effects = scene.join(placing=True)

    assert [type(effect) for effect in effects] == [AttachSession, SendStart]
    assert scene.worker().connected
    assert the_mark(effects) == 0


def test_what_a_worker_still_has_is_kept_with_its_slots() -> None:
    """After a restart the agent does not know how many slots an attempt took; the verdict tells."""
    scene = Scene()
    key = scene.running(slots=2)
    scene.leave()

    effects = scene.join(session="session-2", mark=1, inventory=((key, "running"),))

    (attached,) = only(effects, AttachSession)
    assert attached.verdicts == [(key, "keep", 2)]
    assert scene.job(key.job).state is State.RUNNING
    assert the_mark(effects) == 1
    check_invariants(scene.live)


@pytest.mark.parametrize("state", ["waiting", "running", "ended"])
def test_an_attempt_that_is_current_is_kept_in_every_state(state: str) -> None:
    """Of an ended one the report follows."""
    scene = Scene()
    key = scene.assigned()
    scene.leave()

    effects = scene.join(session="session-2", mark=1, inventory=((key, state),))

    assert verdicts(effects) == {key: "keep"}


def test_a_start_that_never_arrived_is_sent_again_and_the_mark_lets_it_pass() -> None:
    """The worker accepts only what is above the mark of the welcome, so the mark must be below what is sent again."""
    scene = Scene()
    key = scene.assigned()
    scene.leave()

    effects = scene.join(session="session-2", mark=0)

    assert [(start.key, start.sequence) for start in only(effects, SendStart)] == [(key, 1)]
    assert the_mark(effects) == 0
    assert scene.job(key.job).state is State.ASSIGNED


def test_starts_are_sent_again_in_the_order_of_their_sequence() -> None:
    """A worker refuses a sequence below one it has accepted; after a restart jobs are held in another order."""
    scene = Scene()
    scene.join()
    late, early = scene.queue()[0], scene.queue(priority=5)[0]
    scene.place()
    worker = scene.worker()
    worker.held = dict(sorted(worker.held.items(), key=lambda item: item[1]))  # as the store gives them: oldest first
    scene.leave()

    effects = scene.join(session="session-2", mark=0)

    assert [(start.key.job, start.sequence) for start in only(effects, SendStart)] == [(early, 1), (late, 2)]


def test_only_what_is_above_the_mark_is_sent_again() -> None:
    """The first was accepted and is there, the second never arrived."""
    scene = Scene()
    first, second = scene.assigned(), scene.assigned()
    scene.leave()

    effects = scene.join(session="session-2", mark=1, inventory=((first, "running"),))

    assert verdicts(effects) == {first: "keep"}
    assert [start.key for start in only(effects, SendStart)] == [second]
    assert the_mark(effects) == 1


def test_an_accepted_attempt_that_the_worker_does_not_know_never_ran() -> None:
    """The journal raised the mark and has no entry: it was given back, and the report was lost."""
    scene = Scene()
    key = scene.assigned()
    scene.leave()

    scene.join(session="session-2", mark=1)

    assert scene.job(key.job).state is State.QUEUED
    assert scene.last(Returned).key == key
    check_invariants(scene.live)


@pytest.mark.parametrize("mark", [0, 1])
def test_a_stopped_attempt_that_the_worker_does_not_know_is_stopped(mark: int) -> None:
    """Whether its start arrived or not: it did not run, and it will not."""
    scene = Scene()
    key = scene.assigned()
    scene.stop(key.job)
    scene.leave()

    effects = scene.join(session="session-2", mark=mark)

    assert scene.last(Ended).outcome is Outcome.STOPPED
    assert only(effects, SendStart) == []
    assert the_mark(effects) == 1
    assert scene.live.jobs == {}


@pytest.mark.parametrize("stopping", [False, True])
def test_a_started_attempt_that_its_worker_no_longer_knows_is_lost(stopping: bool) -> None:
    """A coordinator restored from an old copy meets this: the end was acknowledged by a future that is gone."""
    scene = Scene()
    key = scene.running()
    if stopping:
        scene.stop(key.job)
    scene.leave()

    scene.join(session="session-2", mark=1)

    change = scene.last(Ended)
    assert change.outcome is Outcome.LOST
    assert "no longer knew it" in end_from_bytes(change.end).evidence
    check_invariants(scene.live)


def test_a_stop_is_said_again_to_a_worker_that_came_back() -> None:
    """It is repeated until it is verified."""
    scene = Scene()
    key = scene.running()
    scene.stop(key.job, grace_s=4.0)
    scene.leave()

    effects = scene.join(session="session-2", mark=1, inventory=((key, "running"),))

    assert verdicts(effects) == {key: "keep"}
    assert only(effects, SendStop) == [SendStop(W1, 1, key, 4.0)]


def test_what_the_coordinator_does_not_know_is_killed_or_forgotten() -> None:
    """A running stranger may not run on; an ended one is nobody's."""
    scene = Scene()
    running, gone, waiting = a_key(50), a_key(51), a_key(52)

    effects = scene.join(mark=9, inventory=((running, "running"), (gone, "ended"), (waiting, "waiting")))

    assert verdicts(effects) == {running: "kill", gone: "forget", waiting: "kill"}
    assert scene.worker().sequence == 9, "the next command must be above the worker's mark"


def test_an_attempt_that_was_given_to_another_worker_is_killed() -> None:
    """At most one process tree of a job."""
    scene = Scene()
    old = scene.assigned()
    scene.say(never_ran(old))
    scene.leave()
    scene.join(W2)
    scene.place()

    effects = scene.join(session="session-2", mark=1, inventory=((old, "running"),))

    assert verdicts(effects) == {old: "kill"}
    assert scene.job(old.job).worker == W2


def test_an_attempt_that_was_called_lost_is_killed_when_its_worker_comes_back() -> None:
    """The outcome stays; the tree must not."""
    scene = Scene(lost_after_s=60.0)
    key = scene.running()
    scene.leave()
    scene.wait(61.0)
    scene.tick()

    effects = scene.join(session="session-2", mark=1, inventory=((key, "running"),))

    assert verdicts(effects) == {key: "kill"}
    assert scene.last(Ended).outcome is Outcome.LOST


# Logs that outlive their jobs


def test_an_ended_attempt_is_kept_until_its_log_has_arrived() -> None:
    """The stream may break between the report of an end and the last of a long log: the rest must still come."""
    scene = Scene()
    key = scene.trailing(ledger_bytes=5000)
    scene.leave()

    effects = scene.join(session="session-2", mark=1, inventory=((key, "ended"),))

    assert verdicts(effects) == {key: "keep"}
    scene.apply(LogStored(1, key, (), 5000, 5000))
    assert scene.live.jobs == {}


def test_an_ended_attempt_whose_log_has_arrived_is_forgotten() -> None:
    """The worker was not told in time, and asks."""
    scene = Scene()
    key = scene.running()
    scene.say(ended(key))
    scene.leave()

    assert verdicts(scene.join(session="session-2", mark=1, inventory=((key, "ended"),))) == {key: "forget"}


@pytest.mark.parametrize("changes", [{}, {"boot_id": "boot-2", "journal_id": "journal-new"}])
def test_a_log_that_its_worker_no_longer_holds_is_lost_at_once(changes: dict[str, Any]) -> None:
    """Loss is never silent, and nobody follows a log for ever."""
    scene = Scene()
    key = scene.trailing(ledger_bytes=5000)
    scene.apply(LogStored(1, key, (), 2000, 2000))
    scene.leave()

    scene.join(session="session-2", mark=1, **changes)

    assert scene.last(LogLost) == LogLost(1, key, 3000)
    assert scene.live.jobs == {}
    check_invariants(scene.live)


def test_the_log_of_another_worker_is_not_touched() -> None:
    """Its own worker still holds it."""
    scene = Scene()
    key = scene.trailing()

    scene.join(W2)

    assert key in scene.live.trailing


# Amnesia, generations, doubles


@pytest.mark.parametrize("changes", [{"boot_id": "boot-2", "journal_id": "journal-new"}, {"journal_id": "journal-new"}])
def test_a_worker_with_amnesia_cannot_prove_what_never_ran(changes: dict[str, Any]) -> None:
    """Started or not, stopping or not: all of it is lost, and the mark is above everything it was ever told."""
    scene = Scene()
    running, assigned = scene.running(), scene.assigned()
    scene.stop(assigned.job)
    scene.leave()

    effects = scene.join(session="session-2", mark=0, **changes)

    outcomes = {c.key: (c.outcome, c.cause) for c in scene.history if isinstance(c, Ended)}
    assert outcomes == dict.fromkeys((running, assigned), (Outcome.LOST, "host_restarted"))
    assert verdicts(effects) == {}
    assert the_mark(effects) == 2
    assert scene.worker().slots_used == 0
    check_invariants(scene.live)


def test_after_amnesia_new_work_is_numbered_above_the_old() -> None:
    """A start of before that is still on its way must not pass for a new one."""
    scene = Scene()
    scene.running()
    scene.leave()
    scene.join(session="session-2", boot_id="boot-2", journal_id="journal-new", generation=1)
    scene.queue()

    assert [start.sequence for start in scene.place()] == [2]


def test_an_older_generation_of_the_same_journal_brings_its_worker_under_quarantine() -> None:
    """A copied or restored data directory must not speak for the worker, and nobody knows which one is true."""
    scene = Scene()
    scene.join(generation=3)
    length = len(scene.history)

    effects = scene.join(session="session-2", generation=2)

    assert [type(effect) for effect in effects] == [Answer, DropSession]
    (answer,) = only(effects, Answer)
    assert isinstance(answer.value, PermissionDenied)
    assert [type(change) for change in scene.history[length:]] == [Quarantined]


def test_a_journal_that_knows_less_than_its_worker_has_told_brings_it_under_quarantine() -> None:
    """Restored from a backup of the same generation, it comes with the next one, and would run a program again."""
    scene = Scene()
    key = scene.running()
    scene.leave()
    length = len(scene.history)

    effects = scene.join(session="session-2", generation=2, mark=0)

    assert isinstance(only(effects, Answer)[0].value, PermissionDenied)
    assert [type(change) for change in scene.history[length:]] == [Quarantined]
    assert scene.job(key.job).state is State.RUNNING


def test_generations_are_compared_only_within_one_journal() -> None:
    """A new journal begins to count anew."""
    scene = Scene()
    scene.join(generation=3)

    assert only(scene.join(session="session-2", generation=1, journal_id="journal-new"), AttachSession)


def test_the_same_agent_may_connect_again_with_its_generation() -> None:
    """A generation is a start of the agent, a session a stream of it."""
    scene = Scene()
    scene.join(generation=3)
    scene.leave()

    assert only(scene.join(session="session-2", generation=3), AttachSession)


def test_a_newer_session_supersedes_the_older() -> None:
    """The old stream is ended before the new one is attached, and its end says nothing about the worker."""
    scene = Scene()
    scene.join()

    effects = scene.join(session="session-2")
    late = scene.leave(session="session-1")

    assert effects[0] == DropSession(W1, superseded=True)
    assert isinstance(effects[1], AttachSession)
    assert late == []
    assert scene.worker().connected


def test_a_worker_that_comes_back_is_seen_as_it_is_now() -> None:
    """Slots, labels and names are its own word."""
    scene = Scene()
    scene.join(labels=(("zone", "a"),), slots=2)
    scene.leave(goodbye=True)

    scene.join(session="session-2", labels=(("zone", "b"),), slots=7)

    worker = scene.worker()
    assert (worker.slots, worker.labels, worker.goodbye, worker.left_at_s) == (7, {"zone": "b"}, False, None)


def test_a_mark_beyond_our_count_is_believed() -> None:
    """A restored coordinator must not send what the worker would take for old."""
    scene = Scene()
    scene.join()

    scene.join(session="session-2", mark=40)

    assert scene.last(WorkerSeen).sequence == 40
    scene.queue()
    assert [start.sequence for start in scene.place()] == [41]


def test_a_hello_decides_and_touches_nothing() -> None:
    """Decisions read; only `apply` changes."""
    scene = Scene()
    key = scene.running()
    scene.leave()

    decisions.on_hello(scene.live, a_hello(boot_id="boot-2"), None, scene.now)

    assert scene.job(key.job).state is State.RUNNING
    assert not scene.worker().connected
    assert scene.say(a_report(key)) == []
