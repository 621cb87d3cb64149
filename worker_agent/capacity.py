"""What this host is and offers: read once, at the agent's start."""

import os
import platform
from pathlib import Path

RUNTIMES = ("command", "python", "service")  # ways to run a program that every worker knows
CONTAINER = "container"  # known where podman can be used
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's name for this boot; a new one means that no process of an earlier one is left."""
    return BOOT_ID.read_text().strip()


def host_name() -> str:
    """The host's name."""
    return platform.node() or "localhost"


def default_slots() -> int:
    """Twice the CPUs this process may use."""
    return 2 * len(os.sched_getaffinity(0))
