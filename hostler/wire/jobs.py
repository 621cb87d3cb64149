"""Jobs and what belongs to them, to and from protobuf.

Decoding trusts the types (protobuf checked them) and not the meaning (`hostler.jobs.check_spec`).
"""

from hostler.ids import AttemptKey, JobId
from hostler.jobs import (
    End,
    EndedProcess,
    Job,
    JobEvent,
    JobPage,
    JobQuery,
    JobSpec,
    LogStatus,
    Progress,
    Receipt,
    SentSignal,
    Usage,
    Work,
)
from hostler.lifecycle import Outcome, State
from hostler.v1 import jobs_pb2, types_pb2


def key_to_proto(key: AttemptKey) -> types_pb2.AttemptKey:
    """Encode an attempt's name."""
    return types_pb2.AttemptKey(job=key.job, stage=key.stage, attempt=key.attempt)


def key_from_proto(message: types_pb2.AttemptKey) -> AttemptKey:
    """Decode an attempt's name."""
    return AttemptKey(JobId(message.job), message.stage, message.attempt)


def work_to_proto(work: Work) -> types_pb2.Work:
    """Encode what a worker executes."""
    return types_pb2.Work(
        argv=work.argv,
        env=work.env,
        cwd=work.cwd,
        timeout_s=work.timeout_s,
        grace_s=work.grace_s,
        output_bytes_max=work.output_bytes_max,
        leftovers_wait=work.leftovers_wait,
        stdin=work.stdin,
    )


def work_from_proto(message: types_pb2.Work) -> Work:
    """Decode what a worker executes."""
    return Work(
        argv=tuple(message.argv),
        env=dict(message.env),
        cwd=message.cwd,
        timeout_s=message.timeout_s,
        grace_s=message.grace_s,
        output_bytes_max=message.output_bytes_max,
        leftovers_wait=message.leftovers_wait,
        stdin=message.stdin,
    )


def work_to_bytes(work: Work) -> bytes:
    """Encode what a worker executes as the bytes the coordinator keeps and sends."""
    return work_to_proto(work).SerializeToString()


def work_from_bytes(data: bytes) -> Work:
    """Decode what `work_to_bytes` wrote."""
    return work_from_proto(types_pb2.Work.FromString(data))


def spec_to_proto(spec: JobSpec) -> types_pb2.JobSpec:
    """Encode a submission."""
    return types_pb2.JobSpec(
        work=work_to_proto(spec.work),
        name=spec.name,
        owner=spec.owner,
        family=spec.family,
        key=spec.key,
        worker=spec.worker,
        labels=spec.labels,
        priority=spec.priority,
        slots=spec.slots,
        slotless=spec.slots == 0,
        principal=spec.principal,
    )


def spec_from_proto(message: types_pb2.JobSpec) -> JobSpec:
    """Decode a submission; a client that sets no slots means one."""
    return JobSpec(
        work=work_from_proto(message.work),
        name=message.name,
        owner=message.owner,
        family=message.family or "native",
        key=message.key,
        worker=message.worker,
        labels=dict(message.labels),
        priority=message.priority,
        slots=0 if message.slotless else (message.slots or 1),
        principal=message.principal,
    )


def receipt_to_proto(receipt: Receipt) -> types_pb2.Receipt:
    """Encode the proof of an end."""
    return types_pb2.Receipt(
        signals=[types_pb2.SentSignal(signal=s.signal, at_us=s.at_us, processes=s.processes) for s in receipt.signals],
        ended=[types_pb2.ReceiptProcess(pid=p.pid, name=p.name) for p in receipt.ended],
        survivors=[types_pb2.ReceiptProcess(pid=p.pid, name=p.name) for p in receipt.survivors],
        verified_by=receipt.verified_by,
        verified_at_us=receipt.verified_at_us,
    )


def processes_from_proto(messages: list[types_pb2.ReceiptProcess]) -> tuple[EndedProcess, ...]:
    """Decode the processes of a receipt."""
    return tuple(EndedProcess(pid=p.pid, name=p.name) for p in messages)


def receipt_from_proto(message: types_pb2.Receipt) -> Receipt:
    """Decode the proof of an end."""
    return Receipt(
        signals=tuple(SentSignal(signal=s.signal, at_us=s.at_us, processes=s.processes) for s in message.signals),
        ended=processes_from_proto(list(message.ended)),
        survivors=processes_from_proto(list(message.survivors)),
        verified_by=message.verified_by,
        verified_at_us=message.verified_at_us,
    )


def usage_to_proto(usage: Usage) -> types_pb2.Usage:
    """Encode what a tree used."""
    return types_pb2.Usage(
        cpu_user_s=usage.cpu_user_s,
        cpu_system_s=usage.cpu_system_s,
        memory_bytes_max=usage.memory_bytes_max,
        processes=usage.processes,
    )


def usage_from_proto(message: types_pb2.Usage) -> Usage:
    """Decode what a tree used."""
    return Usage(
        cpu_user_s=message.cpu_user_s,
        cpu_system_s=message.cpu_system_s,
        memory_bytes_max=message.memory_bytes_max,
        processes=message.processes,
    )


def end_to_proto(end: End) -> types_pb2.End:
    """Encode how an attempt ended."""
    return types_pb2.End(
        started_at_us=end.started_at_us,
        ended_at_us=end.ended_at_us,
        exit_code=end.exit_code,
        signal=end.signal,
        core_dumped=end.core_dumped,
        cause=end.cause,
        evidence=end.evidence,
        error=end.error,
        receipt=receipt_to_proto(end.receipt),
        usage=usage_to_proto(end.usage),
        out_bytes=end.out_bytes,
        err_bytes=end.err_bytes,
        dropped_bytes=end.dropped_bytes,
        ledger_bytes=end.ledger_bytes,
    )


def end_from_proto(message: types_pb2.End) -> End:
    """Decode how an attempt ended."""
    return End(
        started_at_us=message.started_at_us,
        ended_at_us=message.ended_at_us,
        exit_code=message.exit_code if message.HasField("exit_code") else None,
        signal=message.signal,
        core_dumped=message.core_dumped,
        cause=message.cause,
        evidence=message.evidence,
        error=message.error,
        receipt=receipt_from_proto(message.receipt),
        usage=usage_from_proto(message.usage),
        out_bytes=message.out_bytes,
        err_bytes=message.err_bytes,
        dropped_bytes=message.dropped_bytes,
        ledger_bytes=message.ledger_bytes,
    )


def end_from_bytes(data: bytes) -> End:
    """Decode a serialized End, the form in which the coordinator keeps it."""
    return end_from_proto(types_pb2.End.FromString(data))


def end_to_bytes(end: End) -> bytes:
    """Encode an end as the bytes the coordinator keeps."""
    return end_to_proto(end).SerializeToString()


def job_to_proto(job: Job) -> types_pb2.Job:
    """Encode a job as it stands."""
    return types_pb2.Job(
        id=job.id,
        spec=spec_to_proto(job.spec),
        state=types_pb2.State.ValueType(job.state),
        outcome=types_pb2.Outcome.ValueType(job.outcome),
        phase=job.phase,
        stage=job.stage,
        attempt=job.attempt,
        worker=job.worker,
        end=None if job.end is None else end_to_proto(job.end),
        queued_at_us=job.queued_at_us,
        assigned_at_us=job.assigned_at_us,
        started_at_us=job.started_at_us,
        finished_at_us=job.finished_at_us,
        log_bytes=job.log_bytes,
        log_position=job.log_position,
        log_status=types_pb2.LogStatus.ValueType(job.log_status),
        log_lost_bytes=job.log_lost_bytes,
        pending_reasons=job.pending_reasons,
        version=job.version,
        usage=None if job.usage is None else usage_to_proto(job.usage),
    )


def job_from_proto(message: types_pb2.Job) -> Job:
    """Decode a job as it stands."""
    return Job(
        id=message.id,
        spec=spec_from_proto(message.spec),
        state=State(message.state),
        outcome=Outcome(message.outcome),
        phase=message.phase,
        stage=message.stage,
        attempt=message.attempt,
        worker=message.worker,
        end=end_from_proto(message.end) if message.HasField("end") else None,
        queued_at_us=message.queued_at_us,
        assigned_at_us=message.assigned_at_us,
        started_at_us=message.started_at_us,
        finished_at_us=message.finished_at_us,
        log_bytes=message.log_bytes,
        log_position=message.log_position,
        log_status=LogStatus(message.log_status or LogStatus.ARRIVING),
        log_lost_bytes=message.log_lost_bytes,
        pending_reasons=tuple(message.pending_reasons),
        version=message.version,
        usage=usage_from_proto(message.usage) if message.HasField("usage") else None,
    )


def query_to_proto(query: JobQuery, principal: str) -> jobs_pb2.ListRequest:
    """Encode a list request."""
    return jobs_pb2.ListRequest(
        states=[types_pb2.State.ValueType(s) for s in query.states],
        name=query.name,
        owner=query.owner,
        family=query.family,
        worker=query.worker,
        limit=query.limit,
        after=query.after,
        principal=principal,
    )


def query_from_proto(message: jobs_pb2.ListRequest) -> JobQuery:
    """Decode a list request; a state we do not know matches nothing and is left to the caller."""
    return JobQuery(
        states=tuple(State(s) for s in message.states if s in State._value2member_map_),
        name=message.name,
        owner=message.owner,
        family=message.family,
        worker=message.worker,
        limit=message.limit or 100,
        after=message.after,
    )


def page_to_proto(page: JobPage) -> jobs_pb2.ListResponse:
    """Encode a page of jobs."""
    return jobs_pb2.ListResponse(jobs=[job_to_proto(j) for j in page.jobs], next=page.next)


def page_from_proto(message: jobs_pb2.ListResponse) -> JobPage:
    """Decode a page of jobs."""
    return JobPage(jobs=tuple(job_from_proto(j) for j in message.jobs), next=message.next)


def event_to_proto(event: JobEvent) -> jobs_pb2.JobEvent:
    """Encode a committed transition."""
    return jobs_pb2.JobEvent(
        number=event.number,
        job=event.job,
        kind=event.kind,
        at_us=event.at_us,
        stage=event.stage,
        attempt=event.attempt,
        worker=event.worker,
        detail=event.detail,
    )


def event_from_proto(message: jobs_pb2.JobEvent) -> JobEvent:
    """Decode a committed transition."""
    return JobEvent(
        number=message.number,
        job=message.job,
        kind=message.kind,
        at_us=message.at_us,
        stage=message.stage,
        attempt=message.attempt,
        worker=message.worker,
        detail=message.detail,
    )


def progress_to_proto(progress: Progress) -> jobs_pb2.Progress:
    """Encode where a job has come to."""
    return jobs_pb2.Progress(
        id=progress.id,
        state=types_pb2.State.ValueType(progress.state),
        outcome=types_pb2.Outcome.ValueType(progress.outcome),
        exit_code=progress.exit_code,
        signal=progress.signal,
        cause=progress.cause,
        error=progress.error,
    )


def progress_from_proto(message: jobs_pb2.Progress) -> Progress:
    """Decode where a job has come to."""
    return Progress(
        message.id,
        State(message.state),
        Outcome(message.outcome),
        message.exit_code if message.HasField("exit_code") else None,
        message.signal,
        message.cause,
        message.error,
    )
