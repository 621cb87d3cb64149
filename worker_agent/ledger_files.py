"""Which segment holds the ledger of which attempt, and when a segment may be removed.

Role: the agent's view of the segments directory. A segment goes when its shim writes to it no more
and every attempt in it is forgotten. Limits: not thread-safe, standard library only.
"""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Final

from worker_agent.ledger import parse_segment_name, read_ledger, segments_of

_OPEN_MAX: Final = 64  # descriptors kept open for reading


class LedgerFiles:
    """The segments of one data directory, as far as attempts in them are not forgotten."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._places: dict[str, tuple[str, int]] = {}  # where ledgers begin: segment and offset
        self._keys: dict[str, set[str]] = {}  # segment -> attempts in it that are not forgotten
        self._current: dict[int, str] = {}  # shim -> the segment it writes to
        self._open: OrderedDict[str, int] = OrderedDict()

    def place(self, key: str, segment: str, offset: int) -> None:
        """Note where the ledger of an attempt is; a shim that names a later segment has left the earlier one."""
        if not segment or self._places.get(key) == (segment, offset):
            return
        self._places[key] = segment, offset
        keys = self._keys.get(segment)
        if keys is None:
            keys = self._keys[segment] = set()
            self.writes_to(segment)
        keys.add(key)

    def writes_to(self, segment: str) -> None:
        """Note that a living shim's latest segment is *segment*."""
        parsed = parse_segment_name(segment)
        if parsed is None:
            return
        before = self._current.get(parsed[0])
        if before != segment:
            self._current[parsed[0]] = segment
            if before is not None:
                self._remove_if_done(before)

    def shim_gone(self, shim: int) -> None:
        """Note that a shim is dead: its segments may go when all in them is forgotten."""
        for path in segments_of(self.directory, shim):
            self.writes_to(path.name)  # also those that nobody has named here
        segment = self._current.pop(shim, None)
        if segment is not None:
            self._remove_if_done(segment)
        with contextlib.suppress(OSError):
            os.unlink(self.directory / f"shim-{shim}.reserve")

    def knows(self, key: str) -> bool:
        """Say whether the ledger of an attempt can be read."""
        return key in self._places

    def read(self, key: str, from_position: int, max_bytes: int) -> bytes:
        """Return whole frames, as `read_ledger` does. Raises KeyError for an attempt that has no place."""
        segment, offset = self._places[key]
        return read_ledger(self._descriptor(segment), offset, from_position, max_bytes)

    def _descriptor(self, segment: str) -> int:
        fd = self._open.get(segment)
        if fd is None:
            fd = os.open(self.directory / segment, os.O_RDONLY | os.O_CLOEXEC)
            self._open[segment] = fd
            if len(self._open) > _OPEN_MAX:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(segment)
        return fd

    def forget(self, keys: Collection[str]) -> None:
        """Drop attempts whose ledgers nobody here needs any more."""
        left = set()
        for key in keys:
            place = self._places.pop(key, None)
            if place is not None:
                self._keys[place[0]].discard(key)
                left.add(place[0])
        for segment in left:
            self._remove_if_done(segment)

    def _remove_if_done(self, segment: str) -> None:
        if self._keys.get(segment) or segment in self._current.values():
            return
        self._keys.pop(segment, None)
        fd = self._open.pop(segment, None)
        if fd is not None:
            os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.directory / segment)

    def close(self) -> None:
        """Close what is open; the files stay."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
