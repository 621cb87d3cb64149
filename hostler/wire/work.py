"""What a worker executes, and the names of attempts, to and from protobuf."""

from typing import cast

from hostler.ids import AttemptKey, JobId
from hostler.jobs import NO_LIMITS, Container, File, Limits, PythonScript, Service, Terminal, Work
from hostler.v1 import types_pb2


def key_to_proto(key: AttemptKey) -> types_pb2.AttemptKey:
    """Encode an attempt's name."""
    return types_pb2.AttemptKey(job=key.job, stage=key.stage, attempt=key.attempt)


def put_key(message: types_pb2.AttemptKey, key: AttemptKey) -> None:
    """Encode an attempt's name in its place in another message: a part that is made first is copied there."""
    message.job, message.stage, message.attempt = key


def key_from_proto(message: types_pb2.AttemptKey) -> AttemptKey:
    """Decode an attempt's name."""
    return AttemptKey(JobId(message.job), message.stage, message.attempt)


def file_to_proto(file: File) -> types_pb2.File:
    """Encode a file of a workspace."""
    return types_pb2.File(path=file.path, digest=file.digest, size_bytes=file.size_bytes, content=file.content)


def file_from_proto(message: types_pb2.File) -> File:
    """Decode a file of a workspace."""
    return File(path=message.path, digest=message.digest, size_bytes=message.size_bytes, content=message.content)


def container_to_proto(container: Container) -> types_pb2.Container:
    """Encode a container."""
    return types_pb2.Container(
        image=container.image,
        pull=container.pull,
        memory_bytes=container.memory_bytes,
        cpus=container.cpus,
        pids=container.pids,
        network=container.network,
        user=container.user,
        writable=container.writable,
        volumes=container.volumes,
        capabilities=container.capabilities,
        port=container.port,
    )


def container_from_proto(message: types_pb2.Container) -> Container:
    """Decode a container."""
    return Container(
        image=message.image,
        pull=message.pull or "never",
        memory_bytes=message.memory_bytes,
        cpus=message.cpus,
        pids=message.pids,
        network=message.network,
        user=message.user,
        writable=message.writable,
        volumes=tuple(message.volumes),
        capabilities=tuple(message.capabilities),
        port=message.port,
    )


def service_to_proto(service: Service) -> types_pb2.Service:
    """Encode a service."""
    return types_pb2.Service(
        name=service.name,
        version=service.version,
        url=service.url,
        container=None if service.container is None else container_to_proto(service.container),
        argv=service.argv,
        env=service.env,
        token_variable=service.token_variable,
        health_path=service.health_path,
        check_status=service.check_status,
        start_s=service.start_s,
    )


def service_from_proto(message: types_pb2.Service) -> Service:
    """Decode a service."""
    return Service(
        name=message.name,
        version=message.version,
        url=message.url,
        container=container_from_proto(message.container) if message.HasField("container") else None,
        argv=tuple(message.argv),
        env=dict(message.env),
        token_variable=message.token_variable,
        health_path=message.health_path,
        check_status=message.check_status,
        start_s=message.start_s,
    )


def limits_to_proto(limits: Limits) -> types_pb2.Limits | None:
    """Encode limits; none at all are left out."""
    if limits == NO_LIMITS:
        return None
    return types_pb2.Limits(memory_bytes=limits.memory_bytes, cpus=limits.cpus, pids=limits.pids)


def limits_from_proto(message: types_pb2.Limits) -> Limits:
    """Decode limits."""
    return Limits(memory_bytes=message.memory_bytes, cpus=message.cpus, pids=message.pids)


def work_to_proto(work: Work) -> types_pb2.Work:
    """Encode what a worker executes."""
    message = types_pb2.Work()
    put_work(message, work)
    return message


def put_work(message: types_pb2.Work, work: Work) -> None:
    """Encode what a worker executes in its place in another message: one that is made first is copied there."""
    if isinstance(cast(object, work.argv), str):
        raise TypeError("argv is one text")  # whose characters would be taken for the arguments
    message.argv.extend(work.argv)
    for name in _WORK_FIELDS:
        if value := getattr(work, name):  # what is unset need not be said, which costs as much as to say it
            setattr(message, name, value)
    if work.env:
        message.env.update(work.env)
    if work.files:
        message.files.extend(map(file_to_proto, work.files))
    if work.limits is not NO_LIMITS and (limits := limits_to_proto(work.limits)) is not None:
        message.limits.CopyFrom(limits)
    if work.container is not None:
        message.container.CopyFrom(container_to_proto(work.container))
    if work.service is not None:
        message.service.CopyFrom(service_to_proto(work.service))
    if work.terminal is not None:
        message.terminal.CopyFrom(terminal_to_proto(work.terminal))
    if work.python is not None:
        script = work.python
        message.python.path, message.python.entrypoint = script.path, script.entrypoint
        message.python.interpreter = script.interpreter


# Of the same name and meaning in both, and not said when they are empty or 0.
_WORK_FIELDS = (
    "cwd",
    "timeout_s",
    "grace_s",
    "output_bytes_max",
    "leftovers_wait",
    "stdin",
    "workspace",
    "stdin_path",
    "result_stdout",
    "merge",
    "output_stop",
    "loss_policy",
    "start_path",
)


def work_from_proto(message: types_pb2.Work) -> Work:
    """Decode what a worker executes."""
    script = message.python if message.HasField("python") else None
    return Work(
        argv=tuple(message.argv),
        env=dict(message.env),
        cwd=message.cwd,
        timeout_s=message.timeout_s,
        grace_s=message.grace_s,
        output_bytes_max=message.output_bytes_max,
        leftovers_wait=message.leftovers_wait,
        stdin=message.stdin,
        files=tuple(file_from_proto(f) for f in message.files),
        workspace=message.workspace,
        stdin_path=message.stdin_path,
        python=PythonScript(path=script.path, entrypoint=script.entrypoint or "main", interpreter=script.interpreter)
        if script is not None
        else None,
        container=container_from_proto(message.container) if message.HasField("container") else None,
        service=service_from_proto(message.service) if message.HasField("service") else None,
        result_stdout=message.result_stdout,
        merge=message.merge,
        limits=limits_from_proto(message.limits) if message.HasField("limits") else NO_LIMITS,
        output_stop=message.output_stop,
        loss_policy=message.loss_policy,
        start_path=message.start_path,
        terminal=terminal_from_proto(message.terminal) if message.HasField("terminal") else None,
    )


def terminal_to_proto(terminal: Terminal) -> types_pb2.Terminal:
    """Encode a terminal."""
    return types_pb2.Terminal(rows=terminal.rows, columns=terminal.columns, term=terminal.term)


def terminal_from_proto(message: types_pb2.Terminal) -> Terminal:
    """Decode a terminal."""
    return Terminal(rows=message.rows, columns=message.columns, term=message.term)


def work_to_bytes(work: Work) -> bytes:
    """Encode what a worker executes as the bytes the coordinator keeps and sends."""
    return work_to_proto(work).SerializeToString()


def work_from_bytes(data: bytes) -> Work:
    """Decode what `work_to_bytes` wrote."""
    return work_from_proto(types_pb2.Work.FromString(data))
