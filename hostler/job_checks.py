"""What makes a job acceptable: limits and meaning; types are right already.

Pure. The coordinator applies it to every item of a submission; clients may, to say it sooner.
"""

from hostler.errors import HostlerError, InvalidRequest, TooLarge
from hostler.job_filters import FILTER_WORDS
from hostler.jobs import (
    ARGV_BYTES_MAX,
    CRASH_LIMIT,
    DIGEST,
    DURATION_S_MAX,
    FAMILY_CHARACTERS_MAX,
    FILES_MAX,
    INLINE_BYTES_MAX,
    KEY_CHARACTERS_MAX,
    LABEL_CHARACTERS_MAX,
    LABELS_MAX,
    LOSS_POLICIES,
    NAME_CHARACTERS_MAX,
    ON_LOST,
    PATH_CHARACTERS_MAX,
    PATH_PART_BYTES_MAX,
    PRIORITY_MAX,
    RETRIES_MAX,
    RETRY_CAUSES,
    START_PATHS,
    TERM_CHARACTERS_MAX,
    TERMINAL_SIDE_MAX,
    VARIABLES_MAX,
    WORDS_MAX,
    WORK_BYTES_MAX,
    JobSpec,
    Limits,
    Work,
)
from hostler.selectors import parse_selector

# Where things lie in the workspace of a workload's attempt.
INPUT_FOLDER = "inputs"
SCRIPT_FOLDER = "script"
PARAMS_PATH = "params.json"
STDIN_PATH = "stdin.json"
MEMORY_BYTES_MIN = 4 * 1024 * 1024  # below it hardly a program starts
CPUS_MIN = 0.01
# Names of variables that begin so are hostler's own: it says there what a program is to know of its attempt.
RESERVED_PREFIX = "HOSTLER_"
# The exceptions, which a gateway or the expansion of a workload gives; no job can do harm with them.
GIVEN_PREFIX = "HOSTLER_PARAM_"
GIVEN_NAMES = frozenset(
    {
        "HOSTLER_ROOT_FILE",
        "HOSTLER_COMPUTE_ONLY",
        "HOSTLER_SERVICE_SOURCE",
        "HOSTLER_SERVICE_DESTINATION",
        "HOSTLER_SERVICE_REQUIRES_PROOF",
    }
)


def check_spec(spec: JobSpec) -> HostlerError | None:
    """Say what makes *spec* unacceptable, or None. Types are right already; this checks meaning."""
    try:
        if not (spec.workload or spec.stages or _has_program(spec.work)):
            return _no_program(spec.work)
        return _check_work(spec.work) or _check_files(spec.work) or _check_placement(spec) or _check_retries(spec)
    except UnicodeEncodeError:
        return _not_text()


def check_command(spec: JobSpec) -> HostlerError | None:
    """The same for a job that is a command and nothing else: no workload, files or retries. It takes half the time."""
    try:
        argv = spec.work.argv
        if not argv or not argv[0]:
            return _no_program(spec.work)
        return _check_work(spec.work) or _check_placement(spec)
    except UnicodeEncodeError:
        return _not_text()


def _no_program(work: Work) -> HostlerError:
    if work.argv:
        return InvalidRequest("the command's name, argv[0], is empty; give the program", field="argv")
    return InvalidRequest("argv is empty; give at least the program", field="argv")


def _not_text() -> HostlerError:
    return InvalidRequest("argv, env or cwd holds bytes or characters that are no UTF-8 text", field="argv")


def _check_work(work: Work) -> HostlerError | None:
    argv, env = work.argv, work.env  # a message makes each anew whenever it is asked
    if len(argv) > WORDS_MAX:  # before they are looked at one by one
        return TooLarge(f"argv has {len(argv)} arguments; at most {WORDS_MAX}", field="argv")
    if len(env) > VARIABLES_MAX:
        return TooLarge(f"env has {len(env)} variables; at most {VARIABLES_MAX}", field="env")
    size = 0
    for word in argv:
        length = len(word.encode())
        if length > ARGV_BYTES_MAX:
            return TooLarge(f"an argument is {length} bytes long; at most {ARGV_BYTES_MAX}", field="argv")
        size += length
        if "\0" in word:
            return InvalidRequest("an argument holds a NUL character", field="argv")
    for name, value in env.items() if env else ():
        if not name or "=" in name or "\0" in name or "\0" in value:
            return InvalidRequest(f"{name!r} cannot be an environment variable", field="env")
        if is_reserved(name):
            return InvalidRequest(f"{name[:100]} is a name of hostler's own; choose another", field="env")
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
    if work.output_stop and not work.output_bytes_max:
        return InvalidRequest("output_stop needs output_bytes_max, the bytes after which it stops", field="output_stop")
    if work.loss_policy and work.loss_policy not in LOSS_POLICIES:
        return InvalidRequest(f"loss_policy is one of {', '.join(LOSS_POLICIES)}", field="loss_policy")
    if work.start_path and work.start_path not in START_PATHS:
        return InvalidRequest(f"start_path is one of {', '.join(START_PATHS)}", field="start_path")
    return _check_limits(work.limits) or _check_terminal(work)


def _check_terminal(work: Work) -> HostlerError | None:
    terminal = work.terminal
    if terminal is None or not (terminal.rows or terminal.columns or terminal.term):
        return None
    if not (0 <= terminal.rows <= TERMINAL_SIDE_MAX and 0 <= terminal.columns <= TERMINAL_SIDE_MAX):
        return InvalidRequest(f"a terminal has at most {TERMINAL_SIDE_MAX} rows and columns", field="terminal")
    if len(terminal.term) > TERM_CHARACTERS_MAX or not all("!" <= c <= "~" for c in terminal.term):
        return InvalidRequest(
            f"term is the name of a kind of terminal, of at most {TERM_CHARACTERS_MAX} characters", field="terminal"
        )
    return None


def _check_limits(limits: Limits) -> HostlerError | None:
    if limits.memory_bytes and not MEMORY_BYTES_MIN <= limits.memory_bytes < 1 << 62:
        return InvalidRequest(f"the memory limit is at least {MEMORY_BYTES_MIN} bytes, 0 for none", field="memory")
    if limits.cpus and not CPUS_MIN <= limits.cpus <= 10_000:
        return InvalidRequest(f"the limit of processors is a number from {CPUS_MIN} on, 0 for none", field="cpus")
    if not 0 <= limits.pids < 1 << 31:
        return InvalidRequest("the limit of processes is a number, 0 for none", field="pids")
    return None


def _has_program(work: Work) -> bool:
    # A message of the contract has the same fields, and an unset one is there and false only in its parts.
    return bool(
        (work.argv and work.argv[0])
        or (work.python and work.python.path)
        or (work.container and work.container.image)
        or (work.service and (work.service.url or (work.service.container and work.service.container.image)))
    )


def is_reserved(variable: str) -> bool:
    """Whether an environment variable is hostler's own, so that no job may set it."""
    if not variable.startswith(RESERVED_PREFIX):
        return False
    return variable not in GIVEN_NAMES and not variable.startswith(GIVEN_PREFIX)


def is_workspace_path(path: str) -> bool:
    """Whether *path* names a file inside a workspace: relative, no "..", no empty part, no NUL."""
    parts = path.split("/")
    if len(path) > PATH_CHARACTERS_MAX or "\0" in path:
        return False
    return all(part not in ("", ".", "..") and len(part.encode()) <= PATH_PART_BYTES_MAX for part in parts)


def is_input(path: str) -> bool:
    """Whether a file lies where a workload's program looks for what it works on, and for nothing that it executes."""
    return path.startswith(f"{INPUT_FOLDER}/")


def _check_files(work: Work) -> HostlerError | None:
    if len(work.files) > FILES_MAX:
        return TooLarge(f"{len(work.files)} files; at most {FILES_MAX}", field="files")
    size, paths = 0, set()
    for file in work.files:
        if not is_workspace_path(file.path):
            return InvalidRequest(f"{file.path[:100]!r} cannot be a file's path in a workspace", field="files")
        if file.digest and DIGEST.fullmatch(file.digest) is None:
            return InvalidRequest(f"{file.digest[:100]!r} is no SHA-256 in hex", field="files")
        size += len(file.content)
        paths.add(file.path)
    if len(paths) < len(work.files):
        return InvalidRequest("two files have the same path", field="files")
    if work.terminal is not None and (work.container or work.service or work.stdin_path or work.result_stdout):
        what = "a container, a service, and a program whose stdin is a file or whose stdout is its result"
        return InvalidRequest(f"{what} have no terminal; leave terminal out", field="terminal")
    if size > INLINE_BYTES_MAX:
        return TooLarge(f"files have {size} bytes of content together; store what is larger", field="files")
    script = work.python.path if work.python else ""
    for path, name in ((work.stdin_path, "stdin_path"), (script, "python")):
        if path and path not in paths:
            return InvalidRequest(f"{name} names {path[:100]!r}, which is none of the files", field=name)
    return None


def _check_retries(spec: JobSpec) -> HostlerError | None:
    if not 0 <= (spec.retries or 0) <= RETRIES_MAX:
        return InvalidRequest(f"retries is a number from 0 to {RETRIES_MAX}", field="retries")
    if any(cause not in RETRY_CAUSES for cause in spec.retry_on):
        return InvalidRequest(f"retry_on holds some of {', '.join(RETRY_CAUSES)}", field="retry_on")
    if wrong := _check_losses(spec):
        return wrong
    if not 0 <= spec.start_within_s <= DURATION_S_MAX:
        return InvalidRequest("start_within is a number of seconds, 0 for no limit", field="start_within")
    if len(spec.params) > INLINE_BYTES_MAX:
        return TooLarge(f"params has {len(spec.params)} characters; at most {INLINE_BYTES_MAX}", field="params")
    return None


def _check_losses(spec: JobSpec) -> HostlerError | None:
    if spec.on_lost and spec.on_lost not in ON_LOST:
        return InvalidRequest(f"on_lost is one of {', '.join(ON_LOST)}", field="on_lost")
    if spec.on_lost == "retry" and spec.work.loss_policy != "stop" and not (spec.workload or spec.stages):
        text = "on_lost = retry needs loss_policy = stop: only then is it known that the lost attempt runs no more"
        return InvalidRequest(text, field="on_lost")
    if not 0 <= spec.crash_limit <= RETRIES_MAX:
        return InvalidRequest(
            f"crash_limit is a number from 1 to {RETRIES_MAX}, 0 for {CRASH_LIMIT}", field="crash_limit"
        )
    if spec.lost_after_s is not None and not spec.lost_after_s <= DURATION_S_MAX:
        return InvalidRequest("lost_after is a number of seconds, negative for never", field="lost_after")
    return None


def _check_placement(spec: JobSpec) -> HostlerError | None:
    if len(spec.name) > NAME_CHARACTERS_MAX:
        return InvalidRequest(f"name has more than {NAME_CHARACTERS_MAX} characters", field="name")
    if len(spec.owner) > NAME_CHARACTERS_MAX:
        return InvalidRequest(f"owner has more than {NAME_CHARACTERS_MAX} characters", field="owner")
    if len(spec.key) > KEY_CHARACTERS_MAX:
        return InvalidRequest(f"key has more than {KEY_CHARACTERS_MAX} characters", field="key")
    if spec.labels:
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
    return _check_selection(spec) if spec.tags or spec.where else None


def _check_selection(spec: JobSpec) -> HostlerError | None:
    if len(spec.tags) > LABELS_MAX:
        return InvalidRequest(f"more than {LABELS_MAX} tags", field="tags")
    for name, value in spec.tags.items():
        if not name or max(len(name), len(value)) > LABEL_CHARACTERS_MAX:
            return InvalidRequest(f"a tag has a name, and at most {LABEL_CHARACTERS_MAX} characters", field="tags")
        if name in FILTER_WORDS:
            return InvalidRequest(
                f"no tag can be called {name}: lists know every job's {name} already; choose another name", field="tags"
            )
    try:
        if spec.where:
            parse_selector(spec.where, field="where")
    except HostlerError as error:
        return error
    return None
