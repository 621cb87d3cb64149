"""What this host is and offers: read once, at the agent's start."""

import asyncio
import os
import platform
import sys
from pathlib import Path

RUNTIMES = ("command", "python", "service")  # ways to run a program that every worker knows
CONTAINER = "container"  # known where podman can be used
HARDENED = "hardened"  # the ability to start programs on that path
PROBE_S = 20.0
_ROOT = str(Path(__file__).resolve().parent.parent)
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


async def hardened_refusal() -> str:
    """Say why programs cannot be started on the hardened path here; empty: they can."""
    code, said = await _try_out("worker_agent.hardened")
    return "" if code == 0 else said or "the trial failed"


async def confinement_refusal(confinement: str) -> str:
    """Say why programs cannot be confined like this (JSON) here; empty: they can."""
    code, said = await _try_out("worker_agent.confinement", confinement)
    return "" if code == 0 else said or "the trial failed"


async def limits_kept() -> tuple[str, ...]:
    """Return which limits of a process tree can be kept here, as words of `hostler.workers.ABILITIES`."""
    code, said = await _try_out("worker_agent.limits")
    return tuple(said.split()) if code == 0 else ()


async def _try_out(module: str, *arguments: str) -> tuple[int | None, str]:
    """Run a module as a program of its own, which has no threads, as the shims have none; its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", "-c", _TRIAL, _ROOT, module, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(PROBE_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None, "the trial did not end"
    return process.returncode, said.decode(errors="replace").strip()


# The module is found below the one directory that is named, and nothing else can be imported in its place.
_TRIAL = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_module(sys.argv[2], None, '__main__')"
