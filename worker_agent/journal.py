"""The agent's journal: what was accepted, refused in advance, and settled. Written by the agent alone.

`agent.journal` holds frames (hostler.frames) with JSON. One group of records is one write(2); within
one boot that is durable enough, because the page cache survives a killed agent. Only the start of
an agent is synced: it rewrites the file by rename with its generation. A new boot id means that the
tail may be lost, so the agent must not claim to remember: it gets a new journal id, forgets its
attempts and names them as amnesia.

The high-water mark is the promise that no assignment at or below it will be started again.
Limits: standard library only, not thread-safe; holds the exclusive lock on the data directory.
"""

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from hostler import frames

COMPACT_BYTES: Final = 16 * 1024 * 1024
COMPACT_AGAIN_BYTES: Final = 1024 * 1024  # when there was no room for it
GROUP_MAX: Final = 4096  # entries in one frame
KEPT: Final = 32  # JSON object: journal id, boot id, generation, mark, epoch
ACCEPTED: Final = 33  # JSON list of [key, seq, digest]
TOMBSTONE: Final = 34  # JSON list of [key, seq]
ACKNOWLEDGED: Final = 35  # JSON list of keys

_dumps = json.JSONEncoder(separators=(",", ":")).encode


class DataDirectoryInUse(Exception):
    """Another agent holds the lock on this data directory."""


class JournalFull(Exception):
    """The record did not fit on the disk; nothing of it is kept, and what it would promise must not be promised."""


class Accepted(NamedTuple):
    """An assignment the agent takes on."""

    key: str
    seq: int  # the worker's sequence number of it, above the mark
    digest: str  # of the spec, never the spec


class Journal:
    """The open journal of the only agent on this data directory."""

    def __init__(self, directory: Path, lock_fd: int) -> None:
        """Use `open`."""
        self.journal_id = ""
        self.boot_id = ""
        self.generation = 0
        self.mark = 0
        self.epoch = 0  # the highest of a coordinator that was heard
        self.open_attempts: dict[str, int] = {}  # key -> sequence; accepted and not acknowledged
        self.digests: dict[str, str] = {}  # of the open attempts
        self.tombstones: dict[str, int] = {}  # key -> sequence; refused before they came
        self.amnesia: tuple[str, ...] = ()  # open attempts of an earlier boot; their fate is unknown
        self._directory = directory
        self._path = directory / "agent.journal"
        self._lock_fd = lock_fd
        self._fd = -1
        self._size = 0
        self._compact_at = COMPACT_BYTES

    @classmethod
    def open(cls, directory: Path, boot_id: str) -> Self:
        """Lock the directory (made if missing), read the journal, raise the generation and sync it.

        Raises:
            DataDirectoryInUse: another agent runs on it.
            OSError: the disk is full or broken.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        journal = cls(directory, _lock(directory / "agent.lock"))
        try:
            journal._read()
            if journal.boot_id != boot_id:
                journal.amnesia = tuple(journal.open_attempts)
                journal.open_attempts.clear()
                journal.digests.clear()
                journal.tombstones.clear()
                journal.mark = 0
                journal.journal_id = uuid.uuid4().hex
                journal.boot_id = boot_id
            journal.generation += 1
            journal._rewrite()
        except BaseException:
            journal.close()
            raise
        return journal

    def accept(self, group: Collection[Accepted]) -> None:
        """Take assignments on and raise the mark, all in one write.

        Raises:
            ValueError: a sequence is not above the mark (and above those before it); nothing is written.
            JournalFull: nothing is written.
        """
        mark = self.mark
        for each in group:
            if each.seq <= mark:
                raise ValueError(f"sequence {each.seq} of {each.key} is not above the mark {mark}")
            mark = each.seq
        entries = list(group)  # in JSON, a tuple is a list
        self._append(ACCEPTED, entries)
        self._note(ACCEPTED, entries)

    def tombstone(self, key: str, seq: int) -> None:
        """Refuse an assignment before it comes, because its stop came first; the mark rises to its sequence.

        Raises:
            JournalFull: nothing is written.
        """
        self._append(TOMBSTONE, [[key, seq]])
        self._note(TOMBSTONE, [[key, seq]])

    def raise_mark(self, mark: int) -> None:
        """Refuse everything up to *mark*, which an earlier journal of this worker may have seen; synced.

        Raises:
            OSError: the disk is full or broken; the old mark stays on it.
        """
        if mark > self.mark:
            before, self.mark = self.mark, mark
            try:
                self._rewrite()
            except OSError:
                self.mark = before  # it counts once it is written
                raise

    def raise_epoch(self, epoch: int) -> None:
        """Hear no coordinator of a lower epoch from now on; synced.

        Raises:
            OSError: the disk is full or broken; the old epoch stays.
        """
        if epoch > self.epoch:
            before, self.epoch = self.epoch, epoch
            try:
                self._rewrite()
            except OSError:
                self.epoch = before  # it counts once it is written
                raise

    def acknowledge(self, keys: Collection[str]) -> None:
        """The coordinator has the end of these attempts, or the refusal: forget them. The mark stays.

        A full disk is no error here: the attempts would be told again after a restart, which is harmless.
        """
        known = [key for key in keys if key in self.open_attempts or key in self.tombstones]
        if known:
            with contextlib.suppress(JournalFull):
                self._append(ACKNOWLEDGED, known)
            self._note(ACKNOWLEDGED, known)

    def close(self) -> None:
        """Close the file and give the lock back. Legal more than once."""
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    # -- records

    def _note(self, kind: int, content: Any) -> None:
        if kind == KEPT:
            self.journal_id, self.boot_id = str(content["journal_id"]), str(content["boot_id"])
            self.generation, self.mark = int(content["generation"]), int(content["mark"])
            self.epoch = int(content.get("epoch", 0))
        elif kind == ACCEPTED:
            for key, seq, digest in content:
                self.open_attempts[key] = seq
                self.digests[key] = digest
                self.mark = max(self.mark, seq)
        elif kind == TOMBSTONE:
            for key, seq in content:
                self.tombstones[key] = seq
                self.mark = max(self.mark, seq)
        elif kind == ACKNOWLEDGED:
            for key in content:
                self.open_attempts.pop(key, None)
                self.digests.pop(key, None)
                self.tombstones.pop(key, None)

    def _append(self, kind: int, entries: list[Any]) -> None:
        if self._size > self._compact_at:
            # Before the record, so that what is rewritten is exactly what was noted. The old file stays when it fails.
            try:
                self._rewrite()
            except OSError:
                self._compact_at = self._size + COMPACT_AGAIN_BYTES  # not with each record
        content = b"".join(_encode(kind, entries))
        try:
            written = os.write(self._fd, content)
        except OSError as error:
            raise JournalFull(str(error)) from error
        if written != len(content):
            os.ftruncate(self._fd, self._size)
            raise JournalFull("no space left on the device")
        self._size += written

    def _read(self) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        # A torn tail is a record whose promise was never given: `_rewrite` leaves it out.
        for frame in frames.iter_frames(content[: frames.whole_frames(content)]):
            self._note(frame.kind, json.loads(frame.payload))

    def _rewrite(self) -> None:
        """Write what is known to a new file and put it in place of the old one, synced."""
        kept = {
            "journal_id": self.journal_id,
            "boot_id": self.boot_id,
            "generation": self.generation,
            "mark": self.mark,
            "epoch": self.epoch,
        }
        accepted = [[key, seq, self.digests.get(key, "")] for key, seq in self.open_attempts.items()]
        parts = [frames.encode(KEPT, _dumps(kept).encode(), 0)]
        parts += _encode(ACCEPTED, accepted)
        parts += _encode(TOMBSTONE, [[key, seq] for key, seq in self.tombstones.items()])
        aside = self._path.with_suffix(".new")
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = _write_all(fd, b"".join(parts))
            os.fsync(fd)
            os.rename(aside, self._path)
        except BaseException:
            os.close(fd)
            # Half a journal must not take the room that a full disk has left.
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = fd, size
        self._compact_at = max(COMPACT_BYTES, 2 * size)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _encode(kind: int, entries: list[Any]) -> list[bytes]:
    groups: Iterable[list[Any]] = (entries[at : at + GROUP_MAX] for at in range(0, len(entries), GROUP_MAX))
    return [frames.encode(kind, _dumps(group).encode(), 0) for group in groups]


def _write_all(fd: int, content: bytes) -> int:
    written = 0
    while written < len(content):
        written += os.write(fd, content[written:])
    return written


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise DataDirectoryInUse(f"another agent runs on {path.parent}") from None
    except BaseException:
        os.close(fd)
        raise
    return fd
