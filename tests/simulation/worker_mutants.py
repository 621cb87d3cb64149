"""The guards of the agent and of the shim, switched off one by one."""

from typing import Any

import worker_agent.agent
from tests.simulation.mutant import Replacement, off
from worker_agent import recovery
from worker_agent.agent import Agent
from worker_agent.journal import ACCEPTED, TOMBSTONE, Journal
from worker_agent.link import Link
from worker_agent.reports import Assignments, HeldState
from worker_agent.shim import Shim
from worker_agent.supervision import Supervision

# The agent


@off("a command for an attempt that is held is a repetition")
def held_is_not_new() -> list[Replacement]:
    def receive(self: Assignments, commands: Any, mark: int) -> Any:
        known = list(commands)
        return [c for c in known if c.sequence > mark], [c for c in known if c.sequence <= mark]

    return [(Assignments, "receive", receive)]


@off("nothing at or below the mark is ever accepted")
def mark_of_commands() -> list[Replacement]:
    real = Assignments.receive

    def accept(self: Journal, group: Any) -> None:
        entries = list(group)
        self._append(ACCEPTED, entries)
        self._note(ACCEPTED, entries)

    return [
        (Assignments, "receive", lambda self, commands, mark: real(self, commands, -1)),
        (Journal, "accept", accept),
    ]


@off("the mark is at least what the coordinator has sent to an earlier journal")
def mark_of_welcome() -> list[Replacement]:
    return [(Journal, "raise_mark", lambda self, mark: None)]


@off("a stop that comes before its start leaves a tombstone, and is answered")
def tombstone() -> list[Replacement]:
    real = Agent.on_stop

    def on_stop(self: Agent, key: str, *arguments: Any) -> None:
        if key in self.assignments.held:
            real(self, key, *arguments)

    return [(Agent, "on_stop", on_stop)]


@off("a tombstone raises the mark")
def tombstone_raises_mark() -> list[Replacement]:
    real = Journal._note

    def note(self: Journal, kind: int, content: Any) -> None:
        mark = self.mark
        real(self, kind, content)
        if kind == TOMBSTONE:
            self.mark = mark

    return [(Journal, "_note", note)]


@off("an attempt is journalled before it is acted on")
def journal_before_start() -> list[Replacement]:
    def accept(self: Journal, group: Any) -> None:
        self._note(ACCEPTED, list(group))

    return [(Journal, "accept", accept)]


@off("reports are repeated on a new stream until they are acknowledged")
def reports_again() -> list[Replacement]:
    def connected(self: Assignments) -> None:
        for held in self.held.values():
            held.pushed = held.stored

    return [(Assignments, "connected", connected)]


@off("an attempt is held until its end is acknowledged")
def held_until_acknowledged() -> list[Replacement]:
    real = Link._put_report

    def put_report(self: Link, report: Any, held: Any) -> None:
        real(self, report, held)
        if held.state is HeldState.ENDED and (held.never_ran or held.inline):
            self._agent.on_acknowledged([held.key])

    return [(Link, "_put_report", put_report)]


@off("an attempt is held until its log is stored")
def held_until_log_is_stored() -> list[Replacement]:
    real = Assignments.acknowledge

    def acknowledge(self: Assignments, key: str) -> bool:
        held = self.held.get(key)
        if held is not None and held.state is HeldState.ENDED:
            held.inline = True
        return real(self, key)

    return [(Assignments, "acknowledge", acknowledge)]


@off("the log of an attempt that a later agent found comes by itself, not in a report that may not be looked at")
def adopted_log_is_pushed() -> list[Replacement]:
    real = Assignments.end

    def end(self: Assignments, ended: Any) -> None:
        held = self.held.get(ended.key)
        if held is not None:
            held.adopted = False
        real(self, ended)

    return [(Assignments, "end", end)]


@off("a hello lists everything that is not acknowledged")
def inventory() -> list[Replacement]:
    real = Link._hello

    def hello(self: Link) -> Any:
        message = real(self)
        del message.inventory[:]
        return message

    return [(Link, "_hello", hello)]


@off("what the coordinator does not want any more is ended")
def verdict_kill() -> list[Replacement]:
    real = Agent.on_verdict

    def on_verdict(self: Agent, key: str, kind: str, slots: int) -> None:
        real(self, key, "keep" if kind == "kill" else kind, slots)

    return [(Agent, "on_verdict", on_verdict)]


@off("attempts that an earlier agent left take their slots")
def kept_slots() -> list[Replacement]:
    return [(Assignments, "keep", lambda self, key, slots: None)]


@off("an agent ends what its journal does not know, and looks before it starts anything")
def recovery_finds() -> list[Replacement]:
    async def recover(runner: Any, open_keys: Any) -> Any:
        return {key: recovery.Recovered(key=key, fate=recovery.Fate.NEVER_RAN) for key in open_keys}

    return [(worker_agent.agent, "recover", recover)]


@off("a shim that is silent may still start what it was given: it is not judged")
def fence_before_judging() -> list[Replacement]:
    real_ask = recovery.Recovery._ask

    async def ask(self: Any, shim: int, identity: Any) -> None:
        await real_ask(self, shim, identity)
        if shim in self._silent:
            self._silent.discard(shim)
            self._dead.add(shim)

    return [(recovery.Recovery, "_ask", ask)]


# The shim


@off("orders that wait in a shim do not outlive the connection they came by")
def orders_end_with_connection() -> list[Replacement]:
    real = Shim._drop

    def drop(self: Shim, connection: Any) -> None:
        waiting = list(self._queue)
        real(self, connection)
        self._queue.extend(waiting)

    return [(Shim, "_drop", drop)]


@off("a connection of an older agent is closed unread when a newer one says hello")
def older_agent_is_closed() -> list[Replacement]:
    real_event, real_stranger = Shim._on_event, Shim._on_stranger

    def on_event(self: Shim, fd: int) -> None:
        old = getattr(self, "_old_agents", {})
        if fd in old:
            for message in self._receive(old[fd]) or ():
                self._on_message(old[fd], message)
        else:
            real_event(self, fd)

    def on_stranger(self: Shim, stranger: Any) -> None:
        before: Any = self._agent
        self._agent = None
        real_stranger(self, stranger)
        now: Any = self._agent
        if now is None:
            self._agent = before
        elif before is not None:
            old = getattr(self, "_old_agents", {})
            self.__dict__["_old_agents"] = old | {before.fd: before}

    return [(Shim, "_on_event", on_event), (Shim, "_on_stranger", on_stranger)]


@off("the record of a start is written before the program is started")
def started_before_spawn() -> list[Replacement]:
    real_start = Supervision._start

    class Late:
        """A segment that keeps the record back until the program was started."""

        def __init__(self, segment: Any) -> None:
            self._segment = segment
            self.held: bytes | None = None

        def __getattr__(self, name: str) -> Any:
            return getattr(self._segment, name)

        def write_vital(self, frame: bytes) -> bool:
            if self.held is None:
                self.held = frame
                return True
            return bool(self._segment.write_vital(frame))

    real_begin = Supervision.begin

    def begin(self: Supervision, *arguments: Any) -> None:
        segment: Any = self._segment
        late: Any = Late(segment)
        self._segment = late
        try:
            real_begin(self, *arguments)
        finally:
            self._segment = segment

    def start(self: Supervision, *arguments: Any) -> None:
        real_start(self, *arguments)
        late: Any = self._segment
        late._segment.write_vital(late.held)

    return [(Supervision, "begin", begin), (Supervision, "_start", start)]


@off("an end is said when nothing of the tree is left")
def tree_is_empty_at_the_end() -> list[Replacement]:
    real = Supervision._note

    def note(self: Supervision, reaped: Any) -> None:
        real(self, reaped)
        if reaped.pid == self.pid:
            self._finish_by_status()

    return [(Supervision, "_note", note)]
