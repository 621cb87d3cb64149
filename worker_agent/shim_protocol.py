"""The messages between agent, launcher and shims: a length of 4 bytes (little endian), then JSON.

Limits: standard library only. A message is at most 4 MiB; who sends a longer one is cut off.

    agent -> launcher   fork {shim, nonce, confined}
    launcher -> agent   forked {shim, pid, start_ticks} | not_forked {shim, error}
    agent -> shim       hello {generation, nonce} first, then run {orders}, stop {key, grace_s, cause},
                        signal {key, signal, alone}, retire {},
                        feed {key, offset, content (base64), eof, size (rows and columns)}
    shim -> agent       state {...} as the answer to hello, started, output, fed, unkillable,
                        ended {ended: the ends, in order}, returned {keys: queued orders that never ran}

A message wakes a process, and that costs as much as starting the program did. So orders and ends travel in lists:
a shim keeps a short queue of what it runs next, and tells several ends at once.
"""

import json
import struct
from collections.abc import Collection
from typing import Any, Final

from worker_agent.attempts import Order

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
QUEUE_MAX: Final = 24  # orders that may wait in a shim behind the one that runs
QUEUE_MAX_FIRST: Final = 8  # the same of a shim that does not say it in its `state`: of an earlier version
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of a unix socket, without its final zero
_LENGTH: Final = struct.Struct("<I")

_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


class ProtocolError(ValueError):
    """The other side sent what is not a message."""


def encode(message: dict[str, Any]) -> bytes:
    """Return *message* (with its `type`) as bytes to send. Raises ProtocolError when it is too long."""
    return encode_raw(_dumps(message).encode())


def encode_raw(content: bytes) -> bytes:
    """Return JSON that is already encoded as bytes to send."""
    if len(content) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"message of {len(content)} bytes")
    return _LENGTH.pack(len(content)) + content


def encode_ends(ends_json: Collection[bytes]) -> bytes:
    """Return an `ended` message around JSON made once for the exit frames."""
    return encode_raw(b'{"type":"ended","ended":[' + b",".join(ends_json) + b"]}")


def encode_orders(orders: Collection[Order]) -> bytes:
    """Return a `run` message; `order_from_json` reads each of its orders."""
    return encode({"type": "run", "orders": [_fields(order) for order in orders]})


class Decoder:
    """Cuts a stream of bytes into messages; keeps at most one incomplete message."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, content: bytes) -> list[dict[str, Any]]:
        """Return the messages that *content* completes. Raises ProtocolError; the connection is then of no use."""
        buffer = self._rest + content if self._rest else content
        messages: list[dict[str, Any]] = []
        offset, size = 0, len(buffer)
        while size - offset >= 4:
            (length,) = _LENGTH.unpack_from(buffer, offset)
            if length > MESSAGE_BYTES_MAX:
                raise ProtocolError(f"message of {length} bytes")
            end = offset + 4 + length
            if end > size:
                break
            try:
                message = json.loads(buffer[offset + 4 : end])
            except ValueError as error:
                raise ProtocolError("not JSON") from error
            if not isinstance(message, dict) or "type" not in message:
                raise ProtocolError("a message without a type")
            messages.append(message)
            offset = end
        self._rest = buffer[offset:]
        return messages


_DEFAULTS: Final = Order("", ())[3:]


def _fields(order: Order) -> tuple[Any, ...]:
    """An order is sent as the list of its fields; what is left out at the end has its default value."""
    if order[3:] == _DEFAULTS:
        return order[:3]
    # A shim that an earlier version of the agent left knows fewer fields, and takes no longer lists.
    length = len(order)
    while length > 5 and order[length - 1] == _DEFAULTS[length - 4]:
        length -= 1
    return (*order[:4], dict(order.env), *order[5:length])


def order_from_json(content: list[Any]) -> Order:
    """Read an order of a `run` message. Raises TypeError for anything else."""
    if type(content) is not list or not 2 <= len(content) <= len(Order._fields) or type(content[1]) is not list:
        raise TypeError("not an order")
    content[1] = tuple(content[1])
    return Order(*content)
