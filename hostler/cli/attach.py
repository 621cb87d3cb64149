"""`hostler attach`: be a job that runs already, as `run` is one that it has submitted."""

import asyncio

from hostler.cli.connect import cluster, resolve_job
from hostler.cli.interrupts import Interrupts
from hostler.cli.keyboard import Keyboard, has_terminal, read_keys
from hostler.cli.options import Place
from hostler.cli.session import Session
from hostler.lifecycle import State


def attach(place: Place, text: str, *, all_output: bool, detach_keys: str) -> int:
    """Copy a job's output from now on, feed it, and return its exit status."""
    keys = read_keys(detach_keys)

    async def act() -> int:
        async with cluster(place) as client:
            interrupts = Interrupts()
            interrupts.listen()
            found = await client.get(await resolve_job(client, text))
            if found.spec.work.terminal is None or found.state is State.FINISHED or not has_terminal():
                return await Session(client, interrupts, as_json=place.as_json).attach(found, all_output=all_output)
            with Keyboard(keys) as keyboard:
                interrupts.before_leaving = keyboard.give_back
                session = Session(client, interrupts, as_json=place.as_json, keyboard=keyboard)
                return await session.attach(found, all_output=all_output)

    return asyncio.run(act())
