"""The guards around leases, losses, drains, quarantine and epochs, switched off one by one."""

from typing import Any

import coordinator.losses
import coordinator.placement
import coordinator.recalls
from coordinator import decisions, ends
from coordinator.storage import rows
from tests.simulation.mutant import Replacement, off
from worker_agent import lease
from worker_agent.journal import KEPT, Journal
from worker_agent.link import Link
from worker_agent.supervision import Supervision

UNLIMITED = 1000


@off("a lease counts from when the message was sent that is known to have been heard")
def lease_from_sending() -> list[Replacement]:
    real = Link.__init__

    class FromReceipt:
        def __init__(self, lease: Any, link: Link) -> None:
            self._lease, self._link = lease, link

        def extend(self, end_ns: int) -> None:
            self._lease.extend(self._link._clock.boot_ns() + self._link._lease_ns)

        @property
        def term(self) -> int:
            term: int = self._lease.term
            return term

    def init(self: Link, **options: Any) -> None:
        real(self, **options)
        late: Any = FromReceipt(self._lease, self)
        self._lease = late

    return [(Link, "__init__", init)]


@off("an attempt of the policy stop is not begun without a lease")
def lease_at_start() -> list[Replacement]:
    real = Supervision.begin

    def begin(self: Supervision, *arguments: Any) -> None:
        asked, self._lease = self._lease, lambda term: 1.0
        try:
            real(self, *arguments)
        finally:
            self._lease = asked

    return [(Supervision, "begin", begin)]


@off("a supervisor ends an attempt of the policy stop when the lease has run out")
def lease_at_shim() -> list[Replacement]:
    def look(self: Supervision, now: float) -> None:
        self._due_lease = now + 1.0

    return [(Supervision, "_look_at_lease", look)]


@off("what was taken on under a lease that has run out is not begun under the next one")
def term_of_lease() -> list[Replacement]:
    real = lease.remaining_s

    return [(lease, "remaining_s", lambda directory, boot_id, term=0: real(directory, boot_id))]


@off("an attempt of the policy stop is followed by another only after its supervisor must have ended it")
def fence_before_retry() -> list[Replacement]:
    real = coordinator.losses._limit_s

    def limit_s(job: Any, *arguments: Any) -> float:
        return 0.0 if job.losses.fence_s else real(job, *arguments)

    return [(coordinator.losses, "_limit_s", limit_s)]


class _Tough:
    """A job that takes no harm from losses."""

    def __init__(self, job: Any) -> None:
        self._job = job
        self.losses = job.losses._replace(crash_limit=UNLIMITED)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)


@off("a job that has lost its worker as often as its crash limit says is not tried again")
def crash_limit() -> list[Replacement]:
    real, real_lost = ends._may_retry_loss, ends.lost

    def may_retry(job: Any, report: Any) -> bool:
        return real(_Tough(job), report)  # type: ignore[arg-type]

    def lost(job: Any, *arguments: Any, **options: Any) -> Any:
        return real_lost(_Tough(job), *arguments, **options)  # type: ignore[arg-type]

    return [(ends, "_may_retry_loss", may_retry), (coordinator.losses, "lost", lost), (decisions, "loss", lost)]


@off("a drain counts as no loss")
def drain_is_no_loss() -> list[Replacement]:
    return [(ends, "LOSS_CAUSES", ends.LOSS_CAUSES | {"drain"})]


@off("a worker that is drained is given nothing")
def drained_gets_nothing() -> list[Replacement]:
    real = coordinator.placement.obstacle

    def obstacle(worker: Any, wanted: Any) -> Any:
        drain, worker.drain = worker.drain, None
        try:
            return real(worker, wanted)
        finally:
            worker.drain = drain

    return [(coordinator.placement, "obstacle", obstacle), (coordinator.recalls, "obstacle", obstacle)]


@off("two agents that speak for one worker come under quarantine")
def quarantine() -> list[Replacement]:
    return [(decisions, "reason_against", lambda *arguments: "")]


@off("what a worker says later of a lost attempt is added to it, and changes no outcome")
def late_end_changes_nothing() -> list[Replacement]:
    return [(rows, "KEEP_LATE_END", rows.KEEP_LATE_END.replace("SET late_end", "SET outcome = 1, late_end"))]


@off("a worker hears no coordinator whose epoch is lower than the highest it has heard")
def epoch_of_messages() -> list[Replacement]:
    return [(Journal, "raise_epoch", lambda self, epoch: None)]


@off("a worker remembers the highest epoch it has heard over its restarts")
def epoch_is_kept() -> list[Replacement]:
    real = Journal._note

    def note(self: Journal, kind: int, content: Any) -> None:
        real(self, kind, content)
        if kind == KEPT:
            self.epoch = 0

    return [(Journal, "_note", note)]
