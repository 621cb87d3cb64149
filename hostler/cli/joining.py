"""The commands about workers of other hosts: invite, revoke."""

import asyncio
from typing import TYPE_CHECKING

from hostler.cli.connect import cluster, resolve_worker
from hostler.cli.failures import OK, Failure
from hostler.cli.options import Place
from hostler.cli.render import moment_text, print_json, print_line, printable, say
from hostler.errors import WorkerNotFound
from hostler.workers import WorkerState

if TYPE_CHECKING:
    from hostler.client import Client


def invite(place: Place, *, name_pattern: str, expires_in_s: float, uses: int) -> int:
    """Print the command that joins a worker; the token in it is shown only now."""

    async def act() -> int:
        async with cluster(place) as client:
            made = await client.access.invite(name_pattern=name_pattern, expires_in_s=expires_in_s, uses=uses)
        if place.as_json:
            print_json(
                {
                    "token": made.token,
                    "ca_fingerprint": made.fingerprint,
                    "coordinator": made.address,
                    "expires_at_us": made.expires_at_us,
                }
            )
            return OK
        whom = f"workers named {printable(name_pattern)}" if name_pattern else "any worker"
        times = "once" if uses == 1 else f"{uses} times"
        say(f"good {times} for {whom}, until {moment_text(made.expires_at_us)}; run on its host:")
        print_line(
            f"hostler worker --coordinator {made.address} --ca-fingerprint {made.fingerprint} --join {made.token}"
        )
        return OK

    return asyncio.run(act())


def revoke(place: Place, text: str) -> int:
    """Hear a worker no more, and say how many certificates it had."""

    async def act() -> int:
        async with cluster(place) as client:
            try:
                # A name goes first, and as it is: one that has joined and never come is in no list.
                count = await client.access.revoke_worker(text)
            except WorkerNotFound:
                count = await client.access.revoke_worker(await resolve_worker(client, text))
            is_revoked = not count and await _is_revoked(client, text)
        if place.as_json:
            print_json({"revoked": count})
        elif not count and is_revoked:
            print_line(f"{printable(text)} is revoked, and is not heard any more")
        elif not count:
            raise Failure(
                f"{printable(text)} has no certificate that is good: nothing was revoked",
                hint="it was revoked before, or is no worker of another host; "
                "hostler workers drain NAME keeps a worker from getting jobs",
            )
        else:
            print_line(
                f"{printable(text)} is not heard any more; {count} certificate{'' if count == 1 else 's'} revoked"
            )
        return OK

    return asyncio.run(act())


async def _is_revoked(client: "Client", text: str) -> bool:
    revoked = [each for each in await client.workers() if each.state is WorkerState.REVOKED]
    return any(each.name == text or each.id.startswith(text) for each in revoked)
