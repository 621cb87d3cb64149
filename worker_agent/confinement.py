"""How a shim confines its programs: another user, directories they may start in, a private /tmp.

Role: the shim's side of a worker's policy. A shim of a root worker stays root: what it writes, its socket and its
control groups are out of reach of what it runs. For the moment of a start it *acts* as the user: real and effective
ids are the user's and the saved ones root's, so that directories are entered and programs found with the user's
rights, and the exec makes the saved ids the user's for good. That costs three system calls; a fork with setuid in the
child costs three times the CPU of the whole start (docs/decisions/0014).

Run as `python -m worker_agent.confinement JSON` it is a trial: exit code 0 says that it works here.
Limits: Linux, standard library only, single-threaded callers only.
Sources: credentials(7), capabilities(7), setresuid(2), prctl(2), posix_spawn(3).
"""

import contextlib
import ctypes
import errno
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from worker_agent.cgroups import Cgroup, Containment
from worker_agent.output_files import open_beneath

PATH: Final = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TMPDIR: Final = b"/tmp"
LANG: Final = b"C.UTF-8"
UMASK: Final = 0o077
DEPTH_MAX: Final = 100  # of the directories of a workspace before its program has run
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_PROBED: Final = ("/bin/cat", "/proc/self/status")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LinkBelowRoot(Exception):
    """A directory to start in has a link in its path, where none is followed."""


class User(NamedTuple):
    """Whom programs run as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # further ones
    home: str = "/"


class Confinement(NamedTuple):
    """What holds for every program of a shim."""

    user: User | None = None  # None: the worker's own
    roots: tuple[str, ...] = ()  # below which programs start; empty: anywhere
    private_tmp: bool = False  # on the hardened start path
    cgroup: bool = False  # a shim without a control group of its own runs nothing

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; `from_json` reads them back."""
        return {**self._asdict(), "user": self.user and self.user._asdict()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> "Confinement":
        """Read what `to_json` made; None is no confinement. Raises KeyError or TypeError for anything else."""
        if content is None:
            return cls()
        user = content["user"]
        made = None if user is None else User(**{**user, "groups": tuple(user["groups"])})
        return cls(**{**content, "user": made, "roots": tuple(content["roots"])})

    def environment(self, base: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Return what a program's environment begins with: the worker's, or one that is built for another user."""
        user = self.user
        if user is None:
            return dict(base)
        home = os.fsencode(user.home)
        return {b"PATH": PATH, b"LANG": base.get(b"LANG", LANG), b"HOME": home, b"TMPDIR": TMPDIR}

    def own(self, *pipes: int) -> None:
        """Make pipes the user's, who could not open /dev/stderr else; negative numbers are none. Raises OSError."""
        if self.user is not None:
            for fd in pipes:
                if fd >= 0:
                    os.fchown(fd, self.user.uid, self.user.gid)

    def directory(self, cwd: str) -> str:
        """Where a program starts; the worker's own directory (empty) is not for other users."""
        return cwd or (self.roots[0] if self.roots else "/" if self.user is not None else "")


FREE: Final = Confinement()


def settle(user: User) -> None:
    """Give up in this process, for good, what no program of the user may have. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(UMASK)
    os.setgroups(user.groups)
    if sorted(os.getgroups()) != sorted(set(user.groups)):
        raise OSError(errno.EPERM, "the groups are not those that were set")
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl")
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _check(libc.capget(header, sets), "capget")
    sets[2] = sets[5] = 0  # inheritable: the one set that an exec by another user leaves as it is
    _check(libc.capset(header, sets), "capset")


def _check(answer: int, what: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number).lower()}")


def acting(user: User | None) -> contextlib.AbstractContextManager[None]:
    """Have the user's rights inside, and leave no others to what is executed there. Raises OSError."""
    return _AS_WE_ARE if user is None else _acting(user)


_AS_WE_ARE: Final = contextlib.nullcontext()


@contextlib.contextmanager
def _acting(user: User) -> Iterator[None]:
    uid, gid = user.uid, user.gid
    try:
        os.setresgid(gid, gid, 0)
        os.setresuid(uid, uid, 0)
        if os.getresuid() != (uid, uid, 0) or os.getresgid() != (gid, gid, 0) or not uid:
            raise OSError(errno.EPERM, "the user is not the one that was set")
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def enter(cwd: str, roots: tuple[str, ...], workspace: str) -> None:
    """Change to a directory; outside of its workspace a program starts below one of the roots, without any link.

    Raises OSError, LinkBelowRoot, and ValueError for a path that leads elsewhere.
    """
    if not roots or (workspace and cwd == workspace):
        os.chdir(cwd)
        return
    root = next((each for each in roots if cwd == each or cwd.startswith(each.rstrip("/") + "/")), None)
    if root is None:
        raise PermissionError(errno.EACCES, "it lies below none of this worker's roots")
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if rest := cwd[len(root) :].strip("/"):
            try:
                top, fd = fd, open_beneath(fd, os.fsencode(rest), os.O_PATH | os.O_DIRECTORY)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP) and _has_link(root, rest):
                    raise LinkBelowRoot(
                        "links below the roots of this worker's policy are not followed (rule roots); "
                        "name the directory itself"
                    ) from error
                raise
            os.close(top)
        os.fchdir(fd)
    finally:
        os.close(fd)


def _has_link(root: str, rest: str) -> bool:
    """Whether a part of a path below a root is a link; for the text of an error alone."""
    parts = rest.split("/")
    return any(os.path.islink(os.path.join(root, *parts[: at + 1])) for at in range(len(parts)))


def give(workspace: str, user: User) -> None:
    """Make a workspace, in which nothing of its attempt has run yet, the user's. Raises OSError.

    Its directory is closed to everybody else until all in it is done, and no link is followed: nothing can be put in
    the place of what is found.
    """
    top = os.open(workspace, _DIRECTORY)
    try:
        os.fchown(top, 0, 0)
        os.fchmod(top, 0o700)
        _give_below(top, user, DEPTH_MAX)
        os.fchown(top, user.uid, user.gid)
    finally:
        os.close(top)


def _give_below(directory: int, user: User, depth: int) -> None:
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode) and depth:
            below = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                _give_below(below, user, depth - 1)
                os.fchown(below, user.uid, user.gid)
            finally:
                os.close(below)
        elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.chown(name, user.uid, user.gid, dir_fd=directory, follow_symlinks=False)
        else:
            raise OSError(errno.EPERM, f"{name} in it is none of the files that were put there")


def probe(confinement: Confinement) -> str:
    """Start a program like this and return why that does not work here; empty: it works."""
    if confinement.cgroup:
        made = Cgroup.make(f"hostler-trial-{os.getpid()}", Containment.AUTO)
        if made is None:
            return "no control group can be made"
        made.remove()
    user = confinement.user
    if user is None:
        return ""
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        settle(user)
        with acting(user):
            actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
            pid = os.posix_spawn(_PROBED[0], _PROBED, {}, file_actions=actions)
    except OSError as error:
        return f"{user.name}: {error.strerror or error}"
    os.close(write)
    with open(read) as pipe:
        said = dict(line.split(":", 1) for line in pipe if ":" in line)
    os.waitpid(pid, 0)
    return _difference(user, {name: tuple(text.split()) for name, text in said.items()})


def _difference(user: User, said: Mapping[str, tuple[str, ...]]) -> str:
    """What a program of the user has that it should not, as /proc/PID/status has it; empty: nothing."""
    wanted = {"Uid": (str(user.uid),) * 4, "Gid": (str(user.gid),) * 4, "NoNewPrivs": ("1",)}
    wanted |= dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), ("0" * 16,))
    for name, value in wanted.items():
        if said.get(name) != value:
            return f"{user.name}: its programs have {name} {' '.join(said.get(name, ('unknown',)))}"
    if {*map(int, said.get("Groups", ()))} != {*user.groups}:
        return f"{user.name}: its programs have the groups {' '.join(said.get('Groups', ()))}"
    return ""


if __name__ == "__main__":
    reason = probe(Confinement.from_json(json.loads(sys.argv[-1])))
    print(reason)
    sys.exit(1 if reason else 0)
