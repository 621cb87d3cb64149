"""What the processes of an attempt have used, added up as they are waited for.

Limits: standard library only; the shim calls it for each process it reaps.
"""

import resource
from typing import Protocol

from hostler.jobs import Usage


class Used(Protocol):
    """What somebody else has added up for us."""

    @property
    def cpu_user_s(self) -> float:
        """Seconds."""

    @property
    def cpu_system_s(self) -> float:
        """Seconds."""

    @property
    def memory_kb(self) -> int:
        """The highest peak of one process."""

    @property
    def processes(self) -> int:
        """How many were waited for."""


class Spent:
    """The use of one attempt so far."""

    cpu_user_s = cpu_system_s = 0.0
    processes = 0
    tree_bytes_max = 0  # of all processes together, where the kernel counts that; 0: not known
    _memory_kb = 0
    _own_kb_seen = 0  # of this process's own peak memory, as far as it was looked at

    def add(self, usage: resource.struct_rusage) -> None:
        """Add one process that was waited for."""
        self.cpu_user_s += usage.ru_utime
        self.cpu_system_s += usage.ru_stime
        if usage.ru_maxrss > self._memory_kb:
            self._memory_kb = usage.ru_maxrss
        self.processes += 1

    def add_used(self, used: Used) -> None:
        """Add what others have waited for."""
        self.cpu_user_s += used.cpu_user_s
        self.cpu_system_s += used.cpu_system_s
        self._memory_kb = max(self._memory_kb, used.memory_kb)
        self.processes += used.processes

    def memory_bytes_max(self) -> int:
        """The kernel counts our own pages at the vfork as the program's: a peak not above ours says nothing."""
        if self.tree_bytes_max:
            return self.tree_bytes_max
        if self._memory_kb <= Spent._own_kb_seen:
            return 0  # our peak never falls, so it need not be asked for (3 us)
        own_kb = Spent._own_kb_seen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return self._memory_kb * 1024 if self._memory_kb > own_kb else 0

    def usage(self) -> Usage:
        """Return it as readers get it."""
        return Usage(
            cpu_user_s=self.cpu_user_s,
            cpu_system_s=self.cpu_system_s,
            memory_bytes_max=self.memory_bytes_max(),
            processes=self.processes,
        )
