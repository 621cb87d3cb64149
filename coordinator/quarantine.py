"""When nobody is heard as a worker any more: two agents speak for it, or one with an older journal.

Pure. Two copies of a worker's data directory, each believing that it is the worker, would run attempts of
which the other knows nothing. As soon as that shows, the worker's id is put under quarantine: nothing is
given to it and nobody is heard as it until somebody has looked and releases it.
"""

from coordinator.capacity import Worker
from coordinator.events import Hello
from coordinator.instant import Instant
from coordinator.places import RETURNS, Place

RETURNS_S = 60.0  # so soon after one another, agents that take their stream back are two


def reason_against(known: Worker | None, hello: Hello, now: Instant, started: int = 0) -> str:
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
