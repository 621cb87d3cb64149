"""What leaves the process after a commit: answers, messages to workers, wake-ups.

Pure values. `Engine` performs them in order, and never before the changes of their batch are durable.
Replies and waiters are opaque here: whoever asked made them.
"""

from typing import Any, NamedTuple

from hostler.ids import AttemptKey
from hostler.jobs import Progress
from hostler.lifecycle import State


class Answer(NamedTuple):
    """Settle a reply with a value, or with an error to raise."""

    reply: Any
    value: Any


class Tell(NamedTuple):
    """Tell a waiter where a job has come to."""

    waiter: Any
    progress: Progress


class Wait(NamedTuple):
    """Have a waiter told once a job is as far as *until*."""

    waiter: Any
    number: int
    until: State


class SendStart(NamedTuple):
    """Tell a worker to run an attempt; without `work` its spec is read from the store first."""

    worker: str
    number: int
    sequence: int
    key: AttemptKey
    slots: int
    work: bytes | None
    secrets: tuple[tuple[str, str], ...] = ()  # environment variable, name of the secret to put in
    workload: str = ""  # that the work was made of
    start_by_us: int = 0  # it may not start later; 0: no limit


class SendStop(NamedTuple):
    """Tell a worker to end an attempt."""

    worker: str
    sequence: int
    key: AttemptKey
    grace_s: float
    cause: str = "stop"  # or "drain"


class SendLeave(NamedTuple):
    """Tell a worker that it is empty and may go."""

    worker: str


class SendRecall(NamedTuple):
    """Ask a worker to give an attempt back if it has not begun."""

    worker: str
    key: AttemptKey


class SendSignal(NamedTuple):
    """Tell a worker to signal the main process of an attempt; *reply* gets its answer, or that there is none."""

    worker: str
    key: AttemptKey
    signal: int
    alone: bool  # not to its process group
    reply: Any


class Acknowledge(NamedTuple):
    """Tell a worker that a report is durable and may be forgotten."""

    worker: str
    key: AttemptKey


class AttachSession(NamedTuple):
    """The worker is reconciled: welcome it with the verdicts on its inventory."""

    worker: str
    session: Any
    mark: int
    verdicts: list[tuple[AttemptKey, str, int]]  # with keep, kill or forget, and the slots of what is kept


class DropSession(NamedTuple):
    """End the stream that spoke for this worker until now."""

    worker: str
    superseded: bool


class LogKept(NamedTuple):
    """Tell a worker how much of an attempt's log is durable; with `rewind` to push again from there."""

    receipts: Any
    key: AttemptKey
    stored: int
    rewind: bool
    forget: bool = False  # it is complete, or not wanted any more


Effect = (
    Answer
    | Tell
    | Wait
    | SendStart
    | SendStop
    | SendLeave
    | SendRecall
    | SendSignal
    | Acknowledge
    | AttachSession
    | DropSession
    | LogKept
)
