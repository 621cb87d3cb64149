"""The agent's centre: commands of the coordinator on one side, events of the runner on the other.

It journals what it accepts before it acts, starts what has room, and keeps what is to be said. It
knows no protobuf and no stream; `link` and `log_push` carry its words.
"""

import asyncio
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import replace

from hostler import frames, logs
from hostler.jobs import Usage
from worker_agent.attempt_events import Event, Fed, NeverRan, Output, Returned, Started, Unkillable
from worker_agent.attempts import Cause, Ended, Exited, Order, never_started
from worker_agent.draining import DiskRoom, Draining
from worker_agent.journal import Accepted, Journal, JournalFull
from worker_agent.notes import Notes
from worker_agent.recovery import Fate, recover
from worker_agent.reports import Assignments, Collected, HeldState, StartCommand
from worker_agent.runner import NO_PROCESS, ProcessCapReached, Runner
from worker_agent.workspaces import Workspaces

SAMPLE_S = 5.0
STOP_GRACE_S = 10.0  # for jobs that end with the worker
LEAVE_S = 25.0  # for everything that is to be ended and acknowledged before a goodbye
RETURN_S = 2.0  # for giving back what was not started
PIDS_SHOWN_MAX = 8
# Names of reasons to take no work; an attempt that cannot be killed is one by its key.
_LEAVING, _WRITE, _DISK = "leaving", "write", "disk"


class Agent:
    """Owns the journal and the assignments; the runner tells it what happens to programs."""

    def __init__(self, journal: Journal, slots: int, disk: DiskRoom | None = None) -> None:
        """*disk*: with too little room there no new work is taken; None: that is not asked."""
        self.journal = journal
        self.assignments = Assignments(slots)
        self.news = asyncio.Event()  # something is to be said on the control stream
        self.log_news = asyncio.Event()  # a log has grown or may go on
        self.draining = Draining()
        self.samples: dict[str, Usage] = {}  # the latest, not yet said
        self.fed: dict[str, Fed] = {}  # stdin taken, not yet said
        self.notes = Notes()
        self._disk = disk
        self._memory_max: dict[str, int] = {}
        self._emptied = asyncio.Event()
        self._early_stops: dict[str, tuple[float, Cause]] = {}  # of attempts whose shim has not answered yet
        self._early: list[Event] | None = None  # during recovery: what is told of attempts that are not held yet
        self._runner: Runner
        self.workspaces: Workspaces

    async def recover(self, runner: Runner, workspaces: Workspaces) -> None:
        """Take over what an earlier agent left; must be called before anything else."""
        self._runner, self.workspaces = runner, workspaces
        early = self._early = []
        fates = await recover(runner, self.journal.open_attempts.keys())
        kept = workspaces.adopt(fates.keys())
        for found in fates.values():
            running = found.fate in (Fate.RUNNING, Fate.UNKNOWN)
            if found.key not in kept:
                self.assignments.adopt(found.key, running=running, ended=found.ended)
                continue
            # Whether its outputs were stored nobody remembers: its end is told when they are.
            running = running or found.ended is not None
            self.assignments.adopt(found.key, running=running, ended=None, workspace=True)
            if found.ended is not None:
                self._on_ended(found.ended)
        for key in self.journal.tombstones:
            self.assignments.prove_never_ran(key)
        self._early = None
        self.on_event(*early)
        logs.get().info(
            "agent.started",
            generation=self.journal.generation,
            running=sum(f.fate is Fate.RUNNING for f in fates.values()),
            ended=sum(f.fate is Fate.ENDED for f in fates.values()),
            never_ran=sum(f.fate is Fate.NEVER_RAN for f in fates.values()),
            unknown=sum(f.fate is Fate.UNKNOWN for f in fates.values()),
        )

    # Commands of the coordinator

    def on_starts(self, commands: Iterable[StartCommand]) -> None:
        """Accept what is new, durably, and start what has room."""
        accepted, too_late = self.assignments.receive(commands, self.journal.mark)
        self._look_at_disk()
        if self.draining:
            too_late, accepted = too_late + accepted, []
        try:
            self.journal.accept([Accepted(c.order.key, c.sequence, c.digest.hex()) for c in accepted])
        except JournalFull as error:
            # Nothing was promised. Another worker may have room; this one takes nothing more for now.
            logs.get().error("attempt.refused", reason=f"the journal cannot be written: {error}")
            self._drain(_WRITE, f"the journal cannot be written: {error}")
            too_late, accepted = too_late + accepted, []
        for command in accepted:
            self.assignments.accept(command)
            if command.refusal:
                self.assignments.refuse(command.order.key, command.refusal, elsewhere=True)
            elif command.work is not None:
                self.workspaces.prepare(command.order, command.work)
        for command in too_late:
            self.assignments.prove_never_ran(command.order.key)
        self._fill()

    def on_stop(self, key: str, sequence: int, grace_s: float, cause: Cause = Cause.STOP) -> None:
        """End an attempt, or make sure that it never begins. A negative grace is the job's own."""
        state = self.assignments.stop(key)
        if state is HeldState.RUNNING:
            if not self._runner.stop(key, grace_s=grace_s, cause=cause):
                self._early_stops[key] = grace_s, cause  # its shim was silent when this agent began
        elif state is HeldState.WAITING:
            self.workspaces.cancel(key)
        elif state is None:
            if sequence > self.journal.mark:
                self.journal.tombstone(key, sequence)
            self.assignments.prove_never_ran(key)
        self._fill()

    def on_recall(self, key: str) -> None:
        """Give an attempt back that waits here; one that has begun, or is with a shim, stays."""
        held = self.assignments.held.get(key)
        if held is not None and held.state is HeldState.WAITING:
            self.on_stop(key, 0, 0.0)

    def on_signal(self, key: str, number: int, *, alone: bool = False) -> bool:
        """Signal the main process of an attempt; False: it does not run, or its shim has not answered this agent yet.

        A signal that is unknown here is passed over.
        """
        return number not in signal.valid_signals() or self._runner.signal(key, number, alone=alone)

    def on_feed(self, key: str, offset: int, content: bytes, *, eof: bool, size: tuple[int, int] = (0, 0)) -> None:
        """Give standard input to an attempt; what cannot be taken now is sent again by the coordinator."""
        if self._runner.feed(key, offset, content, eof=eof, size=size) or key in self._runner.running():
            return
        held = self.assignments.held.get(key)
        if held is None or held.state is not HeldState.RUNNING:  # else its shim was silent when this agent began
            self.fed[key] = Fed(key, 0, closed=True)
            self.news.set()

    def on_acknowledged(self, keys: Iterable[str]) -> None:
        """The coordinator has these ends."""
        self._let_go([key for key in keys if self.assignments.acknowledge(key)])

    def on_verdict(self, key: str, kind: str, slots: int) -> None:
        """Reconcile one attempt of the inventory: keep, kill or forget."""
        if kind == "keep":
            self.assignments.keep(key, slots)
        elif kind == "forget":
            self._let_go([key] if self.assignments.forget(key) else [])
        else:
            self.on_stop(key, 0, 0.0)

    def on_connected(self, mark: int) -> None:
        """A stream is up and reconciled."""
        self.journal.raise_mark(mark)
        self.assignments.connected()
        self.notes.connected()
        self.workspaces.connected.up()
        self._fill()
        self.news.set()

    def on_disconnected(self) -> None:
        """The stream broke."""
        self.workspaces.connected.down()

    def on_log_mark(self, key: str, received: int, stored: int, *, forget: bool, rewind: bool) -> None:
        """The coordinator says how much of a log it has."""
        held = self.assignments.held.get(key)
        if held is None:
            return
        done = self.assignments.log_unwanted(key) if forget else self.assignments.log_stored(key, stored)
        held.pushed = max(received if rewind else held.pushed, held.stored)
        if done:
            self._let_go([key])
        self.log_news.set()

    def read_log(self, key: str, position: int, max_bytes: int) -> bytes:
        """Whole frames of a log; empty when there are none, or when its segment has gone or cannot be read."""
        try:
            return self._runner.read(key, position, max_bytes)
        except (KeyError, OSError, frames.FrameError):
            return b""

    def on_log_unreadable(self, key: str) -> None:
        """The rest of the log of an attempt that is over cannot be read: it is given up, and the next hello says so."""
        logs.get().error("log.unreadable", attempt=key)
        if self.assignments.log_unwanted(key):
            self._let_go([key])

    # Events of the runner

    def on_event(self, *events: Event) -> None:
        """Take the runner's word; never blocks and never raises."""
        if self._early is not None:
            self._early.extend(events)
            return
        for event in events:
            self._take(event)
        self._fill()

    def _take(self, event: Event) -> None:
        if isinstance(event, Ended) and self._is_for_another_worker(event):
            event = NeverRan(event.key)
        if isinstance(event, (Exited, Ended)):
            self._on_ended(event)
        elif isinstance(event, Returned):
            self._on_returned(event)
        elif isinstance(event, Started):
            self.assignments.started(event.key, event.pid, event.at_us)
            if event.key in self._early_stops:
                grace_s, cause = self._early_stops.pop(event.key)
                self._runner.stop(event.key, grace_s=grace_s, cause=cause)
            self.workspaces.watch(event.key)
        elif isinstance(event, Output):
            self.assignments.grew(event.key, event.position)
            self.log_news.set()
        elif isinstance(event, Fed):
            self.fed[event.key] = event
            self.news.set()
        elif isinstance(event, Unkillable):
            self._on_unkillable(event)
        elif isinstance(event, NeverRan):
            self._early_stops.pop(event.key, None)
            self._undrain(event.key)
            self.assignments.prove_never_ran(event.key)

    def _is_for_another_worker(self, ended: Ended) -> bool:
        """Whether no process could be made because the disk is full, or was: that is nothing the job has done."""
        if ended.cause is not Cause.NOT_STARTED or ended.evidence != NO_PROCESS:
            return False
        was_short = _DISK in self.draining
        self._look_at_disk()
        return was_short or _DISK in self.draining

    def _on_unkillable(self, event: Unkillable) -> None:
        pids = [process.pid for process in event.survivors]
        logs.get().error("attempt.unkillable", attempt=event.key, pids=pids)
        self.assignments.unkillable(event.key, event.survivors)
        shown = ", ".join(map(str, pids[:PIDS_SHOWN_MAX])) + (", ..." if len(pids) > PIDS_SHOWN_MAX else "")
        if self._drain(event.key, f"processes of attempt {event.key} cannot be killed: {shown}"):
            self._give_back()

    def _on_ended(self, ended: Ended | Exited) -> None:
        if isinstance(ended, Ended) and ended.cause is Cause.SUPERVISOR_DIED:
            logs.get().warning("shim.died", attempt=ended.key)
        self._early_stops.pop(ended.key, None)
        self._undrain(ended.key)
        seen = self._memory_max.pop(ended.key, 0)
        if seen:
            ended = ended.ended() if isinstance(ended, Exited) else ended
            ended = replace(ended, usage=replace(ended.usage, memory_bytes_max=max(seen, ended.usage.memory_bytes_max)))
        held = self.assignments.held.get(ended.key)
        if held is not None and held.workspace and ended.started_at_us:
            if held.state is HeldState.RUNNING:
                ended = ended.ended() if isinstance(ended, Exited) else ended
                self.assignments.collect(held, ended)
                self.workspaces.collect(ended)
        else:
            self.assignments.end(ended)
        if self.draining or not self.assignments.active:
            self._emptied.set()
        if held is not None and not held.inline:
            self.log_news.set()

    # Events of the workspaces

    def on_prepared(self, order: Order) -> None:
        """The attempt can be started with this order."""
        self.assignments.prepared(order)
        self._fill()

    def on_not_prepared(self, key: str, refusal: str, *, disk_full: bool) -> None:
        """The attempt never ran; when the disk is full, another worker may have room."""
        held = self.assignments.held.get(key)
        if held is None or held.state is not HeldState.WAITING:
            return
        given_back = "no room for its files" if disk_full else "its files could not be fetched for too long"
        logs.get().warning("attempt.refused", attempt=key, reason=refusal or given_back)
        if disk_full:
            self._drain(_WRITE, given_back)
        self.assignments.refuse(key, refusal)
        self.news.set()

    def on_not_started(self, key: str, error: str) -> None:
        """What the attempt's program needs cannot be started: it ends so, and was never started itself."""
        held = self.assignments.held.get(key)
        if held is not None and held.state is HeldState.WAITING:
            evidence = "what the program needs could not be started"
            self.on_event(never_started(key, time.time_ns() // 1000, Cause.NOT_STARTED, evidence, error))

    def on_collected(self, ended: Ended, collected: Collected) -> None:
        """What the attempt left is stored: its end is told."""
        held = self.assignments.held.get(ended.key)
        if held is None or held.state is not HeldState.COLLECTING:
            return
        held.collected = collected
        self.assignments.end(ended)
        self._emptied.set()
        self.log_news.set()
        self.news.set()

    def _on_returned(self, event: Returned) -> None:
        for order in reversed(event.orders):
            if self.draining:
                self.assignments.prove_never_ran(order.key)
            else:
                self.assignments.returned(order)
        self._emptied.set()

    def _fill(self) -> None:
        """Start what has room; beyond the slots, give shims with short attempts something to go on with."""
        assignments, runner = self.assignments, self._runner
        while (held := assignments.next_waiting()) is not None:
            order = held.order
            assert order is not None
            if held.start_by_s and time.monotonic() > held.start_by_s:
                assignments.prove_never_ran(held.key)
                self.workspaces.cancel(held.key)
                continue
            try:
                if assignments.has_room(held, runner.queues.queued):
                    runner.start(order, leads=held.may_queue)
                elif not (held.may_queue and runner.start_behind(order)):
                    break
                assignments.start(held)
            except ProcessCapReached as error:
                assignments.refuse(held.key, str(error))
        if self.assignments.news:
            self.news.set()

    def _let_go(self, keys: Collection[str]) -> None:
        if keys:
            self.journal.acknowledge(keys)
            self._runner.forget(keys)
            self.workspaces.let_go(keys)
            self._emptied.set()

    # Samples

    async def keep_sampling(self) -> None:
        """Look at what the running trees use, every 5 s, until cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_S)
            # Ask for work again: if the disk is still full, the next start says so.
            self._undrain(_WRITE)
            self._look_at_disk()
            if not self.assignments.active:
                continue
            for key, usage in self._runner.sample().items():
                self._memory_max[key] = max(self._memory_max.get(key, 0), usage.memory_bytes_max)
                self.samples[key] = usage
            if self.samples:
                self.news.set()

    # Taking no work

    @property
    def disk_full(self) -> bool:
        """Whether it takes no new work for want of room on its disk."""
        return (_DISK in self.draining or _WRITE in self.draining) and _LEAVING not in self.draining

    def _drain(self, name: str, reason: str) -> bool:
        """Take no new work because of *reason*, until `_undrain`; whether it was not there before."""
        is_new = self.draining.begin(name, reason)
        if is_new:
            logs.get().warning("agent.draining", reason=reason)
        self.news.set()
        return is_new

    def _undrain(self, name: str) -> None:
        if self.draining.end(name):
            logs.get().info("agent.draining", reason=self.draining.reason)
            self.news.set()

    def _look_at_disk(self) -> None:
        problem = self._disk.problem() if self._disk is not None else ""
        if not problem:
            self._undrain(_DISK)
        elif self._drain(_DISK, problem):
            self._give_back()

    def _give_back(self) -> None:
        """What was accepted and not started is for another worker, or for later."""
        for key in self.assignments.waiting():
            self.assignments.prove_never_ran(key)
            self.workspaces.cancel(key)
        self.news.set()

    # Leaving

    async def leave(self, *, stop_jobs: bool) -> list[str]:
        """Take nothing more, give back what was not started, with *stop_jobs* end what runs.

        Returns the attempts that were ended. Bounded: after 25 s it leaves with what there is.
        """
        self.draining.begin(_LEAVING, "the worker is ending")
        self._give_back()
        stopped = list(self._runner.running()) if stop_jobs else []
        for key in stopped:
            self._runner.stop(key, grace_s=STOP_GRACE_S, cause=Cause.DRAIN)
        self.news.set()
        try:
            async with asyncio.timeout(LEAVE_S if stop_jobs else RETURN_S):
                while self.assignments.held if stop_jobs else self._unsaid_ends() or self._runner.queues.queued:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            pass  # the journal and the segments keep what could not be told
        return stopped

    def _unsaid_ends(self) -> bool:
        return any(h.state is HeldState.ENDED for h in self.assignments.held.values())
