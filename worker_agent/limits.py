"""Limits of a whole process tree: memory, processors and processes, kept by the kernel's control groups.

Each limited attempt has a group of its own in every hierarchy it needs: version 1 (one hierarchy per controller) or
version 2. The shim makes the groups, steps in, starts the program, which so is born inside, and steps out again; when
the attempt is over they are removed. Their directories are in the attempt's STARTED frame, which is written before
they are made: so whoever comes after a killed shim can remove them.

Version 2 allows no processes beside groups that have controllers. So there the group is made below the nearest
ancestor of ours whose children have the controllers, or can be given them; the processes are then not in the shim's
own cgroup, and `LimitGroup.cgroup` is to be searched and killed as well.
Run as `python -m worker_agent.limits` it tries what this host allows, and prints the words for it.
Limits: Linux, standard library only, single-threaded. What is not limited costs nothing here.
"""

import contextlib
import errno
import os
import time
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from worker_agent.cgroups import Cgroup, Hierarchy, hierarchies, read_control, write_control
from worker_agent.oom import Victim, kill_count, victims_in

ABILITY_OF: Final = {"memory": "memory_limit", "cpu": "cpu_limit", "pids": "pids_limit"}
# Until we have stepped out, the memory limit is at least this. Where memory runs out the kernel ends the largest
# process, and with less that could be the shim, which is inside for a moment.
WINDOW_BYTES: Final = 64 * 1024 * 1024
PIDS_MAX: Final = 4 * 1024 * 1024  # of a kernel; it takes no larger limit
_PERIOD_US: Final = 100_000
_TRIES: Final = 20
_PAUSE_S: Final = 0.001


class CannotLimit(Exception):
    """A limit cannot be set here; the text says which and why."""


class Bounds(NamedTuple):
    """What a tree may use; 0 is no limit. As JSON, and in an `Order`, it is the list of its fields."""

    memory_bytes: int = 0
    cpus: float = 0.0
    pids: int = 0

    def controllers(self) -> list[str]:
        """Return the controllers that are needed."""
        return [name for name, wanted in zip(ABILITY_OF, self, strict=True) if wanted]


class Place(NamedTuple):
    """Where groups of one controller are made, and where this process is in that hierarchy."""

    parent: str
    home: str
    version2: bool


class Seen(NamedTuple):
    """What the kernel counted in a group."""

    memory_killed: int = 0  # processes it ended at the memory limit
    memory_bytes_max: int = 0  # of the whole tree, 0: not known
    forks_refused: int = 0  # times the limit of processes was reached
    victims: tuple[Victim, ...] = ()  # those of the killed that the kernel's log names


def find_places(found: Sequence[Hierarchy] | None = None) -> dict[str, Place]:
    """Return where groups of each controller can be made; those for which there is no place are left out."""
    places: dict[str, Place] = {}
    found = hierarchies() if found is None else found
    for hierarchy in found:
        for name in ABILITY_OF:
            if not hierarchy.version2 and name in hierarchy.options and os.access(hierarchy.directory, os.W_OK):
                places.setdefault(name, Place(hierarchy.directory, hierarchy.directory, False))
    for hierarchy in found:
        missing = {name for name in ABILITY_OF if name not in places}
        if hierarchy.version2 and missing:
            parent, has = _parent_with(hierarchy, missing)
            places |= {name: Place(parent, hierarchy.directory, True) for name in has}
    return places


def _parent_with(hierarchy: Hierarchy, wanted: set[str]) -> tuple[str, set[str]]:
    """Return the nearest ancestor whose children have most of the *wanted* controllers, and which."""
    best: tuple[str, set[str]] = ("", set())
    # Our own directory holds processes, so its children get no controllers; only the root of all may have both.
    directory = hierarchy.directory
    if directory != hierarchy.mount:
        directory = os.path.dirname(directory)
    while True:
        has = _enabled(directory, wanted)
        if len(has) > len(best[1]) and os.access(directory, os.W_OK):
            best = (directory, has)
        if best[1] == wanted or not directory.startswith(f"{hierarchy.mount}/"):
            return best
        directory = os.path.dirname(directory)


def _enabled(directory: str, wanted: set[str]) -> set[str]:
    """Return which controllers the children of a directory have, after those that it lacks were asked for."""
    control = f"{directory}/cgroup.subtree_control"
    try:
        offered = wanted.intersection(read_control(f"{directory}/cgroup.controllers").split())
        lacking = sorted(offered.difference(read_control(control).split()))
        if lacking:
            with contextlib.suppress(OSError):  # not ours to change, or processes are in it
                write_control(control, " ".join(f"+{name}" for name in lacking))
        return wanted.intersection(read_control(control).split())
    except OSError:
        return set()


class LimitGroup:
    """The control groups of one attempt, made by `enter`."""

    def __init__(self, name: str, bounds: Bounds, places: dict[str, Place], ours: int = 0) -> None:
        """Nothing is made yet; *ours* processes inside are not the job's. Raises CannotLimit: no place for a limit."""
        self.bounds = bounds
        self._pids = min(bounds.pids + ours, PIDS_MAX - 1)
        missing = [name for name in bounds.controllers() if name not in places]
        if missing:
            raise CannotLimit(f"this worker has no control groups for {', '.join(missing)}")
        self._places = {each: places[each] for each in bounds.controllers()}
        self._directory = {each: os.path.join(place.parent, name) for each, place in self._places.items()}
        self.directories = tuple(dict.fromkeys(self._directory.values()))
        unified = next((self._directory[each] for each, place in self._places.items() if place.version2), "")
        self.cgroup = Cgroup(unified, freezer=False) if unified else None
        self._window_bytes = max(bounds.memory_bytes, WINDOW_BYTES)

    # -- around the start

    def enter(self) -> None:
        """Make the groups with their limits and move this process in. Raises CannotLimit; then nothing is left."""
        doing = "made"
        try:
            for directory in self.directories:
                doing = f"made in {os.path.dirname(directory)}"
                os.mkdir(directory, 0o755)
            for controller in self._places:
                doing = f"given its limit of {controller}"
                # One process more while this one is inside, too.
                self._set(controller, self._window_bytes, self._pids + 1)
            for directory in self.directories:
                doing = "entered"
                write_control(f"{directory}/cgroup.procs", "0")
        except OSError as error:
            self.leave()
            self.remove()
            raise CannotLimit(f"its control group cannot be {doing}: {os.strerror(error.errno or 0)}") from error

    def leave(self) -> None:
        """Move this process back to where it came from.

        Raises:
            RuntimeError: the end of this process, and no failure of the start: the program may run already.
        """
        try:
            for home in dict.fromkeys(place.home for place in self._places.values()):
                write_control(f"{home}/cgroup.procs", "0")
        except OSError as error:
            raise RuntimeError("this process cannot leave the control group of its program") from error

    def tighten(self) -> bool:
        """Once outside: set what had to wait for that. False: the tree uses more memory than it may already."""
        if "pids" in self._places:
            self._set("pids", 0, self._pids)
        if self._window_bytes <= self.bounds.memory_bytes or "memory" not in self._places:
            return True
        for _ in range(_TRIES):
            try:
                self._set("memory", self.bounds.memory_bytes, 0)
                return True
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(_PAUSE_S)  # version 1 only: what is used cannot be made less
        return False

    def _set(self, controller: str, memory_bytes: int, pids: int) -> None:
        directory, version2 = self._directory[controller], self._places[controller].version2
        if controller == "pids":
            write_control(f"{directory}/pids.max", str(pids))
        elif controller == "cpu":
            _set_cpus(directory, int(self.bounds.cpus * _PERIOD_US), version2=version2)
        elif version2:
            write_control(f"{directory}/memory.max", str(memory_bytes))
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap
                write_control(f"{directory}/memory.swap.max", "0")
        else:
            write_control(f"{directory}/memory.limit_in_bytes", str(memory_bytes))
            with contextlib.suppress(FileNotFoundError):  # memory and swap together, where that is counted
                write_control(f"{directory}/memory.memsw.limit_in_bytes", str(memory_bytes))

    # -- at the end

    def seen(self) -> Seen:
        """Return what the kernel has counted. What cannot be read counts as nothing."""
        killed = peak = refused = 0
        victims: tuple[Victim, ...] = ()
        if "memory" in self._places:
            directory, version2 = self._directory["memory"], self._places["memory"].version2
            killed = kill_count(f"{directory}/{'memory.events' if version2 else 'memory.oom_control'}") or 0
            peak = _number(f"{directory}/{'memory.peak' if version2 else 'memory.max_usage_in_bytes'}")
            victims = victims_in(os.path.basename(directory)) if killed else ()
        if "pids" in self._places:
            with contextlib.suppress(OSError, ValueError, IndexError):
                refused = int(read_control(f"{self._directory['pids']}/pids.events").split()[1])
        return Seen(killed, peak, refused, victims)

    def remove(self) -> bool:
        """Remove the groups; False when somebody is still inside one."""
        return remove_groups(self.directories)


def _set_cpus(directory: str, quota_us: int, *, version2: bool) -> None:
    if version2:
        write_control(f"{directory}/cpu.max", f"{quota_us} {_PERIOD_US}")
        return
    write_control(f"{directory}/cpu.cfs_period_us", str(_PERIOD_US))
    try:
        write_control(f"{directory}/cpu.cfs_quota_us", str(quota_us))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # More than what the worker itself may use: that holds for the tree anyway.


def _number(path: str) -> int:
    try:
        return int(read_control(path))
    except (OSError, ValueError):
        return 0


def remove_groups(directories: Collection[str]) -> bool:
    """Remove empty groups; False when one is still there after 20 ms."""
    for attempt in range(_TRIES):
        left = False
        for directory in directories:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
            left = left or os.path.isdir(directory)
        if not left:
            return True
        if attempt:
            time.sleep(_PAUSE_S)
    return False


class Limiter:
    """Makes the groups of one shim's attempts, one attempt at a time."""

    def __init__(self, name: str) -> None:
        """*name* is the shim's alone on this host; groups are called by it, a dot and a number."""
        self._name = name
        self._number = 0
        self._places: dict[str, Place] | None = None

    def group(self, bounds: Bounds, ours: int = 0) -> LimitGroup:
        """Return the group of an attempt, not made yet; *ours* processes in it are ours. Raises CannotLimit."""
        if self._places is None:
            self._places = find_places()
        self._number += 1  # so that the kernel's log tells one attempt from the other
        return LimitGroup(f"{self._name}.{self._number}", bounds, self._places, ours)


def probe() -> tuple[str, ...]:
    """Return which limits can be kept here, by trying each: the words of `hostler.workers.ABILITIES`.

    This process moves into a group with hardly a limit and back, so it should have nothing else to do.
    """
    places = find_places()
    able = []
    for controller, bounds in (
        ("memory", Bounds(memory_bytes=1 << 40)),
        ("cpu", Bounds(cpus=100.0)),
        ("pids", Bounds(pids=1_000_000)),
    ):
        place = places.get(controller)
        if place is None or not os.access(f"{place.home}/cgroup.procs", os.W_OK):
            continue
        group = LimitGroup(f"hostler-probe-{os.getpid()}", bounds, places)
        try:
            group.enter()
        except (CannotLimit, OSError):
            continue
        group.leave()
        if group.remove():
            able.append(ABILITY_OF[controller])
    return tuple(able)


if __name__ == "__main__":
    print(*probe())
