"""What is to be said to a worker of the logs it pushes."""

import asyncio

from hostler.ids import AttemptKey
from hostler.v1 import workers_pb2
from hostler.wire.work import key_to_proto


class Receipts:
    """What is to be said to one PushLog stream, and how far each attempt has been received on it."""

    def __init__(self, session: str = "") -> None:
        self.session = session  # that the stream's last message named
        self.received: dict[AttemptKey, int] = {}
        self.marks: dict[AttemptKey, workers_pb2.LogMark] = {}
        self.wake = asyncio.Event()

    def _mark(self, key: AttemptKey) -> workers_pb2.LogMark:
        mark = self.marks.get(key)
        if mark is None:
            mark = self.marks[key] = workers_pb2.LogMark(key=key_to_proto(key))
        self.wake.set()
        return mark

    def note(self, key: AttemptKey, *, forget: bool = False, rewind: bool = False) -> None:
        """Say how far *key* has been received, that it is not wanted, or that it must come again."""
        mark = self._mark(key)
        mark.forget = mark.forget or forget
        mark.rewind = mark.rewind or rewind

    def stored(self, key: AttemptKey, position: int, *, rewind: bool) -> None:
        """Say how far *key* is durable, or that it must come again from there."""
        mark = self._mark(key)
        mark.stored = position
        if rewind:
            mark.rewind = True
            self.received[key] = position

    def take(self) -> workers_pb2.LogReceipt:
        """Return what has gathered and start anew."""
        self.wake.clear()
        marks, self.marks = self.marks, {}
        for key, mark in marks.items():
            mark.received = self.received.get(key, 0)
        return workers_pb2.LogReceipt(marks=list(marks.values()))
