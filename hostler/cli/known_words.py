"""Words for completion: those that never change, and those that the running cluster knows.

The cluster is asked for half a second at most. When there is none, or it is slow, or it does not let us in, nothing is
offered and nothing is said: somebody is in the middle of a line.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hostler.cli.connect import address_of, answers, settings_for
from hostler.cli.failures import Failure
from hostler.cli.options import Place
from hostler.errors import HostlerError

if TYPE_CHECKING:
    from hostler.client import Client
    from hostler.jobs import Job, JobQuery

ASK_S = 0.5
NAMES_S = 0.3  # of it for names: the newest jobs are offered all the same
JOBS_MAX = 50  # of the newest
NAMES_MAX = 500  # of those whose names begin as the word does
NAME_CHARACTERS_MAX = 200
SIGNALS = ("INT", "TERM", "HUP", "QUIT", "KILL", "STOP", "CONT", "USR1", "USR2", "WINCH")


def fixed_words(kind: str) -> Sequence[str] | None:
    """Every word of a kind; None: only the cluster knows."""
    from hostler import jobs, lifecycle, policy
    from hostler.cli import completion_scripts, load

    words: dict[str, Iterable[str]] = {
        "signals": SIGNALS,
        "states": [state.word for state in lifecycle.State],
        "start paths": jobs.START_PATHS,
        "loss policies": jobs.LOSS_POLICIES,
        "on lost": jobs.ON_LOST,
        "causes": jobs.RETRY_CAUSES,
        "roles": policy.ROLES,
        "shells": completion_scripts.SCRIPTS,
        "sortings": load.SORTINGS,
    }
    found = words.get(kind)
    return tuple(word for word in found if word) if found is not None else None


def words_of_cluster(place: Place, kind: str, begun: str) -> list[tuple[str, str]]:
    """What the cluster knows of a kind, each word with a few about it; nothing after half a second."""
    with contextlib.suppress(Failure, HostlerError, OSError, ValueError, TimeoutError):
        settings = settings_for(place)
        address = address_of(settings)
        if not answers(address, wait_s=ASK_S):
            return []
        from hostler.client import Client
        from hostler.tls import target_of

        async def ask() -> list[tuple[str, str]]:
            async with asyncio.timeout(ASK_S), Client(target_of(settings, address)) as client:
                return await _ask(client, kind, begun)

        return asyncio.run(ask())
    return []


async def _ask(client: "Client", kind: str, begun: str) -> list[tuple[str, str]]:
    from hostler.cli.render import printable

    if kind == "workers":
        words = [(one.name, f"{one.state.value}, {one.host}") for one in await client.workers()]
    elif kind == "workloads":
        words = [(one.name, one.documentation.partition("\n")[0]) for one in await client.workloads.list()]
    elif kind == "keys":
        words = [(one.id, one.name) for one in await client.access.list_keys()]
    else:
        words = await _jobs(client, kind, begun)
    # A word with a line end or a tab in it could not be told from two.
    return [(word, printable(about)) for word, about in words if word.isprintable()]


async def _jobs(client: "Client", kind: str, begun: str) -> list[tuple[str, str]]:
    from hostler.cli.render import work_text
    from hostler.jobs import JobQuery
    from hostler.lifecycle import State
    from hostler.state_text import state_text

    states = {
        "open jobs": tuple(state for state in State if state is not State.FINISHED),
        "finished jobs": (State.FINISHED,),
    }.get(kind, ())
    newest = JobQuery(states=states, limit=JOBS_MAX, newest_first=True)
    found, named = await asyncio.gather(client.find(newest), _named(client, replace(newest, limit=NAMES_MAX), begun))
    jobs = [*found.jobs, *named]
    if begun and all(one in "0123456789abcdef-" for one in begun):
        jobs += (await client.find(replace(newest, id_prefix=begun[:36]))).jobs
    words = [(job.spec.name, f"{state_text(job)}, {job.id}") for job in jobs if job.spec.name]
    words += [(job.id, f"{state_text(job)}: {work_text(job.spec)[:80]}") for job in jobs]
    return [("last", "the newest job"), *words] if jobs else []


async def _named(client: "Client", query: "JobQuery", begun: str) -> "Sequence[Job]":
    """Those of the jobs of *query* whose names begin so, as far as the cluster finds them in a moment."""
    if not begun:
        return ()
    # A star stands for what cannot stand in a bare value; whoever asked looks at the names again.
    start = "".join(one if one.isalnum() or one in "-_./:+@" else "*" for one in begun[:NAME_CHARACTERS_MAX])
    try:
        async with asyncio.timeout(NAMES_S):
            return (await client.find(replace(query, filter=f"name = {start}*"))).jobs
    except TimeoutError:
        return ()
