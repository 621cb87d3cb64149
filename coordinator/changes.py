"""What can change: the only way state moves, in memory (`Live.apply`) and in the store (`Store.commit`).

Pure values. A change is decided once, applied to the live set at once, committed with its batch,
and only then do its effects leave the process. The same values load the live set at the start.
"""

from typing import NamedTuple

from hostler.ids import AttemptKey
from hostler.lifecycle import Outcome

LEDGER_UNKNOWN = -1  # the log's length cannot be known: what is held is all there will be, and the rest is lost


class JobQueued(NamedTuple):
    """A job was accepted."""

    number: int  # the store's key
    id: str
    owner: str
    family: str
    name: str
    key: str  # idempotency key, "" for none
    digest: bytes  # of the spec, when there is a key
    pin: str  # the worker it must run on, "" for any
    labels: tuple[tuple[str, str], ...]  # sorted
    priority: int
    slots: int
    work: bytes  # a serialized Work
    at_us: int
    attempt: int = 0  # attempts so far


class Assigned(NamedTuple):
    """A worker was chosen for the next attempt."""

    number: int
    key: AttemptKey
    worker: str
    sequence: int  # per worker, only grows
    at_us: int


class Returned(NamedTuple):
    """The attempt never ran; the job waits again."""

    number: int
    key: AttemptKey
    reason: str
    at_us: int


class Started(NamedTuple):
    """The worker started the program."""

    number: int
    key: AttemptKey
    started_at_us: int  # the worker's clock
    at_us: int


class StopRequested(NamedTuple):
    """Somebody asked for the end of an assigned or running job."""

    number: int
    key: AttemptKey
    grace_s: float  # negative: the job's own
    by: str
    at_us: int


class Unkillable(NamedTuple):
    """The worker cannot end these processes; the job stays ``stopping``."""

    number: int
    key: AttemptKey
    survivors: tuple[tuple[int, str], ...]  # pid and name
    at_us: int


class Ended(NamedTuple):
    """Final: nothing is left, or nothing more can be known."""

    number: int
    key: AttemptKey
    outcome: Outcome
    end: bytes  # a serialized End
    exit_code: int | None
    signal: str
    cause: str
    error: str
    started_at_us: int
    ended_at_us: int
    ledger_bytes: int  # how long the log is
    output_bytes: int  # of it, what the program wrote
    ledger: bytes  # the whole log when it came with the report, else empty
    at_us: int


class Extent(NamedTuple):
    """A piece of an attempt's log in a log segment of the coordinator."""

    position: int
    segment: int
    offset: int
    length: int


class LogStored(NamedTuple):
    """Pieces of an attempt's log are on disk (fdatasynced)."""

    number: int
    key: AttemptKey
    extents: tuple[Extent, ...]
    position: int  # the log is held up to here
    output_bytes: int  # how much of these pieces the program wrote


class LogLost(NamedTuple):
    """The rest of an attempt's log can no longer arrive."""

    number: int
    key: AttemptKey
    lost_bytes: int  # ledger bytes; 0 when it is not known how many


class WorkerSeen(NamedTuple):
    """A worker is connected and reconciled."""

    id: str
    name: str
    host: str
    version: str
    labels: tuple[tuple[str, str], ...]
    slots: int
    boot_id: str
    journal_id: str
    generation: int
    sequence: int
    session: str
    at_us: int


class WorkerLeft(NamedTuple):
    """A worker's stream ended: with a goodbye, or without (then it is unreachable)."""

    id: str
    goodbye: bool
    at_us: int
    at_s: float  # the coordinator's monotonic clock, for `lost_after`


class WorkerDraining(NamedTuple):
    """A connected worker wants no further work, or wants work again."""

    id: str
    draining: bool


class WorkloadApplied(NamedTuple):
    """A definition became the newest version of its name."""

    name: str
    version: int
    definition: bytes  # a serialized hostler.v1.Workload
    script: str  # the digest of its script, "" without one
    at_us: int


class WorkloadRemoved(NamedTuple):
    """No new job can name this workload any more; its versions stay readable."""

    name: str
    at_us: int


class FilesExpired(NamedTuple):
    """The outputs and inputs of a finished job are no longer kept."""

    number: int
    at_us: int


Change = (
    JobQueued
    | Assigned
    | Returned
    | Started
    | StopRequested
    | Unkillable
    | Ended
    | LogStored
    | LogLost
    | WorkerSeen
    | WorkerLeft
    | WorkerDraining
    | WorkloadApplied
    | WorkloadRemoved
    | FilesExpired
)
