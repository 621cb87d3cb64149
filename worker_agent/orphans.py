"""What a killed shim leaves behind, and how it is ended without it.

Role: agent side. The processes of the attempt are no longer below anybody we own, so the shim's
cgroup and the mark HOSTLER_ATTEMPT in their environment find them. A process that has both left
the cgroup and cleared its environment can escape here; with the shim alive it could not.

`end_orphans` blocks for a bounded time; `end_of_dead` calls it in a thread. Limits: Linux, standard library only.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from hostler.jobs import EndedProcess, Receipt, SentSignal
from worker_agent.attempts import Cause, Ended
from worker_agent.cgroups import Cgroup
from worker_agent.ledger import AttemptRecord, SegmentIdentity, scan_segment, segments_of
from worker_agent.limits import remove_groups
from worker_agent.process_tree import NAMED_MAX, descendants, process_name, read_stat, send

WITHIN_S: Final = 60.0  # until survivors are called unkillable
_EMPTY_PASSES: Final = 3
_PAUSE_S: Final = 0.005
# How a process can hide from the search, with a cgroup (only root can leave it) and without.
_HIDING: Final = {True: "had left its cgroup and cleared its environment", False: "had cleared its environment"}


def marked(keys: Collection[str]) -> list[int]:
    """Return the living processes with one of *keys* as HOSTLER_ATTEMPT in their environment."""
    wanted = {b"HOSTLER_ATTEMPT=" + os.fsencode(key) for key in keys}
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _is_marked(int(name), wanted)]


def _is_marked(pid: int, wanted: Collection[bytes]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            content = file.read()
    except OSError:
        return False
    if not any(entry in wanted for entry in content.split(b"\0")):
        return False
    stat = read_stat(pid)
    return stat is not None and stat.state not in ("Z", "X")


def adopted(launcher: int) -> set[int]:
    """Return what a launcher, which is a subreaper, has adopted from shims that died, and all below.

    Shims are forked and never replaced: its own children have its own command line.
    """
    own = _command_line(launcher)
    found: set[int] = set()
    for pid in descendants(launcher) if own else ():
        stat = read_stat(pid)
        if stat is None or stat.state in ("Z", "X"):
            continue
        # Parents come before their children.
        if stat.parent in found or (stat.parent == launcher and _command_line(pid) not in (b"", own)):
            found.add(pid)
    return found


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def end_orphans(
    identity: SegmentIdentity | None,
    keys: Collection[str],
    within_s: float,
    limited: Iterable[str] = (),
    launcher: int = 0,
) -> Receipt:
    """SIGKILL what is left of a dead shim's attempts; `survivors` names what still lives after *within_s* seconds.

    Three passes in a row that find nobody, by cgroup and by environment. Without a cgroup that is no proof: a
    process that left the session and cleared its environment is not found, so the receipt does not say verified.
    *launcher*: the pid of the living launcher that forked the shim: what it has adopted is found even so.
    *limited* are the directories of control groups that limited the attempts; they are removed.
    """
    cgroup = Cgroup(identity.cgroup, freezer=identity.freezer) if identity and identity.cgroup else None
    groups = [Cgroup(directory, freezer=False) for directory in limited if os.path.isdir(directory)]
    wanted = {b"HOSTLER_ATTEMPT=" + os.fsencode(key) for key in keys}

    def is_theirs(pid: int) -> bool:
        return _is_marked(pid, wanted) or any(group.holds(pid) for group in groups) or pid in adopted(launcher)

    until = time.monotonic() + within_s
    names: dict[int, str] = {}
    at_us = 0
    empty = 0
    found: list[int] = []
    while empty < _EMPTY_PASSES:
        inside = [pid for group in (*groups, *([cgroup] if cgroup else ())) for pid in group.pids()]
        strays = adopted(launcher) if launcher else ()
        found = list(dict.fromkeys([*(marked(keys) if keys else ()), *inside, *strays]))
        empty = 0 if found else empty + 1
        if not found:
            continue
        at_us = at_us or time.time_ns() // 1000
        for pid in found:
            if len(names) < NAMED_MAX:
                names.setdefault(pid, process_name(pid))
        if cgroup is not None:
            cgroup.kill()
        for pid in found:
            send(pid, signal.SIGKILL, is_theirs)
        if time.monotonic() > until:
            break
        time.sleep(_PAUSE_S)
    if cgroup is not None and empty:
        cgroup.remove_emptied()
    remove_groups([group.directory for group in groups])
    survivors = () if empty else tuple(EndedProcess(pid=pid, name=names.get(pid, "")) for pid in found)
    left = {each.pid for each in survivors}
    return Receipt(
        signals=(SentSignal(signal="SIGKILL", at_us=at_us, processes=len(names)),) if names else (),
        ended=tuple(EndedProcess(pid=pid, name=name) for pid, name in names.items() if pid not in left),
        survivors=survivors,
        verified_by="search+cgroup" if cgroup is not None else "",
        verified_at_us=time.time_ns() // 1000 if cgroup is not None else 0,
    )


def supervisor_died(record: AttemptRecord, segment: str, receipt: Receipt) -> Ended:
    """Return the end of an attempt whose shim was killed: its exit status is lost, its output so far is not."""
    return Ended(
        key=record.key,
        started_at_us=record.started_at_us,
        ended_at_us=receipt.verified_at_us or time.time_ns() // 1000,
        exit_code=None,
        signal="",
        cause=Cause.SUPERVISOR_DIED,
        evidence=f"the process that watched over the program was killed; {len(receipt.ended)} processes were ended; "
        f"one that {_HIDING[bool(receipt.verified_by)]} would not have been found",
        receipt=receipt,
        segment=segment,
        ledger_offset=record.ledger_offset,
        ledger_bytes=record.ledger_bytes,
    )


async def end_of_dead(
    directory: Path,
    shim: int,
    keys: Collection[str],
    unkillable: Callable[[str, tuple[EndedProcess, ...]], None],
    launcher: int = 0,
) -> dict[str, Ended]:
    """End what a dead shim left and say how its attempts *keys* ended; one that is not in the answer never started.

    The caller has proved the shim dead. Does not return while a process of the attempts lives: *unkillable* is
    told of survivors once a minute.
    """
    ends: dict[str, Ended] = {}
    unfinished: list[tuple[AttemptRecord, str]] = []  # one, or more when exit frames did not fit on the disk
    limited: dict[str, None] = {}
    identity: SegmentIdentity | None = None
    for path in segments_of(directory, shim):
        try:
            segment = await asyncio.to_thread(scan_segment, path, keys)
        except FileNotFoundError:
            continue  # an earlier one, of which everything was let go meanwhile
        identity = segment.identity or identity
        for record in segment.attempts:
            limited.update(dict.fromkeys(record.cgroups))
            if record.ended is not None:
                ends[record.key] = record.ended
            elif record.key in keys:
                unfinished.append((record, path.name))
    while True:
        receipt = await asyncio.to_thread(end_orphans, identity, keys, WITHIN_S, limited, launcher)
        if not receipt.survivors:
            break
        if unfinished:
            unkillable(unfinished[-1][0].key, receipt.survivors)
    for record, name in unfinished:
        ends[record.key] = supervisor_died(record, name, receipt)
    return ends
