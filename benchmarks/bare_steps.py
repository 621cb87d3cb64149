"""``python -m benchmarks.bare_steps``: what the steps that every attempt needs cost in Python, where nothing decides.

It says how far P1, P3 and P4 can be met at all while attempts are kept as they are: one at a time in each of some
processes, with a pipe for each stream, a frame before the start and one with the end, and the proof that nothing is
left. No order is read, nothing is decided, and nobody is told; there is no agent, no coordinator and no gateway.
Beside it, just before and just after, is the C loop. Compare *x C loop* with P1 and P4, and *CPU* with P3.
"""

import argparse
import contextlib
import os
import resource
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.processes import ROOT, BenchError, exit_status_of
from benchmarks.report import table
from benchmarks.yardsticks import TRUE, CLoop, tiny
from hostler import frames
from worker_agent.process_tree import signals_as_file

JOB_S: Final = 0.05  # the patience for each
START_S: Final = 30.0
STARTED: Final = b"s" * 50  # as long as what a shim writes before the start
ENDED: Final = b"e" * 141  # and of an end
READ_BYTES: Final = 64 * 1024
EVENTS_MAX: Final = 16


class Steps(NamedTuple):
    """What some processes did together."""

    jobs_per_s: float
    own_us: float  # CPU a job, without the programs'


class Attempts:
    """One process's attempts, one after another."""

    def __init__(self, segment: str, program: str) -> None:
        """*segment* is the file for frames."""
        self._program = program
        self._env = {os.fsencode(name): os.fsencode(text) for name, text in os.environ.items()}
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._segment = os.open(segment, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._ended = signals_as_file((signal.SIGCHLD,))
        self._poll = select.epoll()
        self._poll.register(self._ended, select.EPOLLIN)

    def run(self, jobs: int) -> None:
        """Start and reap so many."""
        for _ in range(jobs):
            self._write(frames.STARTED, STARTED)
            pipes = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in ("stdout", "stderr")]
            self._start(*(written for _, written in pipes))
            for read, _ in pipes:
                self._poll.register(read, select.EPOLLIN)
            while not any(fd == self._ended for fd, _ in self._poll.poll(START_S, EVENTS_MAX)):
                pass
            os.read(self._ended, EVENTS_MAX * 128)
            with contextlib.suppress(ChildProcessError):  # the proof: nothing is left
                while os.wait4(-1, os.WNOHANG)[0]:
                    pass
            for read, written in pipes:
                with contextlib.suppress(BlockingIOError):
                    os.read(read, READ_BYTES)
                os.close(read)
                os.close(written)  # not before: a pipe that nobody writes to would wake us until the program is reaped
            self._write(frames.EXIT, ENDED)

    def _start(self, stdout: int, stderr: int) -> None:
        os.posix_spawn(
            self._program,
            [self._program],
            self._env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((self._null, stdout, stderr))],
            setsid=True,
            setsigmask=(),
        )

    def _write(self, kind: int, payload: bytes) -> None:
        os.write(self._segment, frames.encode(kind, payload, time.time_ns() // 1000))


def as_one_process(segment: str, program: str, jobs: int) -> int:
    """Say that we are ready, begin when we are told to, and print the CPU time that we took."""
    attempts = Attempts(segment, program)
    print("ready", flush=True)
    sys.stdin.readline()
    before_s = _own_s()
    attempts.run(jobs)
    print(_own_s() - before_s, flush=True)
    return 0


def _own_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def _processes(place: Path, count: int, program: str, jobs: int) -> Iterator[list["subprocess.Popen[str]"]]:
    """Some processes that are ready to begin; none is left behind."""
    running: list[subprocess.Popen[str]] = []
    try:
        for number in range(count):
            argv = [sys.executable, "-m", "benchmarks.bare_steps", "--jobs", str(jobs), "--program", program]
            argv += ["--segment", os.fspath(place / f"steps-{number}.segment")]
            running.append(subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _line_of(process: "subprocess.Popen[str]", within_s: float) -> str:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], within_s)[0] or not (line := process.stdout.readline()):
        raise BenchError(f"one of the processes said nothing within {within_s:g} s, or has ended")
    return line


def steps(place: Path, count: int, program: str, jobs: int) -> Steps:
    """Run *jobs* in each of *count* processes at the same time."""
    with _processes(place, count, program, jobs) as running:
        for process in running:
            _line_of(process, START_S)
        began_s = time.perf_counter()
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        own_s = sum(float(_line_of(process, START_S + count * jobs * JOB_S)) for process in running)
        took_s = time.perf_counter() - began_s
    return Steps(count * jobs / took_s, own_s / count / jobs * 1e6)


def measure(place: Path, *, rounds: int, count: int, jobs: int) -> str:
    """Measure, and return the table."""
    limit, rows = CLoop(place), [["program", "C loop/s", "bare steps/s", "x C loop", "CPU us a job", "CPU x C loop's"]]
    for name, program in (("true", TRUE), ("without libc", tiny(place))):
        found: list[tuple[float, ...]] = []
        for _ in range(rounds):
            before = limit.run(count * jobs, timeout_s=START_S + count * jobs * JOB_S, program=program)
            ours = steps(place, count, program, jobs)
            after = limit.run(count * jobs, timeout_s=START_S + count * jobs * JOB_S, program=program)
            rate, cpu_us = (before.jobs_per_s + after.jobs_per_s) / 2, (before.cpu_us + after.cpu_us) / 2
            found.append((rate, ours.jobs_per_s, ours.jobs_per_s / rate, ours.own_us, ours.own_us / cpu_us))
        values = [statistics.median(column) for column in zip(*found, strict=True)]
        rows.append([name, *(f"{value:.0f}" if value > 10 else f"{value:.2f}" for value in values)])
    return table(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare_steps", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how many (5)")
    parser.add_argument("--processes", type=int, default=4, help="as many as a worker has slots (4)")
    parser.add_argument("--jobs", type=int, default=1000, help="of each process in a round (1000)")
    parser.add_argument("--dir", type=Path, help="a directory on the disk to measure on (the temporary directory)")
    parser.add_argument("--segment", help=argparse.SUPPRESS)
    parser.add_argument("--program", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.segment:
        return as_one_process(given.segment, given.program, given.jobs)

    def work() -> None:
        print(f"load {os.getloadavg()[0]:.1f} at the beginning", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=given.dir) as place:
            print(measure(Path(place), rounds=given.rounds, count=given.processes, jobs=given.jobs))

    return exit_status_of(work)


if __name__ == "__main__":
    sys.exit(main())
