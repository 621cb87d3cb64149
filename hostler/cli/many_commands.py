"""The commands that are about many jobs at once: their options.

As in `hostler.cli.main`, what does it is imported only when it is called.
"""

from typing import Annotated

import typer

from hostler.cli.options import Place, expanded, filled
from hostler.cli.quantities import duration

JOBS = "Jobs"
Jobs = Annotated[
    list[str] | None,
    typer.Argument(metavar="JOB", help="Jobs: ids, starts of ids, names, `last`, or `last:N`.", show_default=False),
]
Filter = Annotated[
    str | None,
    typer.Option(
        "--filter", metavar="EXPR", parser=filled, help="Jobs that match, as `batch = 7 and outcome != succeeded`."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list the jobs that it would be done to.")]


@expanded
def stop(
    place: Place,
    jobs: Jobs = None,
    chosen: Filter = None,
    grace: Annotated[
        float | None,
        typer.Option(metavar="TIME", parser=duration, help="Between SIGTERM and SIGKILL (10s); default: the job's."),
    ] = None,
    dry_run: DryRun = False,
) -> int:
    """Stop jobs; returns when nothing of them is left, and says what was done."""
    from hostler.cli.stopping import stop

    return stop(place, jobs or (), chosen=chosen or "", grace_s=grace, dry_run=dry_run)


@expanded
def wait(
    place: Place,
    jobs: Jobs = None,
    chosen: Filter = None,
    timeout: Annotated[
        float, typer.Option(metavar="TIME", parser=duration, help="Wait at most so long (30s, 10m); 0: for ever.")
    ] = 0.0,
    any_one: Annotated[bool, typer.Option("--any", help="Return as soon as one has ended.")] = False,
) -> int:
    """Wait until jobs have ended; 0 when all succeeded, 1 when not or when the time ran out."""
    from hostler.cli.waiting import wait

    return wait(place, jobs or (), chosen=chosen or "", timeout_s=timeout, any_one=any_one)


@expanded
def retry(place: Place, jobs: Jobs = None, chosen: Filter = None, dry_run: DryRun = False) -> int:
    """Submit finished jobs again, each as a new job that asks for the same; prints the old and the new id."""
    from hostler.cli.retrying import retry

    return retry(place, jobs or (), chosen=chosen or "", dry_run=dry_run)


def add_commands(app: typer.Typer) -> None:
    """Give *app* these commands."""
    for command in (stop, wait, retry):
        app.command(rich_help_panel=JOBS)(command)
