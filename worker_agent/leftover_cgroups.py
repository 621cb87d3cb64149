"""Cgroups of shims that were killed before they had written where theirs is.

A shim makes its cgroup before its first frame. So names tell whose a cgroup is: hostler-DIRECTORY-RANDOM-SHIM, where
DIRECTORY stands for the worker's data directory; and before the first shim of an agent the places in which cgroups
are made are written down. Only what is empty is removed, and never what a living shim may step back into.
Limits: blocking, standard library only.
"""

import hashlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from worker_agent.cgroups import Cgroup, hierarchies

_FILE: Final = "cgroup_places"  # one directory a line


class LeftoverCgroups:
    """The cgroups of the agents of one data directory."""

    def __init__(self, directory: Path) -> None:
        """*directory* is the worker's."""
        self._file = directory / _FILE
        digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:10]
        self.stem = f"hostler-{digest}-"  # with which their names begin

    def note(self, places: Collection[str]) -> None:
        """Remember where cgroups are made from now on, besides the places before."""
        known = self._places()
        if not set(places) <= set(known):
            try:
                self._file.write_text("".join(f"{place}\n" for place in dict.fromkeys([*known, *places])))
            except OSError:
                return  # a full disk: a later agent in the same place finds them all the same

    def _places(self) -> list[str]:
        try:
            return [line for line in self._file.read_text().splitlines() if line.startswith("/")]
        except (OSError, ValueError):
            return []

    def remove(self, may_live: Callable[[int], bool]) -> None:
        """Remove what is empty, here and where earlier agents were, but for the cgroups of shims that *may_live*."""
        for place in dict.fromkeys([*(each.directory for each in hierarchies()), *self._places()]):
            try:
                names = os.listdir(place)
            except OSError:
                continue
            for name in names:
                shim = name.rpartition("-")[2]
                if name.startswith(self.stem) and shim.isdecimal() and not may_live(int(shim)):
                    Cgroup(f"{place}/{name}", freezer=False).remove()
