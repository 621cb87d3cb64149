"""The command `retry`: finished jobs once more, each as a new job that asks for the same."""

import asyncio
from collections.abc import Sequence
from typing import Any

from hostler.cli.connect import choose_jobs, cluster
from hostler.cli.failures import JOB_FAILED, OK, Failure, failure_of
from hostler.cli.options import Place
from hostler.cli.render import print_json, print_line, say, show_jobs
from hostler.cli.stopping import jobs_named, say_each
from hostler.errors import HostlerError
from hostler.lifecycle import State

BATCH_JOBS = 500  # of one call


def retry(place: Place, texts: Sequence[str], *, chosen: str, dry_run: bool) -> int:
    """Submit again the jobs that are named, or those that the filter *chosen* finds and that are over; 1 if one failed.

    Prints for each its id and that of the new job.
    """

    async def act() -> int:
        async with cluster(place) as client:
            unresolved: dict[str, Failure] = {}
            ids = await choose_jobs(
                client, texts, chosen, states=(State.FINISHED,), unresolved=None if dry_run else unresolved
            )
            if dry_run:
                show_jobs(await jobs_named(client, ids), as_json=place.as_json)
                return OK
            if not ids and not unresolved and not place.as_json:
                say("no job that is over matches")
            results: list[str | HostlerError] = []
            for start in range(0, len(ids), BATCH_JOBS):
                batch = ids[start : start + BATCH_JOBS]
                made = await client.retry(batch)
                results += made
                if not place.as_json:
                    _print_results(batch, made)
        if place.as_json:
            wrong = [_refused(text, failure) for text, failure in unresolved.items()]
            print_json({"jobs": [_shape(job, result) for job, result in zip(ids, results, strict=True)] + wrong})
        elif unresolved:
            say_each(unresolved)
        failed = len(unresolved) + sum(isinstance(result, HostlerError) for result in results)
        named = len(ids) + len(unresolved)
        if failed and named > 1 and not place.as_json:
            say(f"{failed} of {named} jobs were not submitted again")
        return JOB_FAILED if failed else OK

    return asyncio.run(act())


def _print_results(ids: Sequence[str], results: Sequence[str | HostlerError]) -> None:
    for job, result in zip(ids, results, strict=True):
        if isinstance(result, HostlerError):
            say(f"{job}: {failure_of(result).message}")
        else:
            print_line(f"{job} {result}")


def _shape(job: str, result: str | HostlerError) -> dict[str, Any]:
    if isinstance(result, HostlerError):
        return _refused(job, failure_of(result))
    return {"id": job, "retried_as": result, "error": None}


def _refused(job: str, failure: Failure) -> dict[str, Any]:
    return {"id": job, "retried_as": None, "error": {"code": failure.code, "message": failure.message}}
