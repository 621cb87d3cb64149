"""The life of a stage: every state, every event, and the one table that moves it.

Pure. All that moves a job is here, and this file knows nothing of commands, owners or files.

*Where it is* (`State`) and *how it ended* (`Outcome`) are two enums. A job of one stage is in its
stage's state; a job of several is in the state of its current stage.

- ``assigned`` means a worker was told, not that it heard. A worker that proves the program never
  ran gives the stage back (`Event.RETURNED`), and it waits again.
- A stop of a queued stage ends it at once. A stop of an assigned or running stage only asks:
  ``stopping`` lasts until the worker has proved that no process is left. That is why ``started``
  may still arrive while stopping, and why nothing but the proof leads to ``finished``.
- An attempt that failed may be followed by another while the job has retries left (`Event.RETRIED`);
  a stage that is being stopped gets none.
- A stage of a chain that succeeded makes room for the next one, which waits (`Event.STAGE_ENDED`).
- ``lost`` differs from ``failed``: failed is what the program did, lost is what we do not know.
- An event that the table does not have for a state is illegal: nothing changes.

*Unreachable* is a flag with a time on the worker, not a state: a cut cable must not lose knowledge.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType


class State(IntEnum):
    """Where a stage is. The numbers are those of the contract and of the store."""

    QUEUED = 1
    ASSIGNED = 2
    RUNNING = 3
    STOPPING = 4
    FINISHED = 5

    @property
    def word(self) -> str:
        """The state as people and JSON read it."""
        return self.name.lower()


class Outcome(IntEnum):
    """How a finished stage ended. The numbers are those of the contract and of the store."""

    NONE = 0  # not finished
    SUCCEEDED = 1
    FAILED = 2
    STOPPED = 3
    TIMED_OUT = 4
    LOST = 5
    REJECTED = 6

    @property
    def word(self) -> str:
        """The outcome as people and JSON read it; empty when there is none."""
        return _OUTCOME_WORDS[self]


# By number: to ask a member for its name takes three calls, and each job that ends is counted by its outcome.
_OUTCOME_WORDS = tuple("" if outcome is Outcome.NONE else outcome.name.lower() for outcome in Outcome)


class Event(IntEnum):
    """What can happen to a stage."""

    ASSIGNED = 1  # a worker was chosen
    RETURNED = 2  # the worker proved that the program never ran
    STARTED = 3  # the worker started the program
    STOP_REQUESTED = 4
    ENDED = 5  # nothing is left, or nothing more can be known
    RETRIED = 6  # nothing is left of this attempt, and another is to follow
    STAGE_ENDED = 7  # the stage succeeded, and the next one is to follow


OPEN = frozenset({State.QUEUED, State.ASSIGNED, State.RUNNING, State.STOPPING})
ON_A_WORKER = frozenset({State.ASSIGNED, State.RUNNING, State.STOPPING})

TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.QUEUED, Event.ASSIGNED): State.ASSIGNED,
        (State.QUEUED, Event.ENDED): State.FINISHED,
        (State.ASSIGNED, Event.RETURNED): State.QUEUED,
        (State.ASSIGNED, Event.RETRIED): State.QUEUED,
        (State.ASSIGNED, Event.STAGE_ENDED): State.QUEUED,
        (State.ASSIGNED, Event.STARTED): State.RUNNING,
        (State.ASSIGNED, Event.STOP_REQUESTED): State.STOPPING,
        (State.ASSIGNED, Event.ENDED): State.FINISHED,
        (State.RUNNING, Event.RETRIED): State.QUEUED,
        (State.RUNNING, Event.STAGE_ENDED): State.QUEUED,
        (State.RUNNING, Event.STOP_REQUESTED): State.STOPPING,
        (State.RUNNING, Event.ENDED): State.FINISHED,
        (State.STOPPING, Event.STARTED): State.STOPPING,
        (State.STOPPING, Event.STOP_REQUESTED): State.STOPPING,
        (State.STOPPING, Event.ENDED): State.FINISHED,
    }
)

MEANINGS: Mapping[State, str] = MappingProxyType(
    {
        State.QUEUED: "accepted and durable; waits for a worker",
        State.ASSIGNED: "a worker was told to run it",
        State.RUNNING: "the worker started the program",
        State.STOPPING: "a stop was asked for; the proof that nothing is left is not there yet",
        State.FINISHED: "final: no process is left, the outcome never changes",
    }
)


# The same table by position: the hash of an enum member is a Python call, and a job takes four steps.
_NEXT = tuple(
    tuple(TRANSITIONS.get((State(state), Event(event))) if state and event else None for event in range(len(Event) + 1))
    for state in range(len(State) + 1)
)


class IllegalTransition(Exception):
    """The table has no such step; nothing was changed."""


def advance(state: State, event: Event) -> State:
    """Return the state after *event*.

    Raises:
        IllegalTransition: the table has no entry for this state and event.
    """
    target = _NEXT[state][event]
    if target is None:
        raise IllegalTransition(f"a {state.word} stage cannot take the event {event.name.lower()}")
    return target
