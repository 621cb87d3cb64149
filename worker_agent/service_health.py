"""Whether an HTTP service answers inside the network of its container.

A thread of its own enters that network only to make a socket: a socket stays in the network it was made in, and
the thread ends, so nothing else of this process is ever there.
Limits: Linux; entering needs root. Bounded by a few seconds.
"""

import asyncio
import ctypes
import os
import socket
import threading
from typing import Final

from worker_agent.process_tree import is_alive

ANSWER_S: Final = 3.0
_CLONE_NEWNET: Final = 0x40000000
_LINE_BYTES_MAX: Final = 4096


async def answers(pid: int, start_ticks: int, port: int, path: str) -> bool:
    """Say whether the service answers GET *path* with 2xx, or, when *path* is empty, GET / with anything.

    The process *pid* that started at *start_ticks* is the one whose network it is; False when it lives no more.
    """
    made = _socket_inside(pid, start_ticks)
    if made is None:
        return False
    with made:
        made.setblocking(False)
        try:
            async with asyncio.timeout(ANSWER_S):
                await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
                status = await _status_of(made, port, path or "/")
        except (OSError, ValueError):  # a TimeoutError is an OSError
            return False
    return not path or 200 <= status < 300


async def _status_of(made: socket.socket, port: int, path: str) -> int:
    """Return the status of an answer. Raises ValueError when it is none of HTTP."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(
        made, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nAccept: */*\r\n\r\n".encode()
    )
    line = b""
    while b"\n" not in line and len(line) < _LINE_BYTES_MAX:
        piece = await loop.sock_recv(made, _LINE_BYTES_MAX)
        if not piece:
            break
        line += piece
    version, status, *_ = line.decode("latin-1").split(None, 2)
    if not version.startswith("HTTP/"):
        raise ValueError("no HTTP")
    return int(status)


def _socket_inside(pid: int, start_ticks: int) -> socket.socket | None:
    """Make a TCP socket in the network of a process; None when that cannot be entered."""
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    made: list[socket.socket] = []

    def make() -> None:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) == 0:
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))

    try:
        # Opened first: a process that has this pid later is not the one that is meant.
        if not is_alive(pid, start_ticks):
            return None
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
    finally:
        os.close(namespace)
    return made[0] if made else None
