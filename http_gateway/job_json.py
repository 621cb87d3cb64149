"""How ``/v1`` shows jobs and workers: one function for each value. Pure."""

from datetime import UTC, datetime, timedelta

from hostler.client import Cluster
from hostler.errors import HostlerError
from hostler.jobs import End, EndedProcess, Job, JobPage, Progress, Receipt, Usage
from hostler.lifecycle import State
from hostler.workers import Worker

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Json = dict[str, object]


def iso_time(at_us: int) -> str | None:
    """Show a time as ISO 8601 in UTC with microseconds; None for 0, which means not yet."""
    if at_us == 0:
        return None
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def job_json(job: Job) -> Json:
    """Show a job as it stands."""
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
        "cause": _cause(end),
        "receipt": _receipt(end.receipt) if end is not None else None,
        "log": _log(job),
        "usage": _usage(usage) if usage is not None else None,
        "times": {
            "queued": iso_time(job.queued_at_us),
            "assigned": iso_time(job.assigned_at_us),
            "started": iso_time(job.started_at_us),
            "finished": iso_time(job.finished_at_us),
        },
        "owner": spec.owner,
        "family": spec.family,
        "labels": spec.labels,
        "priority": spec.priority,
        "argv": spec.work.argv,
        "cwd": spec.work.cwd,
        "pending": job.pending_reasons if job.state is State.QUEUED else (),
    }


def progress_json(progress: Progress) -> Json:
    """Show of a job only where it has come to."""
    return {
        "id": progress.id,
        "state": progress.state.word,
        "outcome": progress.outcome.word or None,
        "exit_code": progress.exit_code,
        "signal": progress.signal or None,
    }


def page_json(page: JobPage) -> Json:
    """Show one page of a list."""
    return {"jobs": [job_json(job) for job in page.jobs], "next": page.next or None}


def error_json(error: HostlerError) -> Json:
    """Show what is wrong with one item of a submission."""
    return {"error": {"code": error.code.value, "message": error.message, "field": error.field or None}}


def worker_json(worker: Worker) -> Json:
    """Show a worker."""
    return {
        "id": worker.id,
        "name": worker.name,
        "state": worker.state.value,
        "slots": worker.slots,
        "labels": worker.labels,
        "version": worker.version,
        "running": worker.running,
        "host": worker.host,
        "seen": iso_time(worker.seen_at_us),
    }


def cluster_json(cluster: Cluster) -> Json:
    """Show what the coordinator says of itself."""
    return {
        "version": cluster.version,
        "epoch": cluster.epoch,
        "workers": cluster.workers,
        "queued": cluster.queued,
        "running": cluster.running,
        "started": iso_time(cluster.started_at_us),
        "data_dir": cluster.data_dir,
    }


def _cause(end: End | None) -> Json | None:
    if end is None or not end.cause:
        return None
    return {"label": end.cause, "evidence": end.error or end.evidence}


def _receipt(receipt: Receipt) -> Json:
    return {
        "signals": [
            {"signal": sent.signal, "at": iso_time(sent.at_us), "processes": sent.processes} for sent in receipt.signals
        ],
        "ended": [_process(process) for process in receipt.ended],
        "survivors": [_process(process) for process in receipt.survivors],
        "verified_by": receipt.verified_by or None,
        "verified_at": iso_time(receipt.verified_at_us),
    }


def _process(process: EndedProcess) -> Json:
    return {"pid": process.pid, "name": process.name}


def _log(job: Job) -> Json:
    return {
        "bytes": job.log_bytes,
        "status": job.log_status.word,
        "dropped_bytes": job.end.dropped_bytes if job.end is not None else 0,
        "lost_bytes": job.log_lost_bytes,
    }


def _usage(usage: Usage) -> Json:
    return {
        "cpu_user_s": usage.cpu_user_s,
        "cpu_system_s": usage.cpu_system_s,
        "memory_bytes_max": usage.memory_bytes_max,
        "processes": usage.processes,
    }
