"""Why a job waits: a code for each cause that no worker takes it, and how a cause is told.

Pure. The codes are stable words for programs; ``docs/job-states.md`` lists them with `MEANINGS`. Which of them hold is
decided in ``coordinator.pending``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Code(StrEnum):
    """One cause."""

    # Of a worker: each is one way to say no.
    REVOKED = "revoked"
    OTHER_WORKER = "other_worker"
    REFUSED = "refused"
    LABEL = "label"
    WHERE = "where"
    RUNTIME = "runtime"
    LIMIT = "limit"
    HARDENED = "hardened"
    POLICY = "policy"
    WORKLOAD = "workload"
    FEW_SLOTS = "few_slots"
    QUARANTINED = "quarantined"
    LEFT = "left"
    DRAINED = "drained"
    UNREACHABLE = "unreachable"
    DISK_FULL = "disk_full"
    DRAINING = "draining"
    NO_FREE_SLOT = "no_free_slot"
    PROCESSES = "processes"
    SENT_AHEAD = "sent_ahead"
    # Of a job that its worker has, and has not begun.
    AHEAD = "ahead"
    # Of the cluster, or of the job itself.
    NO_WORKER = "no_worker"
    BACKOFF = "backoff"
    BEHIND = "behind"
    TURN = "turn"


MEANINGS: Mapping[Code, str] = MappingProxyType(
    {
        Code.REVOKED: "the worker was revoked: nobody is heard as it any more",
        Code.OTHER_WORKER: "the job asks for another worker",
        Code.REFUSED: "the worker has refused this job, by its own policy: `waited` of `explain` says why",
        Code.LABEL: "the worker does not have a label that the job asks for",
        Code.WHERE: "the worker does not match the expression of the job (`--where`)",
        Code.RUNTIME: "the worker has nothing that runs programs of this kind, or its policy allows none of them",
        Code.LIMIT: "the worker cannot enforce a limit of the job",
        Code.HARDENED: "the worker cannot start programs on the hardened path",
        Code.POLICY: "the worker's own policy takes only jobs of registered workloads",
        Code.WORKLOAD: "the worker does not take this workload",
        Code.FEW_SLOTS: "the worker has fewer slots than the job takes",
        Code.QUARANTINED: "two agents spoke for the worker, or an older copy: nobody is heard as it",
        Code.LEFT: "the worker has said goodbye",
        Code.DRAINED: "the worker was drained on request: `workers resume` gives it work again",
        Code.UNREACHABLE: "the worker's connection is broken",
        Code.DISK_FULL: "the worker has too little room on its disk for new work",
        Code.DRAINING: "the worker takes no new work for now: it drains itself, or is ending",
        Code.NO_FREE_SLOT: "too many of the worker's slots are taken now",
        Code.PROCESSES: "the worker runs as many programs as it can watch over",
        Code.SENT_AHEAD: "the worker has short jobs for its next moments, and is sent more when half of them are over",
        Code.AHEAD: "the job was sent to its worker ahead of time, and starts there when enough slots are free, or"
        " elsewhere when another worker has room first",
        Code.NO_WORKER: "no worker has ever joined",
        Code.BACKOFF: "the time of its next attempt has not come",
        Code.BEHIND: "others that ask for the same have a higher priority or are older",
        Code.TURN: "a worker has room: the job is given to it in a moment",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One cause."""

    code: Code | str  # a word that is not known here comes from a newer coordinator
    text: str  # a sentence without a full stop
    workers: int = 0  # how many it keeps from taking the job; each worker counts once, by the first that holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The worker that comes nearest to taking a job."""

    worker: str  # its id
    name: str
    missing: tuple[str, ...]  # "has 1 of 4 slots free"; empty: nothing, it takes the job next
    codes: tuple[str, ...] = ()  # of the same, as those of reasons; a coordinator of an earlier version says none


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Why a job waits, looked at closely."""

    reasons: tuple[Reason, ...] = ()  # at least one, of a job that waits
    nearest: Nearest | None = None  # None: there is no worker
    before: int = 0  # jobs that ask for the same and come before it
    before_more: bool = False  # there may be more: not all were counted


NOT_PENDING = Pending()
