"""What can be typed after `hostler workers`."""

from typing import Annotated

import typer

from hostler.cli.failures import OK
from hostler.cli.options import Place, expanded, filled_name
from hostler.cli.quantities import duration, whole

WorkerName = Annotated[
    str,
    typer.Argument(metavar="NAME", callback=filled_name, help="A worker: its name, its id, or the start of it."),
]

workers = typer.Typer(help="List the workers; give one no further work, or some again; let others join.")


@workers.callback(invoke_without_command=True)
@expanded
def workers_list(context: typer.Context, place: Place) -> int:
    """List the workers; the commands give one no further work, or some again, or let others join."""
    context.obj = place
    if context.invoked_subcommand is not None:
        return OK
    from hostler.cli.workers import list_workers

    return list_workers(place)


@workers.command("drain")
@expanded
def workers_drain(
    worker: WorkerName,
    place: Place,
    deadline: Annotated[
        float | None,
        typer.Option(metavar="TIME", parser=duration, help="End what still runs there after so long (10m)."),
    ] = None,
    leave: Annotated[bool, typer.Option("--leave", help="Its agent ends once nothing runs there.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for people.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing runs there any more.")] = False,
) -> int:
    """Give a worker nothing more, until it is resumed. What runs there goes on."""
    from hostler.cli.workers import drain

    return drain(place, worker, deadline_s=deadline, leave=leave, reason=reason, wait=wait)


@workers.command("resume")
@expanded
def workers_resume(worker: WorkerName, place: Place) -> int:
    """Give a drained worker work again."""
    from hostler.cli.workers import resume

    return resume(place, worker)


@workers.command("release")
@expanded
def workers_release(worker: WorkerName, place: Place) -> int:
    """End the quarantine of a worker for which two agents had spoken."""
    from hostler.cli.workers import release

    return release(place, worker)


@workers.command("invite")
@expanded
def workers_invite(
    place: Place,
    name_pattern: Annotated[
        str, typer.Option(metavar="P", help="Names of workers that may join with it, with * as a wild card.")
    ] = "",
    expires: Annotated[
        float, typer.Option(metavar="TIME", parser=duration, help="How long it is good (10m, 1h; at most 30d).")
    ] = 3600.0,
    uses: Annotated[int, typer.Option(metavar="N", parser=whole(1), help="How many workers may join with it.")] = 1,
) -> int:
    """Let a worker of another host join: prints the command to run there."""
    from hostler.cli.joining import invite

    return invite(place, name_pattern=name_pattern, expires_in_s=expires, uses=uses)


@workers.command("revoke")
@expanded
def workers_revoke(worker: WorkerName, place: Place) -> int:
    """Hear a worker of another host no more, at once; it may join again with a new invitation."""
    from hostler.cli.joining import revoke

    return revoke(place, worker)
