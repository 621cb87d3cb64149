"""The shim: a small process that owns one attempt at a time and outlives the agent.

Role: a session of its own, child subreaper, in a cgroup of its own. It takes orders from one agent
over a unix socket, runs them one after another (see supervision), and keeps what it knows in its
segment. With no agent it goes on: it reads the pipes and enforces time limits and caps.

A few orders may wait here while one runs, so that the next begins at once, and ends may wait a
moment for more of them: this is for programs of some milliseconds. When the one that runs turns
out to be longer, the waiting ones are given back unrun. They never outlive their connection.

Fencing: a hello with a higher generation closes every older connection unread, drops the orders
that wait, and lower generations are refused from then on. So once a new agent has its answer, no
older order can run.

It ends when it is retired, or 3 s after it became idle with no agent connected. Without an agent it ends what runs
once its segment was deleted.
Limits: standard library only, single-threaded, one loop over epoll, no timers but the loop's.
"""

import base64
import json
import math
import os
import select
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from worker_agent import lease
from worker_agent.attempts import Cause, Order
from worker_agent.confinement import FREE, Confinement
from worker_agent.ledger import SegmentIdentity, SegmentWriter
from worker_agent.limits import Limiter
from worker_agent.oom import MemoryWatch
from worker_agent.oom_scores import open_own
from worker_agent.process_tree import Tree, signals_as_file
from worker_agent.shim_protocol import QUEUE_MAX, Decoder, ProtocolError, encode, encode_ends, order_from_json
from worker_agent.supervision import Phase, Supervision
from worker_agent.terminal import resize

ORPHAN_S: Final = 3.0  # how long an idle shim waits for an agent; what it knows is in its segment
HELLO_S: Final = 5.0  # how long a connection may stay without a hello
STRANGERS_MAX: Final = 16  # connections without a hello
UNSENT_BYTES_MAX: Final = 8 * 1024 * 1024
GATHER_S: Final = 0.03  # how long ends wait for more of them, while more orders wait
GATHER_BYTES: Final = 32 * 1024
_PEER: Final = struct.Struct("iII")
_EVENTS_MAX: Final = 16  # of one wait; Python makes room for 1,023 each time if it is not told
_SIGNALS_BYTES: Final = 512  # of four signals, in their file
_RECEIVE_BYTES: Final = 64 * 1024  # larger ones are mapped anew by malloc each time


class _Connection:
    """One accepted socket and what is half received and half sent on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.decoder = Decoder()
        self.unsent = b""
        self.until = time.monotonic() + HELLO_S


class Shim:
    """The loop of one shim process."""

    def __init__(
        self,
        *,
        identity: SegmentIdentity,
        segment: SegmentWriter,
        tree: Tree,
        listener: socket.socket,
        base_env: dict[bytes, bytes],
        limiter: Limiter,
        confinement: Confinement = FREE,
    ) -> None:
        self._identity, self._confinement = identity, confinement
        self._segment = segment
        self._tree = tree
        self._listener = listener
        self._listen_fd = listener.fileno()
        self._base_env = base_env
        self._limiter, self._memory = limiter, MemoryWatch()
        runtime = os.path.dirname(os.path.abspath(listener.getsockname()))
        self._lease = lambda term: lease.remaining_s(runtime, identity.boot_id, term)
        self._generation = 0
        self._agent: _Connection | None = None
        self._strangers: dict[int, _Connection] = {}
        self._current: Supervision | None = None
        self._queue: deque[Order] = deque()  # what runs next; at most QUEUE_MAX behind the one that runs
        self._unsaid: list[bytes] = []  # JSON of ends that wait for more of them
        self._due_unsaid = math.inf
        # JSON of the last ends, told again in `state`: as many as can be on their way to an agent and never arrive.
        self._last_ends: deque[bytes] = deque(maxlen=QUEUE_MAX + 1)
        self._retired = False
        self._poll = select.epoll()
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._score = open_own()
        self._orphan_until = time.monotonic() + ORPHAN_S
        # Signals arrive in a file, so the loop has one place to wait, and none of them runs a handler of Python.
        # Blocked, not ignored: that would be inherited by the programs. A stray SIGTERM must not orphan a tree.
        self._woken = signals_as_file((signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        listener.setblocking(False)
        self._poll.register(self._listen_fd, select.EPOLLIN)
        self._poll.register(self._woken, select.EPOLLIN)

    # -- the loop

    def run(self) -> None:
        """Serve until retired or orphaned."""
        poll, monotonic = self._poll.poll, time.monotonic
        due = self._next_due()
        while True:
            # epoll counts in milliseconds and rounds up, so a deadline is never met too early.
            timeout = -1 if due == math.inf else max(0.0, due - monotonic())
            for fd, _ in poll(timeout, _EVENTS_MAX):
                self._on_event(fd)
            # Asked anew: what was due may be over.
            if (due := self._next_due()) <= (now := monotonic()):
                self._tick(now)
                due = self._next_due()
            if self._current is None and (self._retired or self._orphaned(now)):
                return

    def _orphaned(self, now: float) -> bool:
        return self._agent is None and now >= self._orphan_until

    def _next_due(self) -> float:
        current = self._current
        due = math.inf if self._agent is not None else self._orphan_until
        if current is not None:
            due = min(due, current.next_due())
        if self._due_unsaid < due:
            due = self._due_unsaid
        for stranger in self._strangers.values():
            due = min(due, stranger.until)
        return due

    def _tick(self, now: float) -> None:
        current = self._current
        if current is not None:
            if self._orphaned(now):
                self._end_unreachable(current, now)
            current.tick(now)
            if current.is_long and self._queue:
                self._give_back(self._queue)
            self._check_over()
        if now >= self._due_unsaid:
            self._say_ends()
        for stranger in [each for each in self._strangers.values() if now >= each.until]:
            self._drop(stranger)

    def _end_unreachable(self, current: Supervision, now: float) -> None:
        """With its segment deleted nobody can ever ask for what runs here, and what it writes fills the disk unseen."""
        self._orphan_until = now + ORPHAN_S  # look again
        if not self._segment.has_name:
            current.stop(Cause.DRAIN, current.order.grace_s)

    def _on_event(self, fd: int) -> None:
        agent, current = self._agent, self._current
        if agent is not None and fd == agent.fd:
            self._on_agent(agent)
        elif fd == self._woken:
            os.read(fd, _SIGNALS_BYTES)
            if current is not None:
                current.reap()
                self._check_over()
        elif fd == self._listen_fd:
            self._accept()
        elif fd in self._strangers:
            self._on_stranger(self._strangers[fd])
        elif current is not None and current.reads(fd):
            current.on_readable(fd)
        elif current is not None and current.stdin is not None and fd == current.stdin.fd:
            current.stdin.flush()
            self._tell_fed(current)

    def _check_over(self) -> None:
        current = self._current
        if current is None or current.phase is not Phase.OVER:
            return
        self._note_end(current)
        self._begin_next()

    def _note_end(self, current: Supervision) -> None:
        now = time.monotonic()
        self._current = None
        self._orphan_until = now + ORPHAN_S
        self._last_ends.append(current.ended_json)
        if self._agent is not None:
            if not self._unsaid:
                self._due_unsaid = now + GATHER_S
            self._unsaid.append(current.ended_json)

    def _begin_next(self) -> None:
        """Begin the next order, and say the ends that have gathered unless more of them are to be expected soon."""
        while self._queue and self._current is None:
            order = self._queue.popleft()
            current = self._current = Supervision(
                order,
                tree=self._tree,
                segment=self._segment,
                poll=self._poll,
                tell=self._tell_progress,
                limiter=self._limiter,
                memory=self._memory,
                lease=self._lease,
                confinement=self._confinement,
            )
            current.begin(self._base_env, self._null, self._home, self._score)
            if current.phase is Phase.OVER:
                self._note_end(current)
        # With the last order under way the agent may send more, which then are here before it ends.
        if not self._queue or sum(map(len, self._unsaid)) > GATHER_BYTES:
            self._say_ends()

    def _say_ends(self) -> None:
        ends, self._unsaid, self._due_unsaid = self._unsaid, [], math.inf
        if ends:
            self._tell(encode_ends(ends))

    def _give_back(self, orders: Iterable[Order]) -> None:
        """Tell that these orders of the queue never ran, and never run here."""
        keys = [order.key for order in orders]
        self._queue = deque(order for order in self._queue if order.key not in keys)
        self._say_ends()
        self._tell(encode({"type": "returned", "keys": keys}))

    # -- messages to the agent

    def _tell(self, message: bytes) -> bool:
        """Send to the agent; False when there is none, or when it has not taken what it was sent before."""
        agent = self._agent
        if agent is None or agent.unsent:
            return self._tell_later(agent, message)
        try:
            sent = agent.sock.send(message)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(agent)
            return False
        if sent < len(message):
            agent.unsent = message[sent:]
            self._poll.modify(agent.fd, select.EPOLLIN | select.EPOLLOUT)
        return True

    def _tell_later(self, agent: _Connection | None, message: bytes) -> bool:
        if agent is None:
            return False
        if len(agent.unsent) + len(message) > UNSENT_BYTES_MAX:
            # An agent that does not read: it learns everything from `state` when it comes back.
            self._drop(agent)
            return False
        agent.unsent += message
        return True

    def _tell_progress(self, message: bytes) -> bool:
        """As `_tell`, for messages that may be left out while the agent is slow."""
        if self._agent is None or self._agent.unsent:
            return False
        return self._tell(message)

    def _tell_fed(self, current: Supervision) -> None:
        stdin = current.stdin
        if stdin is not None:
            how_far = {"offset": stdin.consumed, "received": stdin.received}
            how_far |= {"ended": stdin.ended, "closed": stdin.broken}
            self._tell(encode({"type": "fed", "key": current.key, **how_far}))

    def _state(self) -> bytes:
        content: dict[str, Any] = {
            "type": "state",
            "pid": self._identity.pid,
            "start_ticks": self._identity.start_ticks,
            "generation": self._generation,
            "cgroup": self._identity.cgroup,
            "freezer": self._identity.freezer,
            "confined": self._confinement.to_json(),
            "queue_max": QUEUE_MAX,
            "key": None,
            "ended": [json.loads(each) for each in self._last_ends],
        }
        current = self._current
        if current is not None:
            content |= current.where() | {"main_pid": current.pid, "started_at_us": current.started_at_us}
        return encode(content)

    # -- connections

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, _ = _PEER.unpack(peer)
        if uid not in (0, os.geteuid()) or len(self._strangers) >= STRANGERS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        stranger = _Connection(sock)
        self._strangers[stranger.fd] = stranger
        self._poll.register(stranger.fd, select.EPOLLIN)

    def _drop(self, connection: _Connection) -> None:
        self._strangers.pop(connection.fd, None)
        if self._agent is connection:
            self._agent = None
            self._orphan_until = time.monotonic() + ORPHAN_S
            # Whoever comes next judges by `state` and the segment what never ran and how the others ended.
            self._queue.clear()
            self._unsaid.clear()
            self._due_unsaid = math.inf
        connection.sock.close()

    def _receive(self, connection: _Connection) -> list[dict[str, Any]] | None:
        """Return the messages that have come; None when the connection ended and was dropped."""
        try:
            content = connection.sock.recv(_RECEIVE_BYTES)
            if content:
                return connection.decoder.feed(content)
        except BlockingIOError:
            return []
        except (OSError, ProtocolError):
            pass
        self._drop(connection)
        return None

    def _on_stranger(self, stranger: _Connection) -> None:
        messages = self._receive(stranger)
        if not messages:
            return
        hello, *rest = messages
        generation = hello.get("generation")
        if (
            hello["type"] != "hello"
            or hello.get("nonce") != self._identity.nonce
            or not isinstance(generation, int)
            or generation < self._generation
        ):
            self._drop(stranger)
            return
        # From here on the older agent is not heard any more, whatever it has already sent.
        if self._agent is not None:
            self._drop(self._agent)
        del self._strangers[stranger.fd]
        self._generation = generation
        self._agent = stranger
        self._tell(self._state())
        for message in rest:
            if self._agent is stranger:
                self._on_message(stranger, message)

    def _on_agent(self, agent: _Connection) -> None:
        if agent.unsent and not self._flush(agent):
            return
        for message in self._receive(agent) or ():
            if self._agent is not agent:
                return
            self._on_message(agent, message)

    def _flush(self, agent: _Connection) -> bool:
        """Send what the agent has not taken yet; False when the connection is lost."""
        try:
            agent.unsent = agent.unsent[agent.sock.send(agent.unsent) :]
        except BlockingIOError:
            return True
        except OSError:
            self._drop(agent)
            return False
        if not agent.unsent:
            self._poll.modify(agent.fd, select.EPOLLIN)
        return True

    def _on_message(self, agent: _Connection, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "run":
            self._take_orders(agent, message)
        elif kind == "retire":
            self._retired = True
            if self._queue:
                self._give_back(self._queue)
        elif self._current is not None and message.get("key") == self._current.key:
            self._on_control(agent, self._current, kind, message)
        elif kind == "stop" and (queued := [order for order in self._queue if order.key == message.get("key")]):
            self._give_back(queued)
        # Anything else crossed the end of its attempt; the agent has `ended` by now.

    def _on_control(self, agent: _Connection, current: Supervision, kind: str, message: dict[str, Any]) -> None:
        try:
            if kind == "stop":
                cause, grace_s = Cause(message["cause"]), float(message["grace_s"])
            elif kind == "signal":
                number = int(message["signal"])
            elif kind == "feed":
                offset, content = int(message["offset"]), base64.b64decode(message["content"])
                rows, columns = map(int, message.get("size", (0, 0)))
        except (KeyError, TypeError, ValueError):
            # Not our agent's language: nothing it says can be relied on, and the attempt must not suffer.
            self._drop(agent)
            return
        if kind == "stop":
            current.stop(cause, grace_s if grace_s >= 0 else current.order.grace_s)
        elif kind == "signal":
            current.signal(number, alone=bool(message.get("alone")))
        elif kind == "feed" and current.stdin is not None:
            if current.output.terminal >= 0:
                resize(current.output.terminal, rows, columns)
            current.stdin.feed(offset, content, eof=bool(message.get("eof")))
            self._tell_fed(current)
        self._check_over()

    def _take_orders(self, agent: _Connection, message: dict[str, Any]) -> None:
        try:
            orders = [order_from_json(each) for each in message["orders"]]
        except (KeyError, TypeError):
            orders = []
        room = QUEUE_MAX - len(self._queue) + (self._current is None)
        if not 0 < len(orders) <= room or self._retired:
            # Not what our agent does. A broken connection makes it look at our state again.
            self._drop(agent)
            return
        self._queue.extend(orders)
        if self._current is None:
            self._begin_next()
        elif self._current.is_long:
            self._give_back(orders)

    def close(self) -> None:
        """Give everything back: socket, segment, cgroup."""
        for connection in [*self._strangers.values(), *([self._agent] if self._agent else [])]:
            self._drop(connection)
        self._listener.close()
        self._segment.close()
        self._memory.close()
        self._tree.close()
