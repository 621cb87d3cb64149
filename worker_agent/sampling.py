"""What running trees use now: one pass over all of them.

Role: agent side, for attempts that run long enough to be looked at; short ones are covered by wait4.
Limits: psutil reads; nothing is signalled by what is found here.
"""

import contextlib
from collections.abc import Mapping

from hostler.jobs import Usage
from worker_agent.hardened import INIT_NAME
from worker_agent.process_tree import descendants, process_name, read_stat


def sample_trees(roots: Mapping[str, int]) -> dict[str, Usage]:
    """Return the usage of the trees below each root (a shim, which is not counted itself), by key.

    CPU seconds are those of living processes and of children they waited for; memory is resident bytes now.
    """
    return {key: _sample(root) for key, root in roots.items()}


def _sample(root: int) -> Usage:
    import psutil  # here, because a worker of short jobs does without

    user_s = system_s = 0.0
    memory_bytes = processes = 0
    for pid in descendants(root):
        # The init of the hardened start path is ours, as the shim is.
        if process_name(pid) == INIT_NAME and (stat := read_stat(pid)) is not None and stat.parent == root:
            continue
        # A process that ends while we look simply does not count.
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                cpu, memory = process.cpu_times(), process.memory_info()
            user_s += cpu.user + cpu.children_user
            system_s += cpu.system + cpu.children_system
            memory_bytes += memory.rss
            processes += 1
    return Usage(cpu_user_s=user_s, cpu_system_s=system_s, memory_bytes_max=memory_bytes, processes=processes)
