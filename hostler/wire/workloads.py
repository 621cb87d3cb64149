"""Workloads, to and from protobuf."""

from hostler.jobs import NO_LIMITS
from hostler.v1 import types_pb2, workloads_pb2
from hostler.wire.work import (
    container_from_proto,
    container_to_proto,
    file_from_proto,
    file_to_proto,
    limits_from_proto,
    limits_to_proto,
    service_from_proto,
    service_to_proto,
)
from hostler.workloads import Applied, Origin, ResultFrom, Runtime, Stdin, Workload


def workload_to_proto(workload: Workload) -> workloads_pb2.Workload:
    """Encode a definition."""
    script: types_pb2.File | None = None if workload.script is None else file_to_proto(workload.script)
    return workloads_pb2.Workload(
        name=workload.name,
        version=workload.version,
        documentation=workload.documentation,
        runtime=workload.runtime.value,
        argv=workload.argv,
        script=script,
        entrypoint=workload.entrypoint,
        interpreter=workload.interpreter,
        params_schema=workload.params_schema,
        stdin=workload.stdin.value,
        env=workload.env,
        cwd=workload.cwd,
        timeout_s=workload.timeout_s,
        grace_s=workload.grace_s,
        output_bytes_max=workload.output_bytes_max,
        retries=workload.retries,
        retry_on=workload.retry_on,
        labels=workload.labels,
        slots=workload.slots,
        secrets=workload.secrets,
        internal=not workload.external,
        families=workload.families,
        result=workload.result.value,
        container=None if workload.container is None else container_to_proto(workload.container),
        service=None if workload.service is None else service_to_proto(workload.service),
        allowed_networks=workload.allowed_networks,
        proofs=workload.proofs,
        resources=workload.resources,
        merge=workload.merge,
        limits=limits_to_proto(workload.limits),
        output_stop=workload.output_stop,
        loss_policy=workload.loss_policy,
        start_path=workload.start_path,
        on_lost=workload.on_lost,
        crash_limit=workload.crash_limit,
        applied_at_us=workload.applied_at_us,
        origin=workload.origin.value,
    )


def workload_from_proto(message: workloads_pb2.Workload) -> Workload:
    """Decode a definition.

    Raises:
        ValueError: the runtime, stdin or origin is none that we know.
    """
    return Workload(
        name=message.name,
        version=message.version,
        documentation=message.documentation,
        runtime=Runtime(message.runtime or Runtime.COMMAND),
        argv=tuple(message.argv),
        script=file_from_proto(message.script) if message.HasField("script") else None,
        entrypoint=message.entrypoint or "main",
        interpreter=message.interpreter,
        params_schema=message.params_schema,
        stdin=Stdin(message.stdin),
        env=dict(message.env),
        cwd=message.cwd,
        timeout_s=message.timeout_s,
        grace_s=message.grace_s,
        output_bytes_max=message.output_bytes_max,
        retries=message.retries,
        retry_on=tuple(message.retry_on),
        labels=dict(message.labels),
        slots=message.slots or 1,
        secrets=dict(message.secrets),
        external=not message.internal,
        families=tuple(message.families),
        result=ResultFrom(message.result),
        container=container_from_proto(message.container) if message.HasField("container") else None,
        service=service_from_proto(message.service) if message.HasField("service") else None,
        allowed_networks=tuple(message.allowed_networks),
        proofs=message.proofs,
        resources=message.resources,
        merge=message.merge,
        limits=limits_from_proto(message.limits) if message.HasField("limits") else NO_LIMITS,
        output_stop=message.output_stop,
        loss_policy=message.loss_policy,
        start_path=message.start_path,
        on_lost=message.on_lost,
        crash_limit=message.crash_limit,
        applied_at_us=message.applied_at_us,
        origin=Origin(message.origin or Origin.APPLIED),
    )


def workload_to_bytes(workload: Workload) -> bytes:
    """Encode a definition as the bytes the coordinator keeps."""
    return workload_to_proto(workload).SerializeToString()


def workload_from_bytes(content: bytes) -> Workload:
    """Decode what `workload_to_bytes` wrote."""
    return workload_from_proto(workloads_pb2.Workload.FromString(content))


def applied_from_proto(message: workloads_pb2.Applied) -> Applied:
    """Decode what became of a definition that was applied."""
    return Applied(name=message.name, version=message.version, changed=message.changed)
