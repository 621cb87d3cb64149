"""What a peer's program is made of: it starts the peer, runs as many jobs as it is told, and ends the peer.

On standard output it says one JSON object a line: ``{"version"}`` when the peer is there, then ``{"jobs_per_s"}`` for
each line on standard input, which is a number of jobs. It ends with its standard input, or by SIGTERM.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.processes import BenchError, Program, end_on_signals

START_S: Final = 60.0
END_S: Final = 10.0
INTERRUPTED: Final = 130


class Peer(ABC):
    """A system on this host with two slots. Entering starts it, leaving ends it."""

    version = ""

    def __init__(self, directory: Path) -> None:
        """*directory* is its own, and is removed by whoever made it."""
        self.directory = directory
        self.stack = contextlib.ExitStack()  # ends what was started, the last one first
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @abstractmethod
    def start(self) -> None:
        """Start everything and set `version`."""

    @abstractmethod
    def run(self, jobs: int) -> None:
        """Submit so many jobs, and return when all are known to have ended well."""

    def settle(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what must follow a run and is not measured."""

    def program(self, name: str, *argv: str) -> None:
        """Start one of the peer's programs."""
        program = Program(name, argv, self.directory / f"{name}-{len(self._programs)}.log")
        self._programs.append(program)
        self.stack.callback(program.end, patience_s=END_S)

    def wait_for(self, what: str, holds: Callable[[], bool], *, patience_s: float = START_S) -> None:
        """Return when it *holds*.

        Raises:
            BenchError: a program has ended, or it took too long.
        """
        ends_at = time.monotonic() + patience_s
        while not holds():
            for program in self._programs:
                program.check()
            if time.monotonic() > ends_at:
                raise BenchError(f"{what} has not come in {patience_s:g} s")
            time.sleep(0.001)


def drive(make: Callable[[Path], Peer]) -> int:
    """Do what standard input says with the peer that *make* makes of a directory; return the exit status."""
    end_on_signals()
    # Whatever else the peer's libraries print is for the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        with make(Path(sys.argv[1])) as peer:
            _say(answers, version=peer.version)
            for line in iter(sys.stdin.readline, ""):
                jobs = int(line)
                began_s = time.perf_counter()
                peer.run(jobs)
                took_s = time.perf_counter() - began_s
                peer.settle()
                _say(answers, jobs_per_s=jobs / took_s)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _say(answers: Any, **what: object) -> None:
    print(json.dumps(what), file=answers, flush=True)


def check_exit_codes(codes: Iterable[int], jobs: int) -> None:
    """Return when there is one for each job, and all are 0.

    Raises:
        BenchError: it is not so.
    """
    if list(codes) != [0] * jobs:
        raise BenchError("some jobs have failed, or are missing")


def free_port() -> int:
    """A port of the loopback interface that nobody has at this moment."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Say whether somebody listens on this port of the loopback interface."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def program_version(*argv: str, word: str) -> str:
    """What a program prints behind *word*.

    Raises:
        BenchError: there is no such program.
    """
    try:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=START_S).stdout
    except FileNotFoundError:
        raise BenchError(f"there is no program `{argv[0]}`") from None
    return (said.partition(word)[2].split() or ["?"])[0]
