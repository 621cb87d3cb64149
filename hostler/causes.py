"""The causes of an attempt's end: what each means, and which outcome it gives.

Pure. A worker decides on a cause with evidence; where a worker cannot, the coordinator concludes one.
"""

from typing import Final, NamedTuple

from hostler.lifecycle import Outcome


class CauseMeaning(NamedTuple):
    """One cause."""

    outcome: Outcome  # NONE: the exit code decides
    meaning: str  # begins small and has no full stop, so that it fits into a table and a sentence


CAUSES: Final = {
    "exit": CauseMeaning(Outcome.NONE, "the program ended by itself, with an exit code"),
    "signal": CauseMeaning(Outcome.FAILED, "a signal that was not ours ended the program"),
    "stop": CauseMeaning(Outcome.STOPPED, "somebody asked for the stop"),
    "timeout": CauseMeaning(Outcome.TIMED_OUT, "its own time limit was reached"),
    "start_deadline": CauseMeaning(Outcome.TIMED_OUT, "it had not started by its start deadline, and never ran"),
    "memory_limit": CauseMeaning(Outcome.FAILED, "its tree reached the job's memory limit"),
    "output_limit": CauseMeaning(Outcome.FAILED, "it wrote more than its limit of output"),
    "out_of_memory": CauseMeaning(Outcome.FAILED, "its worker ran out of memory, and the kernel ended it"),
    "not_started": CauseMeaning(Outcome.FAILED, "the program could not be started"),
    "refused": CauseMeaning(
        Outcome.REJECTED, "the worker refused to run it, or the one asked for never takes it; it never ran"
    ),
    "drain": CauseMeaning(Outcome.STOPPED, "its worker was told to end its jobs"),
    "lease": CauseMeaning(Outcome.LOST, "its worker was cut off for too long, and the job's policy is to end then"),
    "supervisor_died": CauseMeaning(Outcome.LOST, "the process that watched over the program was killed"),
    "host_restarted": CauseMeaning(Outcome.LOST, "its host was restarted while it ran"),
    "worker_lost": CauseMeaning(Outcome.LOST, "its worker stayed away for too long, or was revoked"),
}


def meaning_of(cause: str) -> str:
    """Return what a cause means; a later version may know others."""
    known = CAUSES.get(cause)
    return known.meaning if known is not None else f"its cause is {cause}" if cause else "why is not known"
