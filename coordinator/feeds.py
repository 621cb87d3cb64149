"""Standard input on its way from a client to a running attempt: bounded, in order, sent again when lost.

A feed keeps what the job has not taken yet, at most 256 KiB; the client is not read from beyond that.
Nothing here is durable: a client that goes away simply ends the input.
"""

import asyncio
from collections import deque

from coordinator.sessions import Piece, Sessions
from hostler.ids import AttemptKey

UNTAKEN_BYTES_MAX = 256 * 1024


class Feed:
    """The input of one attempt."""

    def __init__(self, key: AttemptKey, worker: str, sessions: Sessions) -> None:
        self.key = key
        self.taken = 0
        self.closed = False  # the job reads no more
        self.changed = asyncio.Event()  # set by every word of the worker
        self.room = asyncio.Event()  # set while the client may send more
        self.room.set()
        self._worker = worker
        self._sessions = sessions
        self._untaken: deque[Piece] = deque()

    @property
    def pending(self) -> bool:
        """Whether something was sent and not taken."""
        return bool(self._untaken)

    def offer(self, offset: int, content: bytes, *, eof: bool) -> None:
        """Send a piece on, and keep it until it is taken."""
        piece = Piece(self.key, offset, content, eof)
        self._untaken.append(piece)
        self._measure()
        self._send(piece)

    def send_again(self) -> None:
        """The worker may have lost what was sent: send all that was not taken."""
        for piece in self._untaken:
            self._send(piece)

    def note(self, taken: int, *, closed: bool) -> None:
        """The worker says how much the job has taken."""
        self.taken = max(self.taken, taken)
        self.closed = self.closed or closed
        while self._untaken and self._untaken[0].offset + len(self._untaken[0].content) <= self.taken:
            self._untaken.popleft()
        self._measure()
        self.changed.set()

    def _measure(self) -> None:
        if sum(len(piece.content) for piece in self._untaken) < UNTAKEN_BYTES_MAX:
            self.room.set()
        else:
            self.room.clear()

    def _send(self, piece: Piece) -> None:
        session = self._sessions.get(self._worker)
        if session is not None:
            session.outbox.feeds.append(piece)
            session.wake.set()


class Feeds:
    """Every feed under way; an attempt has at most one, the latest."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._feeds: dict[AttemptKey, Feed] = {}

    def open(self, key: AttemptKey, worker: str) -> Feed:
        """Begin to feed an attempt."""
        feed = self._feeds[key] = Feed(key, worker, self._sessions)
        return feed

    def close(self, feed: Feed) -> None:
        """End a feed."""
        if self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]

    def note(self, key: AttemptKey, taken: int, *, closed: bool) -> None:
        """Pass a worker's word on."""
        feed = self._feeds.get(key)
        if feed is not None:
            feed.note(taken, closed=closed)
