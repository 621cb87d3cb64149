"""Each guard of the protocol, switched off: what a life without it looks like says what it is for.

A mutant replaces a piece of the product's code for as long as a simulation runs; the product has no switches. A guard
whose mutant nobody notices is redundant, or the simulation does not look closely enough; `docs/simulation.md` says
which it is.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import coordinator.rpc.workers_service as workers_service
from coordinator import decisions, ends
from coordinator.effects import Acknowledge, Answer, AttachSession, SendStart
from coordinator.engine import Batch, Engine
from coordinator.storage.protocol import StoreFull
from coordinator.storage.sqlite import SqliteStore
from worker_agent import recovery
from worker_agent.agent import Agent
from worker_agent.journal import TOMBSTONE, Journal
from worker_agent.link import Link
from worker_agent.reports import Assignments, HeldState
from worker_agent.shim import Shim
from worker_agent.supervision import Supervision

Replacement = tuple[Any, str, Any]


class Mutant(NamedTuple):
    """A guard that is off."""

    guard: str
    rule: str  # what holds while it is on
    replaced: Callable[[], list[Replacement]]

    @contextmanager
    def switch_off(self) -> Iterator[None]:
        """Live without the guard."""
        with ExitStack() as stack:
            for where, name, value in self.replaced():
                stack.enter_context(patch.object(where, name, value))
            yield


MUTANTS: dict[str, Mutant] = {}


def off(rule: str) -> Callable[[Callable[[], list[Replacement]]], Callable[[], list[Replacement]]]:
    """Register a mutant under the name of its function; *rule* is what the guard is for."""

    def register(replaced: Callable[[], list[Replacement]]) -> Callable[[], list[Replacement]]:
        MUTANTS[replaced.__name__] = Mutant(replaced.__name__, rule, replaced)
        return replaced

    return register


# Nothing leaves the coordinator before its commit


def _early(*kinds: type) -> list[Replacement]:
    real = Engine._commit

    async def commit(self: Engine, batch: Batch) -> dict[int, bytes]:
        performers = self._performers({})
        for effect in batch.effects:
            if isinstance(effect, kinds) and (not isinstance(effect, SendStart) or effect.work is not None):
                performers[type(effect)](effect)
        return await real(self, batch)

    return [(Engine, "_commit", commit)]


@off("an end is acknowledged after it is durable")
def acknowledge_after_commit() -> list[Replacement]:
    return _early(Acknowledge)


@off("a request is answered after what it asked for is durable")
def answer_after_commit() -> list[Replacement]:
    return _early(Answer)


@off("a worker is told to start after the assignment is durable")
def start_after_commit() -> list[Replacement]:
    return _early(SendStart)


@off("a worker is welcomed after its reconciliation is durable")
def welcome_after_commit() -> list[Replacement]:
    return _early(AttachSession)


@off("a commit that was rolled back is answered with a refusal, and memory is loaded again")
def roll_back_memory() -> list[Replacement]:
    async def start_again(self: Engine, error: StoreFull) -> None:
        batch, self._in_flight = self._in_flight, None
        assert batch is not None
        self._act(batch, {})

    return [(Engine, "_start_again", start_again)]


@off("a commit is made only by the coordinator that opened the store last")
def epoch_of_commit() -> list[Replacement]:
    real = SqliteStore._commit

    def commit(self: SqliteStore, changes: Any, fetch: Any) -> Any:
        opened, self.epoch = self.epoch, self._writer.execute("SELECT epoch FROM leader").fetchone()[0]
        try:
            return real(self, changes, fetch)
        finally:
            self.epoch = opened

    return [(SqliteStore, "_commit", commit)]


# Coordinator: what it believes


@off("reports come from the session that speaks for the worker now")
def session_of_reports() -> list[Replacement]:
    def on_reports(live: Any, worker_id: str, session: str, reports: Any, now: Any) -> Iterator[Any]:
        for report in reports:
            yield decisions.on_report(live, worker_id, report, now)

    return [(decisions, "on_reports", on_reports)]


@off("a report moves only the job's current attempt")
def attempt_of_reports() -> list[Replacement]:
    real = decisions.on_report

    def on_report(live: Any, worker_id: str, report: Any, now: Any) -> Any:
        job = live.job(report.key.job)
        if job is not None and job.worker == worker_id:
            report = report._replace(key=job.attempt_key)
        return real(live, worker_id, report, now)

    return [(decisions, "on_report", on_report)]


@off("a worker whose journal is older than the one seen last is refused")
def generation_of_hello() -> list[Replacement]:
    real = decisions.on_hello

    def on_hello(live: Any, hello: Any, session: Any, now: Any) -> Any:
        known = live.workers.get(hello.worker)
        newest = known.generation if known is not None else 0
        return real(live, hello._replace(generation=max(hello.generation, newest)), session, now)

    return [(decisions, "on_hello", on_hello)]


@off("an attempt that was started is never given back to the queue")
def started_is_not_returned() -> list[Replacement]:
    real = decisions._came_back

    def came_back(job: Any, reason: str, now: Any) -> Any:
        if job.stop_grace_s is None and job.started_at_us:
            return decisions.Returned(job.number, job.attempt_key, reason, now.wall_us)
        return real(job, reason, now)

    return [(decisions, "_came_back", came_back)]


@off("a worker of another boot or journal cannot say what never ran")
def amnesia() -> list[Replacement]:
    real = decisions._reconcile

    def reconcile(live: Any, known: Any, hello: Any, amnesia: bool, changes: Any, now: Any) -> Any:
        return real(live, known, hello, False, changes, now)

    return [(decisions, "_reconcile", reconcile)]


@off("a stop is repeated when its worker comes back")
def stop_again_at_hello() -> list[Replacement]:
    real = decisions._reconcile

    def reconcile(*arguments: Any) -> Any:
        verdicts, _, starts = real(*arguments)
        return verdicts, [], starts

    return [(decisions, "_reconcile", reconcile)]


@off("a start that never arrived is sent again, or its job goes back to the queue")
def start_again_at_hello() -> list[Replacement]:
    real = decisions._reconcile

    def reconcile(*arguments: Any) -> Any:
        verdicts, stops, _ = real(*arguments)
        return verdicts, stops, []

    return [(decisions, "_reconcile", reconcile)]


@off("what the worker's mark is above is not sent again under the same sequence")
def resend_above_the_mark() -> list[Replacement]:
    real = decisions.on_hello

    def on_hello(live: Any, hello: Any, session: Any, now: Any) -> Any:
        return real(live, hello._replace(mark=0), session, now)

    return [(decisions, "on_hello", on_hello)]


@off("an attempt that failed is not tried again once a stop was asked for")
def retry_looks_at_stop() -> list[Replacement]:
    real = ends._may_retry

    class Unstopped:
        stop_grace_s = None

        def __init__(self, job: Any) -> None:
            self._job = job

        def __getattr__(self, name: str) -> Any:
            return getattr(self._job, name)

    return [(ends, "_may_retry", lambda job, report: real(Unstopped(job), report))]  # type: ignore[arg-type]


@off("an attempt is tried again only as often as the job says")
def retries_are_counted() -> list[Replacement]:
    real = ends._may_retry

    class Untired:
        retries = 1000

        def __init__(self, job: Any) -> None:
            self._job = job

        def __getattr__(self, name: str) -> Any:
            return getattr(self._job, name)

    def may_retry(job: Any, report: Any) -> bool:
        return bool(job.retries) and real(Untired(job), report)  # type: ignore[arg-type]

    return [(ends, "_may_retry", may_retry)]


@off("a key that was used gives the job it was used for")
def key_of_submission() -> list[Replacement]:
    return [(decisions, "_live_key", lambda live, owner, key: None)]


@off("a piece of a log is taken only where it follows on what was received")
def position_received() -> list[Replacement]:
    real = workers_service.WorkersService._take_piece

    async def take_piece(self: Any, part: Any, receipts: Any) -> None:
        key = workers_service.key_from_proto(part.key)
        if self._receipts.get(key) is receipts:
            receipts.received[key] = part.position
        await real(self, part, receipts)

    return [(workers_service.WorkersService, "_take_piece", take_piece)]


@off("a piece of a log counts only where it follows on what is stored")
def position_stored() -> list[Replacement]:
    def on_stored(live: Any, pieces: Any, receipts: Any) -> Any:
        decision = decisions.Decision([], [])
        for piece in pieces:
            log = live.log_of(piece.key)
            if log is not None and piece.end > log.log_position:
                past = isinstance(log, workers_service.TrailingLog) and log.past
                stored = workers_service.LogStored(
                    log.number, piece.key, (piece.extent,), piece.end, piece.output_bytes, past
                )
                decision.changes.append(stored)
                if piece.key in receipts:
                    kept = workers_service.LogKept(receipts[piece.key], piece.key, piece.end, rewind=False)
                    decision.effects.append(kept)
        return decision

    return [(workers_service, "_on_stored", on_stored)]


@off("a worker that pushes again hears how much is stored")
def stored_is_told_again() -> list[Replacement]:
    return [(workers_service, "_kept", lambda live, key, receipts, received: decisions.Decision([], []))]


@off("an attempt that is over stays with its worker until its log has arrived")
def trailing_log_is_kept() -> list[Replacement]:
    return [(decisions, "_verdict", lambda live, worker, key, state: "forget" if state == "ended" else "kill")]


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
        self._append(33, entries)
        self._note(33, entries)

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

    def on_stop(self: Agent, key: str, sequence: int, grace_s: float) -> None:
        if key in self.assignments.held:
            real(self, key, sequence, grace_s)

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
        self._note(33, list(group))

    return [(Journal, "accept", accept)]


@off("reports are repeated on a new stream until they are acknowledged")
def reports_again() -> list[Replacement]:
    def connected(self: Assignments) -> None:
        for held in self.held.values():
            held.pushed = held.stored

    return [(Assignments, "connected", connected)]


@off("an attempt is held until its end is acknowledged")
def held_until_acknowledged() -> list[Replacement]:
    real = Link._report

    def report(self: Link, held: Any) -> Any:
        said = real(self, held)
        if held.state is HeldState.ENDED and (held.never_ran or held.inline):
            self._agent.on_acknowledged([held.key])
        return said

    return [(Link, "_report", report)]


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

    import worker_agent.agent

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
        agent, self._agent = self._agent, None
        real_stranger(self, stranger)
        if self._agent is None:
            self._agent = agent
        elif agent is not None:
            old = getattr(self, "_old_agents", {})
            old[agent.fd] = agent
            self._old_agents = old  # type: ignore[attr-defined]

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
