"""``hostler audit``: shows the audit log, follows it, and tells whether its files are whole.

`verify` reads files and asks no cluster, so it works on a copy, too.
"""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hostler.cli.failures import JOB_FAILED, NOT_FOUND, OK, Failure
from hostler.cli.options import Place, expanded
from hostler.cli.quantities import POSITION_MAX, whole

if TYPE_CHECKING:
    from hostler.audit import Entry

FOLLOW_EVERY_S = 1.0
Number = Annotated[
    int,
    typer.Option(
        "--after", metavar="N", parser=whole(0, POSITION_MAX), help="Only entries after the one of this number."
    ),
]

audit = typer.Typer(help="Show the audit log: who did what, and who was turned away.")


@audit.callback(invoke_without_command=True)
@expanded
def audit_show(
    context: typer.Context,
    place: Place,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then wait for more, until Ctrl-C.")] = False,
    after: Number = 0,
    limit: Annotated[int, typer.Option("--limit", metavar="N", parser=whole(), help="At most so many; 0: all.")] = 0,
) -> int:
    """Show the audit log, oldest first; `verify` tells whether its files are whole."""
    import asyncio

    context.obj = place
    if context.invoked_subcommand is not None:
        return OK
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show(place, after=after, limit=limit, follow=follow))
    return OK


@audit.command("verify")
@expanded
def audit_verify(
    place: Place,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="A directory with an audit log, or one file; default: the cluster's own."),
    ] = None,
    head: Annotated[
        str, typer.Option(metavar="N:HASH", help="An entry as `verify` printed it earlier: it must still be there.")
    ] = "",
) -> int:
    """Look whether every line follows on the one before; works without a cluster."""
    from hostler.cli.connect import settings_for

    if path is None:
        path = settings_for(place).data_dir / "coordinator" / "audit"
    return _verify(path, head, as_json=place.as_json)


async def _show(place: Place, *, after: int, limit: int, follow: bool) -> None:
    import asyncio

    from hostler.cli.connect import cluster

    left = limit
    async with cluster(place) as client:
        while True:
            async for entry in client.access.read_audit(after=after, limit=left):
                _print(entry, as_json=place.as_json)
                after = entry.number
                left -= limit > 0
            if not follow or (limit and not left):
                return
            await asyncio.sleep(FOLLOW_EVERY_S)


def _print(entry: "Entry", *, as_json: bool) -> None:
    from hostler.cli.render import moment_text, print_line, printable

    if as_json:
        print_line(json.dumps(entry._asdict()))
        return
    who = entry.principal or "nobody known"
    if entry.credential and entry.credential != entry.principal:
        who += f" ({entry.credential})"
    parts = [str(entry.number), moment_text(entry.at_us), entry.decision, entry.action, f"by {who}"]
    if entry.address:
        parts.append(f"from {entry.address}")
    if entry.target:
        parts.append(f"on {entry.target}")
    print_line(printable(" ".join(parts) + (f": {entry.detail}" if entry.detail else "")))


def _verify(path: Path, expected: str, *, as_json: bool) -> int:
    from hostler.audit import verify
    from hostler.cli.render import print_json, print_line, printable

    try:
        found = verify(path)
        problem = found.problem or _unexpected(path, expected)
    except OSError as error:
        hint = "name a directory with an audit log, or one of its files"
        raise Failure(f"{path} cannot be read: {error.strerror}", hint=hint, exit_code=NOT_FOUND) from None
    if as_json:
        print_json(
            {
                "whole": not problem,
                "entries": found.entries,
                "first": found.first,
                "head": f"{found.head.number}:{found.head.hash}",
                "problem": problem,
            }
        )
    elif problem:
        print_line(printable(f"broken: {problem}"))
    else:
        print_line(
            f"whole: entries {found.first} to {found.head.number}; keep the head elsewhere to compare it later with "
            f"--head {found.head.number}:{found.head.hash}"
        )
    return JOB_FAILED if problem else OK


def _unexpected(path: Path, expected: str) -> str:
    """What is wrong with an entry that was noted earlier."""
    if not expected:
        return ""
    from hostler.audit import entries_after, files_of
    from hostler.cli.failures import usage_failure

    number, _, digest = expected.partition(":")
    if not (number.isdecimal() and len(number) < 20 and 0 < int(number) <= POSITION_MAX):
        raise usage_failure(f"--head {expected[:100]!r} is not of the form N:HASH, as verify prints it")
    directory = path if path.is_dir() else path.parent
    entry = next(entries_after(directory, int(number) - 1), None) if files_of(directory) else None
    if entry is None or entry.number != int(number):
        return f"entry {number} is not there"
    return "" if entry.hash == digest else f"entry {number} is not the one that was there when its head was noted"
