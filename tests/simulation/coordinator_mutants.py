"""The guards of the coordinator, switched off one by one."""

from collections.abc import Iterator
from typing import Any

import coordinator.rpc.workers_service as workers_service
from coordinator import decisions, ends
from coordinator.changes import LogStored, Returned
from coordinator.effects import Acknowledge, Answer, AttachSession, LogKept, SendStart
from coordinator.engine import Batch, Engine
from coordinator.live import TrailingLog
from coordinator.storage.protocol import StoreFull
from coordinator.storage.sqlite import SqliteStore
from hostler.wire.work import key_from_proto
from tests.simulation.mutant import Replacement, off

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
            return Returned(job.number, job.attempt_key, reason, now.wall_us)
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


@off("a log goes over only to a stream of the session that speaks for the worker now")
def session_of_logs() -> list[Replacement]:
    return [(workers_service, "_speaks_for", lambda live, worker_id, session: True)]


@off("a piece of a log is taken only where it follows on what was received")
def position_received() -> list[Replacement]:
    real = workers_service.WorkersService._take_piece

    async def take_piece(self: Any, part: Any, receipts: Any) -> None:
        key = key_from_proto(part.key)
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
                past = isinstance(log, TrailingLog) and log.past
                stored = LogStored(log.number, piece.key, (piece.extent,), piece.end, piece.output_bytes, past)
                decision.changes.append(stored)
                if piece.key in receipts:
                    kept = LogKept(receipts[piece.key], piece.key, piece.end, rewind=False)
                    decision.effects.append(kept)
        return decision

    return [(workers_service, "_on_stored", on_stored)]


@off("a worker that pushes again hears how much is stored")
def stored_is_told_again() -> list[Replacement]:
    return [(workers_service, "_kept", lambda live, key, receipts, *, rewind: decisions.Decision([], []))]


@off("an attempt that is over stays with its worker until its log has arrived")
def trailing_log_is_kept() -> list[Replacement]:
    return [(decisions, "_verdict", lambda live, worker, key, state: "forget" if state == "ended" else "kill")]
