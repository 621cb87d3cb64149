"""What workers say, as values: the input of decisions.

Pure. `coordinator.rpc` makes them out of protobuf.
"""

from typing import NamedTuple

from coordinator.changes import StagePlan
from hostler.errors import HostlerError
from hostler.ids import AttemptKey
from hostler.jobs import OutputFile


class Hello(NamedTuple):
    """A worker introduces itself and lists what it holds."""

    worker: str
    session: str
    name: str
    host: str
    version: str
    labels: tuple[tuple[str, str], ...]
    slots: int
    boot_id: str
    journal_id: str
    generation: int
    mark: int  # the highest command sequence it has accepted
    inventory: tuple[tuple[AttemptKey, str], ...]  # with "waiting", "running" or "ended" (a report follows)
    runtimes: tuple[str, ...] = ("command",)
    workloads: tuple[str, ...] = ()  # patterns of those it takes; empty: all
    abilities: tuple[str, ...] = ()
    instance: str = ""
    epoch: int = 0  # the highest of a coordinator that it has heard
    policy: str = ""  # the mode of its own policy
    named_only: bool = False  # it refuses what names no workload


class EndFacts(NamedTuple):
    """Of an end, what decisions look at; the rest stays in its bytes."""

    cause: str
    exit_code: int | None
    signal: str
    error: str
    started_at_us: int
    ended_at_us: int
    ledger_bytes: int
    output_bytes: int
    raised: bool = False  # a script ended by an exception of its own: trying again would not help
    result_digest: str = ""  # of a result that was stored
    proved: bool = False  # nothing of it is left, as its receipt says


class Report(NamedTuple):
    """What a worker says about one attempt."""

    key: AttemptKey
    started_at_us: int  # 0: not started
    end: EndFacts | None
    end_bytes: bytes  # the serialized End
    ledger: bytes
    never_ran: bool
    refusal: str
    survivors: tuple[tuple[int, str], ...]  # pid and name of what cannot be ended
    outputs: tuple[OutputFile, ...] = ()  # with the end: what it left, stored
    elsewhere: bool = False  # with a refusal: it is this worker's own word, and another one may take it
    following: StagePlan | HostlerError | None = None  # of a chain: what the next stage will be, worked out before
