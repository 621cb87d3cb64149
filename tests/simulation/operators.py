"""Somebody who looks after the workers: drains them and takes that back, and releases those under quarantine."""

import asyncio
from typing import TYPE_CHECKING

from hostler.client import Client
from hostler.errors import PermissionDenied
from hostler.workers import WorkerState
from tests.simulation.clients import PASSING

if TYPE_CHECKING:
    from tests.simulation.world import World

# Between the rounds of putting right, at the end; the last ones are for agents that had waited for a welcome till then.
ROUNDS_S = (3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 20.0, 20.0, 0.0)


class Operator:
    """One person with the right to do that."""

    def __init__(self, world: "World") -> None:
        self.world, self.chance = world, world.chance

    async def work(self) -> None:
        """Do something now and then; once everything is healed, put everything right."""
        async with Client("unix:/simulated") as client:
            while not self.world.healed:
                await asyncio.sleep(self.chance.expovariate(1 / 4.0))
                await self._do(client, healing=False)
            for round_s in ROUNDS_S:
                await self._do(client, healing=True)
                await asyncio.sleep(round_s)

    async def _do(self, client: Client, *, healing: bool) -> None:
        try:
            workers = await client.workers()
            for worker in workers if healing else self.chance.sample(workers, min(1, len(workers))):
                if worker.state is WorkerState.QUARANTINED and (healing or self.chance.random() < 0.3):
                    self.world.note("operator releases", worker.name)
                    await client.release_worker(worker.id)
                elif healing or self.chance.random() < 0.5:
                    self.world.note("operator resumes", worker.name)
                    await client.resume_worker(worker.id)
                else:
                    await self._drain(client, worker.id)
        except (*PASSING, PermissionDenied):
            return  # perhaps it was done, perhaps not

    async def _drain(self, client: Client, worker: str) -> None:
        deadline_s, leave = self.chance.choice((None, 0.0, 0.0, 2.0, 10.0)), self.chance.random() < 0.25
        self.world.note("operator drains", worker, deadline_s, leave)
        await client.drain_worker(worker, deadline_s=deadline_s, leave=leave)
