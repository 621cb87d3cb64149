"""What can be typed after `hostler workloads`.

As in `hostler.cli.main`, what does it is imported only when it is called.
"""

from pathlib import Path
from typing import Annotated

import typer

from hostler.cli.options import Place, expanded
from hostler.cli.quantities import whole

WorkloadName = Annotated[str, typer.Argument(metavar="NAME", help="A workload.")]

workloads = typer.Typer(help="Register, look at and remove workloads: named definitions of work.")


@workloads.command("apply")
@expanded
def workloads_apply(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="TOML files, or directories of them.")],
    place: Place,
) -> int:
    """Register workloads from TOML files; each that differs becomes a new version."""
    from hostler.cli.workloads import apply

    return apply(place, paths)


@workloads.command("list")
@expanded
def workloads_list(place: Place) -> int:
    """List the workloads."""
    from hostler.cli.workloads import list_workloads

    return list_workloads(place)


@workloads.command("show")
@expanded
def workloads_show(
    name: WorkloadName,
    place: Place,
    version: Annotated[int, typer.Option(metavar="N", parser=whole(), help="This version; 0: the newest.")] = 0,
) -> int:
    """Show all that is known about a workload."""
    from hostler.cli.workloads import show

    return show(place, name, version=version)


@workloads.command("remove")
@expanded
def workloads_remove(name: WorkloadName, place: Place) -> int:
    """Remove a workload; jobs that were accepted run on."""
    from hostler.cli.workloads import remove

    return remove(place, name)
