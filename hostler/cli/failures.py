"""How a command fails: one sentence, a hint what to do next, and the exit code.

Pure. Exit codes: 0 fine, 1 a job failed or the answer is no, 2 usage, 3 not found, 4 unreachable, 130 interrupted,
141 the reader of our output has gone; of `run` also 125, hostler itself failed.
"""

from collections.abc import Mapping
from types import MappingProxyType

from hostler.errors import ErrorCode, HostlerError

OK = 0
JOB_FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
RUN_FAILED = 125  # `run`: hostler failed, not the job
INTERRUPTED = 130
BROKEN_PIPE = 141  # 128 + SIGPIPE: what a program gets that writes to a reader that has gone

EXIT_CODES: Mapping[ErrorCode, int] = MappingProxyType(
    {
        ErrorCode.INVALID_REQUEST: USAGE,
        ErrorCode.TOO_LARGE: USAGE,
        ErrorCode.UNAUTHENTICATED: JOB_FAILED,
        ErrorCode.PERMISSION_DENIED: JOB_FAILED,
        ErrorCode.JOB_NOT_FOUND: NOT_FOUND,
        ErrorCode.WORKER_NOT_FOUND: NOT_FOUND,
        ErrorCode.WORKLOAD_NOT_FOUND: NOT_FOUND,
        ErrorCode.FILE_NOT_FOUND: NOT_FOUND,
        ErrorCode.KEY_NOT_FOUND: NOT_FOUND,
        ErrorCode.NOT_FINISHED: JOB_FAILED,
        ErrorCode.KEY_CONFLICT: JOB_FAILED,
        ErrorCode.NOT_RUNNING: JOB_FAILED,
        ErrorCode.OVERLOADED: JOB_FAILED,
        ErrorCode.UNAVAILABLE: UNREACHABLE,
        ErrorCode.DEADLINE_EXCEEDED: UNREACHABLE,
        ErrorCode.INTERNAL: JOB_FAILED,
    }
)

HINTS: Mapping[ErrorCode, str] = MappingProxyType(
    {
        ErrorCode.JOB_NOT_FOUND: "hostler jobs shows the jobs there are",
        ErrorCode.WORKER_NOT_FOUND: "hostler workers shows the workers there are",
        ErrorCode.WORKLOAD_NOT_FOUND: "hostler workloads list shows the workloads there are",
        ErrorCode.FILE_NOT_FOUND: "hostler outputs ls ID shows the files of a job, and whether they have expired",
        ErrorCode.TOO_LARGE: "give less at once; large content goes into files (--file) or workloads",
        ErrorCode.INTERNAL: "the coordinator's log has the cause: DATA_DIR/logs/coordinator.log with hostler up",
        ErrorCode.KEY_NOT_FOUND: "hostler keys list shows the keys there are",
        ErrorCode.NOT_FINISHED: "hostler wait ID waits for its end",
        ErrorCode.KEY_CONFLICT: "use another --key, or submit exactly the same job",
        ErrorCode.NOT_RUNNING: "hostler show ID says where the job stands",
        ErrorCode.OVERLOADED: "wait until some of the waiting jobs have ended, then try again",
        ErrorCode.UNAVAILABLE: "see that the coordinator runs (hostler up shows it), then try again",
        ErrorCode.DEADLINE_EXCEEDED: "the coordinator is busy or stopped; look again with: hostler jobs",
        ErrorCode.PERMISSION_DENIED: "ask whoever runs the cluster for a key that has this scope: hostler keys create",
        ErrorCode.UNAUTHENTICATED: "run it as the user who runs the cluster, or with a key: hostler keys create",
    }
)


class Failure(Exception):
    """An expected end of a command that is no success; shown without a traceback."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = JOB_FAILED, code: str = "failed") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.code = code  # the stable word, for --json


def usage_failure(message: str, *, hint: str = "") -> Failure:
    """The command was called in a way it does not have."""
    return Failure(message, hint=hint, exit_code=USAGE, code=ErrorCode.INVALID_REQUEST.value)


SELECTOR_FIELDS = frozenset({"--filter", "filter", "--all", "where", "--where"})
SELECTOR_HINT = "docs/selectors.md has the language of these expressions"
AWAY_HINT = "hostler workers shows which are connected"


def failure_of(error: HostlerError) -> Failure:
    """What a command says and returns for an error of the cluster's."""
    hint = SELECTOR_HINT if error.field in SELECTOR_FIELDS else HINTS.get(error.code, "")
    exit_code = EXIT_CODES[error.code]
    if error.code is ErrorCode.UNAVAILABLE and error.field == "worker":  # the coordinator has answered
        hint, exit_code = AWAY_HINT, JOB_FAILED
    return Failure(error.message, hint=hint, exit_code=exit_code, code=error.code.value)
