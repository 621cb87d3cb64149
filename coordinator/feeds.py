"""Standard input on its way from a client to a running attempt: bounded, in order, sent again when lost.

A feed keeps what the job has not taken yet, at most 256 KiB; the client is not read from beyond that. How far the input
has come is the word of the attempt's shim, which outlives agents and coordinators: a feed begins by asking for it, and
nothing here is durable. A client that goes away leaves the input open, for itself or for the next one.
"""

import asyncio
from collections import deque

from coordinator.sessions import Piece, Session, Sessions
from hostler.ids import AttemptKey

UNTAKEN_BYTES_MAX = 256 * 1024


class Feed:
    """The input of one attempt."""

    def __init__(self, key: AttemptKey, worker: str, sessions: Sessions) -> None:
        self.key = key
        self.taken = 0
        self.received = 0  # what the shim has, taken or not
        self.closed = False  # the job reads no more
        self.taken_over = False  # another client feeds the attempt now
        self.known = asyncio.Event()  # set once the worker has said how far the input has come
        self.changed = asyncio.Event()  # set by every word of the worker
        self.room = asyncio.Event()  # set while the client may send more
        self.room.set()
        self._ended = False  # the shim has the end as well
        self._worker = worker
        self._sessions = sessions
        self._session: Session | None = None  # to which all was sent that is not taken
        self._untaken: deque[Piece] = deque()
        self._size = (0, 0)

    @property
    def pending(self) -> bool:
        """Whether something was sent and not taken."""
        return bool(self._untaken)

    def ask(self) -> None:
        """Have the worker say how far the input has come, and the terminal have the size that was said last."""
        self._send(Piece(self.key, 0, b"", False, *self._size))

    def resize(self, rows: int, columns: int) -> None:
        """The terminal has this size from now on; 0 leaves it as it is."""
        if rows and columns and (rows, columns) != self._size:
            self._size = rows, columns
            if self.known.is_set():
                self.ask()

    def offer(self, offset: int, content: bytes, *, eof: bool) -> None:
        """Send a piece on, and keep it until it is taken."""
        piece = Piece(self.key, offset, content, eof)
        self._untaken.append(piece)
        self._measure()
        self._send(piece)

    def send_again(self) -> None:
        """The worker may have lost what was sent: send all that was not taken."""
        self.ask()
        for piece in self._untaken:
            self._send(piece)

    @property
    def may_have_lost(self) -> bool:
        """Whether the worker has connected anew since something was sent to it last."""
        return self._sessions.get(self._worker) is not self._session

    def note(self, taken: int, received: int, *, closed: bool, ended: bool) -> None:
        """The worker says how much the job has taken."""
        self.taken = max(self.taken, taken)
        self.received = max(self.received, received, self.taken)
        self.closed = self.closed or closed
        self._ended = self._ended or ended
        while self._untaken and self._is_taken(self._untaken[0]):
            self._untaken.popleft()
        self._measure()
        self.known.set()
        self.changed.set()

    def displace(self) -> None:
        """Somebody else feeds the attempt from now on; what was not taken is not sent again."""
        self.taken_over = True
        self._untaken.clear()
        self.known.set()
        self.changed.set()

    def _is_taken(self, piece: Piece) -> bool:
        return piece.offset + len(piece.content) <= self.taken and (self._ended or not piece.eof)

    def _measure(self) -> None:
        if sum(len(piece.content) for piece in self._untaken) < UNTAKEN_BYTES_MAX:
            self.room.set()
        else:
            self.room.clear()

    def _send(self, piece: Piece) -> None:
        session = self._session = self._sessions.get(self._worker)
        if session is not None:
            session.outbox.feeds.append(piece)
            session.wake.set()


class Feeds:
    """Every feed under way; an attempt has at most one, the latest."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._feeds: dict[AttemptKey, Feed] = {}

    def open(self, key: AttemptKey, worker: str) -> Feed:
        """Begin to feed an attempt; who fed it until now does so no more."""
        before = self._feeds.get(key)
        if before is not None:
            before.displace()
        feed = self._feeds[key] = Feed(key, worker, self._sessions)
        return feed

    def close(self, feed: Feed) -> None:
        """End a feed."""
        if self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]

    def note(self, key: AttemptKey, taken: int, received: int, *, closed: bool, ended: bool) -> None:
        """Pass a worker's word on."""
        feed = self._feeds.get(key)
        if feed is not None:
            feed.note(taken, received, closed=closed, ended=ended)
