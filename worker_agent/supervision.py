"""One attempt inside a shim, from its order to its exit frame.

Role: the order in which an attempt ends is decided here. The main process exits; what is left of
its tree is ended (SIGTERM, 1 s, SIGKILL) or waited for; the tree is proved empty; the pipes are
drained without waiting for their end, because a foreign process may hold them; the exit frame is
written; `ended` is sent. A tree that is not empty is never reported as ended.

Causes are decided with evidence: a signal of ours that was sent before the exit of the main
process was seen is the cause; otherwise it is the program's own exit or somebody else's signal.
Limits: standard library only, single-threaded, called by the shim's loop; nothing here blocks.
"""

import contextlib
import enum
import json
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from hostler import frames
from hostler.jobs import EndedProcess, Receipt, SentSignal, Usage
from worker_agent.attempts import Cause, Ended, Order
from worker_agent.ledger import SegmentWriter
from worker_agent.output_pipes import OutputPipes
from worker_agent.process_tree import Reaped, SpawnFailed, Tree, reap_one, spawn
from worker_agent.shim_protocol import encode
from worker_agent.stdin_pipe import StdinPipe

TELL_STARTED_S: Final = 0.005  # shorter attempts send no `started`
TELL_OUTPUT_FIRST_S: Final = 0.02
TELL_OUTPUT_S: Final = 0.05
LEFTOVERS_GRACE_S: Final = 1.0
UNKILLABLE_S: Final = 60.0
PROXY_S: Final = 10.0  # for the clean-up of a proxy, before what is left of it is a leftover like any other
_PASS_FIRST_S: Final = 0.002
_PASS_MAX_S: Final = 0.05
_dumps = json.JSONEncoder(separators=(",", ":")).encode


class Phase(enum.Enum):
    """Where an attempt is on its way to its end."""

    RUNNING = "running"  # the main process lives, or the rest of the tree is waited for
    TERMINATING = "terminating"  # SIGTERM was sent to all
    KILLING = "killing"  # SIGKILL is sent again and again until the tree is empty
    OVER = "over"


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9; real-time signals are named by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def now_us() -> int:
    """Return the wall clock in microseconds since the epoch."""
    return time.time_ns() // 1000


class Supervision:
    """The attempt a shim runs now. Create it, `begin` it, then feed it events until `phase` is OVER."""

    _own_kb_seen = 0  # of this process's own peak memory, as far as it was looked at

    def __init__(
        self,
        order: Order,
        *,
        tree: Tree,
        segment: SegmentWriter,
        poll: "select.epoll",
        tell: Callable[[bytes], bool],
    ) -> None:
        """*tell* sends a message to the agent; it answers False when no agent listens or it is slow."""
        self.order = order
        self.key = order.key
        self.phase = Phase.RUNNING
        self.pid = 0
        self.started_at_us = 0
        self.ended_json = b""  # once over: the payload of the exit frame
        self.is_long = False  # True: it has run for so long that `started` was due
        self.segment_name = segment.name
        self.ledger_offset = 0
        self.stdin: StdinPipe | None = None
        self._tree, self._segment, self._poll, self._tell = tree, segment, poll, tell
        self._output = OutputPipes(segment, poll, order.output_bytes_max)
        self._status: int | None = None
        self._cpu_user_s = self._cpu_system_s = 0.0
        self._memory_kb = 0
        self._reaped = 0
        self._asked: Cause | None = None  # who ends the attempt, when it is us
        self._sent: list[SentSignal] = []
        self._passed_on: set[int] = set()  # signals sent on request of a user
        self._names: dict[int, str] = {}
        self._killed: set[int] = set()
        self._killed_at_us = 0
        self._pass_s = _PASS_FIRST_S
        self._told_position = 0
        self._due_started = self._due_output = self._due_timeout = math.inf
        self._due_kill = self._due_pass = self._due_unkillable = self._due_leftovers = math.inf
        self._asked_proxy = False  # True: SIGTERM was sent to a proxy that had not started the program
        self._spared_until = 0.0  # so long a kill spares a proxy and its helpers, which clean up

    # -- the start

    def begin(self, base_env: dict[bytes, bytes], null: int, home: int) -> None:
        """Write STARTED, start the program, write PID. A failure ends the attempt at once as `not_started`.

        *null* and *home* are descriptors of /dev/null and of the shim's working directory.
        """
        order = self.order
        at_us = now_us()
        self._segment.prepare()
        self.segment_name = self._segment.name
        started = frames.encode(frames.STARTED, b'{"key":' + _dumps(self.key).encode() + b"}", at_us)
        if not self._segment.write_vital(started):
            self._not_started("the worker's disk is full: the start could not be recorded")
            return
        self.ledger_offset = self._segment.size
        try:
            self._start(base_env, null, home)
        except SpawnFailed as error:
            self._not_started(str(error))
            return
        now = time.monotonic()
        self.started_at_us = at_us
        self._due_started = now + TELL_STARTED_S
        if order.timeout_s:
            self._due_timeout = now + order.timeout_s
        self._segment.write_vital(frames.encode(frames.PID, b'{"pid":%d}' % self.pid, now_us()))
        self.ledger_offset = self._segment.size

    def _start(self, base_env: dict[bytes, bytes], null: int, home: int) -> None:
        order = self.order
        env = dict(base_env)
        for name, text in order.env.items():
            env[os.fsencode(name)] = os.fsencode(text)
        key = os.fsencode(self.key)
        env[b"HOSTLER_ATTEMPT"] = key
        env[b"HOSTLER_JOB"] = key.partition(b".")[0]
        stdin_read, stdin_write = null, -1
        try:
            stdout, stderr = self._output.open()
            if order.stdin_path:
                stdin_read = _open_stdin(order.stdin_path)
            elif order.stdin:
                stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
            self.pid = spawn(order, env, home, stdin=stdin_read, stdout=stdout, stderr=stderr)
        except OSError as error:
            raise SpawnFailed(f"fork/exec {order.argv[0] if order.argv else ''}: {error.strerror}") from error
        finally:
            if stdin_read != null:
                os.close(stdin_read)
            if stdin_write >= 0:
                self.stdin = StdinPipe(stdin_write, self._poll)
        self._output.watch()

    def _not_started(self, error: str) -> None:
        self._finish(cause=Cause.NOT_STARTED, evidence="the program was not started", error=error)

    # -- output

    def reads(self, fd: int) -> bool:
        """Say whether a descriptor is one of the attempt's output pipes."""
        return self._output.reads(fd)

    def on_readable(self, fd: int) -> None:
        """Move what a pipe holds, at most 64 KiB, into the ledger."""
        if self._output.on_readable(fd) and self._due_output == math.inf:
            first = TELL_OUTPUT_S if self._told_position else TELL_OUTPUT_FIRST_S
            self._due_output = time.monotonic() + first

    @property
    def position(self) -> int:
        """The length of the ledger so far, in bytes."""
        return self._segment.size - self.ledger_offset

    # -- the end

    def reap(self) -> None:
        """Wait for whatever has ended, and go on towards the end when the main process is among it."""
        if self.phase is Phase.OVER:
            return
        try:
            while (reaped := reap_one()) is not None:
                self._note(reaped)
        except ChildProcessError:
            if self.phase is not Phase.KILLING or self._tree.is_empty():
                self._finish_by_status()
            return
        if self._status is not None and self.phase is Phase.RUNNING and not self.order.leftovers_wait:
            if not self.order.proxy:
                self._terminate(LEFTOVERS_GRACE_S)
            elif self._due_leftovers == math.inf:
                self._due_leftovers = time.monotonic() + PROXY_S
        elif self._status is not None and self.phase is Phase.TERMINATING and self._asked_proxy:
            # It has ended, and perhaps what it was making has begun all the same.
            self._asked_proxy = False
            self._terminate_inside()

    def _note(self, reaped: Reaped) -> None:
        usage = reaped.usage
        self._cpu_user_s += usage.ru_utime
        self._cpu_system_s += usage.ru_stime
        self._memory_kb = max(self._memory_kb, usage.ru_maxrss)
        self._reaped += 1
        if reaped.pid == self.pid and self._status is None:
            self._status = reaped.status

    def stop(self, cause: Cause, grace_s: float) -> None:
        """End the tree. The first cause stays; a later call can only shorten the patience."""
        # An exit that already happened is the program's own: look before we signal.
        self.reap()
        if self.phase is Phase.OVER:
            return
        if self._due_leftovers < math.inf:
            return  # the program has exited, and what cleans up after it ends soon
        if self.phase is Phase.RUNNING:
            self._asked = cause
            self._terminate(grace_s)
        elif self.phase is Phase.TERMINATING:
            if self._asked is None and self._status is None:
                self._asked = cause
            self._due_kill = min(self._due_kill, time.monotonic() + grace_s)

    def _terminate(self, grace_s: float) -> None:
        self._due_timeout = math.inf
        if grace_s <= 0:
            self._kill()
            return
        self.phase = Phase.TERMINATING
        members = self._tree.members()
        self._tree.named(members, self._names)
        if not self.order.proxy or self._status is not None:
            self._send(signal.SIGTERM, members)
        elif not self._terminate_inside():
            self._asked_proxy = True
            self._send(signal.SIGTERM, [self.pid])
        # A stopped process acts on SIGTERM only after SIGCONT.
        self._send(signal.SIGCONT, members)
        self._due_kill = time.monotonic() + grace_s

    def _terminate_inside(self) -> bool:
        """Send SIGTERM to the program of a proxy, which itself has to stay: the output goes through it."""
        at_us = now_us()
        found = self._tree.signal_inside(signal.SIGTERM)
        if found:
            self._sent.append(SentSignal(signal="SIGTERM", at_us=at_us, processes=len(found)))
        return bool(found)

    def _send(self, number: signal.Signals, pids: list[int]) -> None:
        at_us = now_us()
        count = self._tree.signal_members(pids, number)
        if count:
            self._sent.append(SentSignal(signal=number.name, at_us=at_us, processes=count))

    def _kill(self) -> None:
        now = time.monotonic()
        if self.phase is not Phase.KILLING:
            self.phase = Phase.KILLING
            self._due_kill = math.inf
            self._killed_at_us = now_us()
            self._due_unkillable = now + UNKILLABLE_S
            self._tree.named(self._tree.members(), self._names, again=True)
            self._spared_until = now + PROXY_S if self.order.proxy else 0.0
        found = self._tree.signal_inside(signal.SIGKILL) if now < self._spared_until else self._tree.kill()
        if self.order.proxy and not found and not self._sent:
            self._send(signal.SIGTERM, [self.pid])  # a proxy that has not started the program yet
        self._killed.update(found)
        self._tree.named(found, self._names)
        self._due_pass = now + self._pass_s
        self._pass_s = min(_PASS_MAX_S, self._pass_s * 2)

    def signal(self, number: int) -> None:
        """Send a signal of a user to the process group of the main process, while that lives."""
        self.reap()
        if self._status is None and self.phase is not Phase.OVER:
            self._passed_on.add(number)
            # Not reaped, so its pid, which is its group's id, cannot be another's.
            with contextlib.suppress(OSError):
                os.killpg(self.pid, number)

    # -- time

    def next_due(self) -> float:
        """Return when `tick` must be called next, on the monotonic clock; infinity for never."""
        return min(
            self._due_started,
            self._due_output,
            self._due_timeout,
            self._due_kill,
            self._due_pass,
            self._due_unkillable,
            self._due_leftovers,
        )

    def tick(self, now: float) -> None:
        """Do what is due."""
        if now >= self._due_started:
            self._due_started = math.inf
            self.is_long = True
            self._tell(encode({"type": "started", **self.where(), "pid": self.pid, "at_us": self.started_at_us}))
        if now >= self._due_output:
            self._due_output = math.inf
            position = self.position
            if position > self._told_position and self._tell(encode({"type": "output", **self.where()})):
                self._told_position = position
        if now >= self._due_timeout:
            self.stop(Cause.TIMEOUT, self.order.grace_s)
        if now >= self._due_leftovers:
            self.reap()
            self._due_leftovers = math.inf
            if self.phase is Phase.RUNNING:
                self._terminate(LEFTOVERS_GRACE_S)
        if now >= self._due_kill or now >= self._due_pass:
            self.reap()
            if self.phase is not Phase.OVER:
                self._kill()
        if now >= self._due_unkillable:
            self._due_unkillable = now + UNKILLABLE_S
            survivors = [{"pid": each.pid, "name": each.name} for each in self._tree.survivors()]
            self._tell(encode({"type": "unkillable", "key": self.key, "survivors": survivors}))

    def where(self) -> dict[str, Any]:
        """Return which ledger is this attempt's and how long it is, for messages."""
        return {
            "key": self.key,
            "segment": self.segment_name,
            "ledger_offset": self.ledger_offset,
            "position": self.position,
        }

    # -- the result

    def _finish_by_status(self) -> None:
        status = self._status
        if status is None:
            # Only if somebody else reaped our child, which nobody in this process does.
            self._finish(cause=Cause.SUPERVISOR_DIED, evidence="the exit status was lost")
        elif os.WIFSIGNALED(status):
            name = signal_name(os.WTERMSIG(status))
            core = os.WCOREDUMP(status)
            cause, evidence = self._cause(os.WTERMSIG(status), f"ended by {name}")
            self._finish(cause=cause, evidence=evidence, signal_text=name, core_dumped=core)
        else:
            code = os.waitstatus_to_exitcode(status)
            cause, evidence = self._cause(0, f"exited with code {code}")
            self._finish(cause=cause, evidence=evidence, exit_code=code)

    def _cause(self, number: int, how: str) -> tuple[Cause, str]:
        if self._asked is not None:
            ours = ", ".join(dict.fromkeys(sent.signal for sent in self._sent))
            if self._killed_at_us:
                ours = f"{ours}, SIGKILL" if ours else "SIGKILL"
            return self._asked, f"{_ASKED_TEXTS[self._asked]}: we sent {ours or 'no signal'}; the program {how}"
        count = len(self._names)
        left = f"; {count} {'process' if count == 1 else 'processes'} it had left behind ended by us" if count else ""
        if number == 0:
            return Cause.EXIT, f"the program {how} by itself{left}"
        if number in self._passed_on:
            return Cause.SIGNAL, f"the program was {how}, which was sent on request{left}"
        perhaps = ": perhaps out of memory, or another user" if number == signal.SIGKILL else ""
        return Cause.SIGNAL, f"the program was {how}, which we did not send{perhaps}{left}"

    def _receipt(self, ended_at_us: int) -> Receipt:
        if self._killed_at_us:
            count = max(1, len(self._killed))
            self._sent.append(SentSignal(signal="SIGKILL", at_us=self._killed_at_us, processes=count))
        by = "wait+cgroup" if self._killed_at_us and self._tree.cgroup is not None else "wait"
        ended = tuple(EndedProcess(pid=pid, name=name) for pid, name in self._names.items())
        return Receipt(signals=tuple(self._sent), ended=ended, verified_by=by, verified_at_us=ended_at_us)

    def _finish(
        self,
        *,
        cause: Cause,
        evidence: str,
        error: str = "",
        exit_code: int | None = None,
        signal_text: str = "",
        core_dumped: bool = False,
    ) -> None:
        ended_at_us = now_us()
        self._output.close()
        if self.stdin is not None:
            self.stdin.close()
        self._tree.settle()
        if cause is Cause.EXIT and not self._names and not self._killed_at_us:
            self.ended_json = self._plain_exit_json(exit_code, ended_at_us).encode()
        else:
            how = {"cause": cause, "evidence": evidence, "error": error, "exit_code": exit_code}
            how |= {"signal": signal_text, "core_dumped": core_dumped}
            self.ended_json = _dumps(self._ended(ended_at_us, how).to_json()).encode()
        self._segment.write_vital(frames.encode(frames.EXIT, self.ended_json, ended_at_us))
        self.phase = Phase.OVER

    def _ended(self, ended_at_us: int, how: dict[str, Any]) -> Ended:
        return Ended(
            **how,
            key=self.key,
            started_at_us=self.started_at_us,
            ended_at_us=ended_at_us,
            receipt=self._receipt(ended_at_us),
            usage=Usage(
                cpu_user_s=self._cpu_user_s,
                cpu_system_s=self._cpu_system_s,
                memory_bytes_max=self._memory_bytes_max(),
                processes=self._reaped,
            ),
            out_bytes=self._output.kept[frames.OUT],
            err_bytes=self._output.kept[frames.ERR],
            dropped_bytes=self._output.dropped,
            segment=self.segment_name,
            ledger_offset=self.ledger_offset,
            ledger_bytes=self.position,
        )

    def _plain_exit_json(self, exit_code: int | None, ended_at_us: int) -> str:
        """Return the JSON of an `Exited`, for an exit nobody had a hand in."""
        return _EXITED % (
            _dumps(self.key),
            self.started_at_us,
            ended_at_us,
            exit_code,
            self._cpu_user_s,
            self._cpu_system_s,
            self._memory_bytes_max(),
            self._reaped,
            self._output.kept[frames.OUT],
            self._output.kept[frames.ERR],
            self._output.dropped,
            self.segment_name,
            self.ledger_offset,
            self.position,
        )

    def _memory_bytes_max(self) -> int:
        """The kernel counts our own pages at the vfork as the program's: a peak not above ours says nothing."""
        if self._memory_kb <= Supervision._own_kb_seen:
            return 0  # our peak never falls, so it need not be asked for (3 us)
        own_kb = Supervision._own_kb_seen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return self._memory_kb * 1024 if self._memory_kb > own_kb else 0


def _open_stdin(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
        raise SpawnFailed(f"stdin {path}: {reason}") from error


_ASKED_TEXTS: Final = {
    Cause.STOP: "stopped on request",
    Cause.TIMEOUT: "the time limit was reached",
    Cause.DRAIN: "the worker is ending its jobs",
    Cause.LEASE: "the worker's lease ran out",
}

# The fields of `Exited`. A test reads it back and compares every field.
_EXITED: Final = '[%s,%d,%d,%d,%.6f,%.6f,%d,%d,%d,%d,%d,"%s",%d,%d]'
