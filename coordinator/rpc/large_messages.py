"""Large messages: what would take too long to be parsed is refused unparsed, and the rest is parsed in pieces.

Protobuf's parser needs time squared for a map's entries: a million of them in one message held everybody up for 20 s.
So the fields of a large message are counted on the wire first, by its descriptor, going only into parts that are large
themselves. Limits: groups, which no message of ours has, are refused; a part of at most `LARGE_BYTES` is not looked at.
"""

import asyncio
import itertools
from collections.abc import Iterator
from typing import NamedTuple, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from coordinator.rpc.context import M, parse, wrong
from hostler.errors import TooLarge

LARGE_BYTES = 128 * 1024
PIECE_BYTES = 256 * 1024  # merged before others get their turn
FIELDS_MAX = 150_000  # of one message, without those of its parts
IN_PARTS_MAX = 500_000  # of all its large parts together: they are counted at once, which takes a microsecond for each
ENTRIES_MAX = 10_000  # of one map
_LENGTHS = {1: 8, 5: 4}  # of wire types with a fixed one


class _Field(NamedTuple):
    number: int
    begin: int  # of its tag
    content: int  # of what it holds
    end: int


async def parse_in_pieces(kind: type[M], data: bytes) -> M:
    """Decode a message whose first level may have many fields; others are served meanwhile.

    Raises:
        InvalidRequest: the bytes are no such message.
        TooLarge: it has too many fields, or a map too many entries.
    """
    if len(data) <= LARGE_BYTES:
        return parse(kind, data)
    message = kind()
    begin = 0
    # Each field of the first level may have as many in its parts: others get their turn between them.
    for field in _checked(cast(Descriptor, kind.DESCRIPTOR), data, 0, len(data)):
        if field.end - begin >= PIECE_BYTES or field.end == len(data):
            _merge(message, data[begin : field.end])
            begin = field.end
            await asyncio.sleep(0)
    return message


def parse_large(kind: type[M], data: bytes) -> M:
    """Decode a message at once. Raises as `parse_in_pieces` does."""
    if len(data) > LARGE_BYTES:
        for _ in _checked(cast(Descriptor, kind.DESCRIPTOR), data, 0, len(data), itertools.count(1)):
            pass
    return parse(kind, data)


def _merge(message: Message, piece: bytes) -> None:
    # Fields of one message in several pieces are what they are in one.
    message.MergeFrom(parse(type(message), piece))


def _checked(
    descriptor: Descriptor, data: bytes, begin: int, end: int, in_parts: Iterator[int] | None = None
) -> Iterator[_Field]:
    """The fields of a message from *begin* to *end*, after those of its large parts were counted.

    *in_parts* counts the fields of parts; None: those of each field apart.
    """
    entries: dict[int, int] = {}
    parts = {number: field for number, field in descriptor.fields_by_number.items() if field.message_type is not None}
    for count, field in enumerate(_fields(descriptor, data, begin, end), 1):
        if count > FIELDS_MAX:
            raise TooLarge(f"a {descriptor.name} has more than {FIELDS_MAX} fields, counting each item of its lists")
        part = parts.get(field.number)
        if part is not None and _is_map(part):
            entries[field.number] = entries.get(field.number, 0) + 1
            if entries[field.number] > ENTRIES_MAX:
                raise TooLarge(f"{part.name} has more than {ENTRIES_MAX} entries", field=part.name)
        elif part is not None and part.message_type is not None and field.end - field.content > LARGE_BYTES:
            own = in_parts or itertools.count(1)
            for _ in _checked(part.message_type, data, field.content, field.end, own):
                if next(own) > IN_PARTS_MAX:
                    raise TooLarge(f"{part.name} has more than {IN_PARTS_MAX} fields in its parts", field=part.name)
        yield field


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _fields(descriptor: Descriptor, data: bytes, begin: int, end: int) -> Iterator[_Field]:
    at = begin
    while at < end:
        start = at
        tag, at = _varint(descriptor, data, at, end)
        kind = tag & 7
        if kind == 2:
            length, at = _varint(descriptor, data, at, end)
            content, at = at, at + length
        elif kind == 0:
            content = at
            _, at = _varint(descriptor, data, at, end)
        elif kind in _LENGTHS:
            content, at = at, at + _LENGTHS[kind]
        else:
            raise wrong(descriptor.full_name)
        if at > end:
            raise wrong(descriptor.full_name)
        yield _Field(tag >> 3, start, content, at)


def _varint(descriptor: Descriptor, data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise wrong(descriptor.full_name)
