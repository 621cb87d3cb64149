"""What a job is: the frozen values that cross every boundary, and their limits.

Pure. Times are wall clock microseconds since the epoch (0: not yet); durations are seconds. The same fields, with
the same names, are in ``protos/hostler/v1/types.proto`` and ``jobs.proto``. What makes a job acceptable is said by
`hostler.job_checks`.
"""

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from hostler.lifecycle import Outcome, State

ARGV_BYTES_MAX = 128 * 1024 - 1  # execve's limit for a single argument on Linux, without its final NUL
WORDS_MAX = 100_000  # of argv
VARIABLES_MAX = 10_000  # of env
WORK_BYTES_MAX = 1024 * 1024  # argv and env together; execve takes about 2 MiB
NAME_CHARACTERS_MAX = 200
KEY_CHARACTERS_MAX = 200
LABELS_MAX = 64
LABEL_CHARACTERS_MAX = 200  # of a name, and of a value
FAMILY_CHARACTERS_MAX = 50
DURATION_S_MAX = 10 * 365 * 86400.0
PRIORITY_MAX = 1000
SUBMIT_ITEMS_MAX = 10_000
RETRIES_MAX = 100
PATH_CHARACTERS_MAX = 1000
PATH_PART_BYTES_MAX = 255  # of a file's name, on every common file system
DIGEST = re.compile(r"[0-9a-f]{64}")
FILES_MAX = 1000  # of one job
INLINE_BYTES_MAX = 256 * 1024  # of a file in a message, of params, of a result
STEPS_MAX = 1000
STAGES_MAX = 100
OUTPUTS_MAX = 10_000  # files kept of one attempt
# Ends of an attempt that another one may mend.
RETRY_CAUSES = ("exit", "signal", "timeout", "not_started", "memory_limit", "output_limit", "out_of_memory", "drain")
LOSS_POLICIES = ("keep", "stop")
ON_LOST = ("fail", "retry")
START_PATHS = ("warm", "hardened")
TERMINAL_SIDE_MAX = 10_000  # rows, or columns
TERM_CHARACTERS_MAX = 100
CRASH_LIMIT = 3  # losses of its worker after which a job is not tried again, unless it says otherwise
OWN_KEY = "once-"  # begins the keys that a client makes itself, so that a call it repeats makes one job
UNPROVED_CAUSES = frozenset({"worker_lost", "supervisor_died", "lease"})  # the end was concluded, not seen


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that is put into an attempt's workspace: bytes the coordinator stores, or its content itself."""

    path: str  # in the workspace, "inputs/scene.step"
    digest: str = ""  # SHA-256 in hex; empty: `content` has the bytes
    size_bytes: int = 0
    content: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonScript:
    """A Python script as a program: the worker finds the interpreter and calls the entry point."""

    path: str  # in the workspace
    entrypoint: str = "main"
    interpreter: str = ""  # empty: the one that runs the worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A podman container as a program; `Work.argv`, when there is one, is its command."""

    image: str
    pull: str = "never"  # never, missing or always
    memory_bytes: int = 0  # 0: no limit
    cpus: float = 0.0  # 0: no limit
    pids: int = 0  # 0: 512
    network: str = ""  # empty: none
    user: str = ""  # UID:GID inside; empty: 65534:65534
    writable: bool = False  # its root file system; otherwise read-only with a /tmp of its own
    volumes: tuple[str, ...] = ()  # HOST:CONTAINER[:ro], as far as the worker's policy allows
    capabilities: tuple[str, ...] = ()  # that it keeps; otherwise none
    port: int = 0  # of a service: where it listens inside; 0: 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A call of a long-lived HTTP service as a program: POST /service_output."""

    name: str = ""  # of the workload: attempts with the same one share the service
    version: int = 0  # of the workload: a newer one replaces the older
    url: str = ""  # of a service somebody else runs; empty: the worker runs `container`
    container: Container | None = None
    argv: tuple[str, ...] = ()  # the container's command; empty: the image's own
    env: dict[str, str] = field(default_factory=dict)  # of the container
    token_variable: str = ""  # environment variable of the attempt with the bearer token; empty: none
    health_path: str = ""  # answered with 2xx once it is ready; empty: any answer at "/" will do
    check_status: bool = False  # an HTTP status of 400 or more fails the call; otherwise it is not looked at
    start_s: float = 0.0  # for it to become ready; 0: 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the whole process tree of an attempt may use; 0: no limit."""

    memory_bytes: int = 0
    cpus: float = 0.0
    pids: int = 0  # processes and threads


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """A program's own terminal: its stdin, stdout and stderr, and its controlling terminal."""

    rows: int = 0  # 0: 24
    columns: int = 0  # 0: 80
    term: str = ""  # TERM in its environment, unless `Work.env` says it; empty: the worker's


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker executes. No shell is involved: argv goes to execve as it is."""

    argv: tuple[str, ...] = ()  # empty with `python` and `service`
    env: dict[str, str] = field(default_factory=dict)  # laid over the worker's own environment
    cwd: str = ""  # empty: the worker's working directory
    timeout_s: float = 0.0  # 0: no limit; counted from the start of the program
    grace_s: float = 10.0  # between SIGTERM and SIGKILL
    output_bytes_max: int = 0  # 0: no limit; stdout and stderr together
    leftovers_wait: bool = False  # wait for what the main process leaves running instead of ending it
    stdin: bool = False  # stdin is fed by the client; otherwise it is empty
    files: tuple[File, ...] = ()  # put into the workspace first
    workspace: bool = False  # it gets a directory with inputs/ and outputs/; what is in outputs/ is kept
    stdin_path: str = ""  # a file of the workspace that is its stdin
    python: PythonScript | None = None  # the program, instead of argv
    container: Container | None = None  # runs argv in a container
    service: Service | None = None  # calls a service, instead of argv
    result_stdout: bool = False  # its standard output is its result, and must be JSON
    merge: bool = False  # stdout and stderr share one pipe: exact order, all of it as stdout
    limits: Limits = NO_LIMITS
    output_stop: bool = False  # output_bytes_max ends the attempt instead of dropping what is more
    loss_policy: str = ""  # of LOSS_POLICIES; empty: keep
    start_path: str = ""  # of START_PATHS; empty: the worker's
    terminal: Terminal | None = None  # stdin, stdout and stderr are one terminal; all output is stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step of a chain."""

    workload: str
    workload_version: int = 0  # 0: the newest when the job is submitted


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
    slots: int = 1  # 0: takes no slot and waits for none, with or without a named worker
    principal: str = ""  # who asks
    workload: str = ""  # run this registered workload; then `work` holds only what differs from it
    workload_version: int = 0  # 0: the newest
    params: str = ""  # JSON, for the program's params.json
    retries: int | None = None  # further attempts after failed ones; None: the workload's, or none
    retry_on: tuple[str, ...] = ()  # of RETRY_CAUSES; empty: all of them
    on_lost: str = ""  # of ON_LOST; empty: fail; "retry" needs the loss policy "stop"
    lost_after_s: float | None = (
        None  # policy "keep": lost so long after its worker left; negative: never; None: the family's
    )
    crash_limit: int = 0  # losses of its worker after which `on_lost` tries no more; 0: CRASH_LIMIT
    start_within_s: float = 0.0  # a program that has not started so long after the submit never does; 0: no limit
    secrets: dict[str, str] = field(default_factory=dict)  # environment variable: name of the secret that it gets
    stages: tuple[Stage, ...] = ()  # a chain, instead of `workload`: params go to the first, each result to the next
    tags: dict[str, str] = field(default_factory=dict)  # what its submitter calls it by
    where: str = ""  # a selector over a worker's labels, name, host and id; empty: any worker

    @property
    def key_given(self) -> str:
        """The idempotency key, when its submitter has said one."""
        return "" if self.key.startswith(OWN_KEY) else self.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that a program says it takes."""

    text: str
    duration_s: float = -1.0  # negative: it is not over


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """How far a program says it has come."""

    percent: int | None = None  # 0..100; None: it has not said
    steps: tuple[Step, ...] = ()  # at most STEPS_MAX, oldest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The exception that ended a script."""

    type: str  # "ValueError"
    module: str  # "builtins"
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file in an attempt's output directory."""

    path: str  # below the output directory, with "/"
    size_bytes: int
    modified_at_us: int
    digest: str = ""  # SHA-256 in hex; empty while the attempt runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a job has put out."""

    files: tuple[OutputFile, ...] = ()  # by path
    live: bool = False  # the job runs, and this is what is there by now
    expired: bool = False  # they were removed when their time was over
    missing: tuple[str, ...] = ()  # files that could not be kept, with the reason


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
    result: bytes = b""  # JSON that the program left as its result; empty: none
    failure: Failure | None = None
    advance: Advance = Advance()
    outputs: int = 0  # files kept of its output directory
    outputs_missing: tuple[str, ...] = ()  # files that could not be kept, with the reason
    result_digest: str = ""  # of a result too large for `result`: its stored bytes
    result_bytes: int = 0

    @property
    def nothing_left(self) -> bool:
        """Whether it is known that no process of the tree lives: proved, or it never ran, or its host was restarted."""
        return bool(self.receipt.verified_by) or self.cause not in UNPROVED_CAUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAttempt:
    """An attempt of a job that is not its current one."""

    stage: int
    attempt: int
    worker: str
    outcome: Outcome
    end: End


class LogStatus(IntEnum):
    """How much of an attempt's log the coordinator holds."""

    ARRIVING = 1
    COMPLETE = 2
    LOST = 3
    EXPIRED = 4  # it was removed when its time was over

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
    phase: str = ""  # a closer word inside a state: "preparing", "collecting", "unkillable", "unreachable"
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
    advance: Advance = Advance()  # while running; afterwards it is in the end
    retried: int = 0  # attempts that failed and were followed by another
    due_at_us: int = 0  # while queued for another attempt: not before
    past: tuple[PastAttempt, ...] = ()  # only when one job is asked for; oldest first
    retry_of: str = ""  # the job that this one repeats


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
    newest_first: bool = False
    workload: str = ""
    id_prefix: str = ""  # ids that begin so
    filter: str = ""  # a selector over tags and `hostler.job_filters.FILTER_WORDS`


class BriefJob(NamedTuple):
    """A job of a list, in few bytes."""

    id: str
    state: State
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What somebody else runs and has noted here; it is no job."""

    id: str
    status: str  # success, failed or running
    containers: tuple[str, ...] = ()
    at_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """One page of a list, oldest job first; one of a filter may be empty although there is a next."""

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
