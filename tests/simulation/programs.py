"""Simulated programs: what a job's process would do, and the kernel's view of it that a shim has.

The truth about starts and ends is noted here, by the program itself, as a real one would append to a file.
"""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from hostler import frames
from hostler.jobs import EndedProcess
from worker_agent.attempts import Order
from worker_agent.ledger import SegmentWriter
from worker_agent.process_tree import Reaped

if TYPE_CHECKING:
    from tests.simulation.host import SimulatedHost, SimulatedShim

TERM_S = 0.8  # the longest that a program takes to end on SIGTERM
_USAGE: Any = SimpleNamespace(ru_utime=0.0, ru_stime=0.0, ru_maxrss=0)


class Behaviour(NamedTuple):
    """What a program does; it travels as the job's argv."""

    run_s: float
    failures: int = 0  # attempts of a job that exit with 1 before one exits with 0
    output_bytes: int = 0
    pieces: int = 1  # in which the output is written, at even times
    stubborn: bool = False  # SIGTERM does nothing
    leaves: bool = False  # a child lives on after the main process

    def argv(self) -> tuple[str, ...]:
        """As a command."""
        return ("program", json.dumps(self))


class Truth(NamedTuple):
    """One start of a program."""

    key: str
    job: str
    stage: int
    worker: str
    boot_id: str
    at: float


class SimulatedProgram:
    """One process tree of a job: its main process, and perhaps a child."""

    def __init__(self, host: "SimulatedHost", shim: "SimulatedShim", order: Order, env: Mapping[bytes, bytes]) -> None:
        self.host, self.shim = host, shim
        self.key = order.key
        self.job, stage, attempt = order.key.split(".")
        self.stage, self.attempt = int(stage), int(attempt)
        self.behaviour = Behaviour(*json.loads(order.argv[1]))
        self.pid = host.next_pid()
        self.child = host.next_pid() if self.behaviour.leaves else 0
        self.living = {self.pid} | ({self.child} if self.child else set())
        self.status: int | None = None  # of the main process, as of wait(2)
        self.unreaped: list[int] = []
        self.written = b""
        self.unread = b""  # in the pipe
        self.orphan = False  # its shim died before its end was noted
        self.result_path = env.get(b"HOSTLER_RESULT_FILE", b"").decode()
        self._plan()

    @property
    def alive(self) -> bool:
        """Whether any process of it lives."""
        return bool(self.living)

    def _plan(self) -> None:
        loop, behaviour = self.host.loop, self.behaviour
        if behaviour.output_bytes:
            content = output_of(self.key, behaviour.output_bytes)
            size = max(1, -(-len(content) // behaviour.pieces))
            for place in range(0, len(content), size):
                at = behaviour.run_s * (place / len(content))
                loop.call_as(None, at, self._write, content[place : place + size])
        loop.call_as(None, behaviour.run_s, self._exit)

    def _write(self, content: bytes) -> None:
        if self.pid in self.living:
            self.written += content
            self.unread += content
            self.shim.wake(self.shim.on_pipe)

    def _exit(self) -> None:
        if self.pid not in self.living:
            return
        code = 1 if self.attempt <= self.behaviour.failures else 0
        if self.result_path and code == 0 and Path(self.result_path).parent.is_dir():
            Path(self.result_path).write_text(json.dumps({"stage": self.stage}))
        self.end(self.pid, code << 8)

    def end(self, pid: int, status: int) -> None:
        """One of its processes ends."""
        if pid not in self.living:
            return
        self.living.discard(pid)
        if pid == self.pid:
            self.status = status
        self.host.world.note("ends", self.key, pid == self.pid, status)
        self.host.world.checker.program_ended(self)
        if not self.living and self in self.host.programs:
            self.host.programs.remove(self)
        self.unreaped.append(pid)
        self.shim.wake(self.shim.on_child)

    def signal(self, pid: int, number: int) -> None:
        """Somebody sends a signal to one of its processes."""
        loop = self.host.loop
        if number == signal.SIGKILL:
            loop.call_as(None, self.host.world.chance.random() * 0.002, self.end, pid, int(signal.SIGKILL))
        elif number != signal.SIGCONT and not self.behaviour.stubborn:
            loop.call_as(None, self.host.world.chance.random() * TERM_S, self.end, pid, int(number))

    def kill_all(self) -> None:
        """SIGKILL everything, now."""
        for pid in list(self.living):
            self.end(pid, int(signal.SIGKILL))


@lru_cache(maxsize=200)
def output_of(key: str, size: int) -> bytes:
    """The bytes that the program of an attempt writes, all of them."""
    line = f"{key} says where it is: %08d\n"
    count = -(-size // len(line % 0))
    return (line * count % tuple(range(count))).encode()[:size]


class SimulatedTree:
    """What a shim sees and does of the processes below it: `worker_agent.process_tree.Tree`."""

    cgroup = limited = space = None

    def __init__(self, shim: "SimulatedShim") -> None:
        self._shim = shim

    def _programs(self) -> list[SimulatedProgram]:
        return self._shim.programs

    def members(self) -> list[int]:
        """The living processes."""
        return [pid for program in self._programs() for pid in sorted(program.living)]

    def named(self, pids: list[int], known: dict[int, str], *, again: bool = False) -> None:
        """Note names."""
        for pid in pids:
            known[pid] = "program"

    def signal_members(self, pids: list[int], number: int) -> int:
        """Signal those that live."""
        count = 0
        for program in self._programs():
            for pid in program.living.intersection(pids):
                program.signal(pid, number)
                count += 1
        return count

    def signal_inside(self, number: int) -> list[int]:
        """There are no proxies."""
        return []

    def kill(self) -> list[int]:
        """SIGKILL everybody."""
        found = self.members()
        self.signal_members(found, signal.SIGKILL)
        return found

    kill_inside = kill

    def is_empty(self) -> bool:
        """Whether nobody is left."""
        return not self.members()

    def survivors(self) -> list[EndedProcess]:
        """Who survives SIGKILL."""
        return [EndedProcess(pid=pid, name="program") for pid in self.members()]

    def settle(self) -> None:
        """After a kill."""

    def close(self) -> None:
        """Nothing to give back."""

    def reap(self) -> Reaped | None:
        """As wait4(-1, WNOHANG); raises ChildProcessError when there is no child."""
        for program in self._programs():
            if program.unreaped:
                pid = program.unreaped.pop(0)
                status = program.status if pid == program.pid and program.status is not None else 0
                return Reaped(pid, status, _USAGE)
        if any(program.living for program in self._programs()):
            return None
        raise ChildProcessError


class SimulatedPipes:
    """The output of one attempt: `worker_agent.output_pipes.OutputPipes`, one stream of it."""

    FD = -7

    def __init__(self, segment: SegmentWriter, poll: Any, bytes_max: int, masked: Sequence[bytes] = ()) -> None:
        self.kept = [0, 0, 0]
        self.dropped = 0
        self.is_over = False
        self._segment, self._shim = segment, poll.shim
        self._is_open = False

    def open(self, *, merge: bool = False) -> tuple[int, int]:
        """Make the pipes; there is one stream anyway."""
        self._is_open = True
        return (self.FD, self.FD)

    def watch(self) -> None:
        """Begin to read."""

    def reads(self, fd: int) -> bool:
        """Whether this is the pipe."""
        return fd == self.FD and self._is_open

    def on_readable(self, fd: int) -> bool:
        """Move what the pipe holds into the ledger."""
        moved = False
        for program in self._shim.programs:
            while program.unread:
                piece, program.unread = program.unread[: frames.OUTPUT_BYTES_MAX], program.unread[65536:]
                self._segment.write(frames.encode(frames.OUT, piece, self._shim.host.world.wall_us()))
                self.kept[frames.OUT] += len(piece)
                moved = True
        return moved

    def drain(self) -> None:
        """Take what is left."""
        if self._is_open:
            self.on_readable(self.FD)

    def close(self) -> None:
        """Take what is left; read no more."""
        self.drain()
        self._is_open = False


def truncate_torn(path: Path, synced: int, chance: Any) -> None:
    """What a crash of the host leaves of a file that was synced up to a length: perhaps more, perhaps torn."""
    size = path.stat().st_size
    if size > synced:
        os.truncate(path, synced + int(chance.random() * (size - synced + 1)))
