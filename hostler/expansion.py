"""From a workload and what a job gives for it to the work a worker executes; and what makes a workload acceptable.

Pure. The same input gives an equal output. The id of the job enters at one place only, the ``stdin.json`` of a
workload whose standard input is ``job``: whoever compares two submissions (idempotency keys) compares what came
in, or expands both with the same id. What a container or a service may be is in `hostler.container_checks`.
"""

import json
import re
from dataclasses import replace
from keyword import iskeyword
from typing import Any, NamedTuple

from hostler.container_checks import check_container, check_networks, check_resources, check_service
from hostler.errors import BY_CODE, HostlerError, InvalidRequest, TooLarge
from hostler.job_checks import (
    INPUT_FOLDER,
    PARAMS_PATH,
    SCRIPT_FOLDER,
    STDIN_PATH,
    check_spec,
    is_input,
    is_workspace_path,
)
from hostler.jobs import DIGEST, INLINE_BYTES_MAX, NO_LIMITS, File, JobSpec, Limits, PythonScript, Service, Work
from hostler.params import check_schema, check_value, read_params
from hostler.secret_checks import check_secrets
from hostler.workers import ABILITIES
from hostler.workloads import NAME, Origin, ResultFrom, Runtime, Stdin, Workload

# Files of a workspace that the program writes and the agent reads: what lies there before would count as said by it.
PROGRAM_FILES = frozenset({"progress", "result.json", "failure.json"})
FOLDERS = frozenset({INPUT_FOLDER, "outputs", SCRIPT_FOLDER})
PATH_FOLDERS_MAX = 50
PARAM_PREFIX = "HOSTLER_PARAM_"
PARAM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
PARAM_BYTES_MAX = 8 * 1024  # of the text of a parameter in the environment
DOCUMENTATION_BYTES_MAX = 64 * 1024
FAMILIES = ("native", "altron", "pixyz", "infernet", "scheduler")
DEFAULT = Work()


def expand(workload: Workload, spec: JobSpec, job_id: str, *, stored: File | None = None) -> JobSpec | HostlerError:
    """Make the job that a worker executes of one that names *workload*, or say what is wrong with it.

    Args:
        workload: the version that runs.
        spec: the job as it came; its `work` holds only what differs from the workload.
        job_id: goes into ``stdin.json`` when the workload's standard input is ``job``, and nowhere else.
        stored: the parameters, when they are too large for `params`; a job can also give them as a stored file
            ``params.json``. They are not looked at: neither checked against the schema nor put into variables.
    """
    try:
        _check_differences(workload, spec)
        given = stored or _stored_params(spec.work)
        if given is None:
            params = _read(workload, spec, job_id)
        else:
            params = _take_stored(workload, given)
            spec = replace(
                spec, work=replace(spec.work, files=tuple(f for f in spec.work.files if f.path != PARAMS_PATH))
            )
        work = _work(workload, spec, params)
        made = replace(
            spec,
            work=work,
            workload=workload.name,
            workload_version=workload.version,
            labels=_labels(workload, spec),
            slots=spec.slots if spec.slots != 1 else workload.slots,
            retries=workload.retries if spec.retries is None else spec.retries,
            retry_on=spec.retry_on or workload.retry_on,
            on_lost=spec.on_lost or workload.on_lost,
            crash_limit=spec.crash_limit or workload.crash_limit,
        )
        if made.on_lost == "retry" and made.work.loss_policy != "stop":
            raise InvalidRequest("on_lost = retry needs loss_policy = stop", field="on_lost")
        return check_spec(made) or made
    except HostlerError as error:
        return error


def check_later_stage(workload: Workload, common: JobSpec) -> HostlerError | None:
    """Say what of a chain's *common* part does not fit the workload of a later stage, or None."""
    # A stored file stands for the result that will be its parameters: what that holds nobody knows yet.
    result = File(path=PARAMS_PATH, digest="0" * 64, size_bytes=1)
    taking = replace(workload, stdin=Stdin.PARAMS) if workload.stdin is Stdin.JOB else workload
    made = expand(taking, replace(common, stages=(), workload=workload.name), "", stored=result)
    return made if isinstance(made, HostlerError) else None


def complete(spec: JobSpec) -> JobSpec | HostlerError:
    """Make the job that a worker executes of one without a workload: its own program, parameters and files.

    A job that has none of these is returned as it is.
    """
    work = spec.work
    if not (spec.params or work.files or work.python or work.stdin_path):
        return spec
    try:
        files, env = work.files, dict(work.env)
        if spec.params or work.python:
            text = spec.params or "{}"
            params = read_params(text)
            files = (File(path=PARAMS_PATH, content=text.encode()), *files)
            env |= _param_variables(params)
        _check_paths(files, given=work.files)
        made = replace(spec, work=replace(work, files=files, env=env, workspace=True))
        return check_spec(made) or made
    except HostlerError as error:
        return error


def runtime_needed(work: Work) -> Runtime:
    """What a worker must know to run it. A service that somebody else runs needs no more than a command."""
    if work.python is not None:
        return Runtime.PYTHON
    if work.container is not None or (work.service is not None and not work.service.url):
        return Runtime.CONTAINER
    return Runtime.COMMAND


def abilities_needed(work: Work) -> tuple[str, ...]:
    """What a worker must be able to do for it (`hostler.workers.ABILITIES`). Podman keeps a container's own limits."""
    if work.limits == NO_LIMITS and work.start_path != "hardened":
        return ()
    limits = work.limits if work.container is None else NO_LIMITS
    wanted = zip(ABILITIES, (limits.memory_bytes, limits.cpus, limits.pids, work.start_path == "hardened"), strict=True)
    return tuple(ability for ability, needed in wanted if needed)


def _check_schema(workload: Workload) -> HostlerError | None:
    # What ships was checked by the package's tests: the library of schemas, which is large and takes long to load,
    # has to wait until somebody needs it.
    return None if workload.origin is Origin.SHIPPED else check_schema(workload.params_schema)


def check_workload(workload: Workload) -> HostlerError | None:
    """Say what makes a definition unacceptable, or None; the text names it and `field` the part.

    Whether the bytes of its script are stored is for whoever keeps them.
    """
    try:
        wrong = (
            _check_words(workload)
            or _check_program(workload)
            or _check_streams(workload)
            or _check_schema(workload)
            or _check_run(workload)
            or check_secrets(workload.secrets, workload.env)
            or check_networks(workload.allowed_networks)
            or check_resources(workload.resources)
        )
    except UnicodeEncodeError:
        wrong = InvalidRequest("it holds characters that are no UTF-8 text", field="workload")
    if wrong is None:
        return None
    field = {"timeout": "timeout_s", "grace": "grace_s"}.get(wrong.field, wrong.field)
    return BY_CODE[wrong.code](f"workload {workload.name[:100]!r}: {wrong.message}", field=field)


def _check_differences(workload: Workload, spec: JobSpec) -> None:
    work = spec.work
    if work.argv or work.python is not None:
        field = "argv" if work.argv else "python"
        raise InvalidRequest(
            f"the program is that of the workload {workload.name}; give params, env or files and no {field}",
            field=field,
        )
    if work.stdin and workload.stdin is not Stdin.NOTHING:
        raise InvalidRequest(f"the workload {workload.name} reads its params there; stdin cannot be fed", field="stdin")
    for name in work.env:
        if name.startswith(PARAM_PREFIX):
            raise InvalidRequest(f"{name[:100]} is set by params; give it there", field="env")
        if name in workload.secrets:
            raise InvalidRequest(f"{name[:100]} is a secret of the workload {workload.name}", field="env")
    for name in spec.secrets:
        if name in workload.secrets or name in workload.env:
            raise InvalidRequest(f"{name[:100]} is set by the workload {workload.name}", field="secrets")


class _Params(NamedTuple):
    """The parameters of a job as what is made of them."""

    file: File  # params.json
    stdin: File | None  # what the program reads: the same file, or stdin.json
    variables: dict[str, str]


def _read(workload: Workload, spec: JobSpec, job_id: str) -> _Params:
    text = spec.params or "{}"
    params = read_params(text)
    check_value(workload.params_schema, params)
    file = File(path=PARAMS_PATH, content=text.encode())
    stdin = None
    if not spec.work.stdin_path:
        if workload.stdin is Stdin.PARAMS:
            stdin = file
        elif workload.stdin is Stdin.JOB:
            stdin = File(path=STDIN_PATH, content=_stdin(workload, params, job_id))
    return _Params(file, stdin, _param_variables(params))


def _stored_params(work: Work) -> File | None:
    return next((file for file in work.files if file.path == PARAMS_PATH and file.digest), None)


def _take_stored(workload: Workload, stored: File) -> _Params:
    if workload.stdin is Stdin.JOB:
        raise TooLarge(
            f"params have {stored.size_bytes} bytes and the workload {workload.name} wants the job's id among them;"
            f" at most {INLINE_BYTES_MAX}",
            field="params",
        )
    file = replace(stored, path=PARAMS_PATH)
    return _Params(file, file if workload.stdin is Stdin.PARAMS else None, {})


def _work(workload: Workload, spec: JobSpec, params: _Params) -> Work:
    own = spec.work
    files: list[File] = []
    python: PythonScript | None = None
    if workload.runtime is Runtime.PYTHON:
        if workload.script is None:
            raise InvalidRequest(f"the workload {workload.name} has no script", field="script")
        script = replace(workload.script, path=f"{SCRIPT_FOLDER}/{workload.script.path}")
        files.append(script)
        python = PythonScript(path=script.path, entrypoint=workload.entrypoint, interpreter=workload.interpreter)
    is_service = workload.runtime is Runtime.SERVICE
    if python is not None or is_service or params.stdin is not None or spec.params or params.file.digest:
        files.append(params.file)
    if params.stdin is not None and params.stdin is not params.file:
        files.append(params.stdin)
    if sum(len(file.content) for file in files) > INLINE_BYTES_MAX:
        raise TooLarge(
            f"params are too large for the workload {workload.name}, whose program gets them as a file and as its"
            f" standard input; at most {INLINE_BYTES_MAX} bytes for both",
            field="params",
        )
    files.extend(own.files)
    _check_paths(files, given=own.files)
    _check_inputs(workload, own.files)
    return replace(
        own,
        argv=() if is_service else workload.argv,
        python=python,
        container=workload.container if workload.runtime is Runtime.CONTAINER else None,
        service=_service(workload) if is_service else None,
        result_stdout=workload.result is ResultFrom.STDOUT,
        env=({} if is_service else workload.env) | own.env | params.variables,
        cwd=own.cwd or workload.cwd,
        timeout_s=own.timeout_s if own.timeout_s != DEFAULT.timeout_s else workload.timeout_s,
        grace_s=own.grace_s if own.grace_s != DEFAULT.grace_s else workload.grace_s,
        output_bytes_max=own.output_bytes_max or workload.output_bytes_max,
        merge=own.merge or workload.merge,
        limits=_limits(own.limits, workload.limits),
        output_stop=own.output_stop or workload.output_stop,
        loss_policy=own.loss_policy or workload.loss_policy,
        start_path=own.start_path or workload.start_path,
        files=tuple(files),
        workspace=True,
        stdin_path=own.stdin_path or (params.stdin.path if params.stdin is not None else ""),
    )


def _limits(own: Limits, given: Limits) -> Limits:
    """What a job says replaces what its workload says, each limit by itself."""
    return Limits(
        memory_bytes=own.memory_bytes or given.memory_bytes, cpus=own.cpus or given.cpus, pids=own.pids or given.pids
    )


def _service(workload: Workload) -> Service:
    """The service a workload calls: what the workload says of its container's program is the service's."""
    return replace(
        workload.service or Service(),
        name=workload.name,
        version=workload.version,
        container=workload.container,
        argv=workload.argv,
        env=workload.env,
    )


def _stdin(workload: Workload, params: Any, job_id: str) -> bytes:
    if not isinstance(params, dict):
        raise InvalidRequest(f"params must be an object for the workload {workload.name}", field="params")
    try:
        return json.dumps(params | {"id": job_id}).encode()
    except RecursionError:
        raise InvalidRequest("params is nested too deeply", field="params") from None


def _labels(workload: Workload, spec: JobSpec) -> dict[str, str]:
    for name, value in spec.labels.items():
        wanted = workload.labels.get(name, value)
        if wanted != value:
            raise InvalidRequest(
                f"the workload {workload.name} runs on workers with {name}={wanted}, not {name}={value}"[:500],
                field="labels",
            )
    return workload.labels | spec.labels


def _param_variables(params: Any) -> dict[str, str]:
    """The parameters that a shell can take from its environment: scalars, under their names in capitals."""
    if not isinstance(params, dict):
        return {}
    found: dict[str, str | None] = {}
    for name, value in params.items():
        if PARAM_NAME.fullmatch(name) is None or not isinstance(value, str | int | float | bool):
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        variable = PARAM_PREFIX + name.upper()
        # Two names that differ only in case would be one variable: neither has it.
        found[variable] = None if variable in found or not _can_be_variable(text) else text
    return {variable: text for variable, text in found.items() if text is not None}


def _can_be_variable(text: str) -> bool:
    try:
        return "\0" not in text and len(text.encode()) <= PARAM_BYTES_MAX
    except UnicodeEncodeError:  # JSON can write half a surrogate pair
        return False


def _check_paths(files: list[File] | tuple[File, ...], *, given: tuple[File, ...]) -> None:
    """Refuse files of the job that would lie where another one or a folder has to be."""
    paths = [file.path for file in files]
    ours = PROGRAM_FILES.union(paths[: len(paths) - len(given)])
    known = ours.union(paths)
    for file in given:
        if file.path in ours:
            raise InvalidRequest(f"{file.path[:100]!r} is put there by hostler; choose another path", field="files")
        if file.path in FOLDERS:
            raise InvalidRequest(f"{file.path[:100]!r} is a folder and cannot be a file too", field="files")
        if file.path.count("/") > PATH_FOLDERS_MAX:
            raise InvalidRequest(f"{file.path[:100]!r} lies in more than {PATH_FOLDERS_MAX} folders", field="files")
        for folder in _folders_of(file.path):
            if folder in known:
                raise InvalidRequest(f"{folder[:100]!r} is a file and cannot be a folder too", field="files")


def _check_inputs(workload: Workload, given: tuple[File, ...]) -> None:
    """Refuse files of a job anywhere but among the inputs.

    Beside a script, in its current directory or in a home directory they could be executed: imported in place of a
    module, or read as somebody's settings. Who may only name a workload would run programs of his own.
    """
    for file in given:
        if is_workspace_path(file.path) and not is_input(file.path):
            name = file.path.rpartition("/")[2]
            raise InvalidRequest(
                f"{file.path[:100]!r} cannot be brought to the workload {workload.name}, whose program could execute it"
                f" there; put it under inputs/, as {f'{INPUT_FOLDER}/{name}'[:100]!r}",
                field="files",
            )


def _folders_of(path: str) -> list[str]:
    """The folders that a file lies in: ``a/b/c`` in ``a`` and ``a/b``."""
    return [path[:place] for place, character in enumerate(path) if character == "/"]


def _check_words(workload: Workload) -> HostlerError | None:
    if NAME.fullmatch(workload.name) is None:
        return InvalidRequest(
            'a name has at most 100 letters, digits, "_", "-" and ".", and begins with none of the last two',
            field="name",
        )
    if len(workload.documentation.encode()) > DOCUMENTATION_BYTES_MAX:
        return TooLarge(f"documentation has more than {DOCUMENTATION_BYTES_MAX} bytes", field="documentation")
    if any(family not in FAMILIES for family in workload.families):
        return InvalidRequest(f"families holds some of {', '.join(FAMILIES)}", field="families")
    return None


def _check_program(workload: Workload) -> HostlerError | None:
    """See that it has what its runtime needs, and nothing that is another's."""
    runtime = workload.runtime
    if runtime is not Runtime.PYTHON:
        if workload.script is not None:
            return InvalidRequest('a script needs runtime = "python"', field="script")
        if workload.interpreter:
            return InvalidRequest("interpreter is for runtime python; put the program into argv", field="interpreter")
    if workload.service is not None and runtime is not Runtime.SERVICE:
        return InvalidRequest('a service needs runtime = "service"', field="service")
    if workload.container is not None and runtime not in (Runtime.CONTAINER, Runtime.SERVICE):
        return InvalidRequest('a container needs runtime = "container" or "service"', field="container")
    if runtime is Runtime.PYTHON:
        return _check_script(workload)
    if runtime is Runtime.COMMAND:
        if not (workload.argv and workload.argv[0]):
            return InvalidRequest("runtime command needs argv, a program and its arguments", field="argv")
        return None
    if workload.argv and not workload.argv[0]:
        return InvalidRequest("argv, the command of a container, begins with a program", field="argv")
    if runtime is Runtime.SERVICE:
        return _check_service(workload)
    if workload.container is None:
        return InvalidRequest("runtime container needs a container with its image", field="container")
    return check_container(workload.container, serves=False)


def _check_script(workload: Workload) -> HostlerError | None:
    if workload.argv:
        return InvalidRequest("argv is for runtime command; runtime python has a script", field="argv")
    script = workload.script
    if script is None:
        return InvalidRequest("runtime python needs a script", field="script")
    if "/" in script.path or not is_workspace_path(script.path):
        return InvalidRequest(f"{script.path[:100]!r} cannot be the name of a script", field="script")
    if DIGEST.fullmatch(script.digest) is None or script.content:
        return InvalidRequest("the script must be stored first and named by its SHA-256 in hex", field="script")
    entrypoint = workload.entrypoint
    if not entrypoint.isidentifier() or iskeyword(entrypoint) or len(entrypoint) > 200:
        return InvalidRequest(f"{entrypoint[:100]!r} cannot be the name of a function", field="entrypoint")
    return None


def _check_service(workload: Workload) -> HostlerError | None:
    service, container = workload.service or Service(), workload.container
    wrong = check_service(service, has_container=container is not None)
    if wrong is None and container is not None:
        wrong = check_container(container, serves=True)
    if wrong is not None:
        return wrong
    for field, given in (("argv", workload.argv), ("env", workload.env)):
        if service.url and given:
            return InvalidRequest(f"{field} is the container's, and nothing is started for a url", field=field)
    if service.token_variable and service.token_variable not in workload.secrets:
        text = f"token_variable {service.token_variable} is none of the secrets; name the secret that it gets there"
        return InvalidRequest(text, field="service")
    return None


def _check_streams(workload: Workload) -> HostlerError | None:
    """A script and a service have their own ways for parameters and results."""
    if workload.result is ResultFrom.STDOUT and workload.runtime in (Runtime.PYTHON, Runtime.SERVICE):
        its = "what it returns" if workload.runtime is Runtime.PYTHON else "its answer"
        return InvalidRequest(
            f"runtime {workload.runtime}: the result is {its}, never its standard output", field="result"
        )
    if workload.stdin and workload.runtime is Runtime.SERVICE:
        return InvalidRequest("runtime service: the parameters are posted, there is no standard input", field="stdin")
    return None


def _check_run(workload: Workload) -> HostlerError | None:
    """What it shares with jobs is checked as theirs."""
    if not 1 <= workload.slots <= 1024:
        return InvalidRequest("slots is a number from 1 to 1024", field="slots")
    work = Work(
        argv=(*(workload.argv or ("python",)), workload.interpreter),
        env=workload.env,
        cwd=workload.cwd,
        timeout_s=workload.timeout_s,
        grace_s=workload.grace_s,
        output_bytes_max=workload.output_bytes_max,
        output_stop=workload.output_stop,
        limits=workload.limits,
        loss_policy=workload.loss_policy,
        start_path=workload.start_path,
    )
    return check_spec(
        JobSpec(
            work=work,
            labels=workload.labels,
            retries=workload.retries,
            retry_on=workload.retry_on,
            on_lost=workload.on_lost,
            crash_limit=workload.crash_limit,
        )
    )
