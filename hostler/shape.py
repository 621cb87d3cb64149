"""What jobs, workers, workloads and outputs look like as JSON: the one shape of the command line and of ``/v1``.

Pure. Every key is always there; what is not known yet, or does not apply, is null. Times are
ISO 8601 in UTC with microseconds. ``docs/cli.md`` describes each key.
"""

import json
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from hostler.jobs import (
    NO_LIMITS,
    Advance,
    Container,
    End,
    EndedProcess,
    Failure,
    Job,
    JobEvent,
    JobSpec,
    Limits,
    Outputs,
    PythonScript,
    Receipt,
    Service,
    Terminal,
    Usage,
)
from hostler.params import no_constant
from hostler.stages import StageView, stages_of
from hostler.workers import Worker
from hostler.workloads import Runtime, Workload


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
        "receipt": None if end is None else receipt_shape(end.receipt),
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
        "where": spec.where or None,
        "tags": dict(spec.tags),
        "retry_of": job.retry_of or None,
        "priority": spec.priority,
        "argv": list(spec.work.argv),
        "cwd": spec.work.cwd,
        "pending": list(job.pending_reasons),
        "workload": spec.workload or None,
        "workload_version": spec.workload_version or None,
        "progress": _progress(job.advance if end is None else end.advance),
        "result": None if end is None else result_of(end),
        "result_bytes": result_bytes(end),
        "failure": None if end is None or end.failure is None else _failure(end.failure),
        "retried": job.retried,
        "retries": spec.retries or 0,
        "start_within": spec.start_within_s,
        "limits": _limits(spec.work.limits),
        "merge": spec.work.merge,
        "loss_policy": spec.work.loss_policy or None,
        "on_lost": spec.on_lost or None,
        "lost_after": spec.lost_after_s,
        "crash_limit": spec.crash_limit,
        **_asked(spec),
        "due": time_shape(job.due_at_us),
        "outputs": None if end is None else {"files": end.outputs, "missing": list(end.outputs_missing)},
        "stages": [_stage(view) for view in stages_of(job)] or None,
    }


def _asked(spec: JobSpec) -> dict[str, Any]:
    """What else was asked for, under the names of a submission where it has them."""
    work = spec.work
    return {
        "retry_on": list(spec.retry_on),
        "worker_asked": spec.worker or None,
        "slots": spec.slots,
        "key": spec.key_given or None,
        "timeout": work.timeout_s,
        "grace": work.grace_s,
        "output_bytes_max": work.output_bytes_max,
        "output_stop": work.output_stop,
        "leftovers": "wait" if work.leftovers_wait else "kill",
        "start_path": work.start_path or None,
        "stdin": work.stdin,
        "stdin_path": work.stdin_path or None,
        "terminal": None if work.terminal is None else _terminal(work.terminal),
        "python": None if work.python is None else _python(work.python),
        "inputs": len(work.files),
        "workspace": work.workspace,
        "variables": sorted(work.env),  # by their names: what people put into them is not for every eye
        "secrets": dict(spec.secrets),
    }


def event_shape(event: JobEvent) -> dict[str, Any]:
    """A transition of a job."""
    return {
        "number": event.number,
        "job": event.job,
        "kind": event.kind,
        "at": time_shape(event.at_us),
        "stage": event.stage,
        "attempt": event.attempt,
        "worker": event.worker or None,
        "detail": event.detail or None,
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
        "runtimes": list(worker.runtimes),
        "workloads": list(worker.workloads),
        "abilities": list(worker.abilities),
        "reason": worker.reason or None,
        "drain_by": time_shape(worker.drain_by_us),
        "policy": worker.policy or None,
    }


def workload_shape(workload: Workload) -> dict[str, Any]:
    """One version of a workload."""
    script, contained = workload.script, workload.runtime is Runtime.CONTAINER
    return {
        "name": workload.name,
        "version": workload.version,
        "documentation": workload.documentation,
        "runtime": workload.runtime.value,
        "argv": list(workload.argv),
        "script": script and {"file": script.path, "digest": script.digest or None, "size_bytes": script.size_bytes},
        "entrypoint": workload.entrypoint if script else None,
        "interpreter": workload.interpreter or None,
        "params_schema": json.loads(workload.params_schema) if workload.params_schema else None,
        # A container reads its parameters unless "" is said; null would say nothing, and mean the parameters.
        "stdin": workload.stdin.value if contained else workload.stdin.value or None,
        "result": workload.result.value if contained else workload.result.value or None,
        "container": None if workload.container is None else _container(workload.container),
        "service": None if workload.service is None else _service(workload.service),
        "env": dict(workload.env),
        "cwd": workload.cwd or None,
        "timeout_s": workload.timeout_s,
        "grace_s": workload.grace_s,
        "output_bytes_max": workload.output_bytes_max,
        "output_stop": workload.output_stop,
        "merge": workload.merge,
        "limits": _limits(workload.limits),
        "loss_policy": workload.loss_policy or None,
        "on_lost": workload.on_lost or None,
        "crash_limit": workload.crash_limit,
        "start_path": workload.start_path or None,
        "retries": workload.retries,
        "retry_on": list(workload.retry_on),
        "labels": dict(workload.labels),
        "slots": workload.slots,
        "secrets": dict(workload.secrets),
        "external": workload.external,
        "families": list(workload.families),
        "allowed_networks": list(workload.allowed_networks),
        "proofs": workload.proofs,
        "resources": json.loads(workload.resources) if workload.resources else None,
        "applied": time_shape(workload.applied_at_us),
        "origin": workload.origin.value,
    }


def outputs_shape(outputs: Outputs) -> dict[str, Any]:
    """What a job has put out."""
    return {
        "files": [
            {
                "path": file.path,
                "size_bytes": file.size_bytes,
                "modified": time_shape(file.modified_at_us),
                "digest": file.digest or None,
            }
            for file in outputs.files
        ],
        "live": outputs.live,
        "expired": outputs.expired,
        "missing": list(outputs.missing),
    }


def result_of(end: End) -> Any:
    """The result a program left, read; None when there is none, or none that is JSON."""
    try:
        return json.loads(end.result, parse_constant=no_constant, parse_float=_finite) if end.result else None
    except (ValueError, RecursionError):
        return None


def result_bytes(end: End | None) -> int:
    """How many bytes of JSON a program left as its result; one that is stored apart is no part of the answer."""
    return 0 if end is None else end.result_bytes or len(end.result)


def time_shape(at_us: int) -> str | None:
    """Microseconds since the epoch as ``2026-01-31T23:59:59.000001Z``; null when not set."""
    if not at_us:
        return None
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC).replace(microsecond=at_us % 1_000_000)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _finite(text: str) -> float | None:
    # What we write ourselves must be JSON, and a number that is too large for it would become "Infinity".
    number = float(text)
    return number if isfinite(number) else None


def _cause(end: End) -> dict[str, Any]:
    return {"label": end.cause, "evidence": end.error or end.evidence}


def receipt_shape(receipt: Receipt) -> dict[str, Any]:
    """The proof of an end."""
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


def _stage(view: StageView) -> dict[str, Any]:
    return {
        "workload": view.workload,
        "version": view.version,
        "state": view.state,
        "outcome": view.outcome.word or None,
        "attempt": view.attempt or None,
        "worker": view.worker or None,
        "result": None if view.end is None else result_of(view.end),
        "result_bytes": result_bytes(view.end),
    }


def _container(container: Container) -> dict[str, Any]:
    return {
        "image": container.image,
        "pull": container.pull,
        "memory_bytes": container.memory_bytes,
        "cpus": container.cpus,
        "pids": container.pids,
        "network": container.network,
        "user": container.user,
        "writable": container.writable,
        "volumes": list(container.volumes),
        "capabilities": list(container.capabilities),
        "port": container.port,
    }


def _service(service: Service) -> dict[str, Any]:
    return {
        "url": service.url,
        "token_variable": service.token_variable,
        "health_path": service.health_path,
        "check_status": service.check_status,
        "start_s": service.start_s,
    }


def _limits(limits: Limits) -> dict[str, Any] | None:
    if limits == NO_LIMITS:
        return None
    return {"memory_bytes": limits.memory_bytes, "cpus": limits.cpus, "pids": limits.pids}


def _terminal(terminal: Terminal) -> dict[str, Any]:
    return {"rows": terminal.rows, "columns": terminal.columns, "term": terminal.term}


def _python(script: PythonScript) -> dict[str, Any]:
    return {"path": script.path, "entrypoint": script.entrypoint, "interpreter": script.interpreter}


def _progress(advance: Advance) -> dict[str, Any] | None:
    if advance.percent is None and not advance.steps:
        return None
    steps = [
        {"text": step.text, "duration_s": step.duration_s if step.duration_s >= 0 else None} for step in advance.steps
    ]
    return {"percent": advance.percent, "steps": steps}


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "type": failure.type,
        "module": failure.module,
        "message": failure.message,
        "traceback": failure.traceback or None,
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
