"""The prototype's spawners: small processes that start and reap its jobs, forked before grpc is imported.

A job writes into its slot's segment: (segment, offset, length) is its output. Messages between an agent and its
spawners are lists, packed by `marshal`, on a socket pair.
"""

import _posixsubprocess
import contextlib
import ctypes
import marshal
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

SLOTS: Final = 2
SPAWNERS: Final = 2
SEND_S: Final = 0.005  # a busy spawner lets results gather
PR_SET_CHILD_SUBREAPER: Final = 36

_LENGTH = struct.Struct("<I")


class Spawner:
    """A small process that starts and reaps jobs for its agent at the other end of *sock*."""

    def __init__(self, sock: socket.socket, directory: Path, slots: int) -> None:
        self._sock = sock
        self._todo: deque[tuple[int, list[str]]] = deque()
        self._live: dict[int, tuple[int, int, int]] = {}  # pid: job, segment, where its output begins
        self._results: list[tuple[int, int, int]] = []
        self._frames = Frames()
        self._sent_at = 0.0
        self._null = os.open("/dev/null", os.O_RDONLY)
        self._environment = [name + b"=" + value for name, value in os.environb.items()]
        # One append-only segment a slot: a job's output is (segment, offset, length). No file is made for a job
        # and no pipe is read; only one job at a time writes to a slot's segment.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._free = [os.open(directory / f"segment-{os.getpid()}-{n}", flags, 0o600) for n in range(slots)]
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until the agent closes its end."""
        poll = select.epoll()
        poll.register(self._sock, select.EPOLLIN)
        poll.register(self._woken, select.EPOLLIN)
        while True:
            self._start_some()
            self._reap()
            if self._todo and self._free:
                continue
            for descriptor, _ in poll.poll(self._flush()):
                if descriptor == self._woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                    continue
                received = self._sock.recv(1 << 20)
                if not received:
                    return
                for jobs in self._frames.feed(received):
                    self._todo.extend(jobs)

    def _start_some(self) -> None:
        while self._todo and self._free:
            job, argv = self._todo.popleft()
            segment = self._free.pop()
            begins = os.fstat(segment).st_size
            try:
                self._live[fork_exec(argv, self._environment, self._null, segment)] = (job, segment, begins)
            except OSError:
                self._free.append(segment)
                self._results.append((job, 127, 0))

    def _reap(self) -> None:
        while self._live:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid in self._live:  # otherwise an orphan of some job
                job, segment, begins = self._live.pop(pid)
                size = os.fstat(segment).st_size - begins
                self._results.append((job, os.waitstatus_to_exitcode(status), size))
                self._free.append(segment)

    def _flush(self) -> float:
        """Send results, unless more of them come soon; return how long to wait for something, -1 for ever."""
        if not self._results:
            return -1
        now = time.monotonic()
        if self._live and now - self._sent_at <= SEND_S:
            return SEND_S
        self._sock.sendall(frame(self._results))
        self._results = []
        self._sent_at = now
        return -1


def fork_exec(argv: list[str], environment: list[bytes], fd_in: int, fd_out: int) -> int:
    """Start a program by the routine below subprocess.Popen, without the object: a vfork, and cheaper.

    Raises:
        OSError: it could not be started.
    """
    reads, writes = os.pipe()
    arguments: list[Any] = [
        [os.fsencode(word) for word in argv], (os.fsencode(argv[0]),), True, (writes,), None, environment,
        fd_in, -1, -1, fd_out, -1, fd_out, reads, writes, True, True, -1, None, None, None, -1, None,
    ]  # fmt: skip
    if sys.version_info < (3, 14):
        arguments.append(True)  # allow_vfork
    routine: Any = _posixsubprocess.fork_exec
    try:
        pid: int = routine(*arguments)
    finally:
        os.close(writes)
    error = os.read(reads, 100)
    os.close(reads)
    if error:
        os.waitpid(pid, 0)
        raise OSError(error.decode())
    return pid


def frame(content: Any) -> bytes:
    """One message between an agent and its spawner."""
    packed = marshal.dumps(content)
    return _LENGTH.pack(len(packed)) + packed


class Frames:
    """Cuts a stream of bytes back into the messages that `frame` made."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[Any]:
        """Return the messages that are whole now."""
        buffer, messages = self._rest + received, []
        while len(buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer)
            if len(buffer) < _LENGTH.size + size:
                break
            messages.append(marshal.loads(buffer[_LENGTH.size : _LENGTH.size + size]))
            buffer = buffer[_LENGTH.size + size :]
        self._rest = buffer
        return messages


def start_spawners(directory: Path) -> list[socket.socket]:
    """Fork the spawners, which must happen before grpc is imported, and return the agent's ends."""
    sockets: list[socket.socket] = []
    for _ in range(SPAWNERS):
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            for sock in (ours, *sockets):
                sock.close()
            try:
                ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
                os.chdir(directory)
                Spawner(theirs, directory, SLOTS // SPAWNERS).run()
            finally:
                os._exit(0)
        theirs.close()
        sockets.append(ours)
    return sockets
