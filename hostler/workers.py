"""What a worker is, as frozen values.

Pure. A worker is one agent on one host; its id is given by the coordinator and kept by the agent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

ABILITIES = ("memory_limit", "cpu_limit", "pids_limit", "hardened")  # what a worker may be able to do for an attempt


class WorkerState(StrEnum):
    """How the coordinator sees a worker."""

    CONNECTED = "connected"
    DRAINING = "draining"  # connected, takes no further work
    DRAINED = "drained"  # the same, on request, and nothing runs there any more
    UNREACHABLE = "unreachable"  # its stream ended without a goodbye
    GONE = "gone"  # it said goodbye
    QUARANTINED = "quarantined"  # two agents spoke for it: nobody is heard as this worker until it is released
    REVOKED = "revoked"  # its certificates were revoked: nobody is heard as this worker any more


def worker_facts(labels: Mapping[str, str], *, name: str, host: str, worker: str) -> dict[str, str]:
    """What a selector of workers is held against; a label that is called as one of these is not seen."""
    return {**labels, "name": name, "host": host, "id": worker}


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker as every reader gets it."""

    id: str
    name: str
    state: WorkerState
    slots: int
    labels: dict[str, str] = field(default_factory=dict)
    version: str = ""
    running: int = 0  # attempts assigned and not ended
    seen_at_us: int = 0
    host: str = ""
    runtimes: tuple[str, ...] = ()  # ways to run a program it knows
    workloads: tuple[str, ...] = ()  # workloads it takes, with * as a wild card; empty: all
    abilities: tuple[str, ...] = ()  # of ABILITIES
    reason: str = ""  # why it is draining, drained, quarantined or revoked
    drain_by_us: int = 0  # while draining on request: what runs then is ended; 0: never
    policy: str = ""  # the mode of its own policy: named, allow-list or arbitrary; empty: it has not said
