"""A shim's own cgroup: made once, lived in, emptied when a tree must be killed.

The shim itself lives in its cgroup, so what it starts is born there at no cost. To kill, it steps
out to the parent directory, kills what is left inside, and steps back in: no process can be
forked past `cgroup.kill` (version 2) or past a frozen version 1 freezer.

Version 2 is looked for first: a pure tree at /sys/fs/cgroup or a hybrid one beside version 1. When
neither can be written, there is no cgroup and the tree is killed through the subreaper alone.
Limits: Linux, standard library only. It sets no resource limits; `limits` does.
"""

import contextlib
import enum
import os
import signal
import time
from typing import Final, NamedTuple, Self

_FREEZE_WAIT_S: Final = 0.5
_EMPTIED_TRIES: Final = 50
_EMPTIED_PAUSE_S: Final = 0.005


class Containment(enum.StrEnum):
    """Which cgroups to use; parent links and the subreaper are always used beside them."""

    AUTO = "auto"  # version 2, else a version 1 freezer, else none
    FREEZER = "freezer"  # a version 1 freezer, else none
    NONE = "none"


class Hierarchy(NamedTuple):
    """A mounted hierarchy of control groups, and where this process is in it."""

    mount: str
    directory: str  # of the group this process is in
    options: frozenset[str]  # version 1: its controllers are among them
    version2: bool


class _Home(NamedTuple):
    """The directory of the cgroup this process is in."""

    directory: str
    freezer: bool


def _unescape(mount: str) -> str:
    return mount.replace("\\040", " ")


def hierarchies() -> list[Hierarchy]:
    """Return every mounted hierarchy this process is in, in the order of the mounts; empty when there is none."""
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return []
    paths = {controllers: path for _, controllers, path in lines}
    found: list[Hierarchy] = []
    for fields in mounts:
        root, where, dash = fields[3], _unescape(fields[4]), fields.index("-")
        kind, options = fields[dash + 1], frozenset(fields[-1].split(","))
        if kind not in ("cgroup", "cgroup2"):
            continue
        version2 = kind == "cgroup2"
        path = next((p for c, p in paths.items() if (c == "" if version2 else c and options >= {*c.split(",")})), None)
        if path is None:
            continue
        inside = os.path.relpath(path, root) if path.startswith(root) else path.lstrip("/")
        found.append(Hierarchy(where, os.path.normpath(os.path.join(where, inside)), options, version2))
    return found


def _homes() -> list[_Home]:
    """Return where a shim's own cgroup can be made, version 2 first; empty when nothing is mounted."""
    found = [_Home(h.directory, not h.version2) for h in hierarchies() if h.version2 or "freezer" in h.options]
    return sorted(found, key=lambda home: home.freezer)


def write_control(path: str, content: str) -> None:
    """Write a control file in one piece. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content.encode())
    finally:
        os.close(fd)


def read_control(path: str) -> str:
    """Read a control file. Raises OSError."""
    with open(path) as file:
        return file.read()


class Cgroup:
    """One directory in a cgroup tree, either version 2 or a version 1 freezer."""

    def __init__(self, directory: str, *, freezer: bool) -> None:
        self.directory = directory
        self.freezer = freezer

    @classmethod
    def make(cls, name: str, containment: Containment) -> Self | None:
        """Make a child of the cgroup this process is in; None when that is not wanted or not permitted here."""
        for home in _homes():
            if containment is Containment.NONE or (containment is Containment.FREEZER and not home.freezer):
                continue
            directory = os.path.join(home.directory, name)
            try:
                os.mkdir(directory, 0o755)
            except OSError:
                continue
            made = cls(directory, freezer=home.freezer)
            needed = "freezer.state" if home.freezer else "cgroup.kill"
            if os.access(os.path.join(directory, needed), os.W_OK):
                try:
                    # Entering and leaving is the permission that matters; try it while nothing depends on it.
                    made.enter()
                    made.leave()
                    return made
                except OSError:
                    pass
            made.remove()
        return None

    def enter(self) -> None:
        """Move this process in. Raises OSError."""
        write_control(f"{self.directory}/cgroup.procs", "0")

    def leave(self) -> None:
        """Move this process to the parent directory. Raises OSError."""
        write_control(f"{os.path.dirname(self.directory)}/cgroup.procs", "0")

    def pids(self) -> list[int]:
        """Return the processes in it and in directories below it; empty when it is gone."""
        found: list[int] = []
        for directory, _, _ in os.walk(self.directory):
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in read_control(f"{directory}/cgroup.procs").split()]
        return found

    def holds(self, pid: int) -> bool:
        """Say whether a process is in it or below it now."""
        try:
            content = read_control(f"/proc/{pid}/cgroup")
        except OSError:
            return False
        name = "/" + os.path.basename(self.directory)
        return any(line.endswith(name) or f"{name}/" in line for line in content.splitlines())

    def populated(self) -> bool:
        """Say whether a living process is in it or below it; a directory that is gone is empty."""
        if self.freezer:
            return bool(self.pids())
        try:
            return "populated 1" in read_control(f"{self.directory}/cgroup.events")
        except FileNotFoundError:
            return False

    def kill(self) -> None:
        """SIGKILL everything inside, racing forks included. The caller must have left. Never raises OSError."""
        with contextlib.suppress(OSError):
            if self.freezer:
                self._kill_frozen()
            else:
                write_control(f"{self.directory}/cgroup.kill", "1")

    def _kill_frozen(self) -> None:
        state = f"{self.directory}/freezer.state"
        own = os.getpid()
        write_control(state, "FROZEN")
        try:
            until = time.monotonic() + _FREEZE_WAIT_S
            # The state is FREEZING until each process has stopped; reading it makes the kernel look again.
            while read_control(state).strip() != "FROZEN" and time.monotonic() < until:
                time.sleep(0.001)
            for pid in self.pids():
                if pid != own:
                    # A frozen process cannot end, so its pid cannot be another's.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        finally:
            write_control(state, "THAWED")

    def thaw(self, pid: int) -> bool:
        """Thaw it if it is frozen around *pid*, from outside; True: it was.

        What runs as root in a cgroup can freeze it, with the shim that watches over it. A shim that freezes it
        itself, to kill, has stepped out.
        """
        name, on, off = ("freezer.state", "FR", "THAWED") if self.freezer else ("cgroup.freeze", "1", "0")
        try:
            if not read_control(f"{self.directory}/{name}").startswith(on) or not self.holds(pid):
                return False
            write_control(f"{self.directory}/{name}", off)
        except OSError:
            return False
        return True

    def remove(self) -> bool:
        """Remove the directory and those below it; False when something is still inside."""
        for directory, _, _ in os.walk(self.directory, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        return not os.path.isdir(self.directory)

    def remove_emptied(self) -> bool:
        """As `remove`, where the last was just killed: the kernel lists it no more a moment before it is out."""
        for _ in range(_EMPTIED_TRIES):
            if self.remove():
                return True
            time.sleep(_EMPTIED_PAUSE_S)
        return False
