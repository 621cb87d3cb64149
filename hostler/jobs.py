"""What a job is: the frozen values that cross every boundary, and what makes them acceptable.

Pure. Times are wall clock microseconds since the epoch (0: not yet); durations are seconds.
The same fields, with the same names, are in ``protos/hostler/v1/types.proto``.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from hostler.errors import HostlerError, InvalidRequest, TooLarge
from hostler.lifecycle import Outcome, State

ARGV_BYTES_MAX = 128 * 1024 - 1  # execve's limit for a single argument on Linux, without its final NUL
WORK_BYTES_MAX = 1024 * 1024  # argv and env together; execve takes about 2 MiB
NAME_CHARACTERS_MAX = 200
KEY_CHARACTERS_MAX = 200
LABELS_MAX = 64
LABEL_CHARACTERS_MAX = 200  # of a name, and of a value
FAMILY_CHARACTERS_MAX = 50
DURATION_S_MAX = 10 * 365 * 86400.0
PRIORITY_MAX = 1000
SUBMIT_ITEMS_MAX = 10_000
UNPROVED_CAUSES = frozenset({"worker_lost", "supervisor_died", "lease"})  # the end was concluded, not seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker executes. No shell is involved: argv goes to execve as it is."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)  # laid over the worker's own environment
    cwd: str = ""  # empty: the worker's working directory
    timeout_s: float = 0.0  # 0: no limit; counted from the start of the program
    grace_s: float = 10.0  # between SIGTERM and SIGKILL
    output_bytes_max: int = 0  # 0: no limit; stdout and stderr together
    leftovers_wait: bool = False  # wait for what the main process leaves running instead of ending it
    stdin: bool = False  # stdin is fed by the client; otherwise it is empty


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job as its submitter describes it."""

    work: Work
    name: str = ""
    owner: str = ""  # empty: the principal
    family: str = "native"
    key: str = ""  # idempotency key
    worker: str = ""  # a worker id to run on; empty: any
    labels: dict[str, str] = field(default_factory=dict)  # each must equal the worker's
    priority: int = 0  # higher first
    slots: int = 1  # 0: takes no slot and starts at once
    principal: str = ""  # who asks


@dataclass(frozen=True, slots=True, kw_only=True)
class SentSignal:
    """One signal of ours: its name, when it was sent and to how many processes."""

    signal: str  # "SIGTERM"
    at_us: int
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedProcess:
    """One process of the tree, for a receipt."""

    pid: int
    name: str  # /proc/PID/comm; empty when it was gone before it could be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The proof of an end: what was signalled, what ended, what is left (nothing, or it is no end)."""

    signals: tuple[SentSignal, ...] = ()
    ended: tuple[EndedProcess, ...] = ()  # at most 1,000 are named
    survivors: tuple[EndedProcess, ...] = ()
    verified_by: str = ""  # "wait" (ECHILD of a subreaper), "wait+cgroup", "search+cgroup"; empty: nothing proves it
    verified_at_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process tree used, from wait4 of every reaped process and from samples."""

    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    memory_bytes_max: int = 0
    processes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended, as its worker saw it (or as the coordinator had to conclude)."""

    started_at_us: int = 0  # 0: the program never ran
    ended_at_us: int = 0
    exit_code: int | None = None  # None: ended by a signal, never ran, or unknown
    signal: str = ""  # "SIGKILL"
    core_dumped: bool = False
    cause: str = ""  # see worker_agent.attempts.Cause, and worker_lost
    evidence: str = ""  # one sentence for people
    error: str = ""  # why the program could not be started
    receipt: Receipt = Receipt()
    usage: Usage = Usage()
    out_bytes: int = 0
    err_bytes: int = 0
    dropped_bytes: int = 0  # cut by the cap or a full disk; the ledger says so too
    ledger_bytes: int = 0

    @property
    def nothing_left(self) -> bool:
        """Whether it is known that no process of the tree lives: proved, or it never ran, or its host was restarted."""
        return bool(self.receipt.verified_by) or self.cause not in UNPROVED_CAUSES


class LogStatus(IntEnum):
    """How much of an attempt's log the coordinator holds."""

    ARRIVING = 1
    COMPLETE = 2
    LOST = 3

    @property
    def word(self) -> str:
        """As people and JSON read it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it stands; what every reader gets."""

    id: str
    spec: JobSpec
    state: State
    outcome: Outcome = Outcome.NONE
    phase: str = ""  # a closer word inside a state: "unkillable", "unreachable"
    stage: int = 0
    attempt: int = 0  # 0: never assigned
    worker: str = ""
    end: End | None = None
    queued_at_us: int = 0
    assigned_at_us: int = 0
    started_at_us: int = 0
    finished_at_us: int = 0
    log_bytes: int = 0  # bytes of output held
    log_position: int = 0  # ledger bytes held
    log_status: LogStatus = LogStatus.ARRIVING
    log_lost_bytes: int = 0
    pending_reasons: tuple[str, ...] = ()
    version: int = 0
    usage: Usage | None = None


class Progress(NamedTuple):
    """Where a job has come to, in few bytes: what a waiter needs."""

    id: str
    state: State
    outcome: Outcome = Outcome.NONE
    exit_code: int | None = None
    signal: str = ""
    cause: str = ""
    error: str = ""  # why the program could not be started


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs a list shows; empty fields do not filter."""

    states: tuple[State, ...] = ()
    name: str = ""
    owner: str = ""
    family: str = ""
    worker: str = ""
    limit: int = 100  # 1..1000
    after: str = ""  # `next` of the page before


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """One page of a list, oldest job first."""

    jobs: tuple[Job, ...]
    next: str  # empty: there is no further page


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One committed transition."""

    number: int
    job: str
    kind: str
    at_us: int
    stage: int
    attempt: int
    worker: str
    detail: str


def check_spec(spec: JobSpec) -> HostlerError | None:
    """Say what makes *spec* unacceptable, or None. Types are right already; this checks meaning."""
    try:
        return _check_work(spec.work) or _check_placement(spec)
    except UnicodeEncodeError:
        return InvalidRequest("argv, env or cwd holds bytes or characters that are no UTF-8 text", field="argv")


def _check_work(work: Work) -> HostlerError | None:
    if not work.argv or not work.argv[0]:
        return InvalidRequest("argv is empty; give at least the program", field="argv")
    size = 0
    for word in work.argv:
        length = len(word.encode())
        if length > ARGV_BYTES_MAX:
            return TooLarge(f"an argument is {length} bytes long; at most {ARGV_BYTES_MAX}", field="argv")
        size += length
        if "\0" in word:
            return InvalidRequest("an argument holds a NUL character", field="argv")
    for name, value in work.env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            return InvalidRequest(f"{name!r} cannot be an environment variable", field="env")
        length = len(name.encode()) + len(value.encode()) + 1
        if length > ARGV_BYTES_MAX:
            return TooLarge(f"the variable {name[:50]} is {length} bytes long; at most {ARGV_BYTES_MAX}", field="env")
        size += length
    if size > WORK_BYTES_MAX:
        return TooLarge(f"argv and env are {size} bytes together; at most {WORK_BYTES_MAX}", field="argv")
    if b"\0" in work.cwd.encode():
        return InvalidRequest("cwd holds a NUL character", field="cwd")
    if not 0 <= work.timeout_s <= DURATION_S_MAX:
        return InvalidRequest("timeout is a number of seconds, 0 for none", field="timeout")
    if not 0 <= work.grace_s <= DURATION_S_MAX:
        return InvalidRequest("grace is a number of seconds, 0 for SIGKILL at once", field="grace")
    if not 0 <= work.output_bytes_max < 1 << 62:
        return InvalidRequest("the output cap is a number of bytes, 0 for none", field="output_bytes_max")
    return None


def _check_placement(spec: JobSpec) -> HostlerError | None:
    if len(spec.name) > NAME_CHARACTERS_MAX:
        return InvalidRequest(f"name has more than {NAME_CHARACTERS_MAX} characters", field="name")
    if len(spec.owner) > NAME_CHARACTERS_MAX:
        return InvalidRequest(f"owner has more than {NAME_CHARACTERS_MAX} characters", field="owner")
    if len(spec.key) > KEY_CHARACTERS_MAX:
        return InvalidRequest(f"key has more than {KEY_CHARACTERS_MAX} characters", field="key")
    if len(spec.labels) > LABELS_MAX:
        return InvalidRequest(f"more than {LABELS_MAX} labels", field="labels")
    if any(not name or max(len(name), len(value)) > LABEL_CHARACTERS_MAX for name, value in spec.labels.items()):
        return InvalidRequest(f"a label has a name, and at most {LABEL_CHARACTERS_MAX} characters", field="labels")
    if len(spec.family) > FAMILY_CHARACTERS_MAX:
        return InvalidRequest(f"family has more than {FAMILY_CHARACTERS_MAX} characters", field="family")
    if not -PRIORITY_MAX <= spec.priority <= PRIORITY_MAX:
        return InvalidRequest(f"priority is a number from -{PRIORITY_MAX} to {PRIORITY_MAX}", field="priority")
    if not 0 <= spec.slots <= 1024:
        return InvalidRequest("slots is a number from 0 to 1024", field="slots")
    return None
