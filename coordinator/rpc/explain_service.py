"""Jobs.Explain: what is known of why a job is as it is, read once and to the end of what there is."""

import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from coordinator.engine import Engine
from coordinator.live import Live
from coordinator.losses import lost_at_s
from coordinator.pending import pending, sent_ahead
from coordinator.storage.protocol import Store
from hostler.clock import Clock
from hostler.explanation import Explained
from hostler.jobs import Job, JobEvent
from hostler.lifecycle import State
from hostler.pending import NOT_PENDING, Pending
from hostler.policy import Principal
from hostler.v1 import jobs_pb2
from hostler.wire.explained import explained_to_proto

EVENTS_MAX = 1000
LOOKS_MAX = 5  # at a job that goes on while it is looked at

Find = Callable[[str, Principal, str], Awaitable[Job]]


class _Facts(NamedTuple):
    """What only memory knows."""

    names: dict[str, str]
    pending: Pending = NOT_PENDING
    start_by_us: int = 0
    away_since_us: int = 0
    lost_at_us: int = 0
    drain_by_us: int = 0


class ExplainService:
    """See ``protos/hostler/v1/jobs.proto``."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        find: Find,
        clock: Clock,
        *,
        lost_after: Callable[[str], float],
        lease_s: float,
    ) -> None:
        """*find* returns a job as its principal and API family may see it; the rest as of `Engine`."""
        self._engine = engine
        self._store = store
        self._find = find
        self._clock = clock
        self._lost_after = lost_after
        self._lease_s = lease_s

    async def explain(self, request: jobs_pb2.GetRequest, principal: Principal) -> jobs_pb2.Explained:
        """Explain: a job that waits has at least one reason."""
        for _ in range(LOOKS_MAX):
            job = await self._find(request.id, principal, request.family)
            events = await self._store.history(job.id, EVENTS_MAX + 1)
            facts = await self._look(job, events)
            if job.state is not State.QUEUED or facts.pending.reasons:
                break  # else it has gone on since it was read
        known = Explained(
            job=job,
            events=tuple(events[-EVENTS_MAX:]),
            older=len(events) > EVENTS_MAX,
            now_us=self._clock.wall_us(),
            **facts._asdict(),
        )
        return explained_to_proto(known)

    async def _look(self, job: Job, events: list[JobEvent]) -> _Facts:
        return await self._engine.look(lambda live: self._facts(live, job, events))

    def _facts(self, live: Live, job: Job, events: list[JobEvent]) -> _Facts:
        had = {job.worker, job.spec.worker, *(past.worker for past in job.past), *(event.worker for event in events)}
        facts = _Facts(names={each: live.workers[each].name for each in sorted(had) if each in live.workers})
        entry = live.job(job.id)
        if entry is None or entry.state is not job.state:
            return facts
        facts = facts._replace(start_by_us=live.starts_due.get(entry.number, 0))
        if entry.state is State.QUEUED:
            return facts._replace(pending=pending(live, entry, self._engine.standings))
        worker = live.workers.get(entry.worker)
        if worker is None:
            return facts
        ahead = sent_ahead(live, entry, worker)
        facts = facts._replace(pending=Pending(reasons=(ahead,))) if ahead is not None else facts
        facts = facts._replace(drain_by_us=worker.drain.by_us if worker.drain is not None else 0)
        if worker.connected:
            return facts
        lost_s = lost_at_s(entry, worker, lost_after=self._lost_after, lease_s=self._lease_s)
        lost_at_us = 0 if math.isinf(lost_s) else self._clock.wall_us() + int((lost_s - self._clock.monotonic()) * 1e6)
        return facts._replace(away_since_us=worker.seen_at_us, lost_at_us=lost_at_us)
