"""Output files of running attempts: a reader here waits for the worker that has the file.

The reader's side asks through the worker's session and waits; the worker answers with a stream of its own,
`Workers.SendOutput`, that names the ticket. Between the two at most 4 MiB are held: a slow reader slows the worker.
Nothing is kept.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from coordinator.sessions import Session, Sessions, ShowOutput
from hostler.errors import FileNotFound, HostlerError, NotRunning, Overloaded, Unavailable
from hostler.ids import AttemptKey, new_uuid

TICKETS_MAX = 64
ANSWER_S = 10.0  # how long a worker may take to begin
STALL_S = 60.0  # how long it may take over the next piece
HELD_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReading:
    """A file that a worker sends: its size and time when the worker opened it, and the bytes asked for."""

    size_bytes: int
    modified_at_us: int
    pieces: AsyncGenerator[bytes, None]


class Showing:
    """One ticket: bytes on their way from a worker to a reader."""

    def __init__(self, offset: int, length: int) -> None:
        self.size_bytes = 0
        self.modified_at_us = 0
        self.answered = asyncio.Event()  # the worker has said what follows, or has failed
        self.left = asyncio.Event()  # the reader wants no more
        self._begun = False
        self._offset = offset
        self._length = length
        self._missing_bytes = 0  # of what is to come
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._failure: HostlerError | None = None

    def begin(self, size_bytes: int, modified_at_us: int) -> None:
        """The worker has opened the file."""
        self.size_bytes = size_bytes
        self.modified_at_us = modified_at_us
        rest = max(0, size_bytes - self._offset)
        self._missing_bytes = min(rest, self._length) if self._length else rest
        self._begun = True
        self.answered.set()

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for has come."""
        return self._begun and not self._missing_bytes

    async def offer(self, piece: bytes) -> None:
        """Give the reader the next bytes, once it has room.

        A file may grow while it is read: what comes beyond the size it was opened with is left out.
        """
        piece = piece[: self._missing_bytes]
        while self._held_bytes and self._held_bytes + len(piece) > HELD_BYTES_MAX and not self.left.is_set():
            self._room.clear()
            await self._room.wait()
        if piece and not self.left.is_set():
            self._pieces.append(piece)
            self._held_bytes += len(piece)
            self._missing_bytes -= len(piece)
            self._filled.set()

    def fail(self, error: HostlerError) -> None:
        """The worker sends no more; the reader is told unless it has everything already."""
        if self._failure is None and not self.complete:
            self._failure = error
        self.answered.set()
        self._filled.set()

    def leave(self) -> None:
        """The reader wants no more."""
        self.left.set()
        self._pieces.clear()
        self._room.set()

    def check_begun(self) -> None:
        """Raise what the worker failed with before it could begin."""
        if self._failure is not None and not self._begun:
            raise self._failure

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield what comes, to the end of what was asked for."""
        while self._pieces or self._missing_bytes:
            if self._pieces:
                piece = self._pieces.popleft()
                self._held_bytes -= len(piece)
                self._room.set()
                yield piece
                continue
            if self._failure is not None:
                raise self._failure
            self._filled.clear()
            try:
                async with asyncio.timeout(STALL_S):
                    await self._filled.wait()
            except TimeoutError as error:
                text = f"the worker has sent nothing for {STALL_S:g} s"
                raise Unavailable(text, field="worker", retry_after_s=1) from error


class Shows:
    """Every open ticket."""

    def __init__(self, sessions: Sessions, *, answer_s: float = ANSWER_S) -> None:
        self._sessions = sessions
        self._answer_s = answer_s
        self._showings: dict[str, Showing] = {}  # by ticket
        self._awaited: set[str] = set()  # tickets that no worker has taken up yet

    def reach(self, worker: str) -> Session:
        """Return the session of a worker that has files. Raises Unavailable: it is not connected."""
        session = self._sessions.get(worker)
        if session is None:
            text = "the worker that runs the job is not connected; its files come when it is"
            raise Unavailable(text, field="worker", retry_after_s=5)
        return session

    @asynccontextmanager
    async def open(
        self, worker: str, key: AttemptKey, path: str, offset: int, length: int
    ) -> AsyncIterator[LiveReading]:
        """Read a file of a running attempt, or a part, from the worker that runs it.

        Raises on entering:
            FileNotFound: the worker says that it cannot be read.
            Overloaded: too many are being read.
            Unavailable: the worker is not connected, or does not answer. Also raised in the middle.
        """
        session = self.reach(worker)
        if len(self._showings) >= TICKETS_MAX:
            raise Overloaded(f"{TICKETS_MAX} files of running jobs are being read already", retry_after_s=1)
        ticket = new_uuid(os.urandom(16))
        showing = self._showings[ticket] = Showing(offset, length)
        self._awaited.add(ticket)
        try:
            session.outbox.shows.append(ShowOutput(ticket, key, path, offset, length))
            session.wake.set()
            try:
                async with asyncio.timeout(self._answer_s):
                    await showing.answered.wait()
            except TimeoutError as error:
                text = f"the worker did not answer within {self._answer_s:g} s"
                raise Unavailable(text, field="worker", retry_after_s=1) from error
            showing.check_begun()
            yield LiveReading(
                size_bytes=showing.size_bytes, modified_at_us=showing.modified_at_us, pieces=showing.pieces()
            )
        finally:
            showing.leave()
            self._awaited.discard(ticket)
            del self._showings[ticket]

    def take_up(self, ticket: str) -> Showing:
        """The worker's stream for a ticket has come.

        Raises:
            FileNotFound: nobody waits for this ticket (any more).
            NotRunning: another stream has taken it up.
        """
        showing = self._showings.get(ticket)
        if showing is None:
            raise FileNotFound("nobody waits for this file any more")
        if ticket not in self._awaited:
            raise NotRunning("this ticket was taken up already")
        self._awaited.discard(ticket)
        return showing
