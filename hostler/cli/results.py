"""The command about results: prints the JSON that a job has left, however large it is."""

import asyncio

from hostler.cli.connect import cluster, resolve_job
from hostler.cli.failures import NOT_FOUND, OK, Failure
from hostler.cli.options import Place
from hostler.cli.writing import write_all
from hostler.client import Client
from hostler.errors import ErrorCode
from hostler.jobs import End, Job
from hostler.shape import result_bytes
from hostler.stages import end_of_stage, stage_text
from hostler.state_text import state_text


def print_result(place: Place, text: str, *, stage: int | None) -> int:
    """Print the result of a job, of a chain that of its last stage or of *stage*, as it was left.

    Raises:
        Failure: there is none (exit code 3), or there is no such stage (2).
    """

    async def act() -> int:
        async with cluster(place) as client:
            name = await resolve_job(client, text)
            job = await client.get(name)
            end = end_of_stage(job, stage)
            if end is None or not result_bytes(end):
                raise _none(job, stage, end)
            await _copy(client, end)
        return OK

    return asyncio.run(act())


async def _copy(client: Client, end: End) -> None:
    if not end.result_digest:
        await asyncio.to_thread(write_all, 1, end.result + b"\n")
        return
    async with client.files.read(end.result_digest) as reading:
        async for piece in reading.pieces:
            await asyncio.to_thread(write_all, 1, piece)
    await asyncio.to_thread(write_all, 1, b"\n")


def _none(job: Job, stage: int | None, end: End | None) -> Failure:
    which = f"stage {stage} of job {job.id}" if stage is not None else f"job {job.id}"
    where = f", {stage_text(job)}" if job.spec.stages else ""
    if end is None:
        return _not_found(f"{which} has no result (yet); the job stands at: {state_text(job)}{where}")
    return _not_found(f"{which} has left no result; the job stands at: {state_text(job)}{where}")


def _not_found(message: str) -> Failure:
    return Failure(message, exit_code=NOT_FOUND, code=ErrorCode.FILE_NOT_FOUND.value, hint="hostler show ID says more")
