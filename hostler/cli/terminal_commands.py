"""The commands for people at a terminal: `top` and `completion`.

As in `hostler.cli.main`, what does it is imported only when it is called.
"""

from typing import Annotated

import typer

from hostler.cli.options import Place, expanded

CLUSTER = "The cluster"
WORDS = {"allow_interspersed_args": False, "ignore_unknown_options": True}


@expanded
def top(
    place: Place,
    once: Annotated[bool, typer.Option("--once", help="Print it once; so it is in a pipe, too.")] = False,
    sort: Annotated[
        str, typer.Option("--sort", metavar="BY", help="The jobs by cpu, memory, age or name; `s` takes the next.")
    ] = "cpu",
) -> int:
    """Show what the cluster does: its workers, the jobs that run by what they use, the newest ends."""
    from hostler.cli.top import top

    return top(place, once=once, sort=sort)


@expanded
def completion(
    place: Place,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> int:
    """Print what makes Tab complete hostler's commands: source <(hostler completion bash)."""
    from hostler.cli.completion_scripts import print_script

    return print_script(shell, as_json=place.as_json)


def complete(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="WORD", help="What was typed by now.")] = None,
) -> int:
    """Say what can be typed in place of the last word, each with a tab and a few words about it; for the scripts."""
    from hostler.cli.completion import offers

    for one in offers(context.find_root().command, words or [""]):
        print(f"{one.text}\t{one.about}")
    return 0


def add_commands(app: typer.Typer) -> None:
    """Give *app* these commands."""
    app.command(rich_help_panel=CLUSTER)(top)
    app.command(rich_help_panel=CLUSTER)(completion)
    app.command(hidden=True, context_settings=WORDS)(complete)
