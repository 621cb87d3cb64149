"""Messages for every RPC: of the right structure with values that nobody expects, mutated ones, and bytes by chance."""

import struct
from dataclasses import dataclass
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from hostler.policy import RPCS
from hostler.v1 import access_pb2, files_pb2, jobs_pb2, workers_pb2, workloads_pb2

FILES = (access_pb2, jobs_pb2, files_pb2, workloads_pb2, workers_pb2)
DEPTH_MAX = 5
MESSAGES_MAX = 5  # in one stream
TEXTS = (
    "", "a", "local", "key:x", "address:1.2.3.4", "../../etc/passwd", "/etc/passwd", "outputs/../..", "a\x00b",
    "\x00", "a/b", ".", "..", "*", "\u202e", "\ufffd", "\U0001f600", "a" * 300, "a" * 70_000, "{}", "[]", "{",
    '{"a": NaN}', "[" * 3000, '{"type": "string", "pattern": "(a+)+$"}', '{"$ref": "http://evil.example/"}',
    "SIGKILL", "0", "-1", "9" * 40, "1.1.1", "true", "fail", "retry", "keep", "stop", "hardened", "exit", "f" * 64,
    "F" * 64, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "unix:/x", "10.0.0.0/8",
    "jobs:read", "admin", "hst_a_b", "hsj_a_b", "00000000-0000-4000-8000-000000000001",
    "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6", "echo", "sleep", "custom",
)  # fmt: skip
WHOLES = (
    0,
    1,
    2,
    7,
    63,
    64,
    100,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 53,
    (1 << 62),
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
REALS = (0.0, -0.0, 0.001, 1.0, -1.0, 1e-300, 1e18, 1e300, float("inf"), float("-inf"), float("nan"))
_SIGNED = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32)
_SIGNED_LONG = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64)
_UNSIGNED = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call with bad messages."""

    name: str  # of the method in `hostler.policy.RPCS`
    kind: str
    messages: tuple[bytes, ...]
    client_streams: bool
    server_streams: bool

    def __str__(self) -> str:
        return f"{self.name}, {self.kind}: {[message[:300].hex() for message in self.messages]}"


def methods() -> dict[str, Any]:
    """The descriptor of every method that the policy knows, by its name there."""
    services = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
    found = {f"{service.name}/{method.name}": method for service in services for method in service.methods}
    assert set(found) == set(RPCS)
    return found


class ProtobufCorpus:
    """Makes calls by chance. *ids* are texts of things that are there: jobs, digests; *only* is one method."""

    def __init__(self, random: Random, *, ids: tuple[str, ...] = (), only: str = "") -> None:
        self._random = random
        self._texts = (*TEXTS, *ids, *ids, *ids)
        self._methods = sorted((name, method) for name, method in methods().items() if only in ("", name))

    def call(self, number: int) -> Call:
        """The call of this number: all methods in turn."""
        random = self._random
        name, method = self._methods[number % len(self._methods)]
        count = random.randrange(MESSAGES_MAX + 1) if method.client_streaming else 1
        kind = random.choices(("structured", "mutated", "bytes"), (6, 3, 1))[0]
        messages = tuple(self._message(kind, method.input_type) for _ in range(count))
        return Call(
            name=name,
            kind=kind,
            messages=messages,
            client_streams=method.client_streaming,
            server_streams=method.server_streaming,
        )

    def _message(self, kind: str, descriptor: Descriptor) -> bytes:
        if kind == "bytes":
            return self._random.randbytes(self._random.choice((0, 1, 3, 12, 60, 400)))
        raw = self._filled(descriptor, 0).SerializeToString()
        return raw if kind == "structured" else self._mutated(bytearray(raw))

    def _filled(self, descriptor: Descriptor, depth: int) -> Any:
        """A message in which each field has a value by chance, or none."""
        random, message = self._random, GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if random.random() < (0.35 if depth < 2 else 0.6):
                continue
            if field.message_type is not None and depth >= DEPTH_MAX:
                continue
            if field.is_repeated:
                self._fill_repeated(message, field, depth)
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(self._filled(field.message_type, depth + 1))
            else:
                setattr(message, field.name, self._value(field))
        return message

    def _fill_repeated(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        count = self._random.choice((0, 1, 1, 2, 3, 40 if depth < 2 else 4))
        held = getattr(message, field.name)
        if field.message_type is None:
            held.extend(self._value(field) for _ in range(count))
        elif field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            for _ in range(count):
                if value.message_type is None:
                    held[self._value(key)] = self._value(value)
                else:
                    held[self._value(key)].CopyFrom(self._filled(value.message_type, depth + 1))
        else:
            held.extend(self._filled(field.message_type, depth + 1) for _ in range(count))

    def _value(self, field: FieldDescriptor) -> Any:
        random = self._random
        match field.type:
            case FieldDescriptor.TYPE_STRING if field.name == "principal" and random.random() < 0.9:
                return random.choice(("", "local"))  # who is not known comes no further
            case FieldDescriptor.TYPE_STRING:
                return random.choice(self._texts)
            case FieldDescriptor.TYPE_BYTES:
                return random.choice((b"", b"\x00", b"{}", b"\xff" * 20, random.randbytes(100), b"a" * 5000))
            case FieldDescriptor.TYPE_BOOL:
                return random.random() < 0.5
            case FieldDescriptor.TYPE_DOUBLE:
                return random.choice(REALS)
            case FieldDescriptor.TYPE_FLOAT:
                return struct.unpack("f", random.randbytes(4))[0]
            case FieldDescriptor.TYPE_ENUM:
                return random.choice((0, 1, 2, 3, 5, 9, 99, (1 << 31) - 1))
            case kind if kind in _SIGNED:
                return random.choice((*WHOLES[:10], -1, -(1 << 31)))
            case kind if kind in _SIGNED_LONG:
                return random.choice((*WHOLES[:15], -1, -(1 << 63)))
            case kind if kind in _UNSIGNED:
                return random.choice(WHOLES[:12])
            case _:
                return random.choice(WHOLES)

    def _mutated(self, raw: bytearray) -> bytes:
        random = self._random
        for _ in range(random.randrange(1, 6)):
            place = random.randrange(len(raw) + 1)
            match random.randrange(5):
                case 0:
                    raw[place : place + 1] = random.randbytes(1)
                case 1:
                    del raw[place : place + random.randrange(1, 20)]
                case 2:
                    raw[place:place] = random.randbytes(random.randrange(1, 8))
                case 3:
                    raw[place:place] = raw[place : place + random.randrange(1, 60)]
                case _:
                    del raw[place:]
        return bytes(raw)
