"""What can change: the only way state moves, in memory (`Live.apply`) and in the store (`Store.commit`).

Pure values. A change is decided once, applied to the live set at once, committed with its batch,
and only then do its effects leave the process. The same values load the live set at the start.
"""

from typing import NamedTuple

from coordinator.access import Key
from coordinator.admissions import AdmissionChange
from hostler.ids import AttemptKey
from hostler.jobs import CRASH_LIMIT, JobSpec, OutputFile, Record
from hostler.lifecycle import Outcome
from hostler.workloads import Workload

LEDGER_UNKNOWN = -1  # the log's length cannot be known: what is held is all there will be, and the rest is lost


class Chain(NamedTuple):
    """What a job of several stages goes through."""

    workloads: tuple[Workload, ...]  # one for each stage, of the versions it was accepted with
    spec: JobSpec  # what is common to the stages; its own `stages` name the same versions


class Losses(NamedTuple):
    """What is done about a job whose worker is lost."""

    fence_s: float = (
        0.0  # policy "stop": so long after the lease its supervisor has ended it for sure; 0: policy "keep"
    )
    retry: bool = False  # another attempt follows then
    lost_after_s: float | None = None  # policy "keep": negative: never; None: what its API family says
    crash_limit: int = CRASH_LIMIT  # losses after which no attempt follows


KEEP = Losses()


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
    runtime: str = "command"  # how the worker runs it
    workload: str = ""  # the workload it names
    workload_version: int = 0
    retries: int = 0  # further attempts it may have
    retry_on: tuple[str, ...] = ()  # causes that are tried again; empty: all that can be
    retried: int = 0  # attempts that were followed by another
    due_at_us: int = 0  # not before; 0: at once
    inputs: tuple[str, ...] = ()  # digests of stored bytes it needs
    secrets: tuple[tuple[str, str], ...] = ()  # environment variable, name of the secret
    start_by_us: int = 0  # its program must have started by then; 0: no limit
    chain: Chain | None = None  # of a job of several stages
    stage: int = 0
    abilities: tuple[str, ...] = ()  # what its worker must be able to do
    losses: Losses = KEEP
    crashes: int = 0  # attempts that were lost and followed by another
    where: str = ""  # a selector over the workers it may run on
    tags: tuple[tuple[str, str], ...] = ()  # sorted; only the store keeps them
    retry_of: str = ""  # the job that it repeats
    asked: bytes = b""  # a serialized JobSpec of which it was made; empty: it was as it is here
    barred: tuple[str, ...] = ()  # workers that have refused it, sorted

    @property
    def plain(self) -> bool:
        """Whether it is a command and nothing else, and new."""
        return self[-len(PLAIN) :] == PLAIN


PLAIN = tuple(JobQueued._field_defaults.values())  # what a command has there that is nothing else, and new


class Assigned(NamedTuple):
    """A worker was chosen for the next attempt."""

    number: int
    key: AttemptKey
    worker: str
    sequence: int  # per worker, only grows
    at_us: int
    why: str = ""  # this worker and no other


class Returned(NamedTuple):
    """The attempt never ran; the job waits again."""

    number: int
    key: AttemptKey
    reason: str
    at_us: int
    barred: tuple[str, ...] = ()  # its worker refused it: those that have done so by now
    worker: str = ""  # that gives it back


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
    outputs: tuple[OutputFile, ...] = ()  # what it left, stored
    family: str = ""
    queued_at_us: int = 0  # 0: earlier stages or attempts ran since, and nobody can tell how long this one waited
    kept: tuple[str, ...] = ()  # digests of what it left besides its outputs


class Retried(NamedTuple):
    """An attempt failed or was lost, and is over; another one follows, not before `due_at_us`."""

    number: int
    key: AttemptKey
    outcome: Outcome
    end: bytes  # a serialized End
    cause: str
    started_at_us: int
    ended_at_us: int
    ledger_bytes: int
    output_bytes: int
    ledger: bytes
    due_at_us: int
    at_us: int
    retries: int = 1  # how much this takes of the retries the job may have
    crashes: int = 0  # the same of the losses it may have


class StagePlan(NamedTuple):
    """What a stage of a chain asks of a worker."""

    runtime: str
    workload: str
    workload_version: int
    labels: tuple[tuple[str, str], ...]
    slots: int
    work: bytes
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()
    abilities: tuple[str, ...] = ()
    losses: Losses = KEEP


class StageEnded(NamedTuple):
    """A stage of a chain succeeded: the next one waits."""

    number: int
    key: AttemptKey
    end: bytes  # a serialized End
    started_at_us: int
    ended_at_us: int
    ledger_bytes: int
    output_bytes: int
    ledger: bytes
    kept: tuple[str, ...]  # digests of what it left and the chain keeps
    following: StagePlan
    at_us: int


class Due(NamedTuple):
    """The time has come for another attempt. Only memory knows it: the store has the time itself."""

    number: int


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
    past: bool = False  # another attempt followed this one


class LogLost(NamedTuple):
    """The rest of an attempt's log can no longer arrive."""

    number: int
    key: AttemptKey
    lost_bytes: int  # ledger bytes; 0 when it is not known how many
    past: bool = False  # another attempt followed this one


class LogTrails(NamedTuple):
    """The log of an attempt that is over still arrives. Only for loading: its end says so otherwise."""

    number: int
    key: AttemptKey
    worker: str
    position: int
    ledger_bytes: int
    past: bool


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
    runtimes: tuple[str, ...] = ("command",)
    workloads: tuple[str, ...] = ()  # patterns of those it takes; empty: all
    abilities: tuple[str, ...] = ()
    instance: str = ""  # of the agent's process; known only while this coordinator runs
    at_s: float = 0.0  # the coordinator's monotonic clock
    policy: str = ""  # the mode of its own policy
    named_only: bool = False  # it refuses what names no workload


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
    reason: str = ""
    disk_full: bool = False  # that is why


class Drain(NamedTuple):
    """Somebody asked for a worker to be emptied."""

    by_us: int = 0  # what still runs then is ended; 0: never
    leave: bool = False  # once it is empty, its agent ends
    reason: str = ""


class DrainAsked(NamedTuple):
    """A worker is given nothing more, or (None) work again."""

    id: str
    drain: Drain | None


class Quarantined(NamedTuple):
    """Nobody is heard as this worker any more; an empty reason releases it."""

    id: str
    reason: str


class EpochRaised(NamedTuple):
    """This coordinator writes under a higher epoch from now on."""

    epoch: int


class Missed(NamedTuple):
    """How an attempt ended that was lost may still be heard. Only for loading: its loss says so otherwise."""

    key: AttemptKey
    worker: str


class LateEnd(NamedTuple):
    """A worker came back and said how an attempt ended whose job was already final as lost."""

    key: AttemptKey
    end: bytes  # a serialized End
    worker: str


class WorkloadApplied(NamedTuple):
    """A definition became the newest version of its name."""

    workload: Workload  # with its version, origin and time


class WorkloadRemoved(NamedTuple):
    """No new job can name this workload any more; its versions stay readable."""

    name: str
    version: int  # the newest, which now counts as removed
    at_us: int


class RecordPut(NamedTuple):
    """Somebody noted what he runs elsewhere."""

    owner: str
    record: Record


class KeyCreated(NamedTuple):
    """A client may call with this key."""

    key: Key


class KeyRevoked(NamedTuple):
    """Nobody is heard with this key any more."""

    id: str
    at_us: int


class KeyForgotten(NamedTuple):
    """A key that was over is no longer listed: another one needs its place."""

    id: str


class KeyUsed(NamedTuple):
    """Somebody was heard with this key."""

    id: str
    at_us: int


class FilesExpired(NamedTuple):
    """The outputs and inputs of a finished job are no longer kept."""

    number: int
    at_us: int


class LogsExpired(NamedTuple):
    """The logs of every attempt of a finished job are no longer kept."""

    number: int
    ledger_bytes: int  # how much that was
    at_us: int


class JobExpired(NamedTuple):
    """Nothing of a finished job is kept any more: it is not found."""

    number: int


Change = (
    JobQueued
    | Assigned
    | Returned
    | Started
    | StopRequested
    | Unkillable
    | Ended
    | Retried
    | StageEnded
    | Due
    | LogStored
    | LogLost
    | LogTrails
    | WorkerSeen
    | WorkerLeft
    | WorkerDraining
    | DrainAsked
    | Quarantined
    | EpochRaised
    | LateEnd
    | Missed
    | WorkloadApplied
    | WorkloadRemoved
    | FilesExpired
    | LogsExpired
    | JobExpired
    | RecordPut
    | AdmissionChange
    | KeyCreated
    | KeyRevoked
    | KeyUsed
    | KeyForgotten
)
