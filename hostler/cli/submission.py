"""Makes a job out of what was typed after `run` or `submit`."""

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hostler.cli.connect import resolve_worker
from hostler.cli.failures import Failure, usage_failure
from hostler.cli.options import JobOptions, pairs
from hostler.jobs import JobSpec, Work, check_spec

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
    for name, seconds in (("--timeout", options.timeout), ("--grace", options.grace)):
        if not math.isfinite(seconds):
            raise usage_failure(f"{name} is {seconds}; give a number of seconds")
    work = Work(
        argv=tuple(argv),
        env=pairs(options.env, "--env"),
        cwd=_directory(options.cwd),
        timeout_s=options.timeout,
        grace_s=options.grace,
        output_bytes_max=options.output_max,
        stdin=stdin,
    )
    spec = JobSpec(
        work=work,
        name=options.name,
        key=options.key or key,
        worker=options.worker,
        labels=pairs(options.label, "--label"),
        priority=options.priority,
    )
    for text in (*work.argv, work.cwd, spec.name, spec.key, spec.worker, *_flat(work.env), *_flat(spec.labels)):
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise usage_failure(
                f"{text!r} is not UTF-8 text", hint="put such bytes in a file and name the file instead"
            )
    wrong = check_spec(spec)
    if wrong is not None:
        raise usage_failure(wrong.message)
    return spec


async def place_on_worker(client: "Client", spec: JobSpec) -> JobSpec:
    """The same job with the worker's id in place of the name or prefix that was typed.

    Raises:
        Failure: no worker fits, or several do.
    """
    from dataclasses import replace

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
