"""The service that worker agents call: a stream on one side, a session and the inbox on the other."""

import asyncio
import math
from collections.abc import Sequence

import grpc.aio

from coordinator import decisions
from coordinator.changes import Chain, LogStored, WorkerDraining
from coordinator.decisions import Decision
from coordinator.effects import AttachSession, LogKept, SendStart
from coordinator.ends import next_stage, outcome_of
from coordinator.engine import Engine, Item
from coordinator.events import EndFacts, Report
from coordinator.feeds import Feeds
from coordinator.live import Job, Live, TrailingLog
from coordinator.log_store import LogStore, Piece, StoredPiece
from coordinator.rpc.auditing import Auditing
from coordinator.rpc.certificates import Certificates, refused
from coordinator.rpc.context import Caller, Context, parse
from coordinator.rpc.feed_service import note_fed, piece_to_proto
from coordinator.rpc.hellos import NUMBER_MAX, checked_number, hello_of
from coordinator.rpc.large_messages import parse_large
from coordinator.rpc.receipts import Receipts
from coordinator.secrets_file import Secrets
from coordinator.sessions import Note, Session, Silence
from coordinator.successors import is_successor
from hostler import frames, logs
from hostler.errors import HostlerError, InvalidRequest, PermissionDenied
from hostler.ids import AttemptKey
from hostler.job_checks import is_workspace_path
from hostler.jobs import DIGEST, OUTPUTS_MAX, OutputFile
from hostler.lifecycle import Outcome
from hostler.v1 import types_pb2, workers_pb2
from hostler.wire.ends import advance_from_proto, output_from_proto, usage_from_proto
from hostler.wire.work import key_from_proto, key_to_proto, put_key

SILENT_BEATS = 4  # heartbeats missed before a stream counts as lost
REASON_CHARACTERS_MAX = 200
LAST_WORDS_S = 1.0
STANDING_S = 1.0  # for the end of a stream to arrive behind its first message
STARTS_PER_MESSAGE = 500
INLINE_LEDGER_BYTES_MAX = 64 * 1024
LISTED_MAX = 1000  # output files of a running attempt


def lease_s(heartbeat_s: float) -> float:
    """How long a worker may go on without having been heard."""
    return heartbeat_s * SILENT_BEATS


class WorkersService:
    """See ``protos/hostler/v1/workers.proto``."""

    def __init__(
        self,
        engine: Engine,
        log_store: LogStore,
        feeds: Feeds,
        secrets: Secrets,
        *,
        heartbeat_s: float,
        certificates: Certificates | None = None,
        audit: Auditing | None = None,
    ) -> None:
        """Without *certificates* every worker is one of this host."""
        self._engine = engine
        self._certificates = certificates
        self._audit = audit
        self._secrets = secrets
        self._log_store = log_store
        self._feeds = feeds
        self._heartbeat_s = heartbeat_s
        self._receipts: dict[AttemptKey, Receipts] = {}

    # Control

    async def connect(self, context: Context, caller: Caller) -> None:
        """Connect: reconcile, then pass reports in and commands out until the stream ends."""
        first = parse_large(workers_pb2.WorkerMessage, await self._first(context))
        if not first.HasField("hello"):
            raise InvalidRequest("the first message of a worker carries its hello")
        if self._certificates is not None:
            self._certificates.check_claim(caller, context, first.hello.worker, first.hello.name)
        hello = hello_of(first.hello, caller.worker)
        session = Session(hello.worker, hello.session)
        if decisions.suspicion(self._engine.live, hello, self._engine.instant()):
            # Perhaps an agent that was ended had sent it, and it only arrives now, behind the hello of its successor.
            # Then its stream ends too, and with it this call. Who still waits is a second agent, or an older journal's.
            await asyncio.sleep(STANDING_S)
        await self._engine.post_patiently(lambda live, now: decisions.on_hello(live, hello, session, now))
        attached = await session.attached
        goodbye = False
        try:
            await context.write(self._welcome(session, attached).SerializeToString())
            logs.get().info("worker.connected", worker=hello.worker, name=hello.name, held=len(hello.inventory))
            goodbye = await self._talk(context, session, caller)
        finally:
            session.closed = True
            session.give_up_signals()
            event = "worker.superseded" if session.superseded else "worker.left" if goodbye else "worker.unreachable"
            logs.get().info(event, worker=hello.worker, name=hello.name)
            await self._engine.post_patiently(
                lambda live, now: decisions.on_worker_left(live, hello.worker, hello.session, goodbye, now)
            )

    async def _talk(self, context: Context, session: Session, caller: Caller) -> bool:
        """Pass messages both ways until one side ends; whether the worker said goodbye."""
        reader = asyncio.create_task(self._listen(context, session, caller))
        writer = asyncio.create_task(self._speak(context, session))
        silence = Silence(session, lease_s(self._heartbeat_s))
        try:
            await asyncio.wait((reader, writer, silence.too_long), return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and not reader.done() and not session.closed:
                # The worker can no longer be written to; its last words may still be on the way.
                await asyncio.wait((reader,), timeout=LAST_WORDS_S)
            return reader.result() if reader.done() else False
        finally:
            silence.close()
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _first(self, context: Context) -> bytes:
        """The first message; empty when none has come in time."""
        try:
            async with asyncio.timeout(lease_s(self._heartbeat_s)):
                return await _next(context) or b""
        except TimeoutError:
            return b""

    def _check(self, caller: Caller, context: Context) -> None:
        if self._certificates is not None:
            self._certificates.check(caller, context)

    async def _listen(self, context: Context, session: Session, caller: Caller) -> bool:
        loop = asyncio.get_running_loop()
        while True:
            session.listening_since_s = loop.time()
            data = await _next(context)
            session.listening_since_s = math.inf  # what takes long now is our doing
            if data is None or session.closed:
                return False
            self._check(caller, context)  # a worker speaks at every heartbeat
            message = parse_large(workers_pb2.WorkerMessage, data)
            session.heard_ns, session.draining = message.sent_at_ns, message.draining
            if message.reports:
                reports = [_report(r) for r in message.reports]
                if self._audit is not None:
                    self._audit.worker_refused(session.worker, reports)
                for place, report in enumerate(reports):
                    if report.end is not None and (job := self._engine.live.current(report.key)) and job.chain:
                        reports[place] = await self._with_next_stage(report, report.end, job, job.chain)
                await self._engine.post_patiently(_reports_item(session, reports))
            for sample in message.samples:
                if self._has(session, key := key_from_proto(sample.key)):
                    session.samples[key] = usage_from_proto(sample.usage)
            for note in message.notes:
                if self._has(session, key := key_from_proto(note.key)):
                    _take_note(session, key, note)
            for answer in message.signalled:
                session.signalled(answer.number, passed=answer.passed)
            if message.fed:
                note_fed(self._feeds, message.fed)
            await self._note_draining(session, message)
            if message.HasField("goodbye"):
                return True
            if not message.reports and self._holds(session):
                session.wake.set()  # an answer for the lease

    def _holds(self, session: Session) -> bool:
        """Whether a worker needs its lease: when idle it needs none, and a start brings one along."""
        worker = self._engine.live.workers.get(session.worker)
        return worker is not None and bool(worker.held)

    def _has(self, session: Session, key: AttemptKey) -> bool:
        """Whether an attempt is this worker's and not over: of no other is anything kept that it says."""
        job = self._engine.live.current(key)
        return job is not None and job.worker == session.worker

    async def _with_next_stage(self, report: Report, end: EndFacts, job: Job, chain: Chain) -> Report:
        """Of a chain: what the next stage will be, worked out here because a schema may take its time."""
        if job.stage + 1 >= len(chain.workloads) or job.stop_grace_s is not None:
            return report
        if outcome_of(end.cause, end.exit_code, raised=end.raised) is not Outcome.SUCCEEDED:
            return report
        # Its parts, not the job: that may move on before the thread looks at it.
        following = await asyncio.to_thread(next_stage, chain, job.id, job.stage, report.end_bytes)
        return report._replace(following=following)

    async def _note_draining(self, session: Session, message: workers_pb2.WorkerMessage) -> None:
        worker = self._engine.live.workers.get(session.worker)
        reason = message.draining_reason[:REASON_CHARACTERS_MAX]
        said = (message.draining, reason, message.draining and message.disk_full)
        if worker is not None and (worker.draining, worker.draining_reason, worker.disk_full) != said:
            change = WorkerDraining(session.worker, *said)
            await self._engine.post_patiently(lambda live, now: Decision([change], []))

    async def _speak(self, context: Context, session: Session) -> None:
        while True:
            await session.wake.wait()
            if session.closed:
                message = workers_pb2.CoordinatorMessage(superseded=session.superseded)
                await context.write(message.SerializeToString())
                return
            outbox = session.take()
            starts = outbox.starts
            message = workers_pb2.CoordinatorMessage(
                epoch=self._engine.live.epoch, heard_ns=session.heard_ns, session=session.id, leave=outbox.leave
            )
            for effect, work in starts[:STARTS_PER_MESSAGE]:
                self._add_start(message, effect, work)
            for stop in outbox.stops:
                message.stops.add(
                    sequence=stop.sequence, key=key_to_proto(stop.key), grace_s=stop.grace_s, cause=stop.cause
                )
            for number, signal in outbox.signals:
                message.signals.add(
                    number=number, key=key_to_proto(signal.key), signal=signal.signal, alone=signal.alone
                )
            message.feeds.extend(map(piece_to_proto, outbox.feeds))
            for show in outbox.shows:
                message.shows.add(
                    ticket=show.ticket,
                    key=key_to_proto(show.key),
                    path=show.path,
                    offset=show.offset,
                    length=show.length,
                )
            for key in outbox.recalls:
                put_key(message.recalls.add(), key)
            for key in outbox.acknowledged:
                put_key(message.acknowledged.add(), key)
            await context.write(message.SerializeToString())
            for first in range(STARTS_PER_MESSAGE, len(starts), STARTS_PER_MESSAGE):
                message = workers_pb2.CoordinatorMessage(epoch=self._engine.live.epoch, session=session.id)
                for effect, work in starts[first : first + STARTS_PER_MESSAGE]:
                    self._add_start(message, effect, work)
                await context.write(message.SerializeToString())

    def _add_start(self, message: workers_pb2.CoordinatorMessage, effect: SendStart, work: bytes) -> None:
        secrets: dict[str, str] = {}
        if effect.secrets:
            # Looked up at the last moment: in no row, event or answer of ours is ever a value.
            try:
                secrets = self._secrets.revealed(effect.secrets)
            except HostlerError as error:
                self._was_not_sent(effect, f"it cannot be started without its secrets: {error.message}")
                return
        within_s = 0.0
        if effect.start_by_us:
            within_s = (effect.start_by_us - self._engine.instant().wall_us) / 1e6
            if within_s <= 0:
                self._was_not_sent(effect, "")
                return
        start = message.starts.add()
        put_key(start.key, effect.key)
        start.sequence, start.work, start.slots = effect.sequence, work, effect.slots
        if within_s:
            start.start_within_s = within_s
        if secrets:
            start.secrets.update(secrets)
        if effect.workload:
            start.workload = effect.workload

    def _was_not_sent(self, effect: SendStart, refusal: str) -> None:
        """Decide as if the worker had said that it never ran."""
        report = Report(effect.key, 0, None, b"", b"", never_ran=True, refusal=refusal, survivors=())
        self._engine.post_stored(lambda live, now: decisions.on_report(live, effect.worker, report, now))

    def _welcome(self, session: Session, attached: AttachSession) -> workers_pb2.CoordinatorMessage:
        kinds = {
            "keep": workers_pb2.VERDICT_KIND_KEEP,
            "kill": workers_pb2.VERDICT_KIND_KILL,
            "forget": workers_pb2.VERDICT_KIND_FORGET,
        }
        return workers_pb2.CoordinatorMessage(
            epoch=self._engine.live.epoch,
            session=session.id,
            welcome=workers_pb2.Welcome(
                worker=session.worker,
                heartbeat_s=self._heartbeat_s,
                lease_s=lease_s(self._heartbeat_s),
                mark=attached.mark,
                verdicts=[
                    workers_pb2.Verdict(key=key_to_proto(key), kind=kinds[kind], slots=slots)
                    for key, kind, slots in attached.verdicts
                ],
            ),
        )

    # Bulk

    async def push_log(self, context: Context, caller: Caller) -> None:
        """PushLog: pieces in, marks out."""
        # The first mark would carry it along, and a call that ends while that is being sent would send it twice.
        await context.send_initial_metadata(())
        receipts = Receipts()
        listener = asyncio.create_task(self._take_pieces(context, receipts, caller))
        speaker = asyncio.create_task(_send_marks(context, receipts))
        try:
            await asyncio.wait((listener, speaker), return_when=asyncio.FIRST_COMPLETED)
            for part in (listener, speaker):
                if part.done():
                    part.result()
        finally:
            listener.cancel()
            speaker.cancel()
            await asyncio.gather(listener, speaker, return_exceptions=True)
            self._receipts = {key: r for key, r in self._receipts.items() if r is not receipts}

    async def _take_pieces(self, context: Context, receipts: Receipts, caller: Caller) -> None:
        while (data := await context.read()) is not grpc.aio.EOF:
            self._check(caller, context)
            message = parse(workers_pb2.LogPush, data)
            receipts.session = message.session
            for part in message.parts:
                log = self._engine.live.log_of(key := key_from_proto(part.key))
                if caller.worker and log is not None and log.worker != caller.worker:
                    if is_successor(self._engine.live, caller.worker, log.worker):
                        receipts.note(key, forget=True)
                        continue
                    reason = "the attempt is another worker's"
                    refused("worker.log", reason, worker=caller.worker, attempt=str(key))
                    raise PermissionDenied(reason)
                await self._take_piece(part, receipts)

    async def _take_piece(self, part: workers_pb2.LogPart, receipts: Receipts) -> None:
        key = key_from_proto(part.key)
        log = self._engine.live.log_of(key)
        if log is None:
            # Its last piece, or the end of its job, may not be committed yet: the worker drops it when that is durable.
            await self._engine.post_patiently(lambda live, now: _kept(live, key, receipts, rewind=True))
            return
        if self._receipts.get(key) is not receipts:
            if not _speaks_for(self._engine.live, log.worker, receipts.session):
                # It was long on its way, on a stream that another one has taken the place of. To follow it would be
                # to tell that one, where nobody listens any more, how much is stored.
                return
            # A new stream begins where the durable log ends; what an older one had under way comes again.
            self._receipts[key] = receipts
            receipts.received[key] = log.log_position
        expected = receipts.received[key]
        if part.position == log.log_position:
            expected = part.position  # what came behind it was lost on a full disk, or comes twice and then counts once
        if part.position != expected or frames.whole_frames(part.frames) != len(part.frames):
            logs.get().warning("log.refused", attempt=str(key), position=part.position, expected=expected)
            receipts.note(key, rewind=True)
            # Whoever was cut off before it heard what is stored pushes that again, and must hear of it now.
            await self._engine.post_patiently(lambda live, now: _kept(live, key, receipts, rewind=False))
            return
        receipts.received[key] = expected + len(part.frames)
        receipts.note(key)
        await self._log_store.append(Piece(log.number, key, part.position, part.frames))

    def on_stored(self, pieces: list[StoredPiece]) -> None:
        """Have the engine commit what the log store has made durable."""
        if not pieces:  # the disk refused: whoever pushed begins again at what is durable
            for key, receipts in self._receipts.items():
                log = self._engine.live.log_of(key)
                receipts.received[key] = log.log_position if log is not None else 0
                receipts.note(key, rewind=True)
            return
        receipts_of = dict(self._receipts)
        self._engine.post_stored(lambda live, now: _on_stored(live, pieces, receipts_of))


async def _next(context: Context) -> bytes | None:
    """The next message; None when the stream has ended."""
    message: bytes = await context.read()
    return None if message is grpc.aio.EOF else message  # type: ignore[comparison-overlap]


def _speaks_for(live: Live, worker_id: str, session: str) -> bool:
    """Whether this is the session that the worker has now."""
    worker = live.workers.get(worker_id)
    return worker is not None and worker.session == session


async def _send_marks(context: Context, receipts: Receipts) -> None:
    while True:
        await receipts.wake.wait()
        message = receipts.take()
        if message.marks:
            await context.write(message.SerializeToString())


def _on_stored(live: Live, pieces: Sequence[StoredPiece], receipts: dict[AttemptKey, Receipts]) -> Decision:
    """Note what is durable, where it still follows on what is held."""
    decision = Decision([], [])
    by_attempt: dict[AttemptKey, list[StoredPiece]] = {}
    for piece in pieces:
        by_attempt.setdefault(piece.key, []).append(piece)
    for key, group in by_attempt.items():
        log = live.log_of(key)
        if log is None:
            continue
        position, kept = log.log_position, []
        for piece in group:
            if piece.extent.position == position:
                kept.append(piece)
                position = piece.end
        if kept:
            output = sum(piece.output_bytes for piece in kept)
            extents = tuple(piece.extent for piece in kept)
            past = isinstance(log, TrailingLog) and log.past
            decision.changes.append(LogStored(log.number, key, extents, position, output, past))
        if key in receipts:
            # A piece that did not follow was pushed twice with other borders: it must come again from here.
            decision.effects.append(LogKept(receipts[key], key, position, rewind=len(kept) < len(group)))
    return decision


def _kept(live: Live, key: AttemptKey, receipts: Receipts, *, rewind: bool) -> Decision:
    """Say how much of a log is stored, or that nothing more of it is wanted."""
    log = live.log_of(key)
    if log is None:
        return Decision([], [LogKept(receipts, key, 0, rewind=False, forget=True)])
    return Decision([], [LogKept(receipts, key, log.log_position, rewind=rewind)])


def _reports_item(session: Session, reports: list[Report]) -> Item:
    return lambda live, now: decisions.on_reports(live, session.worker, session.id, reports, now)


def _take_note(session: Session, key: AttemptKey, message: workers_pb2.Note) -> None:
    """Keep what a worker says of an attempt; a list of outputs that was not sent again has not changed."""
    before = session.notes.get(key)
    if message.outputs_listed:
        outputs = tuple(output_from_proto(each) for each in message.outputs[:LISTED_MAX])
    else:
        outputs = before.outputs if before is not None else ()
    session.notes[key] = Note(message.phase[:20], advance_from_proto(message.advance), outputs)


def _report(message: workers_pb2.Report) -> Report:
    facts = None
    data = b""
    if message.HasField("end"):
        data = message.end.SerializeToString()
        facts = _end_facts(message.end)
    ledger = message.ledger
    if len(ledger) > INLINE_LEDGER_BYTES_MAX or (facts and len(ledger) not in (0, facts.ledger_bytes)):
        ledger = b""  # it will be asked for through PushLog
    return Report(
        key=key_from_proto(message.key),
        started_at_us=checked_number(message.started_at_us, "started_at_us"),
        end=facts,
        end_bytes=data,
        ledger=ledger,
        never_ran=message.never_ran,
        refusal=message.refusal,
        elsewhere=message.elsewhere,
        survivors=tuple((p.pid, p.name) for p in message.survivors) if message.survivors else (),
        outputs=tuple(_output(each) for each in message.outputs[:OUTPUTS_MAX]) if message.outputs else (),
    )


def _end_facts(end: types_pb2.End) -> EndFacts:
    started_at_us, ended_at_us, output_bytes = end.started_at_us, end.ended_at_us, end.out_bytes + end.err_bytes
    ledger_bytes = end.ledger_bytes
    if max(started_at_us, ended_at_us, ledger_bytes, output_bytes) > NUMBER_MAX:
        raise InvalidRequest("a time or a size of an end is beyond every limit", field="end")
    return EndFacts(
        end.cause,
        end.exit_code if end.HasField("exit_code") else None,
        end.signal,
        end.error,
        started_at_us,
        ended_at_us,
        ledger_bytes,
        output_bytes,
        end.HasField("failure"),
        _digest(end.result_digest),
        bool(end.receipt.verified_by) or not started_at_us,
    )


def _digest(text: str) -> str:
    if text and DIGEST.fullmatch(text) is None:
        raise InvalidRequest("a stored result is named by its SHA-256 in hex", field="result_digest")
    return text


def _output(message: types_pb2.OutputFile) -> OutputFile:
    if DIGEST.fullmatch(message.digest) is None or not is_workspace_path(message.path):
        raise InvalidRequest("an output file has a path below its directory and the digest of stored bytes")
    checked_number(message.size_bytes, "size_bytes")
    checked_number(message.modified_at_us, "modified_at_us")
    return output_from_proto(message)
