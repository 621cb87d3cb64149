"""What follows from registering and removing workloads. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from coordinator.changes import Change, WorkloadApplied, WorkloadRemoved
from coordinator.decisions import Decision
from coordinator.effects import Answer
from coordinator.instant import Instant
from coordinator.live import Live
from hostler.errors import WorkloadNotFound
from hostler.workloads import Applied, Origin, Workload

RANKS = {Origin.SHIPPED: 0, Origin.DIRECTORY: 1, Origin.APPLIED: 2}


def on_apply(live: Live, workloads: Sequence[Workload], reply: Any, now: Instant) -> Decision:
    """Make each definition that differs the newest version of its name; they were checked before.

    What is put there at every start (shipped, or out of a directory) never replaces what somebody applied, and
    never brings back what was removed.
    """
    changes: list[Change] = []
    results: list[Applied] = []
    for workload in workloads:
        known = live.workloads.get(workload.name)
        version = live.workload_versions.get(workload.name, 0)
        if known is None and version and workload.origin is not Origin.APPLIED:
            results.append(Applied(name=workload.name, version=version, changed=False))
            continue
        if known is not None and not _replaces(workload, known):
            results.append(Applied(name=known.name, version=known.version, changed=False))
            continue
        newest = replace(workload, version=version + 1, applied_at_us=now.wall_us)
        changes.append(WorkloadApplied(newest))
        results.append(Applied(name=newest.name, version=newest.version, changed=True))
    return Decision(changes, [Answer(reply, results)])


def _replaces(workload: Workload, known: Workload) -> bool:
    if RANKS[workload.origin] != RANKS[known.origin]:
        # Also when it says the same: what somebody applied is his from then on, and no later start replaces it.
        return RANKS[workload.origin] > RANKS[known.origin]
    as_known = replace(workload, version=known.version, applied_at_us=known.applied_at_us)
    return as_known != known


def on_remove(live: Live, name: str, reply: Any, now: Instant) -> Decision:
    """Let no new job name a workload."""
    if name not in live.workloads:
        return Decision([], [Answer(reply, WorkloadNotFound(f"there is no workload {name[:100]!r}", field="name"))])
    return Decision([WorkloadRemoved(name, live.workload_versions[name], now.wall_us)], [Answer(reply, None)])
