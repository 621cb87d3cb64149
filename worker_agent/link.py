"""The control stream to the coordinator: connect, reconcile, talk, and begin again when it breaks.

The only module of the agent, with `starts`, `log_push` and `output_send`, that knows protobuf. What is said twice is
harmless: the coordinator moves only forward, and what it has acknowledged is not said again.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc.aio

from hostler import __version__, logs
from hostler.channel_options import STEADY_READS
from hostler.client import open_channel
from hostler.clock import Clock
from hostler.tls import Target
from hostler.v1 import types_pb2, workers_pb2, workers_pb2_grpc
from hostler.wire.ends import advance_to_proto, end_to_proto, output_to_proto, usage_to_proto
from worker_agent.agent import Agent
from worker_agent.attempts import Cause, Exited
from worker_agent.journal import JournalFull
from worker_agent.lease import LeaseFile
from worker_agent.local_policy import Policy, takes_runtime
from worker_agent.log_push import LogPush
from worker_agent.notes import Note
from worker_agent.output_send import OutputSender
from worker_agent.reports import Held, HeldState
from worker_agent.starts import Starts, text_of

GATHER_S = 0.01  # how long results gather while more work is running
GATHER_MORE_S = 0.03  # and how much longer when so many came in it
MANY = 5
REPORTS_PER_MESSAGE = 200  # with 8 KiB of log each, about 1.6 MiB
BEATS_TOGETHER = 8  # parts of a heartbeat at whose ends those of all workers fall
RECONNECT_FIRST_S = 0.1
RECONNECT_MAX_S = 2.0
WELCOME_S = 30.0
GOODBYE_S = 2.0
WARN_AGAIN_S = 30.0  # while it stays as it is
HINT = (
    "start a coordinator there (hostler coordinator, with this worker's --data-dir), or say where it is with"
    " --coordinator unix:/path or HOST:PORT; the worker goes on trying"
)

HELD_STATES = {
    HeldState.WAITING: workers_pb2.HELD_STATE_WAITING,
    HeldState.RUNNING: workers_pb2.HELD_STATE_RUNNING,
    HeldState.COLLECTING: workers_pb2.HELD_STATE_RUNNING,  # its report does not follow yet
    HeldState.ENDED: workers_pb2.HELD_STATE_ENDED,
}
VERDICTS = {
    workers_pb2.VERDICT_KIND_KEEP: "keep",
    workers_pb2.VERDICT_KIND_KILL: "kill",
    workers_pb2.VERDICT_KIND_FORGET: "forget",
}


class Superseded(Exception):
    """Another agent speaks for this worker: this one must not go on."""


def beat_in_s(heartbeat_s: float, wall_s: float) -> float:
    """In how many seconds of silence a worker speaks: at most *heartbeat_s*, at least 7/8 of that.

    By their wall clocks idle workers speak at the same moments, for what comes together wakes the coordinator once. A
    clock that is wrong or jumps does no harm.
    """
    part_s = heartbeat_s / BEATS_TOGETHER
    return heartbeat_s - (wall_s + heartbeat_s) % part_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """How the agent introduces itself."""

    name: str
    host: str
    slots: int
    labels: dict[str, str] = field(default_factory=dict)
    runtimes: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()
    policy: str = ""
    named_only: bool = False


class Link:
    """One worker's connection; `run` keeps it up until cancelled."""

    def __init__(
        self,
        *,
        address: str | Target,
        agent: Agent,
        identity: Identity,
        worker: str,
        remember: Callable[[str], None],
        lease: LeaseFile,
        clock: Clock,
        policy: Policy | None = None,
        redact: bool = True,
    ) -> None:
        """*worker* is the id of an earlier welcome ("" for none); *remember* keeps a new one, durably.

        With *redact* the values of an attempt's secrets are taken out of its log.
        """
        self._address = address
        self._agent = agent
        self._identity = identity
        self._worker = worker
        self._remember = remember
        self._lease = lease
        self._clock = clock
        self._policy = policy
        self._starts = Starts(policy, redact=redact)
        self._heartbeat_s = 2.0
        self._sender = OutputSender(address, agent.workspaces)
        self._offered = asyncio.Event()  # there is more to be said in a hello than was
        self._leaving = asyncio.Event()
        self._left = asyncio.Event()
        self._instance = uuid.uuid4().hex
        self._lease_ns = 0
        self._signalled: dict[int, bool] = {}  # whether each was passed on, by its number on this stream; not yet said
        self.asked_to_leave = asyncio.Event()  # the worker was emptied, and its agent is to end
        self.connected = False

    async def run(self) -> None:
        """Connect again and again.

        Raises:
            Superseded: another agent speaks for this worker.
        """
        try:
            await self._keep_connected()
        finally:
            await self._sender.close()

    async def _keep_connected(self) -> None:
        delay_s = RECONNECT_FIRST_S
        warned, warned_at = "", 0.0
        while True:
            began = time.monotonic()
            is_away = False
            async with open_channel(self._address, STEADY_READS) as channel:
                try:
                    await self._session(channel)
                    reason = "the stream ended"
                except grpc.aio.AioRpcError as error:
                    reason = error.details() or error.code().name
                    is_away = error.code() is grpc.StatusCode.UNAVAILABLE
                except asyncio.InvalidStateError:
                    reason = "the stream ended"  # gRPC's word to who writes before the reader has seen the end
                except TimeoutError:
                    reason = "no welcome came in time"
                except (JournalFull, OSError) as error:
                    # Nothing was promised; what the coordinator wants is wanted again on the next stream.
                    reason = f"the journal cannot be written: {error}"
                finally:
                    was_connected, self.connected = self.connected, False
                    self._agent.on_disconnected()
            if self._leaving.is_set():
                self._left.set()
                return
            if self._offered.is_set():
                continue
            is_due = reason != warned or time.monotonic() - warned_at > WARN_AGAIN_S
            if was_connected or (delay_s >= RECONNECT_MAX_S and is_due):
                warned, warned_at = reason, time.monotonic()
                hint = {"address": self._where, "hint": HINT} if is_away and not was_connected else {}
                logs.get().warning("link.lost", reason=reason, **hint)
            if time.monotonic() - began > RECONNECT_MAX_S:
                delay_s = RECONNECT_FIRST_S
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, RECONNECT_MAX_S)

    @property
    def _where(self) -> str:
        return self._address if isinstance(self._address, str) else self._address.address

    def move(self, target: Target) -> None:
        """The coordinator is reached in another way from now on: a stream that is up is made anew."""
        self._address = target
        self._sender.move(target)
        self._agent.workspaces.move(target)
        if not self._leaving.is_set():
            self._offered.set()

    def offer(self, runtime: str) -> None:
        """The worker knows a further runtime. Only a hello can say so, so a stream that is up is made anew."""
        if self._policy is not None and not takes_runtime(self._policy, runtime):
            return
        self._identity = replace(self._identity, runtimes=(*self._identity.runtimes, runtime))
        if not self._leaving.is_set():
            self._offered.set()

    async def say_goodbye(self) -> None:
        """Tell the coordinator that this worker leaves by its own will (at most 2 s)."""
        self._leaving.set()
        self._agent.news.set()
        if self.connected:
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await self._left.wait()
            except TimeoutError:
                pass  # the coordinator will see the stream end instead

    async def _session(self, channel: grpc.aio.Channel) -> None:
        stub = workers_pb2_grpc.WorkersStub(channel)
        call = stub.Connect(wait_for_ready=False)
        self._offered.clear()
        self._signalled.clear()  # their numbers were another stream's
        said_ns = self._clock.boot_ns()
        await call.write(workers_pb2.WorkerMessage(hello=self._hello()))
        async with asyncio.timeout(WELCOME_S):
            first = await _next(call)
        if first is None or not first.HasField("welcome"):
            if first is not None and first.superseded:
                raise Superseded
            return
        if first.epoch < self._agent.journal.epoch:
            logs.get().error("link.older_coordinator", epoch=first.epoch, heard=self._agent.journal.epoch)
            return
        self._agent.journal.raise_epoch(first.epoch)
        self._lease_ns = int(first.welcome.lease_s * 1e9)
        self._lease.extend(said_ns + self._lease_ns)
        self._welcomed(first.welcome)
        push = LogPush(stub, self._agent, first.session)
        parts = [
            asyncio.create_task(self._listen(call)),
            asyncio.create_task(self._speak(call)),
            asyncio.create_task(push.run()),
            asyncio.create_task(self._offered.wait()),
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            call.cancel()

    def _hello(self) -> workers_pb2.Hello:
        journal, identity = self._agent.journal, self._identity
        return workers_pb2.Hello(
            worker=self._worker,
            name=identity.name,
            labels=identity.labels,
            slots=identity.slots,
            version=__version__,
            host=identity.host,
            boot_id=journal.boot_id,
            journal_id=journal.journal_id,
            generation=journal.generation,
            mark=journal.mark,
            instance=self._instance,
            epoch=journal.epoch,
            runtimes=identity.runtimes,
            abilities=identity.abilities,
            workloads=identity.workloads,
            policy=identity.policy,
            named_only=identity.named_only,
            inventory=[
                workers_pb2.Held(key=_key(held.key), state=HELD_STATES[held.state])
                for held in self._agent.assignments.held.values()
            ],
        )

    def _welcomed(self, welcome: workers_pb2.Welcome) -> None:
        if welcome.worker != self._worker:
            self._remember(welcome.worker)
            self._worker = welcome.worker
        self._heartbeat_s = welcome.heartbeat_s
        for verdict in welcome.verdicts:
            self._agent.on_verdict(text_of(verdict.key), VERDICTS.get(verdict.kind, "keep"), verdict.slots)
        self._agent.assignments.renew(self._lease.term)
        self._agent.on_connected(welcome.mark)
        self.connected = True
        logs.get().info("link.connected", worker=self._worker, verdicts=len(welcome.verdicts))

    async def _listen(self, call: Any) -> None:
        agent = self._agent
        while (message := await _next(call)) is not None:
            if message.superseded:
                raise Superseded
            if message.epoch < agent.journal.epoch:
                return  # somebody who led once: what it says is worth nothing any more
            if message.heard_ns:
                self._lease.extend(message.heard_ns + self._lease_ns)
            if message.leave:
                self.asked_to_leave.set()
            if message.acknowledged:
                agent.on_acknowledged([text_of(key) for key in message.acknowledged])
            if message.starts:
                term = self._lease.term
                agent.on_starts([self._starts.understood(start, term=term) for start in message.starts])
            for recalled in message.recalls:
                agent.on_recall(text_of(recalled))
            for stop in message.stops:
                cause = Cause.DRAIN if stop.cause == Cause.DRAIN else Cause.STOP
                agent.on_stop(text_of(stop.key), stop.sequence, stop.grace_s, cause)
            for signal in message.signals:
                passed = agent.on_signal(text_of(signal.key), signal.signal, alone=signal.alone)
                self._signalled[signal.number] = passed
                agent.news.set()
            for feed in message.feeds:
                size = feed.rows, feed.columns
                agent.on_feed(text_of(feed.key), feed.offset, feed.bytes, eof=feed.eof, size=size)
            for show in message.shows:
                self._sender.show(show)

    async def _speak(self, call: Any) -> None:
        agent = self._agent
        said = 0.0
        while True:
            try:
                async with asyncio.timeout(beat_in_s(self._heartbeat_s, self._clock.wall_us() / 1e6)):
                    await agent.news.wait()
            except TimeoutError:
                pass  # silence for so long: a heartbeat
            if agent.assignments.active and time.monotonic() - said < GATHER_S:
                await self._gather()
            agent.news.clear()
            leaving = self._leaving.is_set()
            message = self._news()
            if leaving and not (agent.assignments.news or agent.notes):
                # The coordinator reads nothing behind it.
                message.goodbye.reason = "the worker was told to end"
            await call.write(message)
            said = time.monotonic()
            if agent.assignments.news or agent.notes:
                agent.news.set()
            elif leaving:
                await call.done_writing()
                await asyncio.Event().wait()  # until the coordinator has read the goodbye and ends the stream

    async def _gather(self) -> None:
        """Let results gather for a moment, and for longer where they come so fast that one message carries many."""
        assignments = self._agent.assignments
        before = assignments.news
        await asyncio.sleep(GATHER_S)
        if assignments.news - before >= MANY:
            await asyncio.sleep(GATHER_MORE_S)

    def _news(self) -> workers_pb2.WorkerMessage:
        agent = self._agent
        message = workers_pb2.WorkerMessage(
            sent_at_ns=self._clock.boot_ns(),
            draining=bool(agent.draining),
            draining_reason=agent.draining.reason,
            disk_full=agent.disk_full,
        )
        for held in agent.assignments.unsaid(REPORTS_PER_MESSAGE):
            self._put_report(
                message.reports.add(key=_key(held.key), started_at_us=held.started_at_us, pid=held.pid), held
            )
        for key, usage in agent.samples.items():
            message.samples.add(key=_key(key), usage=usage_to_proto(usage))
        agent.samples.clear()
        for key, fed in agent.fed.items():
            how_far = {"taken": fed.offset, "received": fed.received, "ended": fed.ended, "closed": fed.closed}
            message.fed.add(key=_key(key), **how_far)
        agent.fed.clear()
        for number, passed in self._signalled.items():
            message.signalled.add(number=number, passed=passed)
        self._signalled.clear()
        if agent.notes:
            message.notes.extend(_note(note) for note in agent.notes.take())
        return message

    def _put_report(self, report: workers_pb2.Report, held: Held) -> None:
        if held.never_ran:
            report.never_ran = True
            report.refusal, report.elsewhere = held.refusal, held.elsewhere
        elif held.ended is not None:
            if isinstance(held.ended, Exited):
                _put_exited(report.end, held.ended)
            elif held.collected is None:
                report.end.CopyFrom(end_to_proto(held.ended.end()))
            else:
                report.end.CopyFrom(end_to_proto(held.collected.added_to(held.ended.end())))
                report.outputs.extend(map(output_to_proto, held.collected.outputs))
            if held.inline and held.ledger_bytes:
                report.ledger = self._agent.read_log(held.key, 0, held.ledger_bytes)
        for process in held.survivors:
            report.survivors.add(pid=process.pid, name=process.name)


def _put_exited(end: types_pb2.End, exited: Exited) -> None:
    """Write a plain exit straight into its report, without the `End` in between (3 us instead of 12)."""
    end.started_at_us = exited.started_at_us
    end.ended_at_us = exited.ended_at_us
    end.exit_code = exited.exit_code
    end.cause = Cause.EXIT
    end.evidence = exited.evidence
    receipt, usage = end.receipt, end.usage
    receipt.verified_by = "wait"
    receipt.verified_at_us = exited.ended_at_us
    usage.cpu_user_s = exited.cpu_user_s
    usage.cpu_system_s = exited.cpu_system_s
    usage.memory_bytes_max = exited.memory_bytes_max
    usage.processes = exited.processes
    end.out_bytes = exited.out_bytes
    end.err_bytes = exited.err_bytes
    end.dropped_bytes = exited.dropped_bytes
    end.ledger_bytes = exited.ledger_bytes


def _note(note: Note) -> workers_pb2.Note:
    message = workers_pb2.Note(key=_key(note.key), phase=note.phase)
    message.advance.CopyFrom(advance_to_proto(note.advance))
    if note.outputs is not None:
        message.outputs_listed = True
        message.outputs.extend(map(output_to_proto, note.outputs))
    return message


async def _next(call: Any) -> workers_pb2.CoordinatorMessage | None:
    """The coordinator's next message; None at the end of the stream."""
    message: workers_pb2.CoordinatorMessage = await call.read()
    return None if message is grpc.aio.EOF else message  # type: ignore[comparison-overlap]


def _key(text: str) -> types_pb2.AttemptKey:
    job, stage, attempt = text.split(".")
    return types_pb2.AttemptKey(job=job, stage=int(stage), attempt=int(attempt))
