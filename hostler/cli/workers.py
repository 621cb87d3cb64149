"""The commands about workers: the list, drain, resume, release."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from hostler.cli.connect import cluster, resolve_worker
from hostler.cli.failures import JOB_FAILED, OK, Failure
from hostler.cli.options import Place
from hostler.cli.render import moment_text, print_json, print_line, print_workers, printable, say
from hostler.patience import PASSING, Absence
from hostler.shape import worker_shape
from hostler.workers import Worker, WorkerState

if TYPE_CHECKING:
    from hostler.client import Client

LOOK_S = 0.5  # between two looks whether a worker is empty
PATIENCE_S = 60.0  # how long the coordinator may be away
EMPTY = (WorkerState.DRAINED, WorkerState.GONE)


def list_workers(place: Place) -> int:
    """Print every worker the cluster knows."""

    async def act() -> int:
        async with cluster(place) as client:
            workers = await client.workers()
        if place.as_json:
            print_json({"workers": [worker_shape(worker) for worker in workers]})
        elif workers:
            print_workers(workers)
        else:
            say("no workers; start one with: hostler worker")
        return OK

    return asyncio.run(act())


def drain(place: Place, text: str, *, deadline_s: float | None, leave: bool, reason: str, wait: bool) -> int:
    """Give a worker nothing more and print how it stands; with *wait* once nothing runs there.

    Raises:
        Failure: no worker fits; or somebody gave it work again while it was waited for.
    """

    async def act(client: "Client", worker: str) -> Worker:
        drained = await client.drain_worker(worker, deadline_s=deadline_s, leave=leave, reason=reason)
        if wait and drained.state not in EMPTY:
            say(f"waiting for {printable(drained.name)}: {_running_text(drained)}")
            return await _until_empty(client, worker)
        return drained

    return _print_after(place, text, act)


def resume(place: Place, text: str) -> int:
    """Give a drained worker work again and print how it stands."""
    return _print_after(place, text, lambda client, worker: client.resume_worker(worker))


def release(place: Place, text: str) -> int:
    """End the quarantine of a worker and print how it stands."""
    return _print_after(place, text, lambda client, worker: client.release_worker(worker))


def _print_after(place: Place, text: str, act: Callable[["Client", str], Awaitable[Worker]]) -> int:
    async def run() -> int:
        async with cluster(place) as client:
            worker = await act(client, await resolve_worker(client, text))
        print_json(worker_shape(worker)) if place.as_json else print_line(_line(worker))
        return OK

    return asyncio.run(run())


async def _until_empty(client: "Client", name: str) -> Worker:
    absence = Absence(PATIENCE_S)
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            found = next((one for one in await client.workers() if one.id == name), None)
        except PASSING as error:
            # Waiting changes nothing, so it is simply asked again while the coordinator restarts.
            await absence.bear(error)
            continue
        absence.heard()
        if found is None:
            raise Failure(f"worker {name} is not known any more", exit_code=JOB_FAILED)
        if found.state in EMPTY:
            return found
        if found.state in (WorkerState.CONNECTED, WorkerState.REVOKED):
            what = "resumed" if found.state is WorkerState.CONNECTED else "revoked"
            raise Failure(f"worker {printable(found.name)} was {what} meanwhile", exit_code=JOB_FAILED)


def _line(worker: Worker) -> str:
    parts = [f"{printable(worker.name)} {worker.state.value}", _running_text(worker)]
    if worker.state is WorkerState.DRAINING and worker.drain_by_us:
        parts.append(f"what is left is ended at {moment_text(worker.drain_by_us)}")
    if worker.reason:
        parts.append(printable(worker.reason))
    return "; ".join(parts)


def _running_text(worker: Worker) -> str:
    jobs = "1 job runs" if worker.running == 1 else f"{worker.running or 'no'} jobs run"
    return f"{jobs} there"
