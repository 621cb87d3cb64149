"""Starts parts as forks of an interpreter that has loaded their modules: a restart costs a tenth of the processor time.

    python -m tests.faults.nursery DIRECTORY      (its standard input is the socket of `Nursery`)

A part is then a process of its own like any other, with the arguments, descriptors, cgroup and network namespace that
it would have had; only the loading of its modules is not repeated. Stories (test_partitions.py, test_points.py) and
tests/cluster start the programs as users do.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOADED = ("coordinator.app", "worker_agent.app", "http_gateway.app", "tests.faults.failing")
READY_S = 60.0
_REQUEST_BYTES_MAX = 65_536
_NEW_NETWORK, _NEW_HOST_NAME = 0x40000000, 0x04000000


class Child:
    """A started part, with the calls of `subprocess.Popen` that are needed."""

    def __init__(self, pid: int, pidfd: int, code: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd, self._code = pidfd, code

    def poll(self) -> int | None:
        """The exit code once it has ended."""
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                said = self._code.recv(16, socket.MSG_DONTWAIT)
                self._ended(int(said) if said else -signal.SIGKILL)  # nothing: its nursery was ended
        return self.returncode

    def _ended(self, code: int) -> None:
        self.returncode = code
        self._code.close()
        os.close(self._pidfd)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        until = time.monotonic() + (timeout or 3600.0)
        while (code := self.poll()) is None:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 3600.0)
            select.select([self._code.fileno()], [], [], left_s)
        return code

    def send(self, number: int) -> None:
        """Send a signal; nothing happens when it has gone."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send(signal.SIGKILL)


class Nursery:
    """The other end: asks for children. `close` ends the nursery, not its children."""

    def __init__(self, directory: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(READY_S)
        with theirs, (directory / "nursery.log").open("ab") as log:
            command = [sys.executable, "-m", "tests.faults.nursery", str(directory)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=theirs.fileno(), stdout=log, stderr=log)
        self.pid = self._process.pid

    def start(self, arguments: list[str], log: Path, *, cgroup: str = "", network: str = "", host: str = "") -> Child:
        """Start `tests.faults.failing` with these arguments."""
        asked = {"arguments": arguments, "log": str(log), "cgroup": cgroup, "network": network, "host": host}
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._socket, [json.dumps(asked).encode()], [theirs.fileno()])
        said, fds, *_ = socket.recv_fds(self._socket, 64, 1)
        assert fds, f"the nursery said {said!r}; see nursery.log"
        return Child(int(said), fds[0], ours)

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait(READY_S)


def _serve(asking: socket.socket) -> None:
    """Start what is asked for and tell of ends until the other side has gone."""
    waiting: dict[int, socket.socket] = {}
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a keyboard: who asked for the parts ends them
    while True:
        ready, _, _ = select.select([asking.fileno(), wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 1024)
            for pid in list(waiting):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    with waiting.pop(pid) as code, contextlib.suppress(OSError):
                        code.send(b"%d" % os.waitstatus_to_exitcode(status))
        if asking.fileno() in ready:
            request, fds, *_ = socket.recv_fds(asking, _REQUEST_BYTES_MAX, 1)
            if not request:
                return
            pid = os.fork()
            if pid == 0:
                _be(json.loads(request), [asking.fileno(), wake_read, wake_write, *fds])
            waiting[pid] = socket.socket(fileno=fds[0])
            pidfd = os.pidfd_open(pid)  # ours to wait for, so the pid is still its own
            socket.send_fds(asking, [b"%d" % pid], [pidfd])
            os.close(pidfd)


def _be(asked: dict[str, Any], foreign: list[int]) -> None:
    """Become the part; does not return."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if asked["cgroup"]:
            Path(asked["cgroup"]).write_text("0")
        if asked["network"]:
            _enter(asked["network"], asked["host"])
        null = os.open("/dev/null", os.O_RDONLY)
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for fd, place in ((null, 0), (log, 1), (log, 2)):
            os.dup2(fd, place)
        os.closerange(3, max(*foreign, null, log) + 1)
        sys.argv = ["tests.faults.failing", *asked["arguments"]]
        code = importlib.import_module("tests.faults.failing").main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _enter(network: str, host: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(network, os.O_RDONLY)
    if libc.setns(fd, _NEW_NETWORK) or libc.unshare(_NEW_HOST_NAME):
        raise OSError(ctypes.get_errno(), f"cannot enter {network}")
    os.close(fd)
    socket.sethostname(host)


def main() -> int:
    """Load and serve."""
    # As the agent has it for its children; it counts when gRPC is loaded.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a module starts threads when it is loaded: it cannot be forked"
    asking = socket.socket(fileno=os.dup(0))
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    _serve(asking)
    return 0


if __name__ == "__main__":
    sys.exit(main())
