"""The commands about keys: make one, list them, revoke one.

Light, as `hostler.cli.main` imports it for every command: what talks to the cluster is imported when a command runs.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from hostler.cli.failures import OK
from hostler.cli.options import Place, expanded
from hostler.cli.quantities import duration

if TYPE_CHECKING:
    from typing import Any

    from hostler.access_client import AccessKey

keys = typer.Typer(help="Make, list and revoke keys, which programs show that call from elsewhere.")


@keys.command("create")
@expanded
def keys_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for, for people.")],
    place: Place,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="R", help="viewer, submitter, developer, operator, admin or gateway. Repeatable."),
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(metavar="S", help="One thing it may do, such as jobs:read. Repeatable.")
    ] = None,
    owner: Annotated[
        str, typer.Option(metavar="O", help="Whose jobs it makes and sees, with his other keys. Default: NAME.")
    ] = "",
    expires: Annotated[
        float, typer.Option(metavar="TIME", parser=duration, help="It is good for so long (30d); 0: for ever.")
    ] = 0.0,
    network: Annotated[
        list[str] | None, typer.Option(metavar="CIDR", help="It is good from there only (10.1.0.0/16). Repeatable.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the key and nothing else.")] = False,
) -> int:
    """Make a key and print it, this once: nobody can show it again.

    Without --role and --scope it may do what a submitter may.
    """
    import asyncio

    from hostler.cli.connect import cluster
    from hostler.cli.render import print_json, print_line, printable, say

    async def act() -> int:
        async with cluster(place) as client:
            made = await client.access.create_key(
                name,
                scopes=[*(role or ()), *(scope or ())] or ["submitter"],
                owner=owner,
                expires_in_s=expires,
                networks=network or (),
            )
        if place.as_json:
            print_json({**_shape(made.key), "key": made.text})
            return OK
        print_line(made.text)
        if not quiet:
            say(f"key {made.key.id} of {printable(made.key.owner)} may: {', '.join(made.key.scopes)}")
            say(f"this is the only time it is shown; take it back with: hostler keys revoke {made.key.id}")
        return OK

    return asyncio.run(act())


@keys.command("list")
@expanded
def keys_list(place: Place) -> int:
    """List the keys, the revoked and expired ones too."""
    import asyncio
    import time

    from hostler.cli.connect import cluster
    from hostler.cli.render import moment_text, print_json, print_table, say

    async def act() -> int:
        async with cluster(place) as client:
            found = await client.access.list_keys()
        if place.as_json:
            print_json({"keys": [_shape(key) for key in found]})
        elif found:
            now_us = time.time_ns() // 1000
            columns = ("id", "name", "owner", "state", "used", "scopes")
            print_table(
                columns,
                [
                    (
                        key.id,
                        key.name,
                        key.owner,
                        _state_text(key, now_us),
                        moment_text(key.used_at_us)[:16] or "never",
                        _scopes_text(key.scopes),
                    )
                    for key in found
                ],
            )
        else:
            say("no keys; make one with: hostler keys create NAME")
        return OK

    return asyncio.run(act())


@keys.command("revoke")
@expanded
def keys_revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="A key's id, as `hostler keys list` shows it.")],
    place: Place,
) -> int:
    """Revoke a key: at once for new calls, within 30 seconds for open streams."""
    import asyncio

    from hostler.cli.connect import cluster
    from hostler.cli.render import print_json, print_line

    async def act() -> int:
        async with cluster(place) as client:
            revoked = await client.access.revoke_key(key)
        print_json(_shape(revoked)) if place.as_json else print_line(f"{revoked.id} {revoked.name} revoked")
        return OK

    return asyncio.run(act())


def _shape(key: "AccessKey") -> "dict[str, Any]":
    from hostler.shape import time_shape

    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": list(key.scopes),
        "networks": list(key.networks),
        "created": time_shape(key.created_at_us),
        "expires": time_shape(key.expires_at_us),
        "used": time_shape(key.used_at_us),
        "revoked": time_shape(key.revoked_at_us),
    }


def _state_text(key: "AccessKey", now_us: int) -> str:
    from hostler.cli.render import moment_text

    if key.revoked_at_us:
        return "revoked"
    if key.expires_at_us:
        word = "expired" if key.expires_at_us <= now_us else "until"
        return f"{word} {moment_text(key.expires_at_us)[:16]}"
    return "good"


def _scopes_text(scopes: "tuple[str, ...]") -> str:
    """The role that these scopes are, or all of them."""
    from hostler.policy import ROLES

    return next((name for name, given in ROLES.items() if given == set(scopes)), ", ".join(scopes))
