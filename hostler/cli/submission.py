"""Makes a job out of what was typed after `run` or `submit`."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostler.cli.connect import resolve_worker
from hostler.cli.failures import NOT_FOUND, Failure, usage_failure
from hostler.cli.options import JobOptions, SubmitOptions, pairs
from hostler.errors import ErrorCode, InvalidRequest
from hostler.job_checks import check_spec, is_workspace_path
from hostler.jobs import INLINE_BYTES_MAX, File, JobSpec, Limits, Stage, Work
from hostler.secret_checks import check_secrets
from hostler.selectors import parse_selector
from hostler.stages import read_stage

if TYPE_CHECKING:
    from hostler.client import Client


def spec_of(options: JobOptions, argv: Sequence[str], *, key: str = "", stdin: bool = False) -> JobSpec:
    """The job that *options* and *argv* describe; `worker` is still as it was typed.

    Args:
        options: as typed.
        argv: the program and its arguments.
        key: the idempotency key when none was typed.
        stdin: its standard input will be fed; otherwise it is empty.

    Raises:
        Failure: something about it cannot be (exit code 2).
        typer.BadParameter: a ``K=V`` has another form.
    """
    return _checked(_spec(options, argv, key=key, stdin=stdin))


def _spec(options: JobOptions, argv: Sequence[str], *, key: str = "", stdin: bool = False) -> JobSpec:
    """As `spec_of`, of what may not be a whole job yet."""
    work = Work(
        argv=tuple(argv),
        env=pairs(options.env, "--env"),
        cwd=_directory(options.cwd),
        timeout_s=options.timeout,
        grace_s=options.grace,
        output_bytes_max=options.output_max,
        output_stop=options.output_stop,
        merge=options.merge,
        limits=Limits(memory_bytes=options.memory, cpus=options.cpus, pids=options.pids),
        loss_policy=options.loss_policy,
        start_path=options.start_path,
        stdin=stdin,
    )
    return JobSpec(
        work=work,
        name=options.name or "",
        key=options.key or key,
        worker=options.worker or "",
        labels=pairs(options.label, "--label", once=True),
        where=_where(options.where),
        tags=pairs(options.tag, "--tag", once=True),
        priority=options.priority,
        secrets=pairs(options.secret, "--secret"),
        start_within_s=options.start_within,
        on_lost=options.on_lost,
        lost_after_s=options.lost_after,
        crash_limit=options.crash_limit,
    )


def _where(typed: str | None) -> str:
    """The expression as it was typed; what is wrong with it is said of the option."""
    if typed:
        parse_selector(typed, field="--where")
    return typed or ""


def submission_of(options: SubmitOptions, argv: Sequence[str]) -> tuple[JobSpec, dict[str, Path]]:
    """The job that `submit` describes, and the files to store for it first, by their paths in its workspace.

    A job with a workspace runs there unless `--cwd` says else: only so do its inputs lie where it runs.

    Raises:
        Failure: something about it cannot be (exit code 2), or a file is not there (3).
    """
    stages, named = _named(options, argv)
    files = input_files(options.file or ())
    params = params_text(options.params, options.param or ())
    own = bool(named or stages or files or params or options.workspace)
    if own and options.cwd is None:
        options = replace(options, cwd="")
    spec = _spec(options, argv)
    work = replace(
        spec.work,
        files=tuple(File(path=path) for path in files),
        workspace=own and bool(argv),
    )
    made = replace(
        spec,
        work=work,
        workload=named.workload if named else "",
        workload_version=named.workload_version if named else 0,
        stages=stages,
        params=params,
        retries=options.retries,
        retry_on=tuple(options.retry_on or ()),
    )
    return _checked(made), files


def _named(options: SubmitOptions, argv: Sequence[str]) -> tuple[tuple[Stage, ...], Stage | None]:
    """The stages of a chain, and the one workload, that were named in place of a command."""
    given = [
        name
        for name, is_given in (("--workload", options.workload), ("--stage", options.stage), ("a command", argv))
        if is_given
    ]
    if len(given) > 1:
        raise usage_failure(
            f"{given[0]} and {given[1]} exclude each other", hint="give a workload's parameters with --param K=V"
        )
    if not given:
        raise usage_failure(
            "there is no command", hint="put it behind --, or name a workload with --workload, or some with --stage"
        )
    named = _stage("--workload", options.workload) if options.workload else None
    if options.workload_version:
        if named is None:
            raise usage_failure("--workload-version needs --workload")
        if named.workload_version:
            raise usage_failure("give the version once, as NAME@N or with --workload-version")
        named = replace(named, workload_version=options.workload_version)
    return tuple(_stage("--stage", text) for text in options.stage or ()), named


def _stage(option: str, text: str) -> Stage:
    try:
        return read_stage(text)
    except InvalidRequest as error:
        raise usage_failure(f"{option}: {error.message}") from None


def input_files(texts: Sequence[str]) -> dict[str, Path]:
    """Read ``FILE`` and ``NAME=FILE``: which files of this host a job gets, by their paths in its workspace.

    Raises:
        Failure: one has no usable name, or two have the same.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        # A file whose own name holds an equals sign can be named as it is.
        if not equals or os.path.lexists(text):
            name, source = os.path.basename(text), text
        path = f"inputs/{name}"
        if not is_workspace_path(path):
            raise usage_failure(f"--file {text!r}: {name!r} cannot be a file's name", hint="give --file NAME=FILE")
        if path in found:
            raise usage_failure(f"--file {text!r}: there are two files {name}", hint="give one as NAME=FILE")
        found[path] = Path(source)
    return found


def params_text(whole: str | None, single: Sequence[str]) -> str:
    """Parameters as JSON text: *whole* (JSON, or ``@FILE``), with each of *single* (``K=V``, ``K:=JSON``) put in.

    Raises:
        Failure: something of it is no JSON, or has another form.
    """
    text = _whole_params(whole)
    if not single:
        return text
    from hostler.params import read_params

    try:
        params = read_params(text or "{}")
    except InvalidRequest as error:
        raise usage_failure(f"--params: {error.message}") from None
    if not isinstance(params, dict):
        raise usage_failure("--params is no JSON object, so --param cannot add to it")
    for pair in single:
        name, equals, value = pair.partition("=")
        if not name.removesuffix(":") or not equals:
            raise usage_failure(f"--param {pair!r} is not of the form K=V or K:=JSON")
        params[name.removesuffix(":")] = _json(pair, value) if name.endswith(":") else _scalar(value)
    return json.dumps(params)


def _whole_params(whole: str | None) -> str:
    if whole is None or not whole.startswith("@"):
        return whole or ""
    path = Path(whole[1:])
    try:
        with path.open("rb") as file:
            content = file.read(INLINE_BYTES_MAX + 1)
        return content.decode()
    except FileNotFoundError:
        raise Failure(
            f"--params: there is no file {path}",
            hint="name a file of this host, or give the JSON itself",
            exit_code=NOT_FOUND,
            code=ErrorCode.FILE_NOT_FOUND.value,
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise usage_failure(f"--params: {path} cannot be read: {reason}") from None


def _json(pair: str, value: str) -> Any:
    from hostler.params import read_params

    try:
        return read_params(value)
    except InvalidRequest as error:
        raise usage_failure(f"--param {pair!r}: {error.message.removeprefix('params ')}") from None


def _scalar(value: str) -> Any:
    from hostler.params import read_params

    try:
        read = read_params(value)
    except InvalidRequest:
        return value
    return value if isinstance(read, str | list | dict) else read


def _checked(spec: JobSpec) -> JobSpec:
    work = spec.work
    texts = (*work.argv, work.cwd, spec.name, spec.key, spec.worker, spec.workload, spec.params, work.loss_policy)
    texts = (*texts, work.start_path, spec.on_lost, spec.where, *_flat(spec.tags))
    for text in (*texts, *_flat(work.env), *_flat(spec.labels), *(file.path for file in work.files)):
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise usage_failure(
                f"{text!r} is not UTF-8 text", hint="put such bytes in a file and name the file instead"
            )
    wrong = check_spec(spec) or check_secrets(spec.secrets, work.env)
    if wrong is not None:
        raise usage_failure(wrong.message)
    return spec


async def place_on_worker(client: "Client", spec: JobSpec) -> JobSpec:
    """The same job with the worker's id in place of the name or prefix that was typed.

    Raises:
        Failure: no worker fits, or several do.
    """
    if not spec.worker:
        return spec
    return replace(spec, worker=await resolve_worker(client, spec.worker))


def _directory(typed: str | None) -> str:
    if typed == "":
        return ""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise Failure("the current directory is gone", hint="change to one that exists, or give --cwd DIR") from None
    return os.path.normpath(os.path.join(here, typed)) if typed else here


def _flat(mapping: dict[str, str]) -> list[str]:
    return [text for pair in mapping.items() for text in pair]
