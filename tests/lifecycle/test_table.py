"""The life of a stage, read from its table."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.lifecycle import (
    MEANINGS,
    ON_A_WORKER,
    OPEN,
    TRANSITIONS,
    Event,
    IllegalTransition,
    Outcome,
    State,
    advance,
)
from hostler.v1 import types_pb2

EMPTY_CELLS = [cell for cell in itertools.product(State, Event) if cell not in TRANSITIONS]
EVENTS = st.lists(st.sampled_from(Event), max_size=30)


def reachable_from(start: State) -> set[State]:
    """Every state that some sequence of events leads to."""
    found, edge = {start}, {start}
    while edge:
        edge = {after for (before, _), after in TRANSITIONS.items() if before in edge} - found
        found |= edge
    return found


def test_every_state_is_reached_from_queued() -> None:
    """A state nobody gets into would be a word without a meaning."""
    assert reachable_from(State.QUEUED) == set(State)


@pytest.mark.parametrize("state", sorted(OPEN))
def test_every_open_state_can_finish(state: State) -> None:
    """No job can be caught in a state for ever by the table itself."""
    assert State.FINISHED in reachable_from(state)


@pytest.mark.parametrize("state", sorted(OPEN))
def test_the_end_of_an_attempt_is_taken_in_every_open_state(state: State) -> None:
    """What a worker saw end has ended, whatever we thought of it."""
    assert advance(state, Event.ENDED) is State.FINISHED


def test_nothing_leaves_finished() -> None:
    """The outcome never changes."""
    assert [event for state, event in TRANSITIONS if state is State.FINISHED] == []


@pytest.mark.parametrize(("state", "event"), EMPTY_CELLS)
def test_an_empty_cell_raises(state: State, event: Event) -> None:
    """And the message names both, for whoever finds it in a log."""
    with pytest.raises(IllegalTransition, match=rf"a {state.word} stage .* {event.name.lower()}"):
        advance(state, event)


@pytest.mark.parametrize(("cell", "after"), list(TRANSITIONS.items()))
def test_a_filled_cell_gives_its_state(cell: tuple[State, Event], after: State) -> None:
    """`advance` adds nothing to the table."""
    assert advance(*cell) is after


def test_the_table_cannot_be_changed() -> None:
    """It is shared by everybody."""
    with pytest.raises(TypeError):
        TRANSITIONS[State.FINISHED, Event.ASSIGNED] = State.ASSIGNED  # type: ignore[index]


def test_only_a_stage_that_was_assigned_is_on_a_worker() -> None:
    """`ON_A_WORKER` is what a worker may still run."""
    assert {State.QUEUED, State.FINISHED} | ON_A_WORKER == set(State)
    assert {after for (_, event), after in TRANSITIONS.items() if event is Event.STARTED} <= ON_A_WORKER


def test_a_stage_waits_again_only_by_proof_that_nothing_ran_or_for_another_attempt() -> None:
    """At most one start per attempt: only `assigned` can be given back; what ran is over before another begins."""
    back = {pair for pair, after in TRANSITIONS.items() if after is State.QUEUED}
    assert back == {
        (State.ASSIGNED, Event.RETURNED),
        *((state, event) for state in (State.ASSIGNED, State.RUNNING) for event in (Event.RETRIED, Event.STAGE_ENDED)),
    }


def test_what_is_being_stopped_gets_no_other_attempt() -> None:
    """Whoever asked for the end gets it."""
    assert (State.STOPPING, Event.RETRIED) not in TRANSITIONS


def test_a_stop_never_finishes_what_is_on_a_worker() -> None:
    """Only the proof that nothing is left leads from there to finished."""
    assert {advance(state, Event.STOP_REQUESTED) for state in ON_A_WORKER} == {State.STOPPING}


def test_every_state_has_a_meaning_and_a_word() -> None:
    """Documents and tables of people are written from them."""
    assert set(MEANINGS) == set(State)
    assert all(MEANINGS.values())
    assert [state.word for state in State] == ["queued", "assigned", "running", "stopping", "finished"]
    assert Outcome.NONE.word == ""
    assert Outcome.TIMED_OUT.word == "timed_out"


def test_numbers_are_those_of_the_contract() -> None:
    """The store and the wire hold them as numbers, so they may never move."""
    for state in State:
        assert int(types_pb2.State.Value(f"STATE_{state.name}")) == int(state)
    for outcome in Outcome:
        name = "UNSPECIFIED" if outcome is Outcome.NONE else outcome.name
        assert int(types_pb2.Outcome.Value(f"OUTCOME_{name}")) == int(outcome)


@given(EVENTS)
def test_no_sequence_of_events_leads_out_of_finished(events: list[Event]) -> None:
    """Illegal events are refused and change nothing; a finished stage stays finished through all of them."""
    state, finished = State.QUEUED, False
    for event in events:
        try:
            state = advance(state, event)
        except IllegalTransition:
            assert (state, event) not in TRANSITIONS
        finished = finished or state is State.FINISHED
        assert (state is State.FINISHED) == finished


@given(EVENTS)
def test_a_stage_starts_only_after_it_was_assigned(events: list[Event]) -> None:
    """In every legal history a start follows an assignment that was not given back."""
    state, on_a_worker = State.QUEUED, False
    for event in events:
        try:
            state = advance(state, event)
        except IllegalTransition:
            continue
        if event is Event.STARTED:
            assert on_a_worker
        on_a_worker = state in ON_A_WORKER
