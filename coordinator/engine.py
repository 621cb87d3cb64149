"""The only writer: drain the inbox, decide and apply, commit the group, then act.

Nothing leaves the process before its commit. While batch n is being committed (one commit in
flight), batch n+1 is decided; its effects wait for its own commit, and if n fails both are dropped.
Under load batches grow and one fsync serves hundreds of jobs; idle, a batch is one event.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from coordinator import decisions, waits, workload_decisions
from coordinator.capacity import Worker
from coordinator.changes import (
    Change,
    Ended,
    LogLost,
    LogStored,
    Retried,
    StageEnded,
    Started,
    WorkerLeft,
)
from coordinator.decisions import Decision, Submission
from coordinator.effects import (
    Acknowledge,
    Answer,
    AttachSession,
    DropSession,
    Effect,
    LogKept,
    SendLeave,
    SendRecall,
    SendSignal,
    SendStart,
    SendStop,
    Tell,
    Wait,
)
from coordinator.instant import Instant
from coordinator.live import Job, Live
from coordinator.metrics import Metrics
from coordinator.placement import place
from coordinator.refusals import never_taken
from coordinator.retention_decisions import Expiry, on_expire
from coordinator.sessions import Session, Sessions, no_answer
from coordinator.standings import KeptStandings
from coordinator.storage.protocol import Store, StoreBroken, StoreFull
from coordinator.watchers import Waiter, Watchers
from hostler import logs
from hostler.clock import Clock
from hostler.errors import HostlerError, Overloaded, Unavailable
from hostler.jobs import Progress
from hostler.lifecycle import Outcome, State
from hostler.workloads import Applied, Workload

T = TypeVar("T")

INBOX_MAX = 10_000  # events waiting to be decided; a request beyond it is refused, a worker waits
BATCH_MAX = 20_000  # changes or effects of one commit; beyond it deciding waits for the commit in flight
PLACED_MAX = 5_000  # assignments of one batch
TICK_S = 1.0
SIGNAL_S = 10.0  # for a worker to say that it has passed a signal on

# Looked up once: a member is looked for by name whenever it is written as `State.FINISHED`.
FINISHED, LOST = State.FINISHED, Outcome.LOST
PUBLISHED = frozenset({Started, Ended, Retried, StageEnded, LogStored, LogLost})  # what somebody may wait for

WorkerChange = Callable[[Live, Any], tuple[list[Change], list[Effect]]]  # of `coordinator.drains`, without its moment
Item = Callable[[Live, Instant], Decision | Iterator[Decision]]  # an iterator decides on what it changed itself


@dataclass(slots=True)
class Batch:
    """What was decided together and will be committed together."""

    changes: list[Change] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    began_s: float = 0.0  # its commit

    def __bool__(self) -> bool:
        return bool(self.changes or self.effects)

    @property
    def full(self) -> bool:
        """Whether deciding must wait for the commit in flight."""
        return max(len(self.changes), len(self.effects)) >= BATCH_MAX


class Engine:
    """Owns the live set. `run` is its one task; everybody else posts into its inbox."""

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        watchers: Watchers,
        clock: Clock,
        metrics: Metrics,
        lost_after: Callable[[str], float],
        lease_s: float,
        max_queued: int,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._watchers = watchers
        self._clock = clock
        self._metrics = metrics
        self._lost_after = lost_after
        self._lease_s = lease_s
        self._max_queued = max_queued
        self._inbox: deque[Item] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._pending = Batch()
        self._in_flight: Batch | None = None
        self._stopping = False
        self._quiet = asyncio.Event()  # nothing is to be decided or committed
        self.live = Live()
        self.standings = KeptStandings()

    # For the edges

    def post(self, item: Item) -> None:
        """Put a request into the inbox.

        Raises:
            Overloaded: the inbox is full.
        """
        if self._stopping:
            raise Unavailable("the coordinator is stopping")
        if len(self._inbox) >= INBOX_MAX:
            raise Overloaded("the coordinator has too much to decide; try again in a second", retry_after_s=1)
        self._take(item)

    async def post_patiently(self, item: Item) -> None:
        """Put a worker's word into the inbox, waiting for room: it is never refused."""
        while len(self._inbox) >= INBOX_MAX:
            self._room.clear()
            await self._room.wait()
        self._take(item)

    def post_stored(self, item: Item) -> None:
        """Put a word of the log store, or of what could not be sent, into the inbox; bounded by what those hold."""
        self._take(item)

    def _take(self, item: Item) -> None:
        self._inbox.append(item)
        self._quiet.clear()
        self._wake.set()

    async def look(self, view: Callable[[Live], T]) -> T:
        """Return what *view* says of the live set once everything that it has seen is durable.

        Raises:
            Overloaded: the inbox is full.
            Unavailable: what it has seen could not be committed.
        """
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.post(lambda live, now: Decision([], [Answer(reply, view(live))]))
        return await reply

    async def submit(self, items: Sequence[Submission]) -> list[str | HostlerError]:
        """Accept jobs; the answer is durable."""
        reply: asyncio.Future[list[str | HostlerError]] = asyncio.get_running_loop().create_future()
        self.post(lambda live, now: decisions.on_submit(live, items, reply, now, max_queued=self._max_queued))
        return await reply

    async def signal(self, job_id: str, signal: int, *, alone: bool = False) -> None:
        """Have a signal passed on, and return when its worker has done so."""
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.post(lambda live, now: decisions.on_signal(live, job_id, signal, reply, alone))
        try:
            async with asyncio.timeout(SIGNAL_S):
                await reply
        except TimeoutError:
            raise no_answer(job_id) from None

    async def apply_workloads(self, workloads: Sequence[Workload]) -> list[Applied]:
        """Register definitions that were checked."""
        reply: asyncio.Future[list[Applied]] = asyncio.get_running_loop().create_future()
        self.post(lambda live, now: workload_decisions.on_apply(live, workloads, reply, now))
        return await reply

    async def remove_workload(self, name: str) -> None:
        """Let no new job name a workload."""
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.post(lambda live, now: workload_decisions.on_remove(live, name, reply, now))
        await reply

    async def change_worker(self, decide: WorkerChange) -> str:
        """Drain, resume or release a worker (`coordinator.drains`); returns its id."""
        reply: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.post(lambda live, now: Decision(*decide(live, reply)))
        return await reply

    async def expire(self, expiries: Sequence[Expiry]) -> int:
        """Forget this of finished jobs, and say of how many; all that was posted before is committed then, too."""
        reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await self.post_patiently(lambda live, now: on_expire(live, expiries, reply))
        return await reply

    # The one task

    async def load(self) -> None:
        """Build the live set from the store; every worker counts as gone from now on, not longer."""
        live = Live()
        live.epoch = self._store.epoch
        now = self.instant()
        loaded = await self._store.load()
        for change in loaded.changes:
            live.apply(change)
        live.next_number = max(live.next_number, loaded.next_number)
        for worker in live.workers.values():
            live.apply(WorkerLeft(worker.id, False, worker.seen_at_us, now.monotonic_s))
        self.live = live

    async def run(self) -> None:
        """Decide, commit, act until cancelled.

        Raises:
            StoreBroken: the process must end and load again.
        """
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(self._tick())
            try:
                await self._loop()
            finally:
                ticker.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.post_patiently(self._on_tick)

    def _on_tick(self, live: Live, now: Instant) -> Decision:
        waits.look(live, partial(self.standings.reasons, live), now.monotonic_s)
        return decisions.on_tick(live, now, lost_after=self._lost_after, lease_s=self._lease_s)

    async def _loop(self) -> None:
        commit: asyncio.Future[dict[int, bytes]] | None = None
        try:
            while True:
                if self._inbox and not self._pending.full:
                    self._decide()
                if commit is not None and commit.done():
                    await self._finish(commit)
                    commit = None
                if commit is None and self._pending:
                    self._in_flight, self._pending = self._pending, Batch()
                    if self._in_flight.changes or _missing_works(self._in_flight):
                        commit = asyncio.ensure_future(self._commit(self._in_flight))
                        commit.add_done_callback(lambda _: self._wake.set())
                    else:
                        self._act(self._in_flight, {})
                        continue
                if not (self._inbox and not self._pending.full):
                    if commit is None and not self._pending and not self._inbox:
                        self._quiet.set()
                    await self._wake.wait()
                    self._wake.clear()
                    self._quiet.clear()
        finally:
            if commit is not None:
                await asyncio.gather(commit, return_exceptions=True)

    async def stop(self) -> None:
        """Refuse new requests and wait until everything decided is durable and answered (at most 10 s)."""
        self._stopping = True
        async with asyncio.timeout(10):
            await self._quiet.wait()

    def instant(self) -> Instant:
        """What time it is for decisions."""
        return Instant(self._clock.wall_us(), self._clock.monotonic())

    def _decide(self) -> None:
        now = self.instant()
        batch = self._pending
        inbox = self._inbox
        while inbox and not batch.full:
            decided = inbox.popleft()(self.live, now)
            for decision in (decided,) if isinstance(decided, Decision) else decided:
                for change in decision.changes:
                    self.live.apply(change)
                batch.changes += decision.changes
                batch.effects += decision.effects
        self._room.set()
        if self.live.queued:
            self._place(now)

    def _place(self, now: Instant) -> None:
        batch = self._pending

        def assign(job: Job, worker: Worker, why: str) -> None:
            change, effect = decisions.assignment(job, worker, now, why)
            self.live.apply(change)
            batch.changes.append(change)
            batch.effects.append(effect)

        place(self.live, assign, limit=PLACED_MAX)
        # Taken as a whole before any is applied: that changes what they are found in.
        for ended in list(never_taken(self.live, now, limit=PLACED_MAX)):
            self.live.apply(ended)
            batch.changes.append(ended)

    def _commit(self, batch: Batch) -> Awaitable[dict[int, bytes]]:
        batch.began_s = self._clock.monotonic()
        return self._store.commit(batch.changes, _missing_works(batch))

    async def _finish(self, commit: asyncio.Future[dict[int, bytes]]) -> None:
        batch = self._in_flight
        assert batch is not None
        try:
            works = commit.result()
        except StoreFull as error:
            await self._start_again(error)
            return
        except StoreBroken as error:
            logs.get().error("store.broken", error=str(error))
            raise
        self._metrics.observe_commit(self._clock.monotonic() - batch.began_s, len(batch.changes))
        self._act(batch, works)

    async def _start_again(self, error: StoreFull) -> None:
        """The commit was rolled back: refuse what hung on it, forget memory, and load again."""
        logs.get().error("store.commit_failed", error=str(error))
        refused = Unavailable(f"the coordinator's store cannot take it now ({error}); try again", retry_after_s=5)
        for batch in (self._in_flight, self._pending):
            for effect in batch.effects if batch else ():
                if isinstance(effect, Answer | SendSignal):
                    _settle(effect.reply, refused)
                elif isinstance(effect, Tell | Wait):
                    effect.waiter.fail(refused)
                elif isinstance(effect, AttachSession):
                    effect.session.close()
        self._in_flight, self._pending = None, Batch()
        self._sessions.drop_all()
        await self.load()

    # Acting

    def _act(self, batch: Batch, works: dict[int, bytes]) -> None:
        performers = self._performers(works)
        for effect in batch.effects:
            performers[type(effect)](effect)
        for change in batch.changes:
            if type(change) in PUBLISHED:
                self._publish(change)
        if batch.changes:
            self._watchers.anything_changed()
        self._in_flight = None

    def _performers(self, works: dict[int, bytes]) -> dict[type, Callable[[Any], None]]:
        return {
            Answer: lambda e: _settle(e.reply, e.value),
            Tell: lambda e: e.waiter.tell(e.progress),
            Wait: self._add_waiter,
            SendStart: partial(self._send_start, works),
            SendStop: self._send_stop,
            SendRecall: self._send_recall,
            SendLeave: self._send_leave,
            SendSignal: self._send_signal,
            Acknowledge: self._acknowledge,
            AttachSession: self._attach,
            DropSession: lambda e: self._sessions.drop(e.worker, superseded=e.superseded),
            LogKept: _tell_kept,
        }

    def _attach(self, effect: AttachSession) -> None:
        session: Session = effect.session
        if session.attached.cancelled():
            # The stream broke while its hello was being committed. Nobody else will say so, and a worker that
            # counts as connected for ever would be given jobs that nobody runs and nobody calls lost.
            self._take(lambda live, now: decisions.on_worker_left(live, effect.worker, session.id, False, now))
        else:
            self._sessions.attach(effect)

    def _add_waiter(self, effect: Wait) -> None:
        self._watchers.add(effect.waiter, effect.number, effect.until)

    def _send_start(self, works: dict[int, bytes], effect: SendStart) -> None:
        session = self._sessions.get(effect.worker)
        if session is not None:
            work = effect.work if effect.work is not None else works[effect.number]
            session.outbox.starts.append((effect, work))
            session.wake.set()

    def _send_stop(self, effect: SendStop) -> None:
        session = self._sessions.get(effect.worker)
        if session is not None:
            session.outbox.stops.append(effect)
            session.wake.set()

    def _send_recall(self, effect: SendRecall) -> None:
        session = self._sessions.get(effect.worker)
        if session is not None:
            session.outbox.recalls.append(effect.key)
            session.wake.set()

    def _send_leave(self, effect: SendLeave) -> None:
        session = self._sessions.get(effect.worker)
        if session is not None:
            session.outbox.leave = True
            session.wake.set()

    def _send_signal(self, effect: SendSignal) -> None:
        session = self._sessions.get(effect.worker)
        if session is not None:
            session.signal(effect)
        elif not effect.reply.done():
            effect.reply.set_exception(no_answer(effect.key.job))

    def _acknowledge(self, effect: Acknowledge) -> None:
        session = self._sessions.get(effect.worker)
        if session is not None:
            session.acknowledge(effect.key)

    def _publish(self, change: Change) -> None:
        """Tell whoever waits for what has just become durable."""
        if isinstance(change, Ended):
            outcome = change.outcome
            if outcome is LOST:
                logs.get().warning("job.lost", attempt=str(change.key), cause=change.cause)
            self._metrics.observe_ended(
                change.queued_at_us, change.started_at_us, change.ended_at_us, outcome.word, change.family
            )
            if self._watchers.waited_for(change.number):
                self._watchers.ended(change.number, _progress(change))
            self._watchers.log_changed(change.key.job)
        elif isinstance(change, Started):
            if self._watchers.waited_for(change.number):
                self._watchers.started(change.number, Progress(change.key.job, State.RUNNING))
        elif isinstance(change, LogStored | LogLost | Retried | StageEnded):
            self._watchers.log_changed(change.key.job)


def _progress(change: Ended) -> Progress:
    return Progress(
        change.key.job,
        FINISHED,
        change.outcome,
        change.exit_code,
        change.signal,
        change.cause,
        change.error,
    )


def _tell_kept(effect: LogKept) -> None:
    if effect.forget:
        effect.receipts.note(effect.key, forget=True)
    else:
        effect.receipts.stored(effect.key, effect.stored, rewind=effect.rewind)


def _missing_works(batch: Batch) -> list[int]:
    return [e.number for e in batch.effects if type(e) is SendStart and e.work is None]


def _settle(reply: Any, value: Any) -> None:
    """Settle a future, a waiter or a session; one whose caller has gone is passed over."""
    if isinstance(reply, Waiter | Session):
        reply.settle(value)
    elif not reply.done():
        if isinstance(value, HostlerError):
            reply.set_exception(value)
        else:
            reply.set_result(value)
