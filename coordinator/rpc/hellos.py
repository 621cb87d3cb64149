"""How a worker introduces itself, out of protobuf and within bounds."""

import os

from coordinator.events import Hello
from hostler.errors import InvalidRequest
from hostler.ids import is_uuid, new_uuid
from hostler.v1 import workers_pb2
from hostler.wire.work import key_from_proto
from hostler.workers import ABILITIES

SLOTS_MAX = 4096
NUMBER_MAX = 1 << 62  # SQLite's integers are signed


def checked_number(value: int, field: str) -> int:
    """A number that the store can hold; a larger one would end the coordinator."""
    if value > NUMBER_MAX:
        raise InvalidRequest(f"{field} is beyond every limit", field=field)
    return value


def hello_of(message: workers_pb2.Hello, certified: str) -> Hello:
    """Read a hello; the id of *certified*, when not empty, is that of the worker's certificate."""
    if message.worker and not is_uuid(message.worker):
        raise InvalidRequest("a worker's id is a uuid given by the coordinator", field="worker")
    if not (message.boot_id and message.journal_id):
        raise InvalidRequest("a hello names the boot and the journal", field="boot_id")
    states = {
        workers_pb2.HELD_STATE_WAITING: "waiting",
        workers_pb2.HELD_STATE_RUNNING: "running",
        workers_pb2.HELD_STATE_ENDED: "ended",
    }
    return Hello(
        worker=certified or message.worker or new_uuid(os.urandom(16)),
        session=new_uuid(os.urandom(16)),
        name=message.name[:200],
        host=message.host[:200],
        version=message.version[:50],
        labels=tuple(sorted(message.labels.items())),
        slots=min(message.slots, SLOTS_MAX),
        boot_id=message.boot_id,
        journal_id=message.journal_id,
        generation=checked_number(message.generation, "generation"),
        mark=checked_number(message.mark, "mark"),
        runtimes=tuple(message.runtimes[:20]) or ("command",),
        workloads=tuple(pattern[:200] for pattern in message.workloads[:1000]),
        abilities=tuple(sorted(each for each in message.abilities if each in ABILITIES)),
        instance=message.instance[:100],
        policy=message.policy[:20],
        named_only=message.named_only,
        # Not refused beyond a limit: then one worker's lie would keep out all that have heard of it.
        epoch=min(message.epoch, NUMBER_MAX),
        inventory=tuple((key_from_proto(h.key), states.get(h.state, "running")) for h in message.inventory),
    )
