"""A coordinator that does as a test says: the real gRPC services on a unix socket, no worker behind them."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from hostler.errors import (
    FileNotFound,
    HostlerError,
    InvalidRequest,
    JobNotFound,
    NotFinished,
    NotRunning,
    WorkerNotFound,
)
from hostler.explanation import Explained
from hostler.frames import ERR, OUT, encode
from hostler.ids import new_uuid
from hostler.job_filters import facts_of, parse_filter
from hostler.jobs import End, EndedProcess, Job, JobEvent, JobSpec, LogStatus, Outputs, Progress, Receipt, SentSignal
from hostler.lifecycle import Outcome, State
from hostler.pending import Pending, Reason
from hostler.v1 import files_pb2_grpc, jobs_pb2, jobs_pb2_grpc, types_pb2, workloads_pb2_grpc
from hostler.wire import errors as wire_errors
from hostler.wire import jobs as wire_jobs
from hostler.wire import workers as wire_workers
from hostler.wire.explained import explained_to_proto
from hostler.wording import beyond_log_text
from hostler.workers import Worker, WorkerState
from tests.cli.fake_workloads import FakeWorkloads

NOON_US = 1_764_072_000_000_000
WORKER = Worker(id="11111111-1111-4111-8111-111111111111", name="stable", state=WorkerState.CONNECTED, slots=4)


def out(payload: bytes) -> bytes:
    """A frame of standard output."""
    return encode(OUT, payload, NOON_US)


def err(payload: bytes) -> bytes:
    """A frame of standard error."""
    return encode(ERR, payload, NOON_US)


def exited(code: int) -> End:
    """The end of a program that exited."""
    return End(started_at_us=NOON_US, ended_at_us=NOON_US, exit_code=code, cause="exit", evidence=f"exit status {code}")


def killed(name: str, cause: str = "signal") -> End:
    """The end of a program that a signal ended."""
    receipt = Receipt(
        signals=(SentSignal(signal=name, at_us=NOON_US, processes=2),),
        ended=(EndedProcess(pid=41, name="sh"), EndedProcess(pid=42, name="sleep")),
        verified_by="wait",
    )
    return End(started_at_us=NOON_US, ended_at_us=NOON_US, signal=name, cause=cause, receipt=receipt)


class FakeCluster(jobs_pb2_grpc.JobsServicer, jobs_pb2_grpc.ClusterServicer):
    """What a coordinator would know, in plain attributes; use it as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.address = f"unix:{directory / 'fake.sock'}"
        self.jobs: dict[str, Job] = {}
        self.ledgers: dict[str, bytes] = {}
        self.workers = [WORKER]
        self.next_workers: list[list[Worker]] = []  # what the next lists of them show, once each
        self.heard: list[str] = []  # "signal 2", "stop"
        self.log_breaks_after: list[int] = []  # bytes of ledger after which a log's stream breaks, once each
        self.fed = b""  # standard input; its end is the end of the job
        self.feed_breaks = 0  # how often the stream of input breaks, each time behind a piece
        self.forgets_input = False  # when it breaks, the job begins anew
        self.closes_input = False  # the attempt that is fed is over behind the next piece, or the end; once
        self.sizes: list[tuple[int, int]] = []  # of the job's terminal, as they were said
        self.begin: Callable[[JobSpec], tuple[End | None, bytes]] = lambda _: (exited(0), b"")
        self.deaf = False  # stops are heard, and no job ends by them
        self.on_signal: Callable[[int], End | None] = lambda _: None
        self.signal_fails: HostlerError | None = None
        self.after_log: list[Callable[[], None]] = []  # called, once each, when the log of an attempt was read
        self.read: list[tuple[int, int]] = []  # stage and attempt of each log that was asked for
        self.pages: list[int] = []  # how many jobs each page of a list had
        self.spoils = False  # the outputs it sends are not what they should be
        self.kept = FakeWorkloads()
        self.events: list[JobEvent] = []
        self.watch_breaks_after: list[int] = []  # numbers of events after which a watch breaks, once each
        self.outputs: dict[str, Outputs | HostlerError] = {}
        self.contents: dict[str, bytes] = {}  # of output files, by path
        self.archive = b""
        self.on_get: Callable[[Job], Job] = lambda job: job
        self.at_most_s = 20.0
        self._changed = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(8))
        jobs_pb2_grpc.add_JobsServicer_to_server(self, self._server)
        jobs_pb2_grpc.add_ClusterServicer_to_server(self, self._server)
        files_pb2_grpc.add_FilesServicer_to_server(self.kept, self._server)
        workloads_pb2_grpc.add_WorkloadsServicer_to_server(self.kept, self._server)
        self._server.add_insecure_port(self.address)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def add(self, end: End | None = None, ledger: bytes = b"", *, job: str = "", spec: JobSpec) -> str:
        """Add a job that runs, or that has ended with *end*; return its id."""
        job = job or new_uuid(len(self.jobs).to_bytes(4) * 4)
        self.jobs[job] = Job(
            id=job,
            spec=spec,
            state=State.RUNNING,
            attempt=1,
            worker=WORKER.id,
            queued_at_us=NOON_US,
            assigned_at_us=NOON_US + 1000,
            started_at_us=NOON_US + 2000,
        )
        self.ledgers[job] = ledger
        if end is not None:
            self.end(job, end)
        return job

    def end(self, job: str, end: End) -> None:
        """Let a job end."""
        outcome = Outcome.SUCCEEDED if end.exit_code == 0 else Outcome.FAILED
        outcome = {
            "stop": Outcome.STOPPED,
            "timeout": Outcome.TIMED_OUT,
            "worker_lost": Outcome.LOST,
            "refused": Outcome.REJECTED,
        }.get(end.cause, outcome)
        with self._changed:
            self.jobs[job] = replace(
                self.jobs[job],
                state=State.FINISHED,
                outcome=outcome,
                end=end,
                finished_at_us=NOON_US + 1_000_000,
                log_status=LogStatus.COMPLETE,
                log_position=len(self.ledgers[job]),
                started_at_us=end.started_at_us,
            )
            self._changed.notify_all()

    def stand(self, job: str, state: State) -> None:
        """Let a job be in another state that is not its end."""
        with self._changed:
            self.jobs[job] = replace(self.jobs[job], state=state)
            self._changed.notify_all()

    def wait_until_heard(self, word: str) -> None:
        """Return once a call of that kind has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: word in self.heard, self.at_most_s), self.heard

    def Submit(self, request: Any, context: Any) -> Any:
        results = []
        for message in request.jobs:
            spec = wire_jobs.spec_from_proto(message)
            if spec.worker and spec.worker not in {worker.id for worker in self.workers}:
                error = InvalidRequest("no worker has this id", field="worker")
                results.append(jobs_pb2.SubmitResult(error=wire_errors.error_to_proto(error)))
                continue
            known = [job.id for job in self.jobs.values() if spec.key and job.spec.key == spec.key]
            end, ledger = self.begin(spec)
            results.append(jobs_pb2.SubmitResult(id=known[0] if known else self.add(end, ledger, spec=spec)))
        return jobs_pb2.SubmitResponse(results=results)

    def Get(self, request: Any, context: Any) -> Any:
        return wire_jobs.job_to_proto(self.on_get(self._job(request.id, context)))

    def Explain(self, request: Any, context: Any) -> Any:
        job = self.on_get(self._job(request.id, context))
        events = tuple(event for event in self.events if event.job == job.id)
        reasons = tuple(Reason(code="label", text=text, workers=1) for text in job.pending_reasons)
        known = Explained(job=job, events=events, pending=Pending(reasons=reasons), names=self._names())
        return explained_to_proto(known)

    def _names(self) -> dict[str, str]:
        return {worker.id: worker.name for worker in self.workers}

    def List(self, request: Any, context: Any) -> Any:
        query = wire_jobs.query_from_proto(request)
        fitting = [
            job
            for job in self.jobs.values()
            if (not query.states or job.state in query.states)
            and query.name in ("", job.spec.name)
            and job.id.startswith(query.id_prefix)
            and self._matches(job, query.filter)
        ]
        fitting = fitting[::-1] if query.newest_first else fitting
        start = int(query.after or 0)
        page = fitting[start : start + query.limit]
        self.pages.append(len(page))
        more = str(start + query.limit) if len(fitting) > start + query.limit else ""
        return jobs_pb2.ListResponse(jobs=[wire_jobs.job_to_proto(job) for job in page], next=more)

    def _matches(self, job: Job, text: str) -> bool:
        facts = facts_of(
            job_id=job.id,
            state=job.state,
            outcome=job.outcome,
            name=job.spec.name,
            workload=job.spec.workload,
            worker=job.worker,
            worker_name=WORKER.name,
            family=job.spec.family,
            owner=job.spec.owner,
            cause=job.end.cause if job.end is not None else "",
            tags=job.spec.tags,
        )
        return not text or parse_filter(text).matches(facts)

    def Retry(self, request: Any, context: Any) -> Any:
        self._hear(f"retry {len(request.ids)}")
        answer = jobs_pb2.SubmitResponse()
        for name in request.ids:
            if name not in self.jobs:
                answer.results.add(error=wire_errors.error_to_proto(JobNotFound(f"job {name!r} not found")))
            elif not self._ended(name):
                answer.results.add(error=wire_errors.error_to_proto(NotFinished(f"job {name} is running")))
            else:
                answer.results.add(id=self.add(spec=self.jobs[name].spec))
        return answer

    def happen(self, job: str, *kinds: str) -> None:
        """Let transitions of a job be committed."""
        with self._changed:
            for kind in kinds:
                number = self.events[-1].number + 3 if self.events else 1
                self.events.append(
                    JobEvent(number=number, job=job, kind=kind, at_us=NOON_US, stage=0, attempt=0, worker="", detail="")
                )
            self._changed.notify_all()

    def Stop(self, request: Any, context: Any) -> Any:
        job = self._job(request.id, context)
        self._hear("stop")
        if self.deaf:
            with self._changed:
                self._changed.wait_for(lambda: self._ended(job.id) or not context.is_active(), self.at_most_s)
        elif job.state is not State.FINISHED:
            self.end(job.id, killed("SIGTERM", "stop"))
        return wire_jobs.job_to_proto(self.jobs[job.id])

    def Signal(self, request: Any, context: Any) -> Any:
        job = self._job(request.id, context)
        if job.state is not State.RUNNING:
            self._hear(f"early signal {request.signal}")
            self._refuse(context, NotRunning("the job does not run"))
        if self.signal_fails is not None:
            self._refuse(context, self.signal_fails)
        end = self.on_signal(request.signal)
        if end is not None:
            self.end(job.id, end)
        self._hear(f"signal {request.signal}")
        return jobs_pb2.SignalResponse()

    def Wait(self, request: Any, context: Any) -> Iterator[Any]:
        left = list(request.ids)
        limit_s = request.timeout_s or self.at_most_s
        while left:
            with self._changed:
                if not self._changed.wait_for(partial(self._any_reached, left, request.until), limit_s):
                    return
            done = [job for job in left if self._reached(job, request.until)]
            left = [job for job in left if job not in done]
            yield jobs_pb2.WaitResponse(jobs=[wire_jobs.progress_to_proto(self._progress(job)) for job in done])

    def ReadLog(self, request: Any, context: Any) -> Iterator[Any]:
        self._job(request.id, context)
        ledger, position = self.ledgers[request.id], getattr(request, "from")
        self.read.append((request.stage, request.attempt))
        if position > len(ledger):
            text = beyond_log_text(position, 0, max(1, self.jobs[request.id].attempt), len(ledger))
            self._refuse(context, InvalidRequest(text, field="from"))
        if self.log_breaks_after:
            border = self.log_breaks_after.pop(0)
            yield jobs_pb2.LogChunk(position=position, frames=ledger[position:border], attempt=1)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the coordinator was killed")
        attempt = max(1, self.jobs[request.id].attempt)
        yield jobs_pb2.LogChunk(position=position, frames=ledger[position:], attempt=attempt)
        if self.after_log:
            yield jobs_pb2.LogChunk(position=len(ledger), end=True, attempt=attempt)
            self.after_log.pop(0)()
            return
        if request.follow:
            with self._changed:
                self._changed.wait_for(lambda: self._ended(request.id) or not context.is_active(), self.at_most_s)
        status = self.jobs[request.id].log_status
        yield jobs_pb2.LogChunk(position=len(ledger), end=True, attempt=1, status=types_pb2.LogStatus.ValueType(status))

    def Feed(self, requests: Any, context: Any) -> Iterator[Any]:
        first = message = next(requests)
        yield self._fed(first.id)
        while message is not None:
            if message.rows:
                self.sizes.append((message.rows, message.columns))
            self.fed += message.bytes[max(0, len(self.fed) - message.offset) :]
            if self.feed_breaks and message.bytes:
                self.feed_breaks -= 1
                if self.forgets_input:
                    self.begin_anew(first.id)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the coordinator was killed")
            if self.closes_input and (message.bytes or message.eof):
                self.closes_input = False
                yield self._fed(first.id, closed=True)
                return
            yield self._fed(first.id)
            if message.eof:
                self.end(first.id, exited(0))
            message = next(requests, None)

    def _fed(self, job: str, *, closed: bool = False) -> Any:
        count, attempt = len(self.fed), max(1, self.jobs[job].attempt)
        return jobs_pb2.FeedResponse(taken=count, received=count, closed=closed, attempt=attempt)

    def begin_anew(self, job: str) -> None:
        """The next attempt runs, and has got nothing."""
        with self._changed:
            self.fed = b""
            self.jobs[job] = replace(self.jobs[job], attempt=self.jobs[job].attempt + 1)
            self._changed.notify_all()

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        after, until = request.after, time.monotonic() + self.at_most_s
        while context.is_active() and time.monotonic() < until:  # it never ends by itself
            for event in [event for event in self.events if event.number > after]:
                after = event.number
                if event.job in (request.ids or [event.job]):
                    yield wire_jobs.event_to_proto(event)
                    if self.watch_breaks_after and event.number >= self.watch_breaks_after[0]:
                        self.watch_breaks_after.pop(0)
                        context.abort(grpc.StatusCode.UNAVAILABLE, "the coordinator was killed")
            time.sleep(0.02)

    def ListOutputs(self, request: Any, context: Any) -> Any:
        self._job(request.id, context)
        return wire_jobs.outputs_to_proto(self._outputs(request.id, context))

    def ReadOutput(self, request: Any, context: Any) -> Iterator[Any]:
        self._job(request.id, context)
        if request.path not in self.contents:
            self._refuse(context, FileNotFound("there is no such file"))
        content = self.contents[request.path]
        listed = next(file for file in self._outputs(request.id, context).files if file.path == request.path)
        yield jobs_pb2.FileChunk(size_bytes=len(content), digest=listed.digest, modified_at_us=listed.modified_at_us)
        yield jobs_pb2.FileChunk(bytes=content[:3])
        yield jobs_pb2.FileChunk(bytes=b"spoiled" if self.spoils else content[3:])

    def ReadArchive(self, request: Any, context: Any) -> Iterator[Any]:
        self._job(request.id, context)
        yield jobs_pb2.FileChunk()
        yield jobs_pb2.FileChunk(bytes=self.archive)

    def ListWorkers(self, request: Any, context: Any) -> Any:
        if self.next_workers:
            self.workers = self.next_workers.pop(0)
        return jobs_pb2.ListWorkersResponse(workers=[wire_workers.worker_to_proto(one) for one in self.workers])

    def DrainWorker(self, request: Any, context: Any) -> Any:
        asked = f"{request.deadline_s:g}" if request.HasField("deadline_s") else "-"
        self._hear(f"drain {asked} {request.leave} {request.reason}".strip())
        return self._change(request.worker, context, WorkerState.DRAINING, request.reason)

    def ResumeWorker(self, request: Any, context: Any) -> Any:
        return self._change(request.worker, context, WorkerState.CONNECTED, "")

    def ReleaseWorker(self, request: Any, context: Any) -> Any:
        return self._change(request.worker, context, WorkerState.UNREACHABLE, "")

    def _change(self, name: str, context: Any, state: WorkerState, reason: str) -> Any:
        for place, worker in enumerate(self.workers):
            if worker.id == name:
                self.workers[place] = replace(worker, state=state, reason=reason)
                return wire_workers.worker_to_proto(self.workers[place])
        return self._refuse(context, WorkerNotFound("no such worker"))

    def Describe(self, request: Any, context: Any) -> Any:
        event = self.events[-1].number if self.events else 0
        return jobs_pb2.DescribeResponse(version="fake", workers=len(self.workers), event=event)

    def Metrics(self, request: Any, context: Any) -> Any:
        return jobs_pb2.MetricsResponse(text=b"hostler_jobs_finished_total 0\n")

    def _job(self, job: str, context: Any) -> Job:
        if job not in self.jobs:
            self._refuse(context, JobNotFound(f"no job has the id {job}"))
        return self.jobs[job]

    def _outputs(self, job: str, context: Any) -> Outputs:
        found = self.outputs.get(job, Outputs())
        if isinstance(found, HostlerError):
            self._refuse(context, found)
            raise found
        return found

    def _refuse(self, context: Any, error: HostlerError) -> None:
        context.set_trailing_metadata(wire_errors.trailers_of(error))
        context.abort(wire_errors.status_of(error), error.message)

    def _hear(self, word: str) -> None:
        with self._changed:
            self.heard.append(word)
            self._changed.notify_all()

    def _any_reached(self, jobs: list[str], until: int) -> bool:
        return any(self._reached(job, until) for job in jobs)

    def _reached(self, job: str, until: int) -> bool:
        return self._ended(job) or (until == State.RUNNING and self.jobs[job].state is State.RUNNING)

    def _ended(self, job: str) -> bool:
        return self.jobs[job].state is State.FINISHED

    def _progress(self, job: str) -> Progress:
        found = self.jobs[job]
        end = found.end or End()
        return Progress(job, found.state, found.outcome, end.exit_code, end.signal, end.cause, end.error)
