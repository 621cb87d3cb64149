"""Starts the programs that are measured, reads what they use, and ends them.

CPU time is that of the process clock (`clock_getcpuclockid(3)`): nanoseconds, all threads, ended ones included,
children not. /proc/PID/stat would count in ticks of 10 ms, which is the cost of 200 jobs.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from hostler.errors import HostlerError

ROOT: Final = Path(__file__).resolve().parents[1]
BEAT_S: Final = 0.1
TAIL_LINES: Final = 12
INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Components = Mapping[str, Iterable[int]]  # the pids of each component, as they are now


class BenchError(Exception):
    """Something could not be measured; the text says what, for people."""


def end_on_signals() -> None:
    """Have the first SIGINT, SIGTERM or SIGHUP raise KeyboardInterrupt, and later ones do nothing."""

    def interrupt(_number: int, _frame: object) -> None:
        # Whatever ends is ended within a bound, and an end that is cut short would leave things behind.
        ignore_interrupts()
        raise KeyboardInterrupt

    for number in INTERRUPTS:
        # Under nohup a hangup stays without meaning.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def exit_status_of(work: Callable[[], None]) -> int:
    """Measure and print, and return the exit status; what could not be measured is said in one line."""
    end_on_signals()
    try:
        work()
    except (BenchError, HostlerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def ignore_interrupts() -> None:
    """From now on, end in order whatever anybody sends."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


class Program:
    """One program that runs beside us, in a session of its own, its output in a file."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, *, stdin: int = subprocess.DEVNULL) -> None:
        """Start it; *stdin* is also handed on under its own number, for programs that are told it."""
        self.name = name
        self._log = log
        with log.open("ab") as output:
            # A session of its own: a Ctrl-C is for us alone, and we end the programs in their order.
            self._process = subprocess.Popen(
                argv,
                cwd=ROOT,
                stdin=stdin,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(stdin,) if stdin >= 0 else (),
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Return when it still runs.

        Raises:
            BenchError: it has ended; with the last lines it printed.
        """
        status = self._process.poll()
        if status is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            raise BenchError("\n".join((f"{self.name} ended with status {status}; the last it said:", *lines)))

    def end(self, *, patience_s: float) -> None:
        """Send SIGTERM, wait, and after *patience_s* send SIGKILL; ending twice is legal."""
        self._process.terminate()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Pulse:
    """A pipe whose end of file tells programs that we are gone, however we ended."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.read_fd)
        os.close(self._write_fd)


class CpuMeter:
    """What the processes of some components have used, also those that are gone.

    A shim's own times do not hold its reaped children's, which are the jobs; and when it ends, nobody's hold its
    own, for the launcher does not wait for it. So each process counts with what was last seen of it: one that
    vanished between two samples loses what it used since the first.
    """

    def __init__(self, components: Callable[[], Components]) -> None:
        self._components = components
        self._seen: dict[tuple[str, int, int], float] = {}  # component, pid, start ticks

    def sample(self) -> None:
        """Look at every process there is now."""
        for component, pids in self._components().items():
            for pid in pids:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    self._seen[component, pid, start_ticks(pid)] = cpu_s(pid)

    def totals(self) -> dict[str, float]:
        """CPU seconds of each component since its processes began, after a fresh sample."""
        self.sample()
        totals: dict[str, float] = defaultdict(float)
        for (component, _, _), used_s in self._seen.items():
            totals[component] += used_s
        return dict(totals)

    def kill_leftovers(self) -> int:
        """Send SIGKILL to every process ever seen that still lives, and return how many there were."""
        return sum(_kill(pid, ticks) for _, pid, ticks in self._seen)


def cpu_s(pid: int) -> float:
    """CPU seconds of one process, without its children.

    Raises:
        OSError: there is no such process.
    """
    # The id of a process's clock, as the C library makes it: the pid's complement, and 2 for the scheduler's count.
    return time.clock_gettime((~pid << 3) | 2)


def start_ticks(pid: int) -> int:
    """When a process began; together with its pid this names it for as long as the host runs.

    Raises:
        OSError: there is no such process.
    """
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[19])


def descendants(pid: int, *, depth: int) -> list[int]:
    """The processes below *pid*, down to *depth* generations; those that end meanwhile may be missing."""
    found: list[int] = []
    generation = [pid]
    for _ in range(depth):
        generation = [child for parent in generation for child in _children(parent)]
        found += generation
    return found


def _children(pid: int) -> list[int]:
    # Each thread has its own list: that of the main one misses what another thread started.
    children: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                children += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return children


def pss_mb(pids: Iterable[int]) -> float:
    """Resident memory of processes in MB of 2**20 bytes, each shared page divided by those who share it."""
    total_kb = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total_kb += int(line.split()[1])
    return total_kb / 1024


def run_to_end(argv: Sequence[str], *, timeout_s: float, each_beat: Callable[[], None] = lambda: None) -> str:
    """Run a program and return its standard output; *each_beat* is called ten times a second meanwhile.

    Raises:
        BenchError: it failed, or did not end in time; with what it said.
    """
    ends_at = time.monotonic() + timeout_s
    process = subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            try:
                out, err = process.communicate(timeout=BEAT_S)
                break
            except subprocess.TimeoutExpired:
                each_beat()
            if time.monotonic() > ends_at:
                raise BenchError(f"{' '.join(argv)} has not ended in {timeout_s:g} s")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode != 0:
        said = err.splitlines()[-TAIL_LINES:]
        raise BenchError("\n".join((f"{' '.join(argv)} ended with status {process.returncode}:", *said)))
    return out


def _kill(pid: int, ticks: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Compared after the descriptor is open: from here on it can only mean this process.
        if start_ticks(pid) != ticks:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
