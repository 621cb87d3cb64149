"""What the runner tells its owner about attempts; `Ended` and `Exited` are in attempts.

Pure values. `Started` and `Output` may be told again after a connection to a shim was lost.
"""

from typing import NamedTuple, Protocol

from hostler.jobs import EndedProcess
from worker_agent.attempts import Ended, Exited, Order


class Started(NamedTuple):
    """An attempt still runs some 5 ms after its start; shorter ones send only `Ended`."""

    key: str
    pid: int  # the main process
    at_us: int


class Output(NamedTuple):
    """The ledger of an attempt has grown to *position* bytes (a frame border)."""

    key: str
    position: int


class Fed(NamedTuple):
    """The program (or the closed pipe) has taken standard input up to *offset* bytes."""

    key: str
    offset: int
    received: int = 0  # what the shim has, taken or not
    ended: bool = False  # the shim has the end as well
    closed: bool = False  # it reads no more


class Unkillable(NamedTuple):
    """60 s after SIGKILL these processes still live; the shim keeps trying and has not ended the attempt."""

    key: str
    survivors: tuple[EndedProcess, ...]


class NeverRan(NamedTuple):
    """It is proved that an attempt was never started: after recovery, or because no process could be made for it."""

    key: str


class Returned(NamedTuple):
    """Attempts that were queued behind another came back, in this order: they never ran, and may be started again."""

    orders: tuple[Order, ...]


Event = Started | Output | Fed | Unkillable | NeverRan | Returned | Ended | Exited


class OnEvent(Protocol):
    """Who is told; what happened together is told together, in order."""

    def __call__(self, *events: Event) -> None:
        """Never blocks and never raises."""
