"""Starts the programs of a cluster on this host, starts again what dies, and ends them in order.

Each part is ``python -m PROGRAM --settings JSON`` in a session of its own, with its output appended to a
file. Parts end in stages: gateway, workers, coordinator. A part's ``parent_fd`` is a pipe that is open
as long as we live *or any part of an earlier stage does*: when we are killed outright, the gateway sees
the end of its pipe first, the workers see theirs once the gateway has gone, the coordinator when the
workers have. Standard library only: the supervisor of a private cluster must start at once.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from hostler.cli.failures import JOB_FAILED, USAGE, Failure

LOG_BYTES_MAX = 16 * 1024 * 1024  # at a start; what is longer is put aside as .1
BACKOFF_S_MIN = 0.2
BACKOFF_S_MAX = 5.0
STEADY_S = 30.0  # a part that ran so long starts its backoff anew
EARLY_DEATHS_MAX = 3  # before everything was ready once
PATIENCE_S = 30.0
TAIL_LINES = 10
TAIL_BYTES = 16 * 1024
CONFIGURATION_ERROR = (
    2  # a part's exit status for "cannot work like this", with a sentence, and what to do, as its last lines
)
NEXT = "  next: "  # as `hostler.processes.run_program` begins the second of them


class Stage(IntEnum):
    """The order in which parts end."""

    GATEWAY = 0
    WORKERS = 1
    COORDINATOR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One program to run."""

    name: str  # for people: "worker HOST-1"
    program: str  # the package to run
    settings: dict[str, Any]  # JSON types; `parent_fd` is put in at the start
    stage: Stage


@dataclass(slots=True, kw_only=True)
class _Run:
    """One start of a part."""

    part: Part
    process: subprocess.Popen[bytes]
    pidfd: int
    log_offset: int
    started_at: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)


def module_command(module: str) -> list[str]:
    """The argv that runs a module of ours."""
    # `-m` looks in the current directory first, and any directory named "coordinator" there would be taken for
    # ours. Only where we ourselves were found that way (a checkout that is not installed) it has to stay so.
    root = str(Path(__file__).resolve().parents[2])
    safe = ["-P"] if root in sys.path[1:] else []
    return [sys.executable, *safe, "-m", module]


def command(program: str, settings: dict[str, Any]) -> list[str]:
    """The argv that runs *program* of ours with *settings*."""
    return [*module_command(program), "--settings", json.dumps(settings)]


class Parts:
    """The running parts. Made inside the event loop; `end` before leaving it."""

    def __init__(self, log_dir: Path, say: Callable[[str], None]) -> None:
        """Prepare to run parts.

        Args:
            log_dir: where each part's output is appended to ``NAME.log``; it is made.
            say: called with one line for people whenever something happens.
        """
        self.gave_up: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()
        self._log_dir = log_dir
        self._say = say
        self._runs: dict[str, _Run] = {}
        self._restarts: dict[str, asyncio.TimerHandle] = {}
        self._backoff_s: dict[str, float] = {}
        self._early_deaths: dict[str, int] = {}
        self._ready = False
        self._ending = False
        self._pipes = {stage: os.pipe() for stage in Stage}
        log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def log_path(self, name: str) -> Path:
        """Where the part of this name writes its output."""
        return self._log_dir / (re.sub(r"[^\w.-]", "-", name) + ".log")

    def start(self, part: Part) -> None:
        """Start a part, and from now on start it again whenever it ends.

        `gave_up` is set when that makes no sense: its configuration cannot work, or it keeps failing before
        `ready` was called.
        """
        path = self.log_path(part.name)
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        self._spawn(part)

    def ready(self) -> None:
        """Everything has worked once: from now on a part that ends is only ever started again."""
        self._ready = True

    def pid(self, name: str) -> int:
        """The process id of a part; 0 while it does not run."""
        run = self._runs.get(name)
        return run.process.pid if run is not None else 0

    def tail(self, name: str, log_offset: int = 0) -> list[str]:
        """The last lines a part has printed since *log_offset*."""
        try:
            with self.log_path(name).open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(log_offset, size - TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]

    async def end_stage(
        self, stage: Stage, *, signal_number: int = signal.SIGTERM, patience_s: float = PATIENCE_S
    ) -> None:
        """End the parts of a stage and return when none is left; after *patience_s* with SIGKILL."""
        self._ending = True
        for name in [name for name in self._restarts if name not in self._runs]:
            self._restarts.pop(name).cancel()
        runs = [run for run in self._runs.values() if run.part.stage is stage]
        for run in runs:
            run.process.send_signal(signal_number)
        try:
            async with asyncio.timeout(patience_s):
                for run in runs:
                    await run.ended.wait()
        except TimeoutError:
            for run in (run for run in runs if not run.ended.is_set()):
                self._say(f"{run.part.name} has not ended within {patience_s:g} s and is killed")
                run.process.kill()
                await run.ended.wait()

    async def end(self, *, patience_s: float = PATIENCE_S) -> None:
        """End every part, stage by stage, and close the pipes. Ending twice is legal."""
        for stage in Stage:
            # To a worker SIGTERM means "leave your jobs to the next agent"; the end of a cluster is none of that.
            number = signal.SIGINT if stage is Stage.WORKERS else signal.SIGTERM
            await self.end_stage(stage, signal_number=number, patience_s=patience_s)
        while self._pipes:
            _, pipe = self._pipes.popitem()
            for descriptor in pipe:
                os.close(descriptor)

    def kill(self) -> None:
        """Send SIGKILL to every part that runs."""
        for run in self._runs.values():
            run.process.kill()

    def _spawn(self, part: Part) -> None:
        self._restarts.pop(part.name, None)
        parent_fd = self._pipes[part.stage][0]
        held_open = tuple(write for stage, (_, write) in self._pipes.items() if stage > part.stage)
        with open(self.log_path(part.name), "ab", opener=_private) as log:
            log_offset = log.tell()
            try:
                process = subprocess.Popen(
                    command(part.program, part.settings | {"parent_fd": parent_fd}),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(parent_fd, *held_open),
                )
            except OSError as error:
                self._again(part, f"could not be started: {error.strerror}", ran_s=0.0, log_offset=log_offset)
                return
        run = _Run(
            part=part,
            process=process,
            pidfd=os.pidfd_open(process.pid),
            log_offset=log_offset,
            started_at=time.monotonic(),
        )
        self._runs[part.name] = run
        asyncio.get_running_loop().add_reader(run.pidfd, self._on_exit, run)

    def _on_exit(self, run: _Run) -> None:
        asyncio.get_running_loop().remove_reader(run.pidfd)
        os.close(run.pidfd)
        status = run.process.wait()
        del self._runs[run.part.name]
        run.ended.set()
        if self._ending:
            return
        if status == CONFIGURATION_ERROR and not self._ready:
            message, hint = _complaint(self.tail(run.part.name, run.log_offset))
            message = message or f"{run.part.name} cannot start"
            self._give_up(Failure(message, hint=hint, exit_code=USAGE, code="invalid_request"))
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        self._again(run.part, how, ran_s=time.monotonic() - run.started_at, log_offset=run.log_offset)

    def _again(self, part: Part, how: str, *, ran_s: float, log_offset: int) -> None:
        name = part.name
        if ran_s < BACKOFF_S_MAX:
            for line in self.tail(name, log_offset):
                self._say(f"{name}: {line}")
        if not self._ready:
            self._early_deaths[name] = self._early_deaths.get(name, 0) + 1
            if self._early_deaths[name] >= EARLY_DEATHS_MAX:
                hint = f"its log is {self.log_path(name)}"
                message = f"{name} {how}, {EARLY_DEATHS_MAX} times in a row"
                self._give_up(Failure(message, hint=hint, exit_code=JOB_FAILED))
                return
        last_s = 0.0 if ran_s >= STEADY_S else self._backoff_s.get(name, 0.0)
        backoff_s = min(BACKOFF_S_MAX, max(BACKOFF_S_MIN, 2 * last_s))
        self._backoff_s[name] = backoff_s
        self._say(f"{name} {how}; it is started again in {backoff_s:g} s")
        self._restarts[name] = asyncio.get_running_loop().call_later(backoff_s, self._spawn, part)

    def _give_up(self, failure: Failure) -> None:
        if not self.gave_up.done():
            self.gave_up.set_result(failure)


def _complaint(lines: list[str]) -> tuple[str, str]:
    """What a part that cannot work has said at its end, and what to do: `hostler.processes.run_program`."""
    if not lines:
        return "", ""
    with suppress(ValueError, KeyError, TypeError):
        said = json.loads(lines[-1])["error"]
        return str(said["message"]), str(said["hint"])
    hint = lines.pop().removeprefix(NEXT) if len(lines) > 1 and lines[-1].startswith(NEXT) else ""
    return re.sub(r"^hostler[ \w]*: ", "", lines[-1]), hint


def _private(path: str, flags: int) -> int:
    """Open a file that nobody else may read."""
    return os.open(path, flags, 0o600)
