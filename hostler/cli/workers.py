"""The command about workers."""

import asyncio

from hostler.cli.connect import cluster
from hostler.cli.failures import OK
from hostler.cli.options import Place
from hostler.cli.render import print_json, print_workers, say
from hostler.shape import worker_shape


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
