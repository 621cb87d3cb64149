"""The other end of `driving`: starts a peer's program, tells it what to run, and ends it with all it has started."""

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.processes import ROOT, TAIL_LINES, BenchError, CpuMeter, descendants

START_S: Final = 120.0  # a big peer needs half a minute on a busy machine
RUN_S: Final = 60.0
JOB_S: Final = 0.1  # the patience for each job; the slowest peer takes a fortieth of it
END_S: Final = 30.0
LOOK_S: Final = 0.5  # seldom, for looking at a big peer's processes takes from what it can do
GENERATIONS: Final = 8


class Driver:
    """A peer that runs while this is entered. Afterwards no process of it is left, nor its directory."""

    def __init__(self, name: str, argv: Callable[[str], list[str]], place: Path) -> None:
        """*argv* makes the command of the peer's directory, which is made below *place*."""
        self.version = ""
        self._name = name
        self._argv = argv
        self._place = place
        self._meter = CpuMeter(lambda: {name: [self._process.pid, *descendants(self._process.pid, depth=GENERATIONS)]})

    def __enter__(self) -> Self:
        # Its path is short, for sockets lie below it.
        self._directory = Path(tempfile.mkdtemp(prefix="p-", dir=self._place))
        self._log = self._directory / "driver.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._argv(os.fspath(self._directory)),
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},  # for the processes that the peer starts, too
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        try:
            self.version = self._answer(START_S)["version"]
        except BaseException:
            self._end(now=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(now=kind is not None)

    def run(self, jobs: int) -> float:
        """Have it run so many jobs, and return how many a second it did.

        Raises:
            BenchError: a job failed, it took too long, or a program of the peer has ended.
        """
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(f"{jobs}\n")
            stdin.flush()
        except BrokenPipeError:
            raise BenchError(self._last_words()) from None
        return float(self._answer(RUN_S + jobs * JOB_S)["jobs_per_s"])

    def _answer(self, patience_s: float) -> Any:
        stdout = self._process.stdout
        assert stdout is not None
        ends_at = time.monotonic() + patience_s
        # What the peer has started is noted all the time: it may end before it answers.
        while not select.select([stdout], [], [], LOOK_S)[0]:
            self._meter.sample()
            if time.monotonic() > ends_at:
                raise BenchError(f"{self._name} has not answered in {patience_s:g} s")
        line = stdout.readline()
        if not line:
            raise BenchError(self._last_words())
        self._meter.sample()
        return json.loads(line)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join((f"{self._name} has ended; the last it said:", *lines))

    def _end(self, *, now: bool) -> None:
        self._meter.sample()
        if now:
            self._process.terminate()
        try:
            self._process.communicate(timeout=END_S)  # which closes its standard input
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._meter.kill_leftovers()
        shutil.rmtree(self._directory, ignore_errors=True)
