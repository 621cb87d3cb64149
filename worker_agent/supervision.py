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
import select
import signal
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from hostler import frames
from hostler.jobs import EndedProcess, Receipt, SentSignal
from worker_agent import hardened
from worker_agent.attempts import Cause, Order
from worker_agent.confinement import FREE, Confinement, give
from worker_agent.end_frames import ended_of, plain_exit_json
from worker_agent.evidence import Facts, judge, signal_name
from worker_agent.lease import LOOK_S
from worker_agent.ledger import SegmentWriter
from worker_agent.limits import Bounds, CannotLimit, Limiter, LimitGroup, Seen
from worker_agent.oom import MemoryWatch
from worker_agent.output_pipes import OutputPipes, masked_values
from worker_agent.process_tree import Reaped, SpawnFailed, Tree, reap_one, spawn
from worker_agent.program_streams import Streams, make_streams
from worker_agent.shim_protocol import encode
from worker_agent.spent import Spent
from worker_agent.stdin_pipe import StdinPipe

TELL_STARTED_S: Final = 0.005  # shorter attempts send no `started`
TELL_OUTPUT_FIRST_S: Final = 0.02
TELL_OUTPUT_S: Final = 0.05
TELL_TYPED_S: Final = 0.002  # of a terminal, where somebody waits to see what they type
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


def now_us() -> int:
    """Return the wall clock in microseconds since the epoch."""
    return time.time_ns() // 1000


class Supervision:
    """The attempt a shim runs now. Create it, `begin` it, then feed it events until `phase` is OVER."""

    # What most attempts never change is found here, so that the making of one costs less.
    phase = Phase.RUNNING
    pid = 0
    started_at_us = 0
    ended_json = b""  # once over: the payload of the exit frame
    is_long = False  # True: it has run for so long that `started` was due
    ledger_offset = 0
    stdin: StdinPipe | None = None
    _space: hardened.Namespace | None = None  # of a program on the hardened start path
    _limits: LimitGroup | None = None
    _kernel_kills = -1  # the kernel's count when the attempt was no longer short
    _status: int | None = None
    _asked: Cause | None = None  # who ends the attempt, when it is us
    _killed_at_us = 0
    _pass_s = _PASS_FIRST_S
    _told_position = 0
    _due_started = _due_output = _due_timeout = _due_lease = math.inf
    _due_kill = _due_pass = _due_unkillable = _due_leftovers = math.inf
    _asked_proxy = False  # True: SIGTERM was sent to a proxy that had not started the program
    _spared_until = 0.0  # so long a kill spares a proxy and its helpers, which clean up

    def __init__(
        self,
        order: Order,
        *,
        tree: Tree,
        segment: SegmentWriter,
        poll: "select.epoll",
        tell: Callable[[bytes], bool],
        limiter: Limiter,
        memory: MemoryWatch,
        lease: Callable[[int], float],
        confinement: Confinement = FREE,
    ) -> None:
        """*tell* sends a message to the agent; it answers False when no agent listens or it is slow.

        *lease* says for how many seconds the worker's lease of some term goes on.
        """
        self.order = order
        self.key = order.key
        self.segment_name = segment.name
        self._tree, self._segment, self._poll, self._tell = tree, segment, poll, tell
        self.output = OutputPipes(segment, poll, order.output_bytes_max, masked_values(order) if order.masked else ())
        self._limiter, self._memory, self._lease = limiter, memory, lease
        self._confinement = FREE if order.keeps_user else confinement
        self.spent = Spent()
        self._sent: list[SentSignal] = []
        self._passed_on: set[int] = set()  # signals sent on request of a user
        self._names: dict[int, str] = {}
        self._killed: set[int] = set()

    # -- the start

    def begin(self, base_env: dict[bytes, bytes], null: int, home: int, score: int = -1) -> None:
        """Write STARTED, start the program. A failure ends the attempt at once as `not_started`.

        *null*, *home* and *score* are descriptors of /dev/null, of the shim's working directory and of its own score.
        """
        order = self.order
        at_us = now_us()
        self._segment.prepare()
        self.segment_name = self._segment.name
        content = b'{"key":%b}' % encode_basestring_ascii(self.key).encode()
        refusal = ""
        if order.limits:
            try:
                ours = order.start_path == "hardened"  # its init
                self._limits = self._limiter.group(Bounds(*order.limits), int(ours))  # type: ignore[arg-type]
                content = _dumps({"key": self.key, "cgroups": self._limits.directories}).encode()
            except CannotLimit as error:
                refusal = str(error)
        if not self._segment.write_vital(frames.encode(frames.STARTED, content, at_us)):
            refusal = "the worker's disk is full: the start could not be recorded"
        self.ledger_offset = self._segment.size
        try:
            if refusal:
                raise SpawnFailed(refusal)
            if order.lease and self._lease(order.lease) <= 0:
                self._finish(cause=Cause.LEASE, evidence="the worker's lease had run out before it began; it never ran")
                return
            self._start(base_env, null, home, score)
        except SpawnFailed as error:
            self._finish(cause=Cause.NOT_STARTED, evidence="the program was not started", error=str(error))
            return
        now = time.monotonic()
        self.started_at_us = at_us
        self._due_started = now + TELL_STARTED_S
        if order.timeout_s:
            self._due_timeout = now + order.timeout_s
        if order.lease:
            self._due_lease = now
        # First, because the groups go with the end of the attempt.
        if self._limits is not None and not self._limits.tighten():
            self.stop(Cause.MEMORY_LIMIT, 0.0)
        if self._space is not None and self._space.left:
            self.reap()  # the program ended at once, as its init has told together with the start

    def _start(self, base_env: dict[bytes, bytes], null: int, home: int, score: int) -> None:
        order = self.order
        env = self._confinement.environment(base_env)
        for name, text in order.env.items():
            env[os.fsencode(name)] = os.fsencode(text)
        key = os.fsencode(self.key)
        env[b"HOSTLER_ATTEMPT"] = key
        env[b"HOSTLER_JOB"] = key.partition(b".")[0]
        streams: Streams | None = None
        try:
            if order.workspace and self._confinement.user is not None:
                give(order.workspace, self._confinement.user)
            streams = make_streams(order, self.output, self._confinement, self._poll, null)
            self.stdin = streams.feeds
            if self._limits is not None:
                self._limits.enter()  # what we start is born inside
                self._tree.limited = self._limits.cgroup
            try:
                self.pid = self._spawn(env, home, score, streams)
            finally:
                if self._limits is not None:
                    self._limits.leave()
        except CannotLimit as error:
            raise SpawnFailed(str(error)) from error
        except OSError as error:
            raise SpawnFailed(f"fork/exec {order.argv[0] if order.argv else ''}: {error.strerror}") from error
        finally:
            if streams is not None and streams.owned:
                os.close(streams.stdin)
        self.output.watch()

    def _spawn(self, env: dict[bytes, bytes], home: int, score: int, streams: Streams) -> int:
        order, confinement, (stdin, stdout, stderr, *_) = self.order, self._confinement, streams
        if order.start_path != "hardened" or order.proxy:
            return spawn(order, env, home, confinement, score, stdin=stdin, stdout=stdout, stderr=stderr)
        space = hardened.start(order, env, home, confinement, stdin=stdin, stdout=stdout, stderr=stderr)
        self._space = self._tree.space = space
        self._poll.register(space.fd, select.EPOLLIN)
        return space.pid

    # -- output

    def reads(self, fd: int) -> bool:
        """Say whether a descriptor is one of the attempt's output pipes, or that on which its init reports."""
        return self.output.reads(fd) or (self._space is not None and fd == self._space.fd)

    def on_readable(self, fd: int) -> None:
        """Move what a pipe holds, at most 64 KiB, into the ledger; hear what an init reports."""
        if self._space is not None and fd == self._space.fd:
            self._space.read()
            if self._space.is_silent:
                self._poll.unregister(fd)  # an end is readable for ever
            if self._space.left:  # else it ends, and is reaped
                self.reap()
        elif self.output.on_readable(fd) and self._due_output == math.inf:
            first = TELL_OUTPUT_S if self._told_position else TELL_OUTPUT_FIRST_S
            self._due_output = time.monotonic() + (TELL_TYPED_S if self.order.terminal else first)
        if self.output.is_over and self.order.output_stop and self.phase is Phase.RUNNING:
            self.stop(Cause.OUTPUT_LIMIT, self.order.grace_s)

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
            if self._space is not None:
                self._space.read()
                self._status = self._space.status
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
        if self._space is not None and reaped.pid == self._space.init:
            used = self._space.ended(reaped)
            self._status = self._space.status
            self.spent.add_used(used)
            return
        self.spent.add(reaped.usage)
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
        pause_s = self._pass_s
        if self.phase is not Phase.KILLING:
            if self._space is not None:
                pause_s = hardened.END_S
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
        self._due_pass = now + pause_s
        self._pass_s = min(_PASS_MAX_S, self._pass_s * 2)

    def signal(self, number: int, *, alone: bool = False) -> None:
        """Send a signal of a user to the main process, *alone* or with its process group, while that lives."""
        self.reap()
        if self._status is None and self.phase is not Phase.OVER:
            self._passed_on.add(number)
            if self._space is not None:
                self._space.signal(number, alone=alone)
                return
            # Not reaped, so its pid, which is its group's id, cannot be another's.
            with contextlib.suppress(OSError):
                (os.kill if alone else os.killpg)(self.pid, number)

    # -- time

    def next_due(self) -> float:
        """Return when `tick` must be called next, on the monotonic clock; infinity for never."""
        return min(
            self._due_started,
            self._due_output,
            self._due_timeout,
            self._due_lease,
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
            if self._limits is None or not self._limits.bounds.memory_bytes:
                self._kernel_kills = self._memory.count()
            self._tell(encode({"type": "started", **self.where(), "pid": self.pid, "at_us": self.started_at_us}))
        if now >= self._due_output:
            self._due_output = math.inf
            position = self.position
            if position > self._told_position and self._tell(encode({"type": "output", **self.where()})):
                self._told_position = position
        if now >= self._due_lease:
            self._look_at_lease(now)
        if now >= self._due_timeout:
            self._due_timeout = math.inf  # also when there is nothing to be stopped any more
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

    def _look_at_lease(self, now: float) -> None:
        remaining_s = self._lease(self.order.lease)
        if remaining_s > 0:
            self._due_lease = now + min(LOOK_S, remaining_s)
        else:
            self._due_lease = math.inf
            self.stop(Cause.LEASE, self.order.grace_s)

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
            return
        order, ours = self.order, self._asked or self._names or self._killed_at_us or self._space
        if not (status or ours or order.limits or order.output_stop):
            self._finish(cause=Cause.EXIT, evidence="", exit_code=0, plain=True)
            return
        cause, evidence, plain = judge(self._facts(status))
        if os.WIFSIGNALED(status):
            name, core = signal_name(os.WTERMSIG(status)), os.WCOREDUMP(status)
            self._finish(cause=cause, evidence=evidence, signal_text=name, core_dumped=core)
        else:
            code = os.waitstatus_to_exitcode(status)
            self._finish(cause=cause, evidence=evidence, exit_code=code, plain=plain)

    def _facts(self, status: int) -> Facts:
        order, seen, over, kernel_killed = self.order, Seen(), 0, 0
        if order.output_stop:
            self.output.close()  # what was held back counts as well
            over = order.output_bytes_max if self.output.is_over else 0
        if self._limits is not None:
            seen = self._limits.seen()
            self.spent.tree_bytes_max = seen.memory_bytes_max
        if self._kernel_kills >= 0 and status:
            kernel_killed = self._memory.count() - self._kernel_kills
        return Facts(
            status,
            self.pid,
            self._asked,
            self._sent,
            bool(self._killed_at_us),
            self._passed_on,
            len(self._names),
            Bounds(*order.limits),  # type: ignore[arg-type]
            seen,
            kernel_killed,
            over,
        )

    def _receipt(self, ended_at_us: int) -> Receipt:
        if self._killed_at_us:
            count = max(1, len(self._killed))
            self._sent.append(SentSignal(signal="SIGKILL", at_us=self._killed_at_us, processes=count))
        by = "wait" if self._space is None else "namespace"
        if self._tree.cgroup is not None and (self._killed_at_us or (self._space and self._tree.is_empty())):
            by += "+cgroup"
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
        plain: bool = False,
    ) -> None:
        """Write the end. *plain*: an exit with nothing to say about it but its code."""
        ended_at_us = now_us()
        self.output.close()
        if self.stdin is not None:
            self.stdin.close()
        self._tree.settle()
        if self._space is not None:
            self._space.close()
            self._tree.space = None
        if self._limits is not None:
            self._limits.remove()
            self._tree.limited = None
        if plain and self._space is None:
            self.ended_json = plain_exit_json(self, exit_code or 0, ended_at_us).encode()
        else:
            how = {"cause": cause, "evidence": evidence, "error": error, "exit_code": exit_code}
            how |= {"signal": signal_text, "core_dumped": core_dumped}
            self.ended_json = _dumps(ended_of(self, ended_at_us, self._receipt(ended_at_us), how).to_json()).encode()
        self._segment.write_vital(frames.encode(frames.EXIT, self.ended_json, ended_at_us))
        self.phase = Phase.OVER
