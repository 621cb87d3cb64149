"""What a job and a worker look like as JSON: the one shape of the command line and of ``/v1``.

Pure. Every key is always there; what is not known yet, or does not apply, is null. Times are
ISO 8601 in UTC with microseconds. ``docs/cli.md`` describes each key.
"""

from datetime import UTC, datetime
from typing import Any

from hostler.jobs import End, EndedProcess, Job, Receipt, Usage
from hostler.lifecycle import State
from hostler.workers import Worker


def job_shape(job: Job) -> dict[str, Any]:
    """A job as it stands."""
    spec, end = job.spec, job.end
    usage = job.usage or (end.usage if end is not None else None)
    return {
        "id": job.id,
        "name": spec.name,
        "state": job.state.word,
        "outcome": job.outcome.word or None,
        "phase": job.phase or None,
        "exit_code": end.exit_code if end is not None else None,
        "signal": (end.signal or None) if end is not None else None,
        "worker": job.worker or None,
        "stage": job.stage,
        "attempt": job.attempt,
        "cause": None if end is None or not end.cause else _cause(end),
        "receipt": None if end is None else _receipt(end.receipt),
        "log": {
            "bytes": job.log_bytes,
            "status": job.log_status.word,
            "dropped_bytes": 0 if end is None else end.dropped_bytes,
            "lost_bytes": job.log_lost_bytes,
        },
        "usage": None if usage is None else _usage(usage),
        "times": {
            "queued": time_shape(job.queued_at_us),
            "assigned": time_shape(job.assigned_at_us),
            "started": time_shape(job.started_at_us),
            "finished": time_shape(job.finished_at_us),
        },
        "owner": spec.owner,
        "family": spec.family,
        "labels": dict(spec.labels),
        "priority": spec.priority,
        "argv": list(spec.work.argv),
        "cwd": spec.work.cwd,
        "pending": list(job.pending_reasons) if job.state is State.QUEUED else [],
    }


def worker_shape(worker: Worker) -> dict[str, Any]:
    """A worker as the coordinator sees it."""
    return {
        "id": worker.id,
        "name": worker.name,
        "state": worker.state.value,
        "slots": worker.slots,
        "running": worker.running,
        "labels": dict(worker.labels),
        "host": worker.host,
        "version": worker.version,
        "seen": time_shape(worker.seen_at_us),
    }


def time_shape(at_us: int) -> str | None:
    """Microseconds since the epoch as ``2026-01-31T23:59:59.000001Z``; null when not set."""
    if not at_us:
        return None
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC).replace(microsecond=at_us % 1_000_000)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _cause(end: End) -> dict[str, Any]:
    return {"label": end.cause, "evidence": end.error or end.evidence}


def _receipt(receipt: Receipt) -> dict[str, Any]:
    return {
        "signals": [
            {"signal": sent.signal, "at": time_shape(sent.at_us), "processes": sent.processes}
            for sent in receipt.signals
        ],
        "ended": [_process(process) for process in receipt.ended],
        "survivors": [_process(process) for process in receipt.survivors],
        "verified_by": receipt.verified_by or None,
        "verified_at": time_shape(receipt.verified_at_us),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "cpu_user_s": usage.cpu_user_s,
        "cpu_system_s": usage.cpu_system_s,
        "memory_bytes_max": usage.memory_bytes_max or None,  # null: not measured, the tree was too short-lived
        "processes": usage.processes,
    }


def _process(process: EndedProcess) -> dict[str, Any]:
    return {"pid": process.pid, "name": process.name}
