"""When nobody is heard as a worker any more: two agents speak for it, or one with an older journal.

Pure. Two copies of a worker's data directory, each believing that it is the worker, would run attempts of
which the other knows nothing. As soon as that shows, the worker's id is put under quarantine: nothing is
given to it and nobody is heard as it until somebody has looked and releases it.
"""

from typing import TYPE_CHECKING, NamedTuple

from coordinator.events import Hello
from coordinator.instant import Instant

if TYPE_CHECKING:
    from coordinator.capacity import Worker


RETURNS = 3  # of agents that another one had taken the place of ...
RETURNS_S = 60.0  # ... within so long
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


def reason_against(known: "Worker | None", hello: Hello, now: Instant, started: int = 0) -> str:
    """Why a hello puts its worker under quarantine, or is refused by it; empty: it is heard.

    *started* is the highest sequence of an attempt that the worker has said to have started and that is not over: a
    journal with a lower mark was restored, if only from a backup that the same generation made, and would run it again.
    """
    if known is None:
        return ""
    if known.quarantine:
        return known.quarantine
    # A generation of 0: it was released, and whichever of its directories was kept is the worker's.
    if known.generation and known.journal_id == hello.journal_id and known.boot_id == hello.boot_id:
        if hello.generation < known.generation:
            return "an agent came with an older journal than the one seen last: a restored or copied data directory"
        if hello.mark < started:
            return "an agent came with a journal that knows less than it has told: a restored data directory"
        if hello.generation == known.generation and known.instance and hello.instance != known.instance:
            return "two agents came with the same journal: copies of one data directory"
    if Place(hello.journal_id, hello.boot_id) in known.replaced.places:
        recent = [at_s for at_s in known.replaced.returned_at_s if now.monotonic_s - at_s < RETURNS_S]
        if len(recent) + 1 >= RETURNS:
            return f"agents took its stream back from one another {RETURNS} times within {RETURNS_S:.0f} s"
    return ""
