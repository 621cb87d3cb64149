"""What a worker executes, and the names of attempts, to and from protobuf."""

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
    message = types_pb2.Work(
        argv=work.argv,
        env=work.env or None,
        cwd=work.cwd,
        timeout_s=work.timeout_s,
        grace_s=work.grace_s,
        output_bytes_max=work.output_bytes_max,
        leftovers_wait=work.leftovers_wait,
        stdin=work.stdin,
        files=[file_to_proto(f) for f in work.files],
        workspace=work.workspace,
        stdin_path=work.stdin_path,
        container=None if work.container is None else container_to_proto(work.container),
        service=None if work.service is None else service_to_proto(work.service),
        terminal=None if work.terminal is None else terminal_to_proto(work.terminal),
        result_stdout=work.result_stdout,
        merge=work.merge,
        limits=limits_to_proto(work.limits),
        output_stop=work.output_stop,
        loss_policy=work.loss_policy,
        start_path=work.start_path,
    )
    if work.python is not None:
        script = work.python
        message.python.path, message.python.entrypoint = script.path, script.entrypoint
        message.python.interpreter = script.interpreter
    return message


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
