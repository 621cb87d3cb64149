"""Jobs and what belongs to them, to and from protobuf.

Decoding trusts the types (protobuf checked them) and not the meaning (`hostler.job_checks.check_spec`).
"""

from collections.abc import Callable
from dataclasses import fields, replace
from inspect import formatannotation
from typing import Any

from hostler.errors import InvalidRequest
from hostler.jobs import (
    BriefJob,
    Job,
    JobEvent,
    JobPage,
    JobQuery,
    JobSpec,
    LogStatus,
    Outputs,
    PastAttempt,
    Progress,
    Record,
    Stage,
    Work,
)
from hostler.lifecycle import Outcome, State
from hostler.v1 import jobs_pb2, types_pb2
from hostler.wire.ends import (
    NOTHING_SAID,
    advance_from_proto,
    advance_to_proto,
    end_from_proto,
    end_to_proto,
    output_from_proto,
    output_to_proto,
    usage_from_proto,
    usage_to_proto,
)
from hostler.wire.work import put_work, work_from_proto


def spec_to_proto(spec: JobSpec) -> types_pb2.JobSpec:
    """Encode a submission."""
    message = types_pb2.JobSpec()
    put_spec(message, spec)
    return message


def put_spec(message: types_pb2.JobSpec, spec: JobSpec) -> None:
    """Encode a submission in its place in another message: one that is made first is copied there.

    Raises:
        InvalidRequest: a field has a value of another type than its own.
    """
    try:
        _put_spec(message, spec)
    except (TypeError, AttributeError) as error:
        wrong = _wrong_field(spec.work, Work(), lambda work: put_work(types_pb2.Work(), work)) or _wrong_field(
            spec, JobSpec(work=Work()), lambda one: _put_spec(types_pb2.JobSpec(), one)
        )
        if wrong is None:
            raise
        raise wrong from error


def _wrong_field(given: Any, plain: Any, put: Callable[[Any], None]) -> InvalidRequest | None:
    """Find the field that cannot be encoded: each is tried alone in a *plain* one."""
    for field in fields(plain):
        try:
            put(replace(plain, **{field.name: getattr(given, field.name)}))
        except (TypeError, AttributeError):
            wanted = formatannotation(field.type)
            return InvalidRequest(f"{field.name} has to be of the type {wanted}", field=field.name)
    return None


def _put_spec(message: types_pb2.JobSpec, spec: JobSpec) -> None:
    put_work(message.work, spec.work)
    message.family, message.slots = spec.family, spec.slots
    for name in _SPEC_FIELDS:
        if value := getattr(spec, name):  # what is unset need not be said, which costs as much as to say it
            setattr(message, name, value)
    if spec.slots == 0:
        message.slotless = True
    for name in _SPEC_MAPS:
        if entries := getattr(spec, name):
            getattr(message, name).update(entries)
    if spec.retries is not None:
        message.retries = spec.retries
    if spec.lost_after_s is not None:
        message.lost_after_s = spec.lost_after_s
    message.retry_on.extend(spec.retry_on)
    for stage in spec.stages:
        message.stages.add(workload=stage.workload, workload_version=stage.workload_version)


# Of the same name and meaning in both, and not said when they are empty or 0.
_SPEC_FIELDS = (
    "name",
    "owner",
    "key",
    "worker",
    "priority",
    "principal",
    "workload",
    "workload_version",
    "params",
    "start_within_s",
    "on_lost",
    "crash_limit",
    "where",
)
_SPEC_MAPS = ("labels", "secrets", "tags")


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
        workload=message.workload,
        workload_version=message.workload_version,
        params=message.params,
        retries=message.retries if message.HasField("retries") else None,
        retry_on=tuple(message.retry_on),
        start_within_s=message.start_within_s,
        on_lost=message.on_lost,
        lost_after_s=message.lost_after_s if message.HasField("lost_after_s") else None,
        crash_limit=message.crash_limit,
        secrets=dict(message.secrets),
        stages=tuple(Stage(workload=s.workload, workload_version=s.workload_version) for s in message.stages),
        tags=dict(message.tags),
        where=message.where,
    )


def spec_to_bytes(spec: JobSpec) -> bytes:
    """Encode a submission as the bytes the coordinator keeps of a chain."""
    return spec_to_proto(spec).SerializeToString()


def spec_from_bytes(content: bytes) -> JobSpec:
    """Decode what `spec_to_bytes` wrote."""
    return spec_from_proto(types_pb2.JobSpec.FromString(content))


def past_to_proto(past: PastAttempt) -> types_pb2.PastAttempt:
    """Encode an attempt that was followed by another."""
    return types_pb2.PastAttempt(
        stage=past.stage,
        attempt=past.attempt,
        worker=past.worker,
        outcome=types_pb2.Outcome.ValueType(past.outcome),
        end=end_to_proto(past.end),
    )


def past_from_proto(message: types_pb2.PastAttempt) -> PastAttempt:
    """Decode an attempt that was followed by another."""
    return PastAttempt(
        stage=message.stage,
        attempt=message.attempt,
        worker=message.worker,
        outcome=Outcome(message.outcome),
        end=end_from_proto(message.end),
    )


def outputs_to_proto(outputs: Outputs) -> jobs_pb2.ListOutputsResponse:
    """Encode what a job has put out."""
    return jobs_pb2.ListOutputsResponse(
        files=[output_to_proto(f) for f in outputs.files],
        live=outputs.live,
        expired=outputs.expired,
        missing=outputs.missing,
    )


def outputs_from_proto(message: jobs_pb2.ListOutputsResponse) -> Outputs:
    """Decode what a job has put out."""
    return Outputs(
        files=tuple(output_from_proto(f) for f in message.files),
        live=message.live,
        expired=message.expired,
        missing=tuple(message.missing),
    )


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
        advance=None if job.advance == NOTHING_SAID else advance_to_proto(job.advance),
        retried=job.retried,
        due_at_us=job.due_at_us,
        past=[past_to_proto(p) for p in job.past],
        retry_of=job.retry_of,
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
        advance=advance_from_proto(message.advance) if message.HasField("advance") else NOTHING_SAID,
        retried=message.retried,
        due_at_us=message.due_at_us,
        past=tuple(past_from_proto(p) for p in message.past),
        retry_of=message.retry_of,
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
        newest_first=query.newest_first,
        workload=query.workload,
        id_prefix=query.id_prefix,
        filter=query.filter,
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
        newest_first=message.newest_first,
        workload=message.workload,
        id_prefix=message.id_prefix,
        filter=message.filter,
    )


def brief_from_proto(message: types_pb2.Job) -> BriefJob:
    """Decode a job of a brief list."""
    return BriefJob(message.id, State(message.state), Outcome(message.outcome))


def record_to_proto(record: Record) -> jobs_pb2.Record:
    """Encode what somebody else runs."""
    return jobs_pb2.Record(id=record.id, status=record.status, containers=record.containers, at_us=record.at_us)


def record_from_proto(message: jobs_pb2.Record) -> Record:
    """Decode what somebody else runs."""
    return Record(id=message.id, status=message.status, containers=tuple(message.containers), at_us=message.at_us)


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
    message = jobs_pb2.Progress()
    put_progress(message, progress)
    return message


def put_progress(message: jobs_pb2.Progress, progress: Progress) -> None:
    """Encode where a job has come to in its place in another message: one that is made first is copied there."""
    message.id = progress.id
    message.state = types_pb2.State.ValueType(progress.state)
    message.outcome = types_pb2.Outcome.ValueType(progress.outcome)
    message.cause = progress.cause
    if progress.exit_code is not None:
        message.exit_code = progress.exit_code
    if progress.signal:
        message.signal = progress.signal
    if progress.error:
        message.error = progress.error


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
