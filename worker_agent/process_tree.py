"""One process tree: start it, list it, signal it, kill it, prove it empty.

Role: owns every detail of the operating system about processes. The caller (the shim) is a child
subreaper, so whatever its program starts stays its descendant, double forks and new sessions
included, and `wait4` answering ECHILD proves that nothing of the tree is left, zombies included.
A pid is only signalled while it is provably the process that was found: children of ours that are
not reaped cannot be reused; all others are held by a pidfd before their parent is read again.

Nothing here waits longer than some milliseconds: the caller's loop does the waiting.
Limits: Linux, standard library only, single-threaded (a subreaper's waits belong to one thread).
Sources: prctl(2), signalfd(2), pidfd_open(2), wait4(2), proc_pid_task(5), cgroups(7).
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from hostler.jobs import EndedProcess
from worker_agent.attempts import Order
from worker_agent.cgroups import Cgroup
from worker_agent.confinement import FREE, Confinement, LinkBelowRoot, acting, enter
from worker_agent.oom_scores import ForAJob

NAMED_MAX: Final = 1000  # processes named in a receipt
_NAMING_S: Final = 0.02  # naming must not give a fork storm time
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_SIGNAL_SET_BYTES: Final = 128  # of a sigset_t of the C library
_WALL: Final = 0x40000000  # wait for children of clone(2) that send no SIGCHLD, too
_WAIT_OPTIONS: Final = os.WNOHANG | _WALL


class SpawnFailed(Exception):
    """The program was not started; the text says why in the words users know from Go programs."""


class Reaped(NamedTuple):
    """A process that ended and was waited for."""

    pid: int
    status: int  # as of wait(2)
    usage: resource.struct_rusage


def become_subreaper(name: str) -> None:
    """Adopt every orphaned descendant from now on, and show *name* (15 bytes) as the process name.

    Raises OSError when the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def signals_as_file(numbers: Iterable[int]) -> int:
    """Return a descriptor that is readable when one of these signals has come to this process, and block them.

    Reading it forgets what has come. Programs are started with no signal blocked. Raises OSError.
    """
    numbers = tuple(numbers)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    libc = ctypes.CDLL(None, use_errno=True)
    mask = sum(1 << (number - 1) for number in numbers).to_bytes(_SIGNAL_SET_BYTES, "little")
    fd: int = libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return fd


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


class Stat(NamedTuple):
    """Three fields of /proc/PID/stat."""

    state: str
    parent: int
    start_ticks: int


def read_stat(pid: int) -> Stat | None:
    """Return the state, parent and start time of a process; None when it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # The name may hold spaces and brackets; the last bracket ends it.
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(fd)
    return Stat(fields[0].decode(), int(fields[1]), int(fields[19])) if len(fields) > 19 else None


def is_alive(pid: int, start_ticks: int) -> bool:
    """Say whether this very process lives; a zombie does not."""
    found = read_stat(pid)
    return found is not None and found.start_ticks == start_ticks and found.state not in ("Z", "X")


def process_name(pid: int) -> str:
    """Return /proc/PID/comm, or an empty string when the process is gone."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def spawn(
    order: Order,
    env: Mapping[bytes, bytes],
    home: int,
    confinement: Confinement = FREE,
    score: int = -1,
    *,
    stdin: int,
    stdout: int,
    stderr: int,
) -> int:
    """Start the program of an order in a new session and return its pid.

    The three descriptors become its first three, of an order with a terminal the first one for all three, as its
    controlling terminal; every other one of ours is close-on-exec. *home* is a
    descriptor of our own working directory, *score* that of `oom_scores.open_own`, when there is one. Directories are
    entered, and the program is found, with the rights of whoever it runs as.

    posix_spawn, because it is a vfork and half the cost of subprocess.Popen, which encodes the environment
    in Python for each start. With its preexec_fn, user or group Popen would fork, at 20 times the cost.

    Raises:
        SpawnFailed: nothing was started.
    """
    argv = order.argv
    if not argv or not argv[0]:
        raise SpawnFailed("exec: no command")
    program = argv[0]
    first: tuple[object, ...] = (os.POSIX_SPAWN_DUP2, stdin, 0)
    if order.terminal:
        # Opened by the leader of a session, as which these actions are done, it becomes the session's.
        first = (os.POSIX_SPAWN_OPEN, 0, os.ttyname(stdin), os.O_RDWR, 0)
        stdout = stderr = 0
    actions = (first, (os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2))
    cwd = confinement.directory(order.cwd)
    try:
        with ForAJob(score), acting(confinement.user):
            if cwd:
                _change_directory(cwd, confinement, order)
            program = program if "/" in program else _search(program, env)
            return os.posix_spawn(
                program, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_DEFAULT_SIGNALS
            )
    except OSError as error:
        text = _ERROR_TEXTS.get(error.errno or 0) or os.strerror(error.errno or 0).lower()
        raise SpawnFailed(f"fork/exec {program}: {text}") from error
    except ValueError as error:
        # A zero byte in an argument, or a "=" in the name of a variable.
        raise SpawnFailed(f"fork/exec {program}: invalid argument ({error})") from error
    finally:
        if cwd:
            os.fchdir(home)


def _change_directory(cwd: str, confinement: Confinement, order: Order) -> None:
    try:
        enter(cwd, confinement.roots, order.workspace)
    except LinkBelowRoot as error:
        raise SpawnFailed(f"chdir {cwd}: {error}") from error
    except OSError as error:
        text = _ERROR_TEXTS.get(error.errno or 0) or os.strerror(error.errno or 0).lower()
        raise SpawnFailed(f"chdir {cwd}: {text}") from error
    except ValueError as error:
        raise SpawnFailed(f"chdir {cwd}: invalid argument ({error})") from error


def _search(program: str, env: Mapping[bytes, bytes]) -> str:
    """Find a program by the PATH of its own environment, as execvp(3) does. Raises SpawnFailed."""
    denied = False
    for directory in os.fsdecode(env.get(b"PATH", _PATH_DEFAULT)).split(":"):
        path = os.path.join(directory or ".", program)
        if os.access(path, os.X_OK):
            if os.path.isfile(path):
                # An empty or relative entry of PATH must not become a name without a slash.
                return path
        elif os.path.isfile(path):
            denied = True
    if denied:
        raise SpawnFailed(f'exec: "{program}": permission denied')
    raise SpawnFailed(f'exec: "{program}": executable file not found in $PATH')


_PATH_DEFAULT: Final = b"/bin:/usr/bin"
# Ignored signals are inherited through exec. Python ignores the first two; a shell's `&` ignores the others.
_DEFAULT_SIGNALS: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT)
_ERROR_TEXTS: Final = {
    errno.ENOENT: "no such file or directory",
    errno.EACCES: "permission denied",
    errno.ENOEXEC: "exec format error",
    errno.E2BIG: "argument list too long",
    errno.ENOTDIR: "not a directory",
}


def reap_one() -> Reaped | None:
    """Reap one ended child or adopted orphan; None when none has ended yet.

    Raises:
        ChildProcessError: there is no child left at all. For a subreaper this proves the tree empty.
    """
    pid, status, usage = os.wait4(-1, _WAIT_OPTIONS)
    return Reaped(pid, status, usage) if pid else None


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
        except OSError:
            continue
    return found


def _children_by_scan() -> dict[int, list[int]]:
    """Return parent -> children for all processes: for kernels without the `children` file."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (stat := read_stat(int(name))) is not None:
            found.setdefault(stat.parent, []).append(int(name))
    return found


def descendants(root: int) -> list[int]:
    """Return the descendants of a process, parents before children, zombies included.

    A snapshot: what forks while we read may be missing, so killers read again until nothing is left.
    """
    children: Callable[[int], list[int]] = _children
    if not os.path.exists(f"/proc/{root}/task/{root}/children"):
        table = _children_by_scan()

        def children(pid: int) -> list[int]:
            return table.get(pid, [])

    found: dict[int, None] = {}
    waiting = [root]
    while waiting:
        for child in children(waiting.pop()):
            if child not in found and child != root:
                found[child] = None
                waiting.append(child)
    return list(found)


def send(pid: int, number: int, is_member: Callable[[int], bool]) -> bool:
    """Signal a process if *is_member* still says yes once a pidfd holds it; False when it is gone or another's."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not is_member(pid):
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def _pid_namespace(pid: int) -> str:
    """Return the name of a process's PID namespace; empty when it cannot be read, or the process is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _is_child(pid: int, parent: int) -> bool:
    """Say whether a process lives and is a child of *parent*."""
    stat = read_stat(pid)
    return stat is not None and stat.parent == parent and stat.state not in ("Z", "X")


def _is_first(pid: int) -> bool:
    """Say whether a process is the first of its PID namespace."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return any(line.startswith(b"NSpid:") and line.split()[-1] == b"1" for line in file)
    except OSError:
        return False


class Space(Protocol):
    """A PID namespace that holds the tree, below an init of ours (see hardened)."""

    init: int  # the pid of its first process, a child of ours

    def end_all(self) -> bool:
        """Have the init kill everything else and end; False when it was told so before."""


class Tree:
    """The tree below this process, which is a subreaper, and the cgroup that holds both, when there is one."""

    def __init__(self, cgroup: Cgroup | None) -> None:
        self.cgroup = cgroup
        self.limited: Cgroup | None = None  # a second one, which holds the program for the time of one attempt
        self.space: Space | None = None  # of the attempt that runs now; its init is no member of the tree
        self._own = os.getpid()
        self._outside = False  # True: this process stepped out of its cgroup to kill what is in it

    def members(self) -> list[int]:
        """Return the living processes of the tree, found by parent links and by the cgroup."""
        found = dict.fromkeys(descendants(self._own))
        if self.cgroup is not None:
            found.update(dict.fromkeys(self.cgroup.pids()))
            found.pop(self._own, None)
        if self.limited is not None:
            found.update(dict.fromkeys(self.limited.pids()))
        if self.space is not None:
            found.pop(self.space.init, None)
        alive = []
        for pid in found:
            stat = read_stat(pid)
            if stat is not None and stat.state not in ("Z", "X"):
                alive.append(pid)
        return alive

    def named(self, pids: list[int], known: dict[int, str], *, again: bool = False) -> None:
        """Note the names of processes in *known*, at most 1,000 in all and for at most 20 ms of our own time.

        *again* reads known ones a second time: what was a shell may have become something else.
        """
        until = time.thread_time() + _NAMING_S
        for pid in pids:
            if pid in known and not again:
                continue
            if (pid not in known and len(known) >= NAMED_MAX) or time.thread_time() > until:
                return
            known[pid] = process_name(pid) or known.get(pid, "")

    def signal_members(self, pids: list[int], number: int) -> int:
        """Send a signal to those of *pids* that still belong to the tree; return to how many it went."""
        known = {self._own, *pids}
        if self.space is not None:
            known.add(self.space.init)

        def is_member(pid: int) -> bool:
            stat = read_stat(pid)
            if stat is None:
                return False
            return stat.parent in known or any(each.holds(pid) for each in (self.cgroup, self.limited) if each)

        return sum(send(pid, number, is_member) for pid in pids)

    def kill(self) -> list[int]:
        """Make one attempt to SIGKILL everything; return the living processes that were found just before.

        Not a proof: reap, and call again while `reap_one` finds children or `is_empty` says no.
        """
        found = self.members()
        if self.space is not None:
            if self.space.end_all():
                return found  # so that we learn what they used; if that takes too long, we go on ourselves
            send(self.space.init, signal.SIGKILL, lambda pid: _is_child(pid, self._own))
        if self.limited is not None:
            self.limited.kill()
        if self.cgroup is not None:
            if not self._outside:
                # When it fails, parent links alone must do; they are enough unless forks outrun us.
                with contextlib.suppress(OSError):
                    self.cgroup.leave()
                    self._outside = True
            if self._outside:
                self.cgroup.kill()
        # Also with a cgroup: a program run by root can have moved itself out of it.
        self.signal_members(found, signal.SIGKILL)
        return found

    def signal_inside(self, number: int) -> list[int]:
        """Signal the members in other PID namespaces than ours: the program of a container, not who runs it.

        All of them for SIGKILL, else only the first of each namespace, which is the program.
        Returns the living processes that were found; with SIGKILL the same holds for it as for `kill`.
        """
        outside = ("", _pid_namespace(self._own))
        found = {pid: space for pid in self.members() if (space := _pid_namespace(pid)) not in outside}
        if number != signal.SIGKILL:
            found = {pid: space for pid, space in found.items() if _is_first(pid)}
        for pid in found:
            # No process can leave its PID namespace, and no other job's is in this one.
            send(pid, number, lambda each: _pid_namespace(each) == found[each])
        return list(found)

    def is_empty(self) -> bool:
        """Say whether the cgroup holds nobody but this process; the caller has seen ECHILD before it asks."""
        if self.limited is not None and self.limited.populated():
            return False
        if self.cgroup is None:
            return True
        if self._outside:
            return not self.cgroup.populated()
        return all(pid == self._own for pid in self.cgroup.pids())

    def settle(self) -> None:
        """Step back into the cgroup after a kill, so that the next program is born there again."""
        if self._outside and self.cgroup is not None:
            self.cgroup.enter()
            self._outside = False

    def survivors(self) -> tuple[EndedProcess, ...]:
        """Return who lives, with names, for a report."""
        pids = self.members()
        if self.space is not None and _is_child(self.space.init, self._own):
            pids.append(self.space.init)
        return tuple(EndedProcess(pid=pid, name=process_name(pid)) for pid in pids[:NAMED_MAX])

    def close(self) -> None:
        """Leave and remove the cgroup; what is inside by then is killed first."""
        if self.cgroup is None:
            return
        try:
            self.cgroup.leave()
        except OSError:
            return
        for _ in range(50):
            if self.cgroup.remove():
                return
            self.cgroup.kill()
            time.sleep(0.002)
