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


def answers(address: str) -> bool:
    """Say whether something listens at *address*; waits at most `CONNECT_S`."""
    try:
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(CONNECT_S)
                probe.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
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
    return Failure(f"{where}; start one with: hostler up", exit_code=UNREACHABLE, code=ErrorCode.UNAVAILABLE.value)


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


async def resolve_jobs(client: "Client", texts: Sequence[str]) -> list[str]:
    """Return the ids that *texts* mean: whole ids, unique prefixes of four characters or more, or ``last``.

    A whole id is taken as it is; whether there is such a job the next call will say.

    Raises:
        Failure: a prefix fits no job or several, or there is no last job.
    """
    short = {text for text in texts if not is_uuid(text)}
    for text in short:
        if text != "last" and len(text) < PREFIX_CHARACTERS_MIN:
            raise usage_failure(
                f"{text!r} is too short for an id", hint=f"give {PREFIX_CHARACTERS_MIN} characters or more"
            )
    if not short:
        return list(texts)
    from hostler.jobs import JobQuery

    matches: dict[str, list[str]] = {text: [] for text in short}
    if "last" in short:
        newest = await client.find(JobQuery(limit=1, newest_first=True))
        matches["last"] = [job.id for job in newest.jobs]
    for text in short - {"last"}:
        query = JobQuery(id_prefix=text[:ID_CHARACTERS], limit=AMBIGUOUS_SHOWN_MAX + 1, newest_first=True)
        matches[text] = [job.id for job in (await client.find(query)).jobs if job.id.startswith(text)]
    return [text if is_uuid(text) else _the_one(text, matches[text], "job", "jobs") for text in texts]


async def resolve_worker(client: "Client", text: str) -> str:
    """Return the worker id that *text* means: an id, a name, or a unique prefix of an id.

    Raises:
        Failure: it fits no worker or several.
    """
    if not text or is_uuid(text):
        return text
    workers = await client.workers()
    named = [worker.id for worker in workers if worker.name == text]
    if not named and len(text) >= PREFIX_CHARACTERS_MIN:
        named = [worker.id for worker in workers if worker.id.startswith(text)]
    return _the_one(text, named, "worker", "workers")


def _the_one(text: str, found: Iterable[str], kind: str, command: str) -> str:
    ids = list(found)
    if len(ids) == 1:
        return ids[0]
    if not ids:
        missing = "there is no job yet" if text == "last" else f"no {kind} has the id {text}"
        code = ErrorCode.JOB_NOT_FOUND if kind == "job" else ErrorCode.WORKER_NOT_FOUND
        hint = f"hostler {command} shows the {kind}s there are"
        raise Failure(missing, hint=hint, exit_code=NOT_FOUND, code=code.value)
    shown = ", ".join(ids[:AMBIGUOUS_SHOWN_MAX]) + (" ..." if len(ids) > AMBIGUOUS_SHOWN_MAX else "")
    raise usage_failure(f"{text} fits several {kind}s: {shown}", hint="give more characters")
