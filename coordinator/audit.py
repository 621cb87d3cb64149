"""The audit log: who did what, and who was turned away. Written by one owner, in groups.

`AuditLog.note` costs the caller a tuple. What was noted is on the disk within `GROUP_S`; a call that changes who may
do what waits for that with `AuditLog.settled`. While the disk refuses, nothing is lost: the entries wait in memory,
new work is refused (`AuditLog.check`), and what ends work goes on. Turned-away callers get some lines each; the rest
is counted.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import NamedTuple

from coordinator.audit_files import AuditFiles
from hostler import logs
from hostler.audit import EXPIRED, NOTED, REFUSED, Entry, entries_after
from hostler.clock import Clock
from hostler.errors import Unavailable

DIRECTORY = "audit"
FILE_BYTES_MAX = 64 * 1024 * 1024
GROUP_S = 0.1
AGAIN_S = 1.0  # after the disk has refused
EXPIRE_EVERY_S = 3600.0
BATCH_MAX = 2_000  # entries written at once
WAITING_MAX = 20_000  # entries in memory
NEW_WORK_MAX = WAITING_MAX // 2  # above it new work is refused; what ends work goes on
TEXT_CHARACTERS_MAX = 200
DETAIL_CHARACTERS_MAX = 500
WINDOW_S = 10.0
OF_ONE_MAX = 10  # lines a window for one caller who is turned away from one thing
CALLERS_MAX = 1_000  # told apart in one window; those above are counted together
SELF = "coordinator"


class _Window(NamedTuple):
    entry: Entry  # the last one that was counted
    ends_at: float
    refused: int


class AuditLog:
    """One coordinator's audit log. `open`, then `run` by its owner, then `close`."""

    def __init__(
        self, directory: Path, clock: Clock, *, keep_s: float = 0.0, file_bytes_max: int = FILE_BYTES_MAX
    ) -> None:
        """*keep_s* is how long closed files are kept; 0: for ever."""
        self._directory = directory
        self._clock = clock
        self._keep_s = keep_s
        self._files = AuditFiles(directory, file_bytes_max=file_bytes_max)
        self._waiting: list[Entry] = []
        self._dropped = 0
        self._noted = 0  # entries ever noted and kept
        self._written = 0
        self._failure = ""
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._progress = asyncio.Condition()
        self._windows: dict[tuple[str, str], _Window] = {}
        self._expire_at = clock.monotonic()

    def open(self) -> None:
        """Open the files and note the start; blocks.

        Raises:
            InvalidRequest: they cannot be used.
        """
        for text in self._files.open():
            self.note_own("audit/Recover", detail=text)
        self.note_own("coordinator/Start")

    # Notes

    def note(
        self,
        action: str,
        decision: str,
        *,
        principal: str,
        credential: str = "",
        address: str = "",
        target: str = "",
        detail: str = "",
    ) -> None:
        """Note one decision; see `hostler.audit.Entry` for the meaning of each."""
        if len(self._waiting) >= WAITING_MAX:
            self._dropped += 1
            return
        cut = TEXT_CHARACTERS_MAX
        at_us = self._clock.wall_us()
        texts = (principal[:cut], credential[:cut], address[:cut], action, target[:cut], decision)
        entry = Entry(0, at_us, *texts, detail[:DETAIL_CHARACTERS_MAX])
        if decision == REFUSED and self._is_one_of_many(entry):
            return
        self._waiting.append(entry)
        self._noted += 1
        self._wake.set()

    def note_own(self, action: str, *, target: str = "", detail: str = "") -> None:
        """Note what the coordinator did by itself."""
        self.note(action, NOTED, principal=SELF, target=target, detail=detail)

    def _is_one_of_many(self, entry: Entry) -> bool:
        now = self._clock.monotonic()
        key = (entry.credential or entry.address or entry.principal, entry.action)
        if key not in self._windows and len(self._windows) >= CALLERS_MAX:
            key = ("", "")
        window = self._windows.get(key)
        if window is None:
            window = _Window(entry, now + WINDOW_S, 0)
        self._windows[key] = window._replace(entry=entry, refused=window.refused + 1)
        return window.refused >= OF_ONE_MAX

    def _count_refusals(self, *, every: bool = False) -> None:
        """Note how many more were turned away in the windows that are over."""
        now = self._clock.monotonic()
        for key, window in list(self._windows.items()):
            if every or now >= window.ends_at:
                del self._windows[key]
                more = window.refused - OF_ONE_MAX
                if more > 0 and len(self._waiting) < WAITING_MAX:
                    counted = window.entry._replace(target="", detail=f"{more} more like this within {WINDOW_S:g} s")
                    if key == ("", ""):
                        counted = counted._replace(principal="", credential="", address="", action="any")
                    self._waiting.append(counted)
                    self._noted += 1

    # What callers wait for

    def check(self) -> None:
        """Refuse what is new while entries cannot be written.

        Raises:
            Unavailable: they cannot.
        """
        if self._failure or len(self._waiting) >= NEW_WORK_MAX:
            reason = self._failure or f"{len(self._waiting)} entries wait to be written"
            raise Unavailable(f"the audit log cannot keep up: {reason}", retry_after_s=5)

    async def settled(self, within_s: float = 10.0) -> None:
        """Wait until all that was noted by now is on the disk.

        Raises:
            Unavailable: it is not; it will be, as soon as the disk takes it.
        """
        mark = self._noted
        self._hurry.set()
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._progress:
                await self._progress.wait_for(lambda: self._written >= mark or bool(self._failure))
        if self._written < mark:
            raise Unavailable(
                f"it is done, and its entry in the audit log is not written yet: {self._failure or 'the disk is slow'}"
            )

    async def read(self, after: int, count: int) -> list[Entry]:
        """At most *count* entries after the one of this number, oldest first."""
        return await asyncio.to_thread(self._read, after, count)

    def _read(self, after: int, count: int) -> list[Entry]:
        found = entries_after(self._directory, after)
        return [entry for entry, _ in zip(found, range(count), strict=False)]

    # The owner

    async def run(self) -> None:
        """Write what is noted, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WINDOW_S / 2):
                    await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S if self._failure else GROUP_S):
                    await self._hurry.wait()
            self._hurry.clear()
            self._count_refusals()
            await self._write_waiting()
            if self._keep_s and not self._failure and self._clock.monotonic() >= self._expire_at:
                self._expire_at = self._clock.monotonic() + EXPIRE_EVERY_S
                try:
                    await self._expire()
                except OSError as error:
                    logs.get().warning("audit.kept", reason=error.strerror or str(error))

    async def close(self) -> None:
        """Note the stop, and write what is left; its owner must have ended `run`."""
        self._count_refusals(every=True)
        self.note_own("coordinator/Stop")
        await self._write_waiting()
        await asyncio.to_thread(self._files.close)

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch = self._waiting[:BATCH_MAX]
            # Shielded: whoever is cancelled meanwhile must not write them a second time.
            writing = asyncio.ensure_future(asyncio.to_thread(self._append, batch))
            try:
                failure = await asyncio.shield(writing)
            except asyncio.CancelledError:
                self._took(batch, await writing)
                raise
            self._took(batch, failure)
            async with self._progress:
                self._progress.notify_all()
            if failure:
                self._wake.set()
                return

    def _append(self, batch: list[Entry]) -> str:
        try:
            self._files.append(batch)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def _took(self, batch: list[Entry], failure: str) -> None:
        if failure:
            if not self._failure:
                logs.get().error("audit.failed", reason=failure, waiting=len(self._waiting))
            self._failure = failure
            return
        if self._failure:
            logs.get().info("audit.recovered", waiting=len(self._waiting))
        self._failure = ""
        del self._waiting[: len(batch)]
        self._written += len(batch)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.note_own("audit/Dropped", detail=f"{dropped} entries had no room in memory while the disk was full")

    async def _expire(self) -> None:
        """Remove files that are older than they are to be, after an entry that says so is on disk. Raises OSError."""
        oldest_s = self._clock.wall_us() / 1e6 - self._keep_s
        closed = await asyncio.to_thread(self._files.closed)
        over = []
        for file in closed:
            if file.written_at_s >= oldest_s:
                break
            over.append(file)
        if not over:
            return
        self.note_own(EXPIRED, target=str(over[-1].last), detail=f"{len(over)} files that were older than is kept")
        await self._write_waiting()
        if not self._failure:
            for file in over:
                await asyncio.to_thread(file.path.unlink, missing_ok=True)
