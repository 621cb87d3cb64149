"""Finds the cluster a command is about, and the jobs and workers that short names mean.

The address is the setting ``coordinator`` (flag, environment, file), else the data directory's own.
A plain connect is tried first: that nothing listens is known at once, before gRPC is loaded.
"""

import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from hostler import settings as hostler_settings
from hostler.cli.failures import NOT_FOUND, UNREACHABLE, Failure, usage_failure
from hostler.cli.options import Place
from hostler.endpoint import coordinator_address, read_endpoint
from hostler.errors import ErrorCode
from hostler.ids import is_uuid
from hostler.settings import Settings

if TYPE_CHECKING:
    from hostler.client import Client
    from hostler.jobs import Job, JobQuery
    from hostler.lifecycle import State

CONNECT_S = 1.0
PREFIX_CHARACTERS_MIN = 4
ID_CHARACTERS = 36
PAGE_JOBS = 1000
PAGES_MAX = 200  # a search over more than 200,000 jobs would take too long
AMBIGUOUS_SHOWN_MAX = 8


def settings_for(place: Place, **flags: Any) -> Settings:
    """Load the settings with the flags of *place* and further ones; None counts as not given.

    Raises:
        InvalidRequest: a value is unusable.
    """
    data_dir = None if place.data_dir is None else place.data_dir.absolute()
    return hostler_settings.load(place.config, data_dir=data_dir, coordinator=place.coordinator, **flags)


def address_of(settings: Settings) -> str:
    """Where the coordinator of these settings should listen.

    Raises:
        Failure: the setting has no usable form.
    """
    named = settings.coordinator
    if not named:
        published = read_endpoint(settings.data_dir)
        return published.socket if published is not None else coordinator_address(settings)
    host, _, port = named.rpartition(":")
    if named.startswith("unix:/") or (host and port.isdecimal() and host != "unix"):
        return named
    raise usage_failure(f"coordinator is {named!r}; the form is unix:/path or HOST:PORT")


def answers(address: str, *, wait_s: float = CONNECT_S) -> bool:
    """Say whether something listens at *address*; waits at most *wait_s*."""
    try:
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(wait_s)
                probe.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), wait_s).close()
    except OSError:
        return False
    return True


@asynccontextmanager
async def cluster(place: Place) -> "AsyncIterator[Client]":
    """A client of the cluster that *place* means.

    Raises:
        Failure: nothing answers there.
    """
    settings = settings_for(place)
    address = address_of(settings)
    if not answers(address):
        raise unreachable(settings, address)
    # Loaded only now: it takes as long as all the rest of a command that fails.
    from hostler.client import Client
    from hostler.tls import target_of

    async with Client(target_of(settings, address)) as client:
        yield client


def unreachable(settings: Settings, address: str) -> Failure:
    """What to say when nothing listens at *address*."""
    where = f"no cluster answers at {address}"
    if settings.coordinator:
        return Failure(
            where,
            hint="check the address and that the coordinator runs there",
            exit_code=UNREACHABLE,
            code=ErrorCode.UNAVAILABLE.value,
        )
    return Failure(where, hint="start one with: hostler up", exit_code=UNREACHABLE, code=ErrorCode.UNAVAILABLE.value)


async def pages(client: "Client", query: "JobQuery") -> "AsyncIterator[Sequence[Job]]":
    """Yield every page of a list, in the order that *query* asks for.

    Raises:
        Failure: there are more jobs than a command line should page through.
    """
    from dataclasses import replace

    for _ in range(PAGES_MAX):
        page = await client.find(query)
        yield page.jobs
        if not page.next:
            return
        query = replace(query, after=page.next)
    raise Failure(
        f"there are more than {PAGES_MAX * PAGE_JOBS:,} jobs",
        hint="give the whole id, or filter with --name or --state",
    )


async def resolve_job(client: "Client", text: str) -> str:
    """Return the id of the one job that *text* means, see `resolve_jobs`.

    Raises:
        Failure: it means no job, or several.
    """
    found = await resolve_jobs(client, [text])
    if len(found) != 1:
        shown = ", ".join(found[:AMBIGUOUS_SHOWN_MAX]) + (" ..." if len(found) > AMBIGUOUS_SHOWN_MAX else "")
        raise usage_failure(f"{text} means {len(found)} jobs: {shown}", hint="name one of them")
    return found[0]


async def resolve_jobs(
    client: "Client", texts: Sequence[str], *, unresolved: "dict[str, Failure] | None" = None
) -> list[str]:
    """Return the ids that *texts* mean, each once.

    A text is a whole id, a unique prefix of four characters or more, the exact name of one job, ``last`` for the
    newest, or ``last:N`` for the N newest, oldest first. A whole id is taken as it is; whether there is such a job the
    next call will say. With *unresolved* what is wrong with a text is noted there, and the others are found.

    Raises:
        Failure: a text fits no job, or several and is not ``last:N``; with *unresolved* only the one that is all.
    """
    found: dict[str, None] = {}
    wanted = dict.fromkeys(texts)
    for text in wanted:
        try:
            found |= dict.fromkeys(await _meant(client, text))
        except Failure as failure:
            if unresolved is None or len(wanted) == 1:
                raise
            unresolved[text] = failure
    return list(found)


async def _meant(client: "Client", text: str) -> list[str]:
    if is_uuid(text):
        return [text]
    if text == "last" or text.startswith("last:"):
        return await _newest(client, text)
    return [_the_one(text, await _fitting(client, text), "job", "jobs")]


async def _newest(client: "Client", text: str) -> list[str]:
    from hostler.jobs import JobQuery

    number = text.removeprefix("last").removeprefix(":") or "1"
    if not (number.isascii() and number.isdecimal() and 0 < int(number[:10]) <= PAGE_JOBS):
        raise usage_failure(f"{text} is not last:N with N from 1 to {PAGE_JOBS}")
    newest = (await client.find(JobQuery(limit=int(number), newest_first=True))).jobs
    return [job.id for job in reversed(newest)] or [_the_one("last", (), "job", "jobs")]


async def _fitting(client: "Client", text: str) -> list[str]:
    """The newest jobs whose id begins so, or that are called so."""
    from hostler.jobs import NAME_CHARACTERS_MAX, JobQuery

    some = AMBIGUOUS_SHOWN_MAX + 1
    found: dict[str, None] = {}
    if len(text) >= PREFIX_CHARACTERS_MIN:
        begun = await client.find(JobQuery(id_prefix=text[:ID_CHARACTERS], limit=some, newest_first=True))
        found |= dict.fromkeys(job.id for job in begun.jobs if job.id.startswith(text))
    if text and len(text) <= NAME_CHARACTERS_MAX:
        named = await client.find(JobQuery(name=text, limit=some, newest_first=True))
        found |= dict.fromkeys(job.id for job in named.jobs)
    if not found and len(text) < PREFIX_CHARACTERS_MIN:
        raise usage_failure(
            f"{text!r} is too short for an id, and no job has this name",
            hint=f"give {PREFIX_CHARACTERS_MIN} characters of an id or more",
        )
    return list(found)


async def choose_jobs(
    client: "Client",
    texts: Sequence[str],
    chosen: str,
    *,
    states: "Sequence[State]" = (),
    unresolved: "dict[str, Failure] | None" = None,
) -> list[str]:
    """Return the ids of the jobs that a command is about: those named, or those that a filter finds, oldest first.

    Args:
        client: of the cluster.
        texts: as for `resolve_jobs`.
        chosen: the filter; empty: none.
        states: of those that the filter finds, only jobs in one of these; empty: all.
        unresolved: gets what is wrong with a text, as for `resolve_jobs`.

    Raises:
        Failure: neither or both are given, or a text cannot be resolved.
        InvalidRequest: the filter is none.
    """
    if bool(texts) == bool(chosen):
        wrong = "jobs and --filter exclude each other" if chosen else "which jobs?"
        raise usage_failure(wrong, hint="give ids, names, `last` or `last:N`, or --filter EXPR: see docs/selectors.md")
    if not chosen:
        return await resolve_jobs(client, texts, unresolved=unresolved)
    from hostler.job_filters import parse_filter
    from hostler.jobs import JobQuery

    parse_filter(chosen, field="--filter")
    query = JobQuery(filter=chosen, states=tuple(states))
    return [job.id async for page in client.find_brief(query) for job in page]


async def resolve_worker(client: "Client", text: str) -> str:
    """Return the worker id that *text* means: an id, a name, or a unique prefix of an id.

    Raises:
        Failure: it fits no worker or several.
    """
    if not text or is_uuid(text):
        return text
    from hostler.workers import WorkerState

    workers = await client.workers()
    found = [worker for worker in workers if worker.name == text]
    # The host of one that was revoked may have joined again since.
    found = [worker for worker in found if worker.state is not WorkerState.REVOKED] or found
    named = [worker.id for worker in found]
    if not named and len(text) >= PREFIX_CHARACTERS_MIN:
        named = [worker.id for worker in workers if worker.id.startswith(text)]
    return _the_one(text, named, "worker", "workers")


def _the_one(text: str, found: Iterable[str], kind: str, command: str) -> str:
    ids = list(found)
    if len(ids) == 1:
        return ids[0]
    if not ids:
        missing = "there is no job yet" if text == "last" else f"no {kind} has the id or name {text}"
        code = ErrorCode.JOB_NOT_FOUND if kind == "job" else ErrorCode.WORKER_NOT_FOUND
        hint = f"hostler {command} shows the {kind}s there are"
        raise Failure(missing, hint=hint, exit_code=NOT_FOUND, code=code.value)
    shown = ", ".join(ids[:AMBIGUOUS_SHOWN_MAX]) + (" ..." if len(ids) > AMBIGUOUS_SHOWN_MAX else "")
    raise usage_failure(f"{text} fits several {kind}s: {shown}", hint="give the id, or more characters of it")
