"""Options that several commands share, as frozen values, and how they become parameters of a command.

A command declares ``place: Place`` and `expanded` gives it the options of every field of `Place`.
Light: typer and the standard library only, because every call of the command line imports it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hostler.cli.quantities import duration, duration_or_never, number, size, whole


def filled(text: str) -> str:
    """Read what chooses machines, work or a key: an empty text is a variable of a script that was not set.

    Raises:
        typer.BadParameter: there is nothing in it.
    """
    if not text.strip():
        raise typer.BadParameter("it is empty; leave the option out where it is to say nothing")
    return text


def filled_name(text: str) -> str:
    """Read the name of a thing that a command is about, as `filled` reads what an option says.

    Raises:
        typer.BadParameter: there is nothing in it.
    """
    if not text.strip():
        raise typer.BadParameter("it is empty; give a name or an id")
    return text


def filled_path(text: str) -> Path:
    """Read a path as `filled` reads a text: an empty one would be the current directory."""
    return Path(filled(text))


DataDir = Annotated[
    Path | None, typer.Option(metavar="DIR", parser=filled_path, help="The cluster's data directory on this host.")
]
Coordinator = Annotated[
    str | None, typer.Option(metavar="ADDRESS", parser=filled, help="The coordinator: unix:/path or HOST:PORT.")
]
Config = Annotated[Path | None, typer.Option(metavar="FILE", parser=filled_path, help="A TOML file with settings.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which cluster is meant, and how it is to be answered."""

    data_dir: DataDir = None
    coordinator: Coordinator = None
    config: Config = None
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False

    def or_else(self, outer: "Place") -> "Place":
        """This value, with what it leaves open taken from *outer* (options before the command's name)."""
        given = {one.name: getattr(self, one.name) or getattr(outer, one.name) for one in fields(self)}
        return replace(self, **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What `run` and `submit` let one say about a job besides its command."""

    worker: Annotated[
        str | None, typer.Option(metavar="ID", parser=filled, help="Run on this worker: its id, or its name.")
    ] = None
    label: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Run on a worker with this label. Repeatable.")
    ] = None
    where: Annotated[
        str | None,
        typer.Option(
            metavar="EXPR", parser=filled, help="Run on a worker that matches, as `zone in (a, b) and not spare`."
        ),
    ] = None
    tag: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="A tag, to find the job by (--filter). Repeatable.")
    ] = None
    env: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Set a variable of the job's environment. Repeatable.")
    ] = None
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="K=NAME", help="Set a variable to the value of a secret of the cluster's. Repeatable."),
    ] = None
    cwd: Annotated[str | None, typer.Option(metavar="DIR", help="Where the job runs; default: here.")] = None
    timeout: Annotated[
        float, typer.Option(metavar="TIME", parser=duration, help="End the job after so long (30s, 10m); 0: never.")
    ] = 0.0
    grace: Annotated[float, typer.Option(metavar="TIME", parser=duration, help="Between SIGTERM and SIGKILL.")] = 10.0
    start_within: Annotated[
        float, typer.Option(metavar="TIME", parser=duration, help="Give up if it has not started by then; 0: never.")
    ] = 0.0
    output_max: Annotated[
        int, typer.Option(metavar="BYTES", parser=size, help="Keep at most so much output (64M); 0: all.")
    ] = 0
    output_stop: Annotated[
        bool, typer.Option("--output-stop", help="End the job at --output-max instead of dropping what is more.")
    ] = False
    merge: Annotated[
        bool, typer.Option("--merge", help="Its standard error goes where its standard output goes, in exact order.")
    ] = False
    memory: Annotated[
        int, typer.Option(metavar="BYTES", parser=size, help="Memory of all its processes (512M); 0: no limit.")
    ] = 0
    cpus: Annotated[float, typer.Option(metavar="N", parser=number, help="Processors' time (1.5); 0: no limit.")] = 0.0
    pids: Annotated[int, typer.Option(metavar="N", parser=whole(), help="Processes and threads; 0: no limit.")] = 0
    start_path: Annotated[
        str, typer.Option(metavar="PATH", help="warm, or hardened: a PID namespace, no new privileges.")
    ] = ""
    loss_policy: Annotated[
        str, typer.Option(metavar="POLICY", help="When its worker is cut off: keep (the default), or stop.")
    ] = ""
    on_lost: Annotated[
        str, typer.Option(metavar="WHAT", help="When its worker is lost: fail (the default), or retry.")
    ] = ""
    lost_after: Annotated[
        float | None,
        typer.Option(metavar="TIME", parser=duration_or_never, help="Lost so long after its worker left, or never."),
    ] = None
    crash_limit: Annotated[
        int, typer.Option(metavar="N", parser=whole(), help="With --on-lost retry: give up at the Nth loss; 0: 3.")
    ] = 0
    name: Annotated[str | None, typer.Option(parser=filled, help="A name for lists.")] = None
    priority: Annotated[
        int, typer.Option(metavar="N", parser=whole(-1000, 1000), help="Higher runs first; -1000 to 1000.")
    ] = 0
    key: Annotated[
        str | None, typer.Option(parser=filled, help="Submitting again with the same key gives the same job.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(JobOptions):
    """What only `run` lets one say."""

    private: Annotated[
        bool, typer.Option("--private", help="Use a private cluster, also when another one answers.")
    ] = False
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal: for shells, editors, pagers.")] = False
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the job's id and leave; it goes on.")] = False
    detach_keys: Annotated[
        str, typer.Option(metavar="KEYS", help="With --tty: these leave, and the job goes on; '' for none.")
    ] = "ctrl-p,ctrl-q"


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOptions:
    """What `run` lets one say about several workers at once."""

    every: Annotated[
        str | None,
        typer.Option(
            "--all", metavar="EXPR", parser=filled, help="Run it on every worker that matches (zone=a); '*': on each."
        ),
    ] = None
    group: Annotated[
        bool, typer.Option("--group", help="With --all: each worker's output in one piece, when it has ended.")
    ] = False
    retry_failed: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|last", parser=filled, help="Once more where an earlier --all has failed; without a command."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions(JobOptions):
    """What only `submit` lets one say."""

    workload: Annotated[
        str | None,
        typer.Option(metavar="NAME[@N]", parser=filled, help="Run this workload in place of a command of your own."),
    ] = None
    stage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[@N]",
            help="Run a chain of workloads: each gets the result of the one before. Repeatable, in order.",
        ),
    ] = None
    workload_version: Annotated[
        int,
        typer.Option(metavar="N", parser=whole(), help="This version of the workload; 0: the newest."),
    ] = 0
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE", help="Put a file into the job's inputs/, as NAME. Repeatable."),
    ] = None
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K=V", help="A parameter: a number, true, false, null or text; K:=JSON for any JSON. Repeatable."
        ),
    ] = None
    params: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="All parameters as JSON; --param adds to them.")
    ] = None
    retries: Annotated[
        int | None,
        typer.Option(metavar="N", parser=whole(), help="Try again up to N times; default: the workload's, or never."),
    ] = None
    retry_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CAUSE", help="Only after this end, as exit, signal or timeout. Repeatable; default: all."
        ),
    ] = None
    workspace: Annotated[
        bool, typer.Option("--workspace", help="Give a command a directory of its own, and keep its outputs/.")
    ] = False


def expanded(command: Callable[..., int]) -> Callable[..., int]:
    """Turn each parameter whose type is an options dataclass into one parameter per field.

    typer reads a function's signature; the returned function has the long one and calls *command*
    with the short one. A parameter ``context`` gets typer's.
    """
    parameters = inspect.signature(command).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in parameters.items() if is_dataclass(one.annotation)}
    wants_context = "context" in parameters
    flat = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in parameters.items()
        if name not in groups and name != "context"
    ]
    for kind in groups.values():
        flat.extend(
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
            for one in fields(kind)
        )
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    def call(*, context: typer.Context, **values: Any) -> int:
        for name, kind in groups.items():
            made = kind(**{one.name: values.pop(one.name) for one in fields(kind)})
            values[name] = made.or_else(context.obj) if isinstance(made, Place) and context.obj else made
        return command(**values, context=context) if wants_context else command(**values)

    signature = inspect.Signature([context, *flat], return_annotation=int)
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    return call


def pairs(values: list[str] | None, option: str, *, once: bool = False) -> dict[str, str]:
    """Read ``K=V`` texts; of two values of a name the last counts, unless a name may have one only *once*.

    Raises:
        typer.BadParameter: one has no name or no equals sign, or *once* a name has two values.
    """
    read: dict[str, str] = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is not of the form K=V", param_hint=option)
        if once and read.get(name, value) != value:
            raise typer.BadParameter(f"{name} has two values, {read[name]!r} and {value!r}", param_hint=option)
        read[name] = value
    return read
