"""The command ``hostler``: what can be typed, and what comes back when it goes wrong.

Each command here says its options and hands over to the module that does it, imported only then: help and
errors must be there at once. The exit codes are in `hostler.cli.failures`; `run` returns the job's own.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from hostler import __version__
from hostler.cli.audit import audit
from hostler.cli.failures import (
    BROKEN_PIPE,
    INTERRUPTED,
    JOB_FAILED,
    OK,
    RUN_FAILED,
    USAGE,
    Failure,
    failure_of,
    usage_failure,
)
from hostler.cli.keys import keys
from hostler.cli.many_commands import Filter, add_commands
from hostler.cli.options import (
    Config,
    Coordinator,
    DataDir,
    FanOptions,
    Place,
    RunOptions,
    SubmitOptions,
    expanded,
    filled,
)
from hostler.cli.quantities import POSITION_MAX, whole
from hostler.cli.terminal_commands import add_commands as add_terminal_commands
from hostler.cli.worker_commands import workers
from hostler.cli.workload_commands import workloads
from hostler.cli.writing import end_writing, open_standard_descriptors
from hostler.errors import HostlerError

# typer carries a copy of click since 0.20 or so and used the package before; this is the base of its errors in both.
TyperError = cast(type[Exception], typer.BadParameter.__mro__[2])

CLUSTER = "The cluster"
JOBS = "Jobs"
PROGRAMS = {("up",), ("coordinator",), ("worker",), ("gateway",)}  # they go on, and need no standard output
HELP_COLUMNS_MIN = 64  # of a terminal with room for options and what they are beside each other, in frames
# What follows the program's name is the program's, also when it looks like an option of ours.
JOB_COMMAND = {"allow_interspersed_args": False}
RunArgv = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMAND", help="The program and its arguments, unless --retry-failed is given."),
]
SubmitArgv = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMAND", help="The program and its arguments, unless --workload or --stage is given."),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job: its id, the start of it, its name, or `last`.")]
Stage = Annotated[
    int | None,
    typer.Option("--stage", parser=whole(), metavar="N", help="This stage of a chain, from 0."),
]

app = typer.Typer(
    name="hostler",
    help="Runs jobs on many machines, and never says about a job what is not so.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line of this process and exit with its code."""
    arguments = sys.argv[1:]
    try:
        code = call(arguments) if open_standard_descriptors() else _without_standard_output(arguments)
        code = _written(code)
    except BrokenPipeError:
        end_writing()
        code = BROKEN_PIPE
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        code = BROKEN_PIPE  # rich, which draws tables and help, has ended its writing by itself
    sys.exit(code)


def _written(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        return _cannot_write(error)
    return code


def _without_standard_output(arguments: Sequence[str]) -> int:
    """Refuse what has an answer before anything is done: a submit whose id nobody can read is half done."""
    from hostler.cli.completion import command_of

    name = command_of(typer.main.get_command(app), arguments)[:1]
    if name in PROGRAMS:
        return call(arguments)
    failure = Failure(
        "standard output is closed, so there is no place for the answer; nothing was done",
        hint="give the command a standard output; for one that nobody reads: > /dev/null",
        exit_code=RUN_FAILED if name == ("run",) else JOB_FAILED,
    )
    return _print(failure, as_json=_wants_json(arguments))


def _cannot_write(error: OSError) -> int:
    """Standard output takes no more (a full disk): say so once, and keep the interpreter from trying again."""
    failure = Failure(f"cannot write the answer: {error.strerror}", hint="see where standard output goes")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return _print(failure, as_json=False)


def call(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; expected failures are printed."""
    as_json = _wants_json(arguments)
    try:
        # `--version` is answered before the other options are read, and asks this for --json.
        place = Place(as_json=as_json)
        command = typer.main.get_command(app)
        width = shutil.get_terminal_size().columns
        if width < HELP_COLUMNS_MIN:
            _help_plainly(command)
        # Not `main` of the command: that takes a reader who has gone for an error of its own, with code 1.
        with command.make_context("hostler", list(arguments), obj=place, terminal_width=width) as context:
            code = command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except Failure as failure:
        return _print(failure, as_json=as_json, arguments=arguments)
    except HostlerError as error:
        return _print(failure_of(error), as_json=as_json, arguments=arguments)
    except TyperError as error:
        return _print(_usage(error), as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except UnicodeEncodeError:
        # Where bytes are no text they may name a file, but no message to the cluster can carry them.
        wrong = next((text for text in arguments if text.encode(errors="replace").decode() != text), None)
        if wrong is None:
            raise
        return _print(usage_failure(f"{wrong[:100]!r} is not UTF-8 text"), as_json=as_json, arguments=arguments)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _cannot_write(error)
    return code if isinstance(code, int) else OK


def _help_plainly(command: Any) -> None:
    """Have the help of a command, and of those below it, without the frames in which narrow columns cut words."""
    command.rich_markup_mode = None
    for inner in getattr(command, "commands", {}).values():
        _help_plainly(inner)


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        print(json.dumps({"version": __version__}) if context.obj.as_json else f"hostler {__version__}")
        raise typer.Exit


@app.callback()
def hostler(
    context: typer.Context,
    data_dir: DataDir = None,
    coordinator: Coordinator = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that may also stand before the command's name."""
    context.obj = Place(data_dir=data_dir, coordinator=coordinator, config=config, as_json=as_json)


@app.command(rich_help_panel=CLUSTER)
@expanded
def up(
    place: Place,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the HTTP gateway listens.")] = None,
    grpc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The coordinator's gRPC port.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", parser=whole(), help="How many workers.")] = None,
    slots: Annotated[
        int | None, typer.Option(metavar="N", parser=whole(), help="Jobs each runs at once; 0: twice the CPUs.")
    ] = None,
) -> int:
    """Run a cluster on this host: coordinator, workers and HTTP gateway, until Ctrl-C."""
    from hostler.cli.connect import settings_for
    from hostler.cli.up import up

    return up(settings_for(place, http=http, grpc=grpc, workers=workers, slots=slots), as_json=place.as_json)


@app.command(rich_help_panel=CLUSTER)
@expanded
def coordinator(
    place: Place,
    grpc: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Its gRPC port; empty: unix socket only.")
    ] = None,
) -> int:
    """Run a coordinator in the foreground."""
    from hostler.cli.foreground import become

    become("coordinator", place, grpc=grpc)


@app.command(rich_help_panel=CLUSTER)
@expanded
def worker(
    place: Place,
    name: Annotated[str | None, typer.Option(help="The worker's name; default: the host's.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A label, for placement. Repeatable.")] = None,
    slots: Annotated[
        int | None, typer.Option(metavar="N", parser=whole(), help="Jobs it runs at once; 0: twice the CPUs.")
    ] = None,
    stop_jobs: Annotated[
        bool, typer.Option("--stop-jobs", help="Stop its jobs when it is told to end; otherwise they run on.")
    ] = False,
    join: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Join a cluster on another host with this invitation.")
    ] = None,
    policy_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What it takes, and as whom it runs it.")
    ] = None,
    allow_arbitrary: Annotated[
        bool, typer.Option("--allow-arbitrary", help="Take any program from a coordinator on another host.")
    ] = False,
    allow_root: Annotated[bool, typer.Option("--allow-root", help="As root, run jobs as root.")] = False,
    ca_fingerprint: Annotated[
        str | None, typer.Option(metavar="HEX", help="Of the authority of that cluster; `workers invite` shows it.")
    ] = None,
) -> int:
    """Run a worker in the foreground."""
    from hostler.cli.foreground import become_worker

    become_worker(
        place,
        labels=label,
        name=name,
        slots=slots,
        stop_jobs=stop_jobs or None,
        join=join,
        ca_fingerprint=ca_fingerprint,
        policy_file=policy_file.absolute() if policy_file is not None else None,
        allow_arbitrary=allow_arbitrary or None,
        allow_root=allow_root or None,
    )


@app.command(rich_help_panel=CLUSTER)
@expanded
def gateway(
    place: Place,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where it listens.")] = None,
) -> int:
    """Run an HTTP gateway in the foreground."""
    from hostler.cli.foreground import become

    become("http_gateway", place, http=http)


@app.command(rich_help_panel=JOBS, context_settings=JOB_COMMAND)
@expanded
def run(options: RunOptions, fan: FanOptions, place: Place, argv: RunArgv = None) -> int:
    """Run a command as a job that behaves like the command itself.

    Its output and its exit status come out here. Ctrl-C interrupts it, a second one stops it.
    Without a cluster, a private one is started for it. With --all it runs on many workers at once.
    """
    if fan.every is not None or fan.retry_failed is not None:
        from hostler.cli.fan_out import run_on_all

        return run_on_all(place, options, fan, argv or ())
    if fan.group:
        raise usage_failure("--group needs --all or --retry-failed")
    if not argv:
        raise usage_failure("there is no command", hint="put it behind --")
    from hostler.cli.run import run

    return run(place, options, argv)


@app.command(rich_help_panel=JOBS)
@expanded
def attach(
    job: JobId,
    place: Place,
    all_output: Annotated[bool, typer.Option("--all-output", help="From the beginning, not from now on.")] = False,
    detach_keys: Annotated[
        str, typer.Option(metavar="KEYS", help="Of a job with a terminal: these leave, and it goes on.")
    ] = "ctrl-p,ctrl-q",
) -> int:
    """Be with a job that runs: its output comes out here, and our input goes to it."""
    from hostler.cli.attach import attach

    return attach(place, job, all_output=all_output, detach_keys=detach_keys)


@app.command(rich_help_panel=JOBS, context_settings=JOB_COMMAND)
@expanded
def submit(
    options: SubmitOptions,
    place: Place,
    argv: SubmitArgv = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then copy its output and show its progress, until it has ended.")
    ] = False,
) -> int:
    """Submit a job, of a command, a workload or a chain of workloads, and print its id."""
    from hostler.cli.jobs import submit

    return submit(place, options, argv or (), follow=follow)


@app.command(rich_help_panel=JOBS)
@expanded
def jobs(
    place: Place,
    state: Annotated[
        list[str] | None, typer.Option(help="queued, assigned, running, stopping or finished. Repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(parser=filled, help="Jobs of exactly this name.")] = None,
    limit: Annotated[int, typer.Option(parser=whole(1, POSITION_MAX), metavar="N", help="The newest N.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    chosen: Filter = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on: a live table; in a pipe a line for each thing that happens.")
    ] = False,
    after: Annotated[
        int | None,
        typer.Option(metavar="N", parser=whole(0, POSITION_MAX), help="With --watch: lines after this event number."),
    ] = None,
) -> int:
    """List jobs, the newest last."""
    from hostler.cli.jobs import list_jobs

    return list_jobs(
        place,
        states=state or (),
        name=name or "",
        limit=limit,
        every=every,
        chosen=chosen or "",
        watch=watch,
        after=after,
    )


@app.command(rich_help_panel=JOBS)
@expanded
def show(job: JobId, place: Place) -> int:
    """Show all that is known about a job."""
    from hostler.cli.jobs import show

    return show(place, job)


@app.command(rich_help_panel=JOBS)
@expanded
def explain(job: JobId, place: Place) -> int:
    """Tell why a job is as it is: why it waited, how each attempt ended, and what happens next."""
    from hostler.cli.explain import explain_job

    return explain_job(place, job)


@app.command(rich_help_panel=JOBS)
@expanded
def logs(
    job: JobId,
    place: Place,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until the log is complete.")] = False,
    out: Annotated[bool, typer.Option("--stdout", help="Only its standard output.")] = False,
    err: Annotated[bool, typer.Option("--stderr", help="Only its standard error.")] = False,
    start: Annotated[
        int, typer.Option("--from", metavar="POS", parser=whole(0, POSITION_MAX), help="Begin at this position.")
    ] = 0,
    stage: Stage = None,
    attempt: Annotated[
        int | None, typer.Option(metavar="N", parser=whole(1), help="This attempt, from 1; default: the newest.")
    ] = None,
) -> int:
    """Copy a job's output: its standard output to ours, its standard error to ours."""
    from hostler.cli.jobs import logs

    return logs(place, job, follow=follow, out=out, err=err, start=start, stage=stage, attempt=attempt)


@app.command(rich_help_panel=JOBS)
@expanded
def result(job: JobId, place: Place, stage: Stage = None) -> int:
    """Print the JSON that a job has left as its result."""
    from hostler.cli.results import print_result

    return print_result(place, job, stage=stage)


add_commands(app)
add_terminal_commands(app)


@app.command(rich_help_panel=JOBS)
@expanded
def signal(
    job: JobId,
    name: Annotated[str, typer.Argument(metavar="SIGNAL", help="For example INT or 2.")],
    place: Place,
) -> int:
    """Send a signal to the main process of a running job."""
    from hostler.cli.jobs import signal

    return signal(place, job, name)


outputs = typer.Typer(help="List and fetch the files that jobs put out.")
app.add_typer(workers, name="workers", rich_help_panel=CLUSTER)
app.add_typer(workloads, name="workloads", rich_help_panel=CLUSTER)
app.add_typer(keys, name="keys", rich_help_panel=CLUSTER)
app.add_typer(audit, name="audit", rich_help_panel=CLUSTER)
app.add_typer(outputs, name="outputs", rich_help_panel=JOBS)


@outputs.command("ls")
@expanded
def outputs_ls(job: JobId, place: Place) -> int:
    """List the files that a job has put out; of a running one those that are there by now."""
    from hostler.cli.outputs import list_outputs

    return list_outputs(place, job)


@outputs.command("get")
@expanded
def outputs_get(
    job: JobId,
    place: Place,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="Files, or folders with all in them; default: all.")
    ] = None,
    into: Annotated[Path, typer.Option(metavar="DIR", help="Write below this directory; it is made.")] = Path("."),
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all of them into one zip file instead.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> int:
    """Fetch the files that a job has put out."""
    from hostler.cli.outputs import get_outputs

    return get_outputs(place, job, paths or (), into=into, archive=archive, force=force)


def _print(failure: Failure, *, as_json: bool, arguments: Sequence[str] = ()) -> int:
    from hostler.cli.render import print_failure

    if failure.exit_code == USAGE and not failure.hint:
        from hostler.cli.completion import command_of

        path = command_of(typer.main.get_command(app), arguments)
        failure.hint = f"see {' '.join(('hostler', *path))} --help"
    print_failure(failure, as_json=as_json)
    return failure.exit_code


def _usage(error: Exception) -> Failure:
    message: str = cast(Any, error).format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "hostler"
    return usage_failure(message[:1].lower() + message[1:].removesuffix("."), hint=f"see {command} --help")


def _wants_json(arguments: Sequence[str]) -> bool:
    return "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)


if __name__ == "__main__":
    main()
