"""Where the agents of one worker ran: its data directory, during one boot of one host.

Pure. Remembered while the coordinator runs, so that it shows when two directories speak for one worker.
"""

from typing import NamedTuple

RETURNS = 3  # of agents that another one had taken the place of, which `coordinator.quarantine` looks at
REPLACED_KEPT = 8  # directories of a worker, the latest, that another one has taken the place of


class Place(NamedTuple):
    """A worker's data directory, as it was during one boot of one host: a copy elsewhere is another place.

    What one directory goes through it goes through once: after a restart of its host, or when its journal was lost, it
    is another place for good. So a place that comes back after another one spoke for the worker is a second directory,
    or what an agent of before the restart had sent and only now arrives; that can happen, but not again and again.
    """

    journal_id: str
    boot_id: str


class Replaced(NamedTuple):
    """What is remembered of the places that spoke for a worker, while the coordinator runs."""

    places: tuple[Place, ...] = ()  # that another one took the place of, the latest last
    returned_at_s: tuple[float, ...] = ()  # when one of them came back; the latest

    def seen(self, before: Place, now: Place, at_s: float) -> "Replaced":
        """Another agent, or the same, speaks for the worker."""
        if before == now or not before.boot_id:
            return self
        places = (*(each for each in self.places if each not in (before, now)), before)[-REPLACED_KEPT:]
        if now not in self.places:
            return Replaced(places, self.returned_at_s)
        return Replaced(places, (*self.returned_at_s[1 - RETURNS :], at_s))
