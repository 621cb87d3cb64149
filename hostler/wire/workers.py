"""Workers, to and from protobuf."""

from hostler.v1 import types_pb2
from hostler.workers import Worker, WorkerState


def worker_to_proto(worker: Worker) -> types_pb2.Worker:
    """Encode a worker as readers get it."""
    return types_pb2.Worker(
        id=worker.id,
        name=worker.name,
        state=worker.state.value,
        slots=worker.slots,
        labels=worker.labels,
        version=worker.version,
        running=worker.running,
        seen_at_us=worker.seen_at_us,
        host=worker.host,
        runtimes=worker.runtimes,
        workloads=worker.workloads,
        abilities=worker.abilities,
        reason=worker.reason,
        drain_by_us=worker.drain_by_us,
        policy=worker.policy,
    )


def worker_from_proto(message: types_pb2.Worker) -> Worker:
    """Decode a worker as readers get it."""
    return Worker(
        id=message.id,
        name=message.name,
        state=WorkerState(message.state),
        slots=message.slots,
        labels=dict(message.labels),
        version=message.version,
        running=message.running,
        seen_at_us=message.seen_at_us,
        host=message.host,
        runtimes=tuple(message.runtimes),
        workloads=tuple(message.workloads),
        abilities=tuple(message.abilities),
        reason=message.reason,
        drain_by_us=message.drain_by_us,
        policy=message.policy,
    )
