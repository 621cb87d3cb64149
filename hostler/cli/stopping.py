"""The command `stop`: many at once, and for each what was done once nothing of it is left."""

import asyncio
from collections.abc import Mapping, Sequence

from hostler.cli.beside import QUIET_S, beside
from hostler.cli.connect import PAGE_JOBS, choose_jobs, cluster, pages
from hostler.cli.failures import JOB_FAILED, OK, Failure, failure_of
from hostler.cli.options import Place
from hostler.cli.render import print_json, print_line, say, show_jobs
from hostler.client import Client
from hostler.errors import HostlerError
from hostler.jobs import Job, JobQuery
from hostler.lifecycle import State
from hostler.receipts import receipt_text
from hostler.shape import job_shape
from hostler.state_text import state_text

AT_ONCE = 48  # calls that are open together: a job may take its whole grace
LEFT_SHOWN_MAX = 5
WHY = {
    "unreachable": ": its worker cannot be reached, and ends it when it is back",
    "unkillable": ": there are processes that cannot be killed",
    "": ": it has its grace to end by itself",
}
OPEN = tuple(state for state in State if state is not State.FINISHED)


def stop(place: Place, texts: Sequence[str], *, chosen: str, grace_s: float | None, dry_run: bool) -> int:
    """Stop the jobs that are named, or those that the filter *chosen* finds and that are not over."""

    async def act() -> int:
        async with cluster(place) as client:
            unresolved: dict[str, Failure] = {}
            ids = await choose_jobs(client, texts, chosen, states=OPEN, unresolved=None if dry_run else unresolved)
            if dry_run:
                show_jobs(await jobs_named(client, ids), as_json=place.as_json)
                return OK
            if not ids and not unresolved and not place.as_json:
                say("no job that is not over matches")
            async with beside(_say_what_is_left(client, ids)):
                code, ended = await _stop_each(client, ids, grace_s, quiet=place.as_json)
            if unresolved:
                say_each(unresolved)
                code = next(iter(unresolved.values())).exit_code
        if place.as_json:
            print_json({"jobs": [job_shape(end) for end in ended]})
        elif (named := len(ids) + len(unresolved)) > 1:
            over = sum(end.state is State.FINISHED for end in ended)
            say(f"{over} of {named} jobs are over" + (f"; {named - over} are not" if over < named else ""))
        return code

    return asyncio.run(act())


async def _stop_each(
    client: Client, ids: Sequence[str], grace_s: float | None, *, quiet: bool
) -> tuple[int, list[Job]]:
    """Stop jobs, some at a time; say of each, in order, what became of it."""
    room = asyncio.Semaphore(AT_ONCE)

    async def end(job: str) -> tuple[Job, Job] | HostlerError:
        async with room:
            try:
                was = await client.get(job)
                return was, was if was.state is State.FINISHED else await client.stop(job, grace_s=grace_s)
            except HostlerError as error:
                return error

    code, ended = OK, []
    async with asyncio.TaskGroup() as group:
        for job, call in [(job, group.create_task(end(job))) for job in ids]:
            result = await call
            if isinstance(result, HostlerError):
                failure = failure_of(result)
                say(f"{job}: {failure.message}")
                code = code or failure.exit_code
                continue
            was, now = result
            ended.append(now)
            if now.state is not State.FINISHED:
                code = code or JOB_FAILED
            if not quiet:
                print_line(f"{job} {_stop_text(was, now)}")
    return code, ended


def say_each(unresolved: Mapping[str, Failure]) -> None:
    """Say which texts mean no one job."""
    for failure in unresolved.values():
        say(failure.message)


async def _say_what_is_left(client: Client, ids: Sequence[str]) -> None:
    """After a while, why the stop of a job takes its time."""
    await asyncio.sleep(QUIET_S)
    try:
        left = [job for job in await jobs_named(client, ids) if job.state is not State.FINISHED]
    except HostlerError:
        return  # only a courtesy: whoever stops them says what is wrong
    for job in left[:LEFT_SHOWN_MAX]:
        say(f"{job.id} is not over yet{WHY.get(job.phase, '')}; it is waited for")
    if len(left) > LEFT_SHOWN_MAX:
        say(f"nor are {len(left) - LEFT_SHOWN_MAX} more")


async def jobs_named(client: Client, ids: Sequence[str]) -> list[Job]:
    """The jobs of these ids as they stand, in order."""
    if len(ids) <= AT_ONCE:
        return list(await asyncio.gather(*(client.get(job) for job in ids)))
    wanted = set(ids)
    found: dict[str, Job] = {}
    async for page in pages(client, JobQuery(limit=PAGE_JOBS, newest_first=True)):
        found |= {job.id: job for job in page if job.id in wanted}
        if len(found) == len(wanted):
            break
    return [found[job] for job in ids if job in found]


def _stop_text(was: Job, end: Job) -> str:
    if end.state is not State.FINISHED:
        left = f": {end.phase}" if end.phase else ""
        return f"is not stopped yet{left}; look again with: hostler show {end.id}"
    if was.state is State.FINISHED:
        return f"had ended before ({state_text(end)})"
    if end.end is None or not end.started_at_us:
        return f"{state_text(end)}; it had not started"
    return f"{state_text(end)}; {receipt_text(end.end)}"
