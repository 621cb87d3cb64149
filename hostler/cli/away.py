"""What is said of a job whose worker cannot be reached while somebody at a terminal waits for its end.

The job may take minutes to be lost, or never be, and meanwhile nothing is shown of what it does.
"""

import asyncio
from collections.abc import Callable

from hostler.cli.render import moment_text, printable
from hostler.client import Client
from hostler.errors import HostlerError
from hostler.jobs import Job
from hostler.lifecycle import State

LOOK_S = 4.0  # between two looks at the job; it is said at the second one that shows the same


async def say_while_away(
    client: Client, job: str, say: Callable[[str], None], *, leaving: str, look_s: float = LOOK_S
) -> None:
    """Say that the worker of *job* is away, and that it is back or what became of the job. Never returns.

    Args:
        leaving: what the person can do meanwhile: `` (the third Ctrl-C leaves)``, or nothing.
        look_s: seconds between two looks.
    """
    missed: Job | None = None  # as it was when its worker was missed first
    name = ""  # of a worker that was said to be away
    while True:
        await asyncio.sleep(look_s)
        try:
            found = await client.get(job)
            away = found.phase == "unreachable"
            same = missed is not None and found.attempt == missed.attempt and found.state is not State.QUEUED
            if name and not (away and same):
                if found.state is not State.FINISHED:
                    say(f"{name} is back" if same else f"the job was lost on {name}, and begins anew")
                name = ""
            if not away:
                missed = None
            elif not same:
                missed = found
            elif not name:
                name, since = await _worker(client, found.worker)
                say(f"{name} cannot be reached{since}; its job may go on there, and is waited for{leaving}")
        except HostlerError:
            continue  # only a courtesy: whoever copies the log says what is wrong


async def _worker(client: Client, worker: str) -> tuple[str, str]:
    """Its name, and since when it has not been heard, as part of a sentence."""
    known = next((one for one in await client.workers() if one.id == worker), None)
    if known is None:
        return f"the worker {worker}", ""
    return printable(known.name), f" since {moment_text(known.seen_at_us)}" if known.seen_at_us else ""
