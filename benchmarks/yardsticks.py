"""What the product is compared with besides the prototype: a loop in C, ``xargs``, a bare ``subprocess.run``."""

import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.processes import ROOT, BenchError

THREADS: Final = 2
TRUE: Final = "/bin/true"


class Throughput(NamedTuple):
    """How fast jobs went, and what they cost."""

    jobs_per_s: float
    cpu_us: float  # a job, the job's own included


class CLoop:
    """spawn.c: as many programs as this machine can start and reap."""

    def __init__(self, directory: Path) -> None:
        """Compile it into *directory*.

        Raises:
            BenchError: there is no C compiler, or it failed.
        """
        self._program = _compiled("spawn.c", directory, "-lpthread")

    def run(self, jobs: int, *, timeout_s: float, program: str = TRUE) -> Throughput:
        """Start and reap *program* so many times, in two threads."""
        return _measured([os.fspath(self._program), str(THREADS), str(jobs), program], jobs, "", timeout_s)


def tiny(directory: Path) -> str:
    """Compile tiny.c, a program without libc, into *directory*, and return its path.

    Raises:
        BenchError: there is no C compiler, or it failed.
    """
    return os.fspath(_compiled("tiny.c", directory, "-nostdlib", "-static"))


def _compiled(source: str, directory: Path, *flags: str) -> Path:
    """Compile one of our C programs into *directory*, and return where it is.

    Raises:
        BenchError: there is no C compiler, or it failed.
    """
    program = directory / source.removesuffix(".c")
    argv = ["cc", "-O2", "-o", os.fspath(program), os.fspath(ROOT / "benchmarks" / source), *flags]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise BenchError("there is no C compiler `cc`; next: install one (Debian: apt-get install gcc)") from None
    if done.returncode != 0:
        raise BenchError(f"{source} does not compile:\n{done.stderr.strip()}")
    return program


def xargs(jobs: int, *, timeout_s: float) -> Throughput:
    """The same by ``xargs -P2``: no queue, no durability, no output kept, one exit code for all."""
    names = "".join(f"{number}\n" for number in range(jobs))
    return _measured(["xargs", f"-P{THREADS}", "-n1", TRUE], jobs, names, timeout_s)


def _measured(argv: list[str], jobs: int, text: str, timeout_s: float) -> Throughput:
    # Of all that we started only this one is waited for meanwhile, so the difference is its own and its children's.
    before = _children_cpu_s()
    began = time.perf_counter()
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=timeout_s, start_new_session=True
        )
    except FileNotFoundError:
        raise BenchError(f"there is no program `{argv[0]}`") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"{argv[0]} has not ended in {timeout_s:g} s") from None
    lasted_s = time.perf_counter() - began
    if done.returncode != 0:
        raise BenchError(f"{argv[0]} ended with status {done.returncode}: {done.stderr.strip()}")
    # The C loop says its rate itself, without its own start.
    rate = float(done.stdout) if done.stdout else jobs / lasted_s
    return Throughput(rate, (_children_cpu_s() - before) / jobs * 1e6)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
