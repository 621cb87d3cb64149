"""The outside scan: what of an attempt is left on this host, seen by somebody who trusts none of our records."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

KINDS: Final = ("pid", "mnt", "user")
_KEPT: Final = (".segment", "memory.oom_control", "memory.events")
_INODE: Final = re.compile(r"\[\d+\]|\d+")


def pids() -> Iterator[int]:
    """Every process of this host."""
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def namespaces(pid: int) -> frozenset[str]:
    """The names of a process's namespaces, as pid:[4026531836]; its children's too."""
    kinds = (*KINDS, "pid_for_children")
    return frozenset(filter(None, (_link(f"/proc/{pid}/ns/{kind}") for kind in kinds)))


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, by kind; numbers in names are left out."""
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return Counter()
    return Counter(_INODE.sub("N", _link(f"/proc/{pid}/fd/{fd}")) for fd in fds)


def _stat(pid: int) -> tuple[str, int]:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (fields[0].decode(), int(fields[1])) if len(fields) > 1 else ("", 0)


def _below(root: int, table: dict[int, tuple[str, int]]) -> set[int]:
    found, grew = {root}, True
    while grew:
        more = {pid for pid, (_, parent) in table.items() if parent in found and pid not in found}
        grew = bool(more)
        found |= more
    return found - {root}


class Watched(NamedTuple):
    """What is known of an attempt while it runs."""

    key: str
    launcher: int
    shim: int
    cgroups: tuple[str, ...]  # directories of shims
    spaces: frozenset[str]  # namespaces of its processes that are not the host's
    shim_descriptors: Counter[str]  # before it
    mounts: Counter[str]  # before it
    workspace: Path


def mounts() -> Counter[str]:
    """Every mount of our namespace, without its number."""
    with open("/proc/self/mountinfo") as file:
        return Counter(line.split(" ", 2)[2] for line in file)


def members(watched_cgroups: tuple[str, ...]) -> set[int]:
    """The processes in cgroups."""
    found: set[int] = set()
    for top in watched_cgroups:
        for directory, _, _ in os.walk(top):
            found |= {int(pid) for pid in _read(f"{directory}/cgroup.procs").split()}
    return found


def left_of(watched: Watched) -> list[str]:
    """Say everything that is left of an attempt, one line each."""
    mark = f"HOSTLER_ATTEMPT={watched.key}".encode()
    table = {pid: _stat(pid) for pid in pids()}
    left = []
    shims = {pid for pid, (_, parent) in table.items() if parent == watched.launcher}
    for pid, (state, _) in table.items():
        if mark in _read(f"/proc/{pid}/environ").split(b"\0"):
            left.append(f"process {pid} {state} {_read(f'/proc/{pid}/comm')!r}")
        if watched.spaces & namespaces(pid):
            left.append(f"namespace of process {pid}")
    for pid in _below(watched.shim, table):
        left.append(f"{'zombie' if table[pid][0] == 'Z' else 'child'} {pid} of the shim")
    strangers = members(watched.cgroups) - shims - {watched.shim}
    left += [f"process {pid} in a cgroup of a shim" for pid in strangers if _stat(pid)[0] not in ("", "X")]
    if watched.shim in table and table[watched.shim][0] not in ("", "Z"):
        more = descriptors(watched.shim) - watched.shim_descriptors
        # Its segment is another one by then, and it watches the memory of its group from its first kill on.
        left += [f"descriptor of the shim: {name}" for name in more if not name.endswith(_KEPT)]
    left += [f"mount {line}" for line in mounts() - watched.mounts if str(watched.workspace) in line]
    if watched.workspace.exists():
        left.append(f"workspace {watched.workspace}")
    return left
