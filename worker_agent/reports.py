"""What the agent holds for the coordinator: accepted attempts, and what is still to be said of them.

Pure. The rules: an attempt is accepted only above the mark; what was said is said again until it is
acknowledged; an attempt is forgotten when its end is acknowledged and its log is stored.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from hostler.jobs import Advance, End, EndedProcess, Failure, OutputFile, Work
from worker_agent.attempts import Ended, Exited, Order

INLINE_LEDGER_BYTES_MAX = 8 * 1024  # a log up to this long travels in the report
COLLECTED_PER_MESSAGE = 4_000_000  # characters that reports with outputs may add to a message, but for the last one


class HeldState(StrEnum):
    """Where an attempt is, on this worker."""

    WAITING = "waiting"  # accepted, its program not started
    RUNNING = "running"  # handed to a shim
    COLLECTING = "collecting"  # nothing of its tree is left; what it left in its workspace is being stored
    ENDED = "ended"  # nothing is left of it, or it is proved that it never ran


class StartCommand(NamedTuple):
    """The coordinator's word to run an attempt."""

    sequence: int
    order: Order
    slots: int  # of the worker's; 0: starts at once
    digest: bytes  # of the work, for the journal
    work: Work | None = None  # set: it needs a workspace before it can start
    refusal: str = ""  # set: the worker's policy forbids it
    start_by_s: float = 0.0  # on the agent's monotonic clock: not begun later; 0: no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What an attempt left in its workspace: the outputs are stored."""

    result: bytes = b""
    failure: Failure | None = None
    advance: Advance = field(default_factory=Advance)
    outputs: tuple[OutputFile, ...] = ()  # by path
    missing: tuple[str, ...] = ()
    result_digest: str = ""  # of a result that is stored, because it is too large for `result`
    result_bytes: int = 0

    @property
    def characters(self) -> int:
        """About how much it adds to a report."""
        files = sum(200 + len(file.path) for file in self.outputs)
        steps = sum(50 + len(step.text) for step in self.advance.steps)
        return len(self.result) + files + steps + sum(map(len, self.missing))

    def added_to(self, end: End) -> End:
        """Return the end with what is told of it besides."""
        return replace(
            end,
            result=self.result,
            failure=self.failure,
            advance=self.advance,
            outputs=len(self.outputs),
            outputs_missing=self.missing,
            result_digest=self.result_digest,
            result_bytes=self.result_bytes,
        )


@dataclass(slots=True)
class Held:
    """One attempt that the coordinator has not let go."""

    key: str
    slots: int = 0  # that it takes while it runs
    order: Order | None = None  # None: found after a restart of the agent
    state: HeldState = HeldState.WAITING
    started_at_us: int = 0
    pid: int = 0
    ended: Ended | Exited | None = None
    never_ran: bool = False
    refusal: str = ""
    elsewhere: bool = False  # another worker may take what was refused
    survivors: tuple[EndedProcess, ...] = ()
    stopping: bool = False
    acknowledged: bool = False  # the coordinator has the end
    inline: bool = False  # the log travels in the report
    ledger_bytes: int = 0  # of the log, as far as it is known
    pushed: int = 0  # of the log, sent on the stream that is up
    stored: int = 0  # of the log, durable at the coordinator
    adopted: bool = False  # by a later agent: perhaps only its log is waited for, and comes in no report
    workspace: bool = False
    start_by_s: float = 0.0  # on the agent's monotonic clock: not begun later; 0: no limit
    preparing: bool = False  # it has no place among those that wait for a slot yet
    collected: Collected | None = None

    @property
    def may_queue(self) -> bool:
        """Whether it may wait in a shim behind another: what takes more slots or is fed has a shim of its own."""
        return self.slots == 1 and self.order is not None and not self.order.stdin

    @property
    def log_done(self) -> bool:
        """Whether the coordinator needs nothing more of the log."""
        return self.inline or self.never_ran or self.stored >= self.ledger_bytes


class Assignments:
    """Every attempt this agent holds, in the order of their starts."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.slots_used = 0
        self.held: dict[str, Held] = {}
        self.active = 0  # waiting or running
        self._waiting: deque[Held] = deque()  # for a slot; some may have left
        self._waiting_slotless: deque[Held] = deque()
        self._unsaid: dict[str, None] = {}  # keys with news, in order

    def __len__(self) -> int:
        return len(self.held)

    # Commands

    def receive(self, commands: Iterable[StartCommand], mark: int) -> tuple[list[StartCommand], list[StartCommand]]:
        """Split commands into those to accept, and those that came too late and never ran.

        A command for an attempt that is held already is a repetition: its news is said again.
        """
        accepted: list[StartCommand] = []
        too_late: list[StartCommand] = []
        for command in commands:
            held = self.held.get(command.order.key)
            if held is not None:
                self._unsaid[held.key] = None
            elif command.sequence > mark:
                mark = command.sequence
                accepted.append(command)
            else:
                too_late.append(command)
        return accepted, too_late

    def accept(self, command: StartCommand) -> None:
        """Hold an attempt; the journal has it already."""
        order = command.order
        held = self.held[order.key] = Held(order.key, command.slots, order)
        held.start_by_s = command.start_by_s
        self.active += 1
        if command.work is not None:
            held.workspace = held.preparing = True
        else:
            (self._waiting if command.slots else self._waiting_slotless).append(held)

    def prepared(self, order: Order) -> None:
        """The workspace is there: the attempt waits for its slot, with its order as it is now."""
        held = self.held.get(order.key)
        if held is not None and held.preparing and held.state is HeldState.WAITING:
            lease = held.order.lease if held.order is not None else 0
            held.order, held.preparing = order._replace(lease=lease), False
            (self._waiting if held.slots else self._waiting_slotless).append(held)

    def adopt(self, key: str, *, running: bool, ended: Ended | None, workspace: bool = False) -> None:
        """Hold an attempt of an earlier run of the agent; its slots are told with the verdict."""
        held = self.held[key] = Held(key, adopted=True, workspace=workspace)
        self.active += 1
        held.state = HeldState.RUNNING
        if ended is not None:
            self.end(ended)
        elif not running:
            self.prove_never_ran(key)

    def keep(self, key: str, slots: int) -> None:
        """The coordinator confirms an attempt that it takes *slots*."""
        held = self.held.get(key)
        if held is not None and held.state is HeldState.RUNNING:
            self.slots_used += slots - held.slots
            held.slots = slots

    def renew(self, term: int) -> None:
        """What waits here is wanted still: the coordinator has just said so, under this term of the lease."""
        for held in self.held.values():
            if held.state is HeldState.WAITING and held.order is not None and held.order.lease:
                held.order = held.order._replace(lease=term)

    def next_waiting(self) -> Held | None:
        """Return the attempt whose turn it is: one that takes no slots, or the first of the others."""
        for queue in (self._waiting_slotless, self._waiting):
            while queue and queue[0].state is not HeldState.WAITING:
                queue.popleft()
            if queue:
                return queue[0]
        return None

    def has_room(self, held: Held, queued: int) -> bool:
        """Say whether the slots let an attempt run beside those that run.

        *queued* attempts count as running and wait behind another in the same shim. Each of them takes one slot
        and gets it from the one before it, so they are left out of the count.
        """
        return not held.slots or self.slots_used - queued + held.slots <= self._slots

    def start(self, held: Held) -> None:
        """Take the attempt that `next_waiting` returned; it was handed to a shim and counts as running from now on."""
        (self._waiting if held.slots else self._waiting_slotless).popleft()
        held.state = HeldState.RUNNING
        held.order = None
        self.slots_used += held.slots

    def returned(self, order: Order) -> None:
        """The attempt did not run after all: it is the next that waits, or never runs when it was to be stopped."""
        held = self.held.get(order.key)
        if held is None or held.state is not HeldState.RUNNING:
            return
        if held.stopping:
            self.prove_never_ran(order.key)
            return
        held.state, held.order = HeldState.WAITING, order
        self.slots_used -= held.slots
        self._waiting.appendleft(held)

    def refuse(self, key: str, reason: str, *, elsewhere: bool = False) -> None:
        """The worker will not run this attempt; *elsewhere*: another one may."""
        self.prove_never_ran(key)
        self.held[key].refusal, self.held[key].elsewhere = reason, elsewhere

    def stop(self, key: str) -> HeldState | None:
        """Note a stop. What waited never runs; None: the attempt is not held."""
        held = self.held.get(key)
        if held is None:
            return None
        if held.state is HeldState.WAITING:
            self.prove_never_ran(key)
            return HeldState.WAITING
        held.stopping = True
        return held.state

    def waiting(self) -> list[str]:
        """The attempts that were accepted and not started."""
        return [key for key, held in self.held.items() if held.state is HeldState.WAITING]

    # News

    def started(self, key: str, pid: int, at_us: int) -> None:
        """The program runs."""
        held = self.held.get(key)
        if held is not None and held.state is HeldState.RUNNING:
            held.pid, held.started_at_us = pid, at_us
            self._unsaid[key] = None

    def grew(self, key: str, position: int) -> None:
        """The log is this long now."""
        held = self.held.get(key)
        if held is not None:
            held.ledger_bytes = max(held.ledger_bytes, position)

    def unkillable(self, key: str, survivors: tuple[EndedProcess, ...]) -> None:
        """Some processes cannot be ended."""
        held = self.held.get(key)
        if held is not None:
            held.survivors = survivors
            self._unsaid[key] = None

    def collect(self, held: Held, ended: Ended) -> None:
        """Nothing of the attempt's tree is left, and its slot is free; what it left is stored before its `end`."""
        self._leave(held, HeldState.COLLECTING)
        held.started_at_us = ended.started_at_us
        held.ledger_bytes = ended.ledger_bytes

    def end(self, ended: Ended | Exited) -> None:
        """Nothing of the attempt's tree is left, and what it left is stored."""
        held = self.held.get(ended.key)
        if held is None:
            return
        self._leave(held)
        held.ended = ended
        held.started_at_us = ended.started_at_us
        held.ledger_bytes = ended.ledger_bytes
        is_short = ended.ledger_bytes <= INLINE_LEDGER_BYTES_MAX
        held.inline = is_short and held.pushed == 0 and held.stored == 0 and not held.adopted
        self._unsaid[ended.key] = None

    def prove_never_ran(self, key: str) -> None:
        """The program was not and will not be started."""
        held = self.held.get(key)
        if held is None:
            held = self.held[key] = Held(key, state=HeldState.ENDED)
        self._leave(held)
        held.never_ran = True
        held.order = None
        self._unsaid[key] = None

    def _leave(self, held: Held, state: HeldState = HeldState.ENDED) -> None:
        if held.state is HeldState.RUNNING:
            self.slots_used -= held.slots
            self.active -= 1
        elif held.state is HeldState.WAITING:
            self.active -= 1
        held.state = state

    def unsaid(self, limit: int) -> list[Held]:
        """Take at most *limit* attempts with news, fewer with many outputs; they count as said on this stream."""
        found: list[Held] = []
        characters = 0
        while self._unsaid and len(found) < limit:
            key = next(iter(self._unsaid))
            del self._unsaid[key]
            held = self.held.get(key)
            if held is not None:
                found.append(held)
                if held.collected is not None:
                    characters += held.collected.characters
                    if characters >= COLLECTED_PER_MESSAGE:
                        break
        return found

    @property
    def news(self) -> int:
        """Of how many attempts there is something to say."""
        return len(self._unsaid)

    def connected(self) -> None:
        """A new stream is up: everything not acknowledged is said again, and every log goes on where it is stored."""
        for held in self.held.values():
            held.pushed = held.stored
            if (held.state is HeldState.ENDED and not held.acknowledged) or held.started_at_us or held.survivors:
                self._unsaid[held.key] = None

    # Letting go

    def acknowledge(self, key: str) -> bool:
        """The coordinator has the end; True: the attempt can be forgotten now."""
        held = self.held.get(key)
        if held is None or held.state is not HeldState.ENDED:
            return False
        held.acknowledged = True
        return self._let_go(held)

    def log_stored(self, key: str, position: int) -> bool:
        """The coordinator has the log up to *position*; True: the attempt can be forgotten now."""
        held = self.held.get(key)
        if held is None:
            return False
        held.stored = max(held.stored, position)
        return self._let_go(held)

    def log_unwanted(self, key: str) -> bool:
        """The coordinator does not want this log; True: the attempt can be forgotten now."""
        held = self.held.get(key)
        if held is None:
            return False
        held.stored = held.pushed = max(held.ledger_bytes, held.stored)
        return self._let_go(held)

    def forget(self, key: str) -> bool:
        """The coordinator does not know this attempt: nothing more is to be said. True: it can go now."""
        held = self.held.get(key)
        if held is None or held.state in (HeldState.WAITING, HeldState.RUNNING):
            return False
        held.state = HeldState.ENDED
        held.acknowledged = held.inline = True
        return self._let_go(held)

    def _let_go(self, held: Held) -> bool:
        if not (held.acknowledged and held.log_done and held.state is HeldState.ENDED):
            return False
        del self.held[held.key]
        self._unsaid.pop(held.key, None)
        return True
