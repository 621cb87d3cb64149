"""What a worker is, as frozen values.

Pure. A worker is one agent on one host; its id is given by the coordinator and kept by the agent.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class WorkerState(StrEnum):
    """How the coordinator sees a worker."""

    CONNECTED = "connected"
    DRAINING = "draining"  # connected, takes no further work
    UNREACHABLE = "unreachable"  # its stream ended without a goodbye
    GONE = "gone"  # it said goodbye


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
