"""A coordinator for gateway tests: the real contract over a real socket, with jobs that a test moves by hand.

It runs nothing. A test sets `on_submit` to say what becomes of a new job, changes jobs with `move`,
and fills logs with `write`. What a real coordinator decides (placement, stops) is reduced to the
few rules the gateway can see.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio

from hostler.errors import (
    FileNotFound,
    HostlerError,
    InvalidRequest,
    JobNotFound,
    NotFinished,
    NotRunning,
    PermissionDenied,
    Unavailable,
    WorkerNotFound,
)
from hostler.explanation import Explained
from hostler.frames import encode, iter_frames
from hostler.ids import new_uuid
from hostler.job_checks import check_spec
from hostler.jobs import End, Job, JobEvent, JobSpec, LogStatus, Progress, Receipt, SentSignal
from hostler.lifecycle import Outcome, State
from hostler.pending import NOT_PENDING, Nearest, Pending, Reason
from hostler.policy import LOCAL, Scope
from hostler.v1 import access_pb2_grpc, files_pb2_grpc, jobs_pb2, jobs_pb2_grpc, types_pb2, workloads_pb2_grpc
from hostler.wire import jobs as wire
from hostler.wire.errors import error_to_proto, status_of, trailers_of
from hostler.wire.explained import explained_to_proto
from hostler.wire.workers import worker_to_proto
from hostler.wording import beyond_log_text
from hostler.workers import Worker, WorkerState
from tests.gateway.fake_access import FakeAccess, Guarding
from tests.gateway.fake_files import FakeFiles, FakeOutputs, FakeRecords, FakeWorkloads, fail

NOW_US = 1_790_000_000_000_000
WORKER = "d5feef60-3029-11e9-b210-d663bd873d93"  # the document's
CHUNK_BYTES = 256 * 1024

Context = Any


def a_worker(**changes: Any) -> Worker:
    """A connected worker with the id of the document."""
    worker = Worker(
        id=WORKER, name="here", state=WorkerState.CONNECTED, slots=4, labels={"zone": "a"}, version="0.1.0", host="h"
    )
    return replace(worker, **changes)


def an_end(**changes: Any) -> End:
    """The end of a program that exited well, with its proof."""
    end = End(
        started_at_us=NOW_US,
        ended_at_us=NOW_US + 1_000_000,
        exit_code=0,
        cause="exit",
        evidence="it exited by itself",
        receipt=Receipt(verified_by="wait", verified_at_us=NOW_US + 1_000_000),
    )
    return replace(end, **changes)


def running(job: Job) -> Job:
    """What becomes of a job whose program starts."""
    return replace(job, state=State.RUNNING, attempt=1, worker=job.spec.worker or WORKER, started_at_us=NOW_US + 5)


def finished(job: Job, outcome: Outcome = Outcome.SUCCEEDED, **changes: Any) -> Job:
    """What becomes of a job whose program ends."""
    return replace(
        running(job),
        state=State.FINISHED,
        outcome=outcome,
        end=an_end(**changes),
        finished_at_us=NOW_US + 1_000_000,
        log_status=LogStatus.COMPLETE,
    )


def not_started(job: Job) -> Job:
    """What becomes of a job whose program is not there."""
    text = f'exec: "{job.spec.work.argv[0]}": executable file not found in $PATH'
    return finished(job, Outcome.FAILED, exit_code=None, cause="not_started", error=text)


def killed(job: Job, name: str = "SIGKILL", outcome: Outcome = Outcome.STOPPED) -> Job:
    """What becomes of a job that is stopped."""
    receipt = Receipt(
        signals=(SentSignal(signal=name, at_us=NOW_US + 6, processes=2),), verified_by="wait", verified_at_us=NOW_US + 9
    )
    return finished(job, outcome, exit_code=None, signal=name, cause="stop", receipt=receipt)


class FakeCoordinator(FakeOutputs, jobs_pb2_grpc.JobsServicer, jobs_pb2_grpc.ClusterServicer):
    """The servicers. `start` and `stop` may be called again and again: what it knows is kept."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.access = FakeAccess()
        self.jobs: dict[str, Job] = {}
        self.files = FakeFiles()
        self.workloads = FakeWorkloads()
        self.records = FakeRecords(self.jobs, self._owner_of)
        self.outputs: dict[str, dict[str, bytes]] = {}  # of jobs, by path
        self.expired: set[str] = set()  # jobs whose files were removed
        self.workers = [a_worker()]
        self.on_submit: Callable[[Job], Job] = running
        self.on_stop: Callable[[Job], Job] = killed
        self.refuse: HostlerError | None = None  # what every call answers
        self.submit_sizes: list[int] = []  # how many jobs came in each call
        self.principals: set[str] = set()
        self.graces: list[float | None] = []
        self.signals: list[int] = []
        self.events: list[JobEvent] = []
        self.hold = asyncio.Event()  # cleared: submissions wait for it
        self.hold.set()
        self.submitting = 0  # submissions that wait for it
        self.readers = 0  # log streams that are open now
        self._logs: dict[str, bytes] = {}
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None
        self._count = 0
        self.accepted: asyncio.Queue[str] = asyncio.Queue()  # every job's id, in order

    async def start(self) -> None:
        """Serve."""
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", 64 << 20)], interceptors=[Guarding(self.access)]
        )
        access_pb2_grpc.add_AccessServicer_to_server(self.access, self._server)
        jobs_pb2_grpc.add_JobsServicer_to_server(self, self._server)
        jobs_pb2_grpc.add_ClusterServicer_to_server(self, self._server)
        files_pb2_grpc.add_FilesServicer_to_server(self.files, self._server)
        workloads_pb2_grpc.add_WorkloadsServicer_to_server(self.workloads, self._server)
        jobs_pb2_grpc.add_RecordsServicer_to_server(self.records, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """End every call at once and serve no more."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def move(self, job: str, change: Callable[[Job], Job]) -> None:
        """Change a job and wake whoever waits for it."""
        self.jobs[job] = change(self.jobs[job])
        async with self._changed:
            self._changed.notify_all()

    async def write(self, job: str, *frames: tuple[int, bytes]) -> None:
        """Append frames to a job's ledger and wake its readers."""
        self._logs[job] = self._logs.get(job, b"") + b"".join(encode(k, p, NOW_US) for k, p in frames)
        await self.move(job, lambda j: replace(j, log_position=len(self._logs[job])))

    async def Submit(self, request: jobs_pb2.SubmitRequest, context: Context) -> jobs_pb2.SubmitResponse:
        """Accept jobs."""
        await self._check(context)
        self.submitting += 1
        await self.hold.wait()
        self.submitting -= 1
        self.submit_sizes.append(len(request.jobs))
        answer = jobs_pb2.SubmitResponse()
        for message in request.jobs:
            spec = wire.spec_from_proto(message)
            self.principals.add(spec.principal)
            principal = self.access.resolve(spec.principal) or LOCAL
            spec = replace(spec, owner=spec.owner or principal.name)
            error = check_spec(spec)
            if not principal.may(_scope_of(spec)):
                error = PermissionDenied(f"this needs the scope {_scope_of(spec)}")
            if spec.worker and spec.worker not in [w.id for w in self.workers]:
                error = error or WorkerNotFound("no such worker", field="worker")
            if any(file.digest and file.digest not in self.files.sizes for file in spec.work.files):
                error = error or FileNotFound("the bytes of a file are not stored (any more)", field="files")
            if error is not None:
                answer.results.add(error=error_to_proto(error))
                continue
            self._count += 1
            job = Job(
                id=new_uuid(self._count.to_bytes(16)), spec=spec, state=State.QUEUED, queued_at_us=NOW_US + self._count
            )
            self.jobs[job.id] = self.on_submit(job)
            self.accepted.put_nowait(job.id)
            answer.results.add(id=job.id)
        return answer

    async def Get(self, request: jobs_pb2.GetRequest, context: Context) -> Any:
        """Show a job."""
        await self._check(context)
        if (job := self.visible(request.id, request.principal, request.family)) is None:
            return await _fail(context, JobNotFound(f"job {request.id!r} not found"))
        return wire.job_to_proto(job)

    async def Explain(self, request: jobs_pb2.GetRequest, context: Context) -> Any:
        """Tell of a job: what is pending has one reason."""
        await self._check(context)
        if (job := self.visible(request.id, request.principal, request.family)) is None:
            return await _fail(context, JobNotFound(f"job {request.id!r} not found"))
        reasons = (Reason(code="no_free_slot", text="1 worker has no free slot", workers=1),)
        nearest = Nearest(worker=self.workers[0].id, name=self.workers[0].name, missing=("has 0 of 4 slots free",))
        waits = Pending(reasons=reasons, nearest=nearest, before=2) if job.state is State.QUEUED else NOT_PENDING
        return explained_to_proto(Explained(job=job, pending=waits, now_us=NOW_US))

    async def List(self, request: jobs_pb2.ListRequest, context: Context) -> jobs_pb2.ListResponse:
        """List jobs."""
        await self._check(context)
        query = wire.query_from_proto(request)
        if query.after and not (query.after.isascii() and query.after.isdecimal() and len(query.after) < 20):
            await _fail(context, InvalidRequest("after is what a page before has said", field="after"))
        known = [job for job in self.jobs.values() if self.visible(job.id, request.principal)]
        found = [
            job
            for job in (known[::-1] if query.newest_first else known)[int(query.after or 0) :]
            if (not query.states or job.state in query.states)
            and query.name in ("", job.spec.name)
            and query.family in ("", job.spec.family)
            and query.owner in ("", job.spec.owner)
            and query.workload in ("", job.spec.workload)
        ]
        page = found[: query.limit]
        following = str(int(query.after or 0) + len(page)) if len(found) > len(page) else ""
        shown = map(_brief, page) if request.brief else map(wire.job_to_proto, page)
        return jobs_pb2.ListResponse(jobs=shown, next=following)

    async def Stop(self, request: jobs_pb2.StopRequest, context: Context) -> Any:
        """Stop a job."""
        await self._check(context)
        if self.visible(request.id, request.principal, request.family) is None:
            return await _fail(context, JobNotFound(f"job {request.id!r} not found"))
        self.graces.append(request.grace_s if request.HasField("grace_s") else None)
        if self.jobs[request.id].state is not State.FINISHED:
            await self.move(request.id, self.on_stop)
        return wire.job_to_proto(self.jobs[request.id])

    async def Signal(self, request: jobs_pb2.SignalRequest, context: Context) -> Any:
        """Note a signal."""
        await self._check(context)
        if self.visible(request.id, request.principal) is None:
            return await _fail(context, JobNotFound(f"job {request.id!r} not found"))
        if self.jobs[request.id].state is not State.RUNNING:
            return await _fail(context, NotRunning("the job does not run"))
        self.signals.append(request.signal)
        return jobs_pb2.SignalResponse()

    async def Wait(self, request: jobs_pb2.WaitRequest, context: Context) -> AsyncIterator[jobs_pb2.WaitResponse]:
        """Tell each job once."""
        await self._check(context)
        for name in request.ids:
            if self.visible(name, request.principal) is None:
                await _fail(context, JobNotFound(f"job {name!r} not found"))
        left = list(request.ids)
        until = State(request.until)
        clock = asyncio.get_running_loop()
        deadline = clock.time() + request.timeout_s if request.timeout_s else float("inf")
        while left:
            ready = [i for i in left if self.jobs[i].state >= until]
            left = [i for i in left if i not in ready]
            yield jobs_pb2.WaitResponse(jobs=[wire.progress_to_proto(_progress(self.jobs[i])) for i in ready])
            try:
                async with self._changed:
                    if not any(self.jobs[i].state >= until for i in left) and left:
                        await asyncio.wait_for(self._changed.wait(), min(deadline - clock.time(), 3600))
            except TimeoutError:
                return

    async def Feed(self, request_iterator: Any, context: Context) -> AsyncIterator[jobs_pb2.FeedResponse]:
        """Not used by a gateway."""
        await _fail(context, NotRunning("nothing reads"))
        yield jobs_pb2.FeedResponse()

    async def Watch(self, request: jobs_pb2.WatchRequest, context: Context) -> AsyncIterator[jobs_pb2.JobEvent]:
        """Tell the transitions that `happen`."""
        await self._check(context)
        after = request.after
        while True:
            for event in [event for event in self.events if event.number > after]:
                after = event.number
                if event.job in (request.ids or [event.job]) and self.visible(event.job, request.principal):
                    yield wire.event_to_proto(event)
            if request.once:
                return
            async with self._changed:
                if after >= self._newest_event():
                    await self._changed.wait()

    def _newest_event(self) -> int:
        return self.events[-1].number if self.events else 0

    async def happen(self, job: str, *kinds: str) -> None:
        """Let transitions of a job be committed."""
        for kind in kinds:
            number = self._newest_event() + 3  # they are numbered with gaps
            self.events.append(
                JobEvent(number=number, job=job, kind=kind, at_us=NOW_US, stage=0, attempt=0, worker="", detail="")
            )
        async with self._changed:
            self._changed.notify_all()

    async def Retry(self, request: jobs_pb2.RetryRequest, context: Context) -> jobs_pb2.SubmitResponse:
        """Accept finished jobs again."""
        await self._check(context)
        answer = jobs_pb2.SubmitResponse()
        for name in request.ids:
            job = self.visible(name, request.principal)
            if job is None:
                answer.results.add(error=error_to_proto(JobNotFound(f"job {name!r} not found")))
            elif job.state is not State.FINISHED:
                answer.results.add(error=error_to_proto(NotFinished("stop it first")))
            else:
                self._count += 1
                again = Job(id=new_uuid(self._count.to_bytes(16)), spec=job.spec, state=State.QUEUED, retry_of=name)
                self.jobs[again.id] = again
                answer.results.add(id=again.id)
        return answer

    async def ReadLog(self, request: jobs_pb2.ReadLogRequest, context: Context) -> AsyncIterator[jobs_pb2.LogChunk]:
        """Stream a ledger."""
        await self._check(context)
        position = int(getattr(request, "from"))
        if position > (held := self.jobs[request.id].log_position):
            await _fail(context, InvalidRequest(beyond_log_text(position, 0, 1, held), field="from"))
        self.readers += 1
        try:
            while True:
                job = self.jobs[request.id]
                for piece in _pieces(self._logs.get(request.id, b"")[position:]):
                    yield _chunk(job, position, piece)
                    position += len(piece)
                if position < len(self._logs.get(request.id, b"")):
                    continue
                if not request.follow or self.jobs[request.id].log_status is not LogStatus.ARRIVING:
                    yield _chunk(self.jobs[request.id], position, b"", end=True)
                    return
                async with self._changed:
                    await self._changed.wait()
        finally:
            self.readers -= 1

    async def ListWorkers(self, request: jobs_pb2.ListWorkersRequest, context: Context) -> jobs_pb2.ListWorkersResponse:
        """List workers."""
        await self._check(context)
        return jobs_pb2.ListWorkersResponse(workers=[worker_to_proto(w) for w in self.workers])

    async def DrainWorker(self, request: jobs_pb2.DrainWorkerRequest, context: Context) -> Any:
        """Give a worker nothing more."""
        by_us = NOW_US + round(request.deadline_s * 1e6) if request.HasField("deadline_s") else 0
        return await self._change_worker(
            request.worker, context, state=WorkerState.DRAINING, reason=request.reason, drain_by_us=by_us
        )

    async def ResumeWorker(self, request: jobs_pb2.WorkerRequest, context: Context) -> Any:
        """Give it work again."""
        return await self._change_worker(request.worker, context, state=WorkerState.CONNECTED, reason="", drain_by_us=0)

    async def ReleaseWorker(self, request: jobs_pb2.WorkerRequest, context: Context) -> Any:
        """End its quarantine."""
        return await self._change_worker(request.worker, context, state=WorkerState.UNREACHABLE, reason="")

    async def _change_worker(self, name: str, context: Context, **changes: Any) -> Any:
        await self._check(context)
        for place, worker in enumerate(self.workers):
            if name in (worker.id, worker.name):
                self.workers[place] = replace(worker, **changes)
                return worker_to_proto(self.workers[place])
        return await fail(context, WorkerNotFound("no such worker"))

    async def Describe(self, request: jobs_pb2.DescribeRequest, context: Context) -> jobs_pb2.DescribeResponse:
        """Say how it fares."""
        await self._check(context)
        states = [job.state for job in self.jobs.values()]
        return jobs_pb2.DescribeResponse(
            version="0.1.0",
            epoch=1,
            queued=states.count(State.QUEUED),
            running=states.count(State.RUNNING),
            workers=len(self.workers),
            started_at_us=NOW_US,
            data_dir="/there",
            open_by_family=Counter(job.spec.family for job in self.jobs.values() if job.state is not State.FINISHED),
            event=self._newest_event(),
        )

    async def Metrics(self, request: jobs_pb2.MetricsRequest, context: Context) -> jobs_pb2.MetricsResponse:
        """It measures nothing."""
        await self._check(context)
        return jobs_pb2.MetricsResponse()

    def _owner_of(self, said: str) -> str:
        principal = self.access.resolve(said)
        return principal.name if principal is not None else ""

    def visible(self, name: str, said: str, family: str = "") -> Job | None:
        """A job where it exists for somebody."""
        job, principal = self.jobs.get(name), self.access.resolve(said)
        if (
            job is None
            or principal is None
            or not principal.sees(job.spec.owner)
            or family not in ("", job.spec.family)
        ):
            return None
        return job

    async def _check(self, context: Context) -> None:
        if self.refuse is not None:
            await _fail(context, self.refuse)


async def _fail(context: Context, error: HostlerError) -> None:
    context.set_trailing_metadata(trailers_of(error))
    await context.abort(status_of(error), error.message)


def _scope_of(spec: JobSpec) -> Scope:
    if spec.work.python is not None:
        return Scope.JOBS_SCRIPT
    return Scope.JOBS_COMMAND if spec.work.argv else Scope.JOBS_SUBMIT


def _progress(job: Job) -> Progress:
    end = job.end or End()
    return Progress(job.id, job.state, job.outcome, end.exit_code, end.signal, end.cause, end.error)


def _brief(job: Job) -> types_pb2.Job:
    return types_pb2.Job(
        id=job.id, state=types_pb2.State.ValueType(job.state), outcome=types_pb2.Outcome.ValueType(job.outcome)
    )


def _pieces(ledger: bytes) -> Iterator[bytes]:
    """Cut a ledger into pieces of whole frames."""
    start = end = 0
    for frame in iter_frames(ledger):
        end = frame.end
        if end - start >= CHUNK_BYTES:
            yield ledger[start:end]
            start = end
    if end > start:
        yield ledger[start:end]


def _chunk(job: Job, position: int, frames: bytes, *, end: bool = False) -> jobs_pb2.LogChunk:
    return jobs_pb2.LogChunk(
        position=position,
        frames=frames,
        end=end,
        status=types_pb2.LogStatus.ValueType(job.log_status),
        lost_bytes=job.log_lost_bytes,
        attempt=job.attempt,
    )


NOT_NOW = Unavailable("the coordinator's disk is full", retry_after_s=7.0)
