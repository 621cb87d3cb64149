"""Changes of workloads as statements."""

from collections.abc import Callable
from typing import Any

from coordinator.changes import WorkloadApplied, WorkloadRemoved
from hostler.wire.workloads import workload_to_bytes

KEEP_WORKLOAD = "INSERT INTO workload (name, version, definition, script) VALUES (?,?,?,?)"
REMOVE_WORKLOAD = "UPDATE workload SET removed = 1 WHERE name = ? AND version = ?"


def _workload_applied(out: Any, c: WorkloadApplied) -> None:
    workload = c.workload
    script = workload.script.digest if workload.script is not None else ""
    out.add(KEEP_WORKLOAD, (workload.name, workload.version, workload_to_bytes(workload), script))


def _workload_removed(out: Any, c: WorkloadRemoved) -> None:
    out.add(REMOVE_WORKLOAD, (c.name, c.version))


COMPILERS: dict[type, Callable[[Any, Any], None]] = {
    WorkloadApplied: _workload_applied,
    WorkloadRemoved: _workload_removed,
}
