"""The hardened start path: a program in a PID namespace of its own, below a small init of ours.

Role: what the warm path's `spawn` is, for an attempt that asks for it. The shim forks the init by hand, with
clone3(2), into a new PID namespace and a mount namespace with its own /proc; where the worker is not root, into a
user namespace as well. The init is process 1 there: it drops what a program must not have (core files, open
descriptors, new privileges), starts the program with the warm path's own `spawn`, reaps whatever is orphaned,
forwards signals, and tells the shim how the program ended. It is never replaced by the program, so the program
cannot end it, and nothing in the namespace outlives it: the kernel kills all of it with the init.

Three things end the init: its namespace has become empty; the shim closes its end of the *order* pipe, whereupon the
init kills everything and tells what it used; the shim dies or sends SIGKILL, whereupon the kernel kills everything.
So an init that was waited for proves that nothing is left.

Run as `python -m worker_agent.hardened` it is a probe: exit code 0 says that this host allows all that is needed.
Limits: Linux, standard library only, single-threaded callers only. A program of root keeps root's capabilities.
Sources: clone(2), pid_namespaces(7), user_namespaces(7), prctl(2), close_range(2), proc(5).
"""

import contextlib
import ctypes
import errno
import functools
import gc
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn

from worker_agent.attempts import Order
from worker_agent.confinement import FREE, Confinement
from worker_agent.process_tree import Reaped, SpawnFailed, reap_one, spawn

INIT_NAME: Final = "hostler-init"  # of at most 15 bytes
START_S: Final = 60.0  # from the fork until the program's exec
END_S: Final = 0.5  # for the init to end what is in the namespace itself, before it is killed
_SYS_CLONE3: Final = 435  # the same on all architectures that Python has wheels for
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWPID: Final = 0x20000000
_MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8
_MS_NOSUID_NODEV: Final = 2 | 4
_MS_REC_SLAVE: Final = 0x4000 | 0x80000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_NO_NEW_PRIVS: Final = 38
_UMASK: Final = 0o077
_ALONE: Final = 0x80  # with the number of a signal, which is at most 64
_REPORT_BYTES_MAX: Final = 4096  # PIPE_BUF: reports are written in one piece
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_CAUGHT: Final = (signal.SIGCHLD, *_FORWARDED)
# Python ignores the first two, a shell without job control perhaps the others; ignored ones outlive an exec.
_PERHAPS_IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class Used(NamedTuple):
    """What all processes of a namespace used that were waited for."""

    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    memory_kb: int = 0  # the highest peak of one process
    processes: int = 0


class Namespace:
    """A program in its namespace, as the shim sees it. Its reports are read without blocking."""

    def __init__(self, init: int, reports: int, order: int) -> None:
        """*init* is the pid of the init; *reports* and *order* are this side's ends of its two pipes."""
        self.init = init
        self.fd = reports
        self.pid = 0  # of the program
        self.status: int | None = None  # of the program, as of wait(2), once it has ended
        self.left = False  # with a status: processes of the namespace live on
        self.used: Used | None = None  # once the namespace is empty
        self.is_silent = False  # the init has closed its end: it ends, or waits for what cannot be killed
        self._order = order
        self._error = ""
        self._rest = b""

    def _await_start(self) -> None:
        """Wait for the program's exec. Raises SpawnFailed, with nothing left of the attempt."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while not self.pid:
            ended = not poll.poll(START_S * 1000) or not self.read()
            if ended and not self.pid:
                # Killed also when it has reported and ends by itself: it may hang on its way.
                os.kill(self.init, signal.SIGKILL)
                os.waitpid(self.init, 0)
                self.close()
                raise SpawnFailed(self._error or "its namespace could not be made: the first process ended")
        os.set_blocking(self.fd, False)
        os.set_blocking(self._order, False)

    def read(self) -> bool:
        """Take in what the init has reported; False when there was nothing, or it has ended."""
        try:
            content = os.read(self.fd, 4 * _REPORT_BYTES_MAX)
        except BlockingIOError:
            return False
        self.is_silent = not content
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            kind, *fields = json.loads(line)
            if kind == "started":
                (self.pid,) = fields
            elif kind == "failed":
                (self._error,) = fields
            elif kind == "exited":
                self.status, self.left = fields
            elif kind == "used":
                self.used = Used(*fields)
        return bool(content)

    def signal(self, number: int, *, alone: bool = False) -> None:
        """Have the init send a signal to the program, *alone* or with its process group, unless it has ended.

        The init alone knows at every moment whether the number of the group is still the program's.
        """
        with contextlib.suppress(OSError):  # the init has ended, or has not taken thousands before
            os.write(self._order, bytes((number | (_ALONE if alone else 0),)))

    def end_all(self) -> bool:
        """Order the init to kill everything; False when it was ordered before."""
        if self._order < 0:
            return False
        os.close(self._order)
        self._order = -1
        return True

    def ended(self, reaped: Reaped) -> Used:
        """Take in that the init was waited for, whose namespace is empty then, and return what was used there."""
        while self.read():
            pass
        if self.status is None and os.WIFSIGNALED(reaped.status):
            self.status = signal.SIGKILL  # the kernel's answer to the init's end
        self.left = False
        if self.used is None:
            # It was killed itself. Its own share is small; its own memory is not the program's.
            usage = reaped.usage
            self.used = Used(usage.ru_utime, usage.ru_stime, 0, 1)
        return self.used

    def close(self) -> None:
        """Close the pipes."""
        self.end_all()
        os.close(self.fd)


def start(
    order: Order,
    env: Mapping[bytes, bytes],
    home: int,
    confinement: Confinement = FREE,
    *,
    stdin: int,
    stdout: int,
    stderr: int,
) -> Namespace:
    """Start the program of an order in a namespace; the arguments are those of `process_tree.spawn`.

    Raises:
        SpawnFailed: nothing was started; the texts are those of `spawn`.
        OSError: the kernel refused a pipe or the namespace.
    """
    reports, report = os.pipe2(os.O_CLOEXEC)
    try:
        ordered, ordering = os.pipe2(os.O_CLOEXEC)
    except OSError:
        os.close(reports)
        os.close(report)
        raise
    try:
        pid = _clone(_libc())
        if pid == 0:
            streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
            _Init((order, env, home, confinement), report=report, ordered=ordered, streams=streams).run()
    except OSError:
        os.close(reports)
        os.close(ordering)
        raise
    finally:
        os.close(report)
        os.close(ordered)
    made = Namespace(pid, reports, ordering)
    made._await_start()
    return made


def _pass(*_: object) -> None:
    """Handle a signal by its number in the wake-up pipe."""


@functools.cache
def _libc() -> ctypes.PyDLL:
    # PyDLL keeps the interpreter's lock during a call, so that the child of a clone has it as well.
    return ctypes.PyDLL(None, use_errno=True)


class _CloneArguments(ctypes.Structure):
    """The first version of clone3's argument."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls")
    )


def _clone(libc: ctypes.PyDLL) -> int:
    """Fork into new namespaces; return 0 in the child. Raises OSError.

    Legal in a single-threaded interpreter only: nothing of Python's own fork is done.
    """
    flags = _CLONE_NEWPID | _CLONE_NEWNS
    if os.geteuid() != 0:
        flags |= _CLONE_NEWUSER
    arguments = _CloneArguments(flags=flags, exit_signal=signal.SIGCHLD)
    pid: int = libc.syscall(
        ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments))
    )
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"a PID namespace cannot be made: {os.strerror(number).lower()}")
    return pid


class _Init:
    """Process 1 of the namespace. `run` never returns."""

    def __init__(
        self,
        given: tuple[Order, Mapping[bytes, bytes], int, Confinement],
        *,
        report: int,
        ordered: int,
        streams: Mapping[str, int],
    ) -> None:
        self._libc = _libc()
        self._given = given  # the first arguments of `process_tree.spawn`
        self._report, self._ordered, self._streams = report, ordered, streams
        self._pid = 0
        self._status: int | None = None
        self._used = [0.0, 0.0, 0, 0]

    def run(self) -> NoReturn:
        """Be the init until the namespace is empty."""
        try:
            gc.disable()
            self._prepare()
            self._start()
            self._serve()
        except SpawnFailed as error:
            self._tell("failed", str(error)[: _REPORT_BYTES_MAX // 8])
        except OSError as error:
            reason = error.filename or os.strerror(error.errno or 0).lower()
            self._tell("failed", f"its namespace could not be made: {reason}"[: _REPORT_BYTES_MAX // 8])
        except BaseException:
            # The owner of the process: nothing of the shim may run on in it.
            self._tell("failed", traceback.format_exc(limit=-2)[: _REPORT_BYTES_MAX // 8])
        finally:
            os._exit(0)

    def _tell(self, *report: Any) -> None:
        os.write(self._report, json.dumps(report).encode() + b"\n")

    def _prctl(self, option: int, argument: Any) -> None:
        self._check(self._libc.prctl(option, argument, 0, 0, 0), "prctl")

    def _check(self, answer: int, what: str) -> None:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, what, f"{what}: {os.strerror(number).lower()}")

    def _prepare(self) -> None:
        """Become what the program's first ancestor must be; the program inherits nearly all of it."""
        self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self._prctl(_PR_SET_NAME, INIT_NAME.encode())
        ids = os.geteuid(), os.getegid()
        self._close_others()
        woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._woken = woken
        self._catch_signals()
        poll = self._poll = select.poll()
        poll.register(woken, select.POLLIN)
        poll.register(self._ordered, select.POLLIN)
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(_UMASK)
        # Through this one the host's numbers of processes can still be read.
        self._host_proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if ids[0] != 0:
            # Everybody keeps their own number; the capabilities of the new namespace end with the exec.
            self._write_map("setgroups", "deny")
            self._write_map("uid_map", f"{ids[0]} {ids[0]} 1")
            self._write_map("gid_map", f"{ids[1]} {ids[1]} 1")
        self._check(self._libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_SLAVE), None), "mount /")
        flags = ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC)
        self._check(self._libc.mount(b"proc", b"/proc", b"proc", flags, None), "mount /proc")
        if self._given[3].private_tmp:
            self._cover(b"/tmp")
            with contextlib.suppress(FileNotFoundError):
                self._cover(b"/var/tmp")
        self._prctl(_PR_SET_NO_NEW_PRIVS, 1)

    def _cover(self, place: bytes) -> None:
        """Mount an empty directory, which ends with the namespace."""
        flags = ctypes.c_ulong(_MS_NOSUID_NODEV)
        self._check(self._libc.mount(b"tmpfs", place, b"tmpfs", flags, b"mode=1777"), f"mount {place.decode()}")

    def _close_others(self) -> None:
        """Close every descriptor but those that are needed; the shim's sockets and segment are not for us."""
        kept = sorted({self._report, self._ordered, self._given[2], *self._streams.values()})
        low = 3
        for fd in kept:
            if fd >= low:
                os.closerange(low, fd)
                low = fd + 1
        os.closerange(low, 2**31 - 1)

    def _write_map(self, name: str, content: str) -> None:
        fd = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._host_proc)
        try:
            os.write(fd, content.encode())
        finally:
            os.close(fd)

    def _catch_signals(self) -> None:
        """Catch the end of children and what is forwarded; the rest is as a fresh process has it."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in _CAUGHT:
            signal.signal(number, _pass)
        for number in _PERHAPS_IGNORED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the shim has some blocked

    def _start(self) -> None:
        if self._poll_ordered():
            raise SpawnFailed("the process that made it ended")  # before the kernel knew that we end with it
        order, env, home, confinement = self._given
        self._pid = spawn(order, env, home, confinement, **self._streams)
        for fd in set(self._streams.values()) - {0, 1, 2}:
            os.close(fd)
        self._tell("started", self._host_pid(self._pid))

    def _poll_ordered(self) -> bool:
        return any(fd == self._ordered for fd, _ in self._poll.poll(0))

    def _host_pid(self, pid: int) -> int:
        """The number that the shim knows a child of ours by; a child that is not reaped has one."""
        held = os.pidfd_open(pid)
        try:
            fd = os.open(f"self/fdinfo/{held}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._host_proc)
            try:
                lines = os.read(fd, _REPORT_BYTES_MAX).splitlines()
            finally:
                os.close(fd)
        finally:
            os.close(held)
        return next(int(line.split()[1]) for line in lines if line.startswith(b"Pid:"))

    def _serve(self) -> None:
        """Reap and forward until nothing is left."""
        while self._reap():
            for fd, _ in self._poll.poll():
                numbers = os.read(fd, 4096)
                if fd == self._ordered and not numbers:
                    self._poll.unregister(fd)
                    # All but ourselves, at one moment: no fork can outrun it.
                    os.kill(-1, signal.SIGKILL)
                for number in numbers:
                    self._forward(number, ordered=fd == self._ordered)
        self._tell("used", *self._used)

    def _forward(self, number: int, *, ordered: bool) -> None:
        """Pass a signal on to the program while it is not reaped; its number cannot be another's until then."""
        if self._status is not None or (number == signal.SIGCHLD and not ordered):
            return
        with contextlib.suppress(OSError):
            if ordered and not number & _ALONE:
                os.killpg(self._pid, number)
            else:
                os.kill(self._pid, number & ~_ALONE)

    def _reap(self) -> bool:
        """Wait for whatever has ended; False when nothing is left."""
        main_ended, left = False, True
        try:
            while (reaped := reap_one()) is not None:
                self._note(reaped)
                main_ended = main_ended or reaped.pid == self._pid
        except ChildProcessError:
            left = False
        if main_ended:
            self._tell("exited", self._status, left)
        return left

    def _note(self, reaped: Reaped) -> None:
        used, usage = self._used, reaped.usage
        used[0] += usage.ru_utime
        used[1] += usage.ru_stime
        # A child's peak begins with our own pages.
        if usage.ru_maxrss > max(used[2], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss):
            used[2] = usage.ru_maxrss
        used[3] += 1
        if reaped.pid == self._pid and self._status is None:
            self._status = reaped.status


_PROBED: Final = """
import os
assert os.getpid() == 2 and os.readlink('/proc/self') == '2', 'no PID namespace'
assert 'NoNewPrivs:\\t1' in open('/proc/self/status').read(), 'no_new_privs'
"""


def probe() -> str:
    """Start a program on this path and return why that does not work here; empty: it works."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    order = Order("probe.0.1", (sys.executable, "-I", "-S", "-c", _PROBED))
    try:
        made = start(order, {}, home, stdin=null, stdout=null, stderr=2)
    except SpawnFailed as error:
        return str(error)
    except OSError as error:
        return error.strerror or errno.errorcode.get(error.errno or 0, "unknown")
    pid, status, usage = os.wait4(made.init, 0)
    made.ended(Reaped(pid, status, usage))
    made.close()
    return "" if made.status == 0 else f"the program saw something else (status {made.status})"


if __name__ == "__main__":
    reason = probe()
    print(reason)
    sys.exit(1 if reason else 0)
