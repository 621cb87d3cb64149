"""When nobody is heard as a worker any more: two agents speak for it, or one with an older journal.

Pure. Two copies of a worker's data directory, each believing that it is the worker, would run attempts of
which the other knows nothing. As soon as that shows, the worker's id is put under quarantine: nothing is
given to it and nobody is heard as it until somebody has looked and releases it.
"""

from coordinator.capacity import Worker
from coordinator.events import Hello
from coordinator.instant import Instant

TAKEOVERS = 3  # of streams that were up, by other agents each time ...
TAKEOVERS_S = 60.0  # ... within so long


def takes_from_another(known: Worker, instance: str, journal_id: str, boot_id: str) -> bool:
    """Whether an agent takes the stream of a worker from another agent that may be alive.

    A later generation of the same journal in the same boot may not: the lock on the directory says that the agent
    before it is gone, however late its stream is seen to end (after a pause of this process, or a cut).
    """
    same_directory = known.journal_id == journal_id and known.boot_id == boot_id
    return known.connected and instance != known.instance and not same_directory


def reason_against(known: Worker | None, hello: Hello, now: Instant, started: int = 0) -> str:
    """Why a hello puts its worker under quarantine, or is refused by it; empty: it is heard.

    *started* is the highest sequence of an attempt that the worker has said to have started and that is not over: a
    journal with a lower mark was restored, if only from a backup that the same generation made, and would run it again.
    """
    if known is None:
        return ""
    if known.quarantine:
        return known.quarantine
    if known.journal_id == hello.journal_id and known.boot_id == hello.boot_id:
        if hello.generation < known.generation:
            return "an agent came with an older journal than the one seen last: a restored or copied data directory"
        if hello.mark < started:
            return "an agent came with a journal that knows less than it has told: a restored data directory"
        if hello.generation == known.generation and known.instance and hello.instance != known.instance:
            return "two agents came with the same journal: copies of one data directory"
    takes_over = takes_from_another(known, hello.instance, hello.journal_id, hello.boot_id)
    recent = [at_s for at_s in known.superseded_at_s if now.monotonic_s - at_s < TAKEOVERS_S]
    if takes_over and len(recent) + 1 >= TAKEOVERS:
        return f"agents took its stream from one another {TAKEOVERS} times within {TAKEOVERS_S:.0f} s"
    return ""
