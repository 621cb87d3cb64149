"""The live control streams to workers: what is to be sent gathers here until the stream takes it.

A session's outbox is bounded by what it can hold: starts by the worker's window, stops by its attempts, signals by
`SIGNALS_MAX`, acknowledgements by its reports.
"""

import asyncio
import itertools
import math
from dataclasses import dataclass, field
from typing import NamedTuple

from coordinator.effects import AttachSession, SendSignal, SendStart, SendStop
from hostler.errors import HostlerError, NotRunning, Overloaded, Unavailable
from hostler.ids import AttemptKey
from hostler.jobs import Advance, OutputFile, Usage


class Note(NamedTuple):
    """How an attempt gets on, as its worker said last."""

    phase: str
    advance: Advance
    outputs: tuple[OutputFile, ...]


class Piece(NamedTuple):
    """Bytes of an attempt's standard input, by their offset; and the size of its terminal, 0 for as it is."""

    key: AttemptKey
    offset: int
    content: bytes
    eof: bool
    rows: int = 0
    columns: int = 0


class ShowOutput(NamedTuple):
    """What a worker is asked for: to send an output file of a running attempt, or a part."""

    ticket: str
    key: AttemptKey
    path: str  # below the output directory, as listed
    offset: int
    length: int  # 0: to the end


ACKNOWLEDGE_S = 0.2  # how long acknowledgements wait for company: a worker sent jobs ahead gets some more by then
SIGNALS_MAX = 1000  # that a worker has not answered yet


@dataclass(slots=True)
class Outbox:
    """What one message to a worker will carry."""

    starts: list[tuple[SendStart, bytes]] = field(default_factory=list)
    stops: list[SendStop] = field(default_factory=list)
    signals: list[tuple[int, SendSignal]] = field(default_factory=list)  # by the numbers that are answered
    acknowledged: list[AttemptKey] = field(default_factory=list)
    feeds: list[Piece] = field(default_factory=list)
    shows: list[ShowOutput] = field(default_factory=list)
    recalls: list[AttemptKey] = field(default_factory=list)
    leave: bool = False  # the worker is empty and may go


class Session:
    """One control stream of one worker."""

    def __init__(self, worker: str, session: str) -> None:
        self.worker = worker
        self.id = session
        self.attached: asyncio.Future[AttachSession] = asyncio.get_running_loop().create_future()
        self.superseded = False
        self.closed = False
        self.heard_ns = 0  # the worker's clock in its latest message; given back to it
        self.samples: dict[AttemptKey, Usage] = {}  # the latest of each attempt, until its report is acknowledged
        self.notes: dict[AttemptKey, Note] = {}  # the same
        self.outbox = Outbox()
        self.wake = asyncio.Event()
        self.draining = False  # as the worker said last
        self.listening_since_s = math.inf  # by the clock of the event loop, while nothing has come; else infinite
        self._later: asyncio.TimerHandle | None = None  # wakes the stream for acknowledgements alone
        self._signals: dict[int, SendSignal] = {}  # that are not answered yet
        self._numbers = itertools.count(1)

    def signal(self, effect: SendSignal) -> None:
        """Have a signal passed on; its reply is settled by the worker's answer, or by the end of this stream."""
        reply: asyncio.Future[None] = effect.reply
        if reply.done():
            return  # its caller has gone
        if len(self._signals) >= SIGNALS_MAX:
            reply.set_exception(Overloaded(f"{SIGNALS_MAX:,} signals are on their way to that worker; try again"))
            return
        number = next(self._numbers)
        self._signals[number] = effect
        reply.add_done_callback(lambda _: self._signals.pop(number, None))  # also when its caller goes
        self.outbox.signals.append((number, effect))
        self.wake.set()

    def signalled(self, number: int, *, passed: bool) -> None:
        """The worker has answered for a signal: it was passed on, or the attempt does not run."""
        effect = self._signals.pop(number, None)
        if effect is None or effect.reply.done():
            return
        if passed:
            effect.reply.set_result(None)
        else:
            effect.reply.set_exception(
                NotRunning(
                    f"job {effect.key.job} does not run any more, or not yet again; the signal was not passed on"
                )
            )

    def give_up_signals(self) -> None:
        """No more answers come."""
        for effect in list(self._signals.values()):
            if not effect.reply.done():
                effect.reply.set_exception(no_answer(effect.key.job))

    def acknowledge(self, key: AttemptKey) -> None:
        """Have a report forgotten. It goes along with the next message, or a little later.

        Nobody waits for that, but for a worker that is leaving.
        """
        self.outbox.acknowledged.append(key)
        self.samples.pop(key, None)
        self.notes.pop(key, None)
        if self._later is None:
            wait_s = 0.0 if self.draining else ACKNOWLEDGE_S
            self._later = asyncio.get_running_loop().call_later(wait_s, self.wake.set)

    def take(self) -> Outbox:
        """Return what has gathered and start anew."""
        self.wake.clear()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        gathered, self.outbox = self.outbox, Outbox()
        return gathered

    def settle(self, value: HostlerError) -> None:
        """The hello was refused."""
        if not self.attached.done():
            self.attached.set_exception(value)

    def close(self, *, superseded: bool = False) -> None:
        """Have the stream end."""
        self.superseded = superseded
        self.closed = True
        self.give_up_signals()
        if not self.attached.done():
            self.attached.cancel()
        self.wake.set()


def no_answer(job: str) -> Unavailable:
    """What is said of a signal that a worker has not answered for."""
    text = f"the worker of job {job} has not answered; whether the signal has arrived is not known"
    return Unavailable(text, field="worker")


class Silence:
    """How long a worker has said nothing.

    It is looked at when it could be too long. A timer for each message was a fifth of the steps of a heartbeat.
    """

    def __init__(self, session: Session, limit_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.too_long: asyncio.Future[None] = self._loop.create_future()
        self._session = session
        self._limit_s = limit_s
        self._timer = self._loop.call_later(limit_s, self._look)

    def _look(self) -> None:
        left_s = self._session.listening_since_s + self._limit_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(min(left_s, self._limit_s), self._look)
        elif not self.too_long.done():
            self.too_long.set_result(None)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()
        self.too_long.cancel()


class Sessions:
    """The attached session of each connected worker."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def attach(self, effect: AttachSession) -> None:
        """The worker is reconciled: this is its session from now on."""
        session: Session = effect.session
        self._sessions[effect.worker] = session
        if not session.attached.done():
            session.attached.set_result(effect)

    def drop(self, worker: str, *, superseded: bool) -> None:
        """End the session of a worker, if there is one."""
        session = self._sessions.pop(worker, None)
        if session is not None:
            session.close(superseded=superseded)

    def drop_all(self) -> None:
        """End every session; the workers come back and are reconciled."""
        for worker in list(self._sessions):
            self.drop(worker, superseded=False)

    def get(self, worker: str) -> Session | None:
        """The session of a worker, if it is connected."""
        return self._sessions.get(worker)
