"""The typed async client of the coordinator: what gateway, CLI, tests and other services use.

One `Client` holds one channel and is safe for many concurrent calls of one event loop. Every call
has a deadline; every failure is one of `hostler.errors`. `connect` makes one for a program of yours: it
finds the cluster, and it is patient, which means that it goes on when the coordinator comes back.

A client without patience makes each call once. Calls that change nothing, and calls that carry an
idempotency key, may be repeated after `Unavailable`; a submission without a key may have taken effect.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from hostler import settings as hostler_settings
from hostler.access_client import AccessClient
from hostler.channel_options import CHANNEL_OPTIONS
from hostler.endpoint import coordinator_address, read_endpoint
from hostler.errors import HostlerError, InvalidRequest
from hostler.explanation_client import ExplanationClient
from hostler.feeding import Feeding
from hostler.files_client import FilesClient
from hostler.jobs import OWN_KEY, BriefJob, Job, JobEvent, JobPage, JobQuery, JobSpec, LogStatus, Progress
from hostler.lifecycle import State
from hostler.patience import PASSING, PATIENCE_S, Absence
from hostler.records_client import RecordsClient
from hostler.repeating import Repeating
from hostler.shown_key import KeyShowing
from hostler.tls import Target, is_here, target_of
from hostler.v1 import jobs_pb2, jobs_pb2_grpc, types_pb2
from hostler.wire import jobs as wire_jobs
from hostler.wire import workers as wire_workers
from hostler.wire.errors import CALLING, error_from_proto
from hostler.workers import Worker
from hostler.workloads_client import WorkloadsClient

CALL_S = 30.0
STOP_WAIT_S = 30.0
FOREVER_S = 30 * 86400.0
SLICE_ITEMS = 500  # of a submission, made into messages before others get their turn


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """A piece of an attempt's ledger: whole frames, see `hostler.frames`."""

    position: int  # of the first byte of `frames`
    frames: bytes
    end: bool  # nothing follows
    status: LogStatus
    lost_bytes: int
    attempt: int
    stage: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What the coordinator says of itself."""

    version: str
    epoch: int
    queued: int
    running: int
    workers: int
    started_at_us: int
    data_dir: str
    open_by_family: dict[str, int] = field(default_factory=dict)  # jobs that are not over
    event: int = 0  # the number of the newest transition, or more: a watch after it misses none


def _chunk_from_proto(message: jobs_pb2.LogChunk) -> LogChunk:
    return LogChunk(
        position=message.position,
        frames=message.frames,
        end=message.end,
        status=LogStatus(message.status or LogStatus.ARRIVING),
        lost_bytes=message.lost_bytes,
        attempt=message.attempt,
        stage=message.stage,
    )


def connect(address: str = "", *, patience_s: float = PATIENCE_S, **settings: Any) -> "Client":
    """Make a patient client of the cluster that runs here, or of the one at *address*.

    Args:
        address: ``HOST:PORT`` or ``unix:/path``; empty: that of the settings (``HOSTLER_COORDINATOR``, the settings
            file), else that of the data directory.
        patience_s: how long it goes on while the coordinator does not answer, counted from the last answer.
        settings: further ones by name, as docs/settings.md has them: `data_dir`; `key_file`, whose key every call
            then shows; for another host also `tls_ca` or `ca_fingerprint`.

    Raises:
        InvalidRequest: a setting is missing or unusable.
        Unavailable: the coordinator's authority must be fetched, and it does not answer.
    """
    known = hostler_settings.load(None, coordinator=address or None, **settings)
    published = None if known.coordinator else read_endpoint(known.data_dir)
    found = published.socket if published is not None else coordinator_address(known)
    return Client(target_of(known, found), patience_s=patience_s)


def open_channel(
    target: str | Target, options: tuple[tuple[str, int], ...] = (), *, patience_s: float = 0.0
) -> grpc.aio.Channel:
    """Open a channel to ``unix:/path`` or ``host:port``; connecting happens on the first call.

    With an authority in its access it is a TLS channel that trusts this one, and shows the certificate, if there is
    one. Every call shows the key, if there is one. With *patience_s* unary calls are made again, see
    `hostler.repeating`.

    Raises:
        InvalidRequest: it has access without an authority, and is not on this host.
    """
    address, access = Target(target) if isinstance(target, str) else target
    between = [Repeating(patience_s)] if patience_s else None
    if access is None or not access.ca:
        if access is not None and not is_here(address):
            raise InvalidRequest(f"the coordinator {address} is not on this host: no authority to trust is known")
        plain = grpc.aio.insecure_channel(address, options=[*CHANNEL_OPTIONS, *options], interceptors=between)
        return KeyShowing(plain, access.key) if access is not None and access.key else plain
    pair = access.pair
    own = (pair.private_key, pair.certificate) if pair is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(access.ca, *own)
    if access.key:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(access.key))
    return grpc.aio.secure_channel(address, credentials, options=[*CHANNEL_OPTIONS, *options], interceptors=between)


class Client:
    """Calls one coordinator. Use it as an async context manager, or `close` it."""

    def __init__(
        self,
        target: str | Target,
        *,
        principal: str = "",
        options: tuple[tuple[str, int], ...] = (),
        patience_s: float = 0.0,
    ) -> None:
        """Prepare a client for *target*.

        Args:
            target: ``unix:/path/to/socket`` or ``host:port``; with what reaching it needs and the key to show
                (`hostler.tls.target_of`).
            principal: asserted on every call; believed only from a connection that may assert one.
            options: of the channel, besides `CHANNEL_OPTIONS`.
            patience_s: how long it goes on while the coordinator is away; 0: each call is made once.
        """
        self.address = target if isinstance(target, str) else target.address
        self._principal = principal
        self._patience_s = patience_s
        self._channel = open_channel(target, options, patience_s=patience_s)
        self._jobs = jobs_pb2_grpc.JobsStub(self._channel)
        self._cluster = jobs_pb2_grpc.ClusterStub(self._channel)
        self.files = FilesClient(self._channel, self._as)
        self.workloads = WorkloadsClient(self._channel, self._as)
        self.records = RecordsClient(self._channel, self._as)
        self.explanations = ExplanationClient(self._channel, self._as)
        self.access = AccessClient(self._channel, self._as)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every call and close the channel; closing twice is legal."""
        await self._channel.close()

    async def submit(
        self, specs: Iterable[JobSpec], *, principal: str | None = None, timeout_s: float = 60.0
    ) -> list[str | HostlerError]:
        """Submit jobs; each is answered in its place with its id or with what is wrong with it.

        An id is durable. At most 10,000 items a call.
        """
        request = await self._submission(specs, principal)
        with CALLING:
            answer = await self._jobs.Submit(request, timeout=timeout_s)
        return [r.id or error_from_proto(r.error) for r in answer.results]

    async def submit_and_wait(
        self, specs: Iterable[JobSpec], *, wait_s: float, principal: str | None = None
    ) -> list[str | Progress | HostlerError]:
        """Submit jobs and wait up to *wait_s* for their ends, in one call.

        Each is answered in its place: `Progress` when it finished in time, else its id, or what is wrong.
        """
        request = await self._submission(specs, principal)
        request.wait_s = wait_s
        with CALLING:
            answer = await self._jobs.Submit(request, timeout=wait_s + 60.0 if 0 <= wait_s < FOREVER_S else FOREVER_S)
        return [
            wire_jobs.progress_from_proto(r.progress) if r.HasField("progress") else r.id or error_from_proto(r.error)
            for r in answer.results
        ]

    async def _submission(self, specs: Iterable[JobSpec], principal: str | None) -> jobs_pb2.SubmitRequest:
        if self._patience_s:  # what is submitted twice with one key is one job
            specs = [spec if spec.key else replace(spec, key=f"{OWN_KEY}{uuid.uuid4()}") for spec in specs]
        request = jobs_pb2.SubmitRequest()
        asserted = self._as(principal)
        for number, spec in enumerate(specs):
            if number and not number % SLICE_ITEMS:
                await asyncio.sleep(0)
            item = request.jobs.add()
            wire_jobs.put_spec(item, spec)
            if asserted:
                item.principal = asserted
        return request

    async def submit_one(self, spec: JobSpec, *, principal: str | None = None) -> str:
        """Submit one job and return its id, or raise what is wrong with it."""
        (result,) = await self.submit([spec], principal=principal)
        if isinstance(result, HostlerError):
            raise result
        return result

    async def get(self, job: str, *, family: str = "", principal: str | None = None) -> Job:
        """Return a job as it stands.

        Raises:
            JobNotFound: there is no such job, or not for this caller and family.
        """
        request = jobs_pb2.GetRequest(id=job, family=family, principal=self._as(principal))
        with CALLING:
            return wire_jobs.job_from_proto(await self._jobs.Get(request, timeout=CALL_S))

    async def find(self, query: JobQuery, *, principal: str | None = None) -> JobPage:
        """Return one page of jobs, oldest first."""
        request = wire_jobs.query_to_proto(query, self._as(principal))
        with CALLING:
            return wire_jobs.page_from_proto(await self._jobs.List(request, timeout=CALL_S))

    async def find_brief(self, query: JobQuery, *, principal: str | None = None) -> AsyncIterator[Sequence[BriefJob]]:
        """Yield pages of ids and states of every job that fits; `limit` and `after` of the query are not used."""
        request = wire_jobs.query_to_proto(query, self._as(principal))
        request.brief, request.limit, request.after = True, 10_000, ""
        while True:
            with CALLING:
                answer = await self._jobs.List(request, timeout=CALL_S)
            yield [wire_jobs.brief_from_proto(job) for job in answer.jobs]
            if not answer.next:
                return
            request.after = answer.next

    async def stop(
        self,
        job: str,
        *,
        grace_s: float | None = None,
        wait_s: float = STOP_WAIT_S,
        family: str = "",
        principal: str | None = None,
    ) -> Job:
        """Stop a job and return it once nothing of its tree is left.

        Args:
            job: its id.
            grace_s: between SIGTERM and SIGKILL; None: the job's own; 0: SIGKILL at once.
            wait_s: patience for the proof beyond the grace; after it the job is returned ``stopping``.
            family: when set, jobs of other families are unknown.
            principal: who asks.
        """
        request = jobs_pb2.StopRequest(
            id=job, grace_s=grace_s, wait_s=wait_s, family=family, principal=self._as(principal)
        )
        with CALLING:
            # The job's own grace is not known here: the coordinator ends the call by itself.
            known = grace_s is not None and 0 <= grace_s + wait_s < FOREVER_S  # NaN is not: the coordinator refuses it
            timeout_s = grace_s + wait_s + CALL_S if known and grace_s is not None else FOREVER_S
            return wire_jobs.job_from_proto(await self._jobs.Stop(request, timeout=timeout_s))

    async def retry(self, jobs: Sequence[str], *, principal: str | None = None) -> list[str | HostlerError]:
        """Submit finished jobs again; each is answered in its place with the new job's id or with what is wrong."""
        request = jobs_pb2.RetryRequest(ids=jobs, principal=self._as(principal))
        with CALLING:
            answer = await self._jobs.Retry(request, timeout=60.0)
        return [r.id or error_from_proto(r.error) for r in answer.results]

    async def signal(self, job: str, signal: int, *, alone: bool = False, principal: str | None = None) -> None:
        """Send a signal to the main process of a running job, *alone* or with its process group.

        Returns once the job's supervisor has it.

        Raises:
            NotRunning: the job does not run.
            Unavailable: its worker cannot be reached, or has not answered: then the signal has perhaps arrived.
        """
        request = jobs_pb2.SignalRequest(id=job, signal=signal, alone=alone, principal=self._as(principal))
        with CALLING:
            await self._jobs.Signal(request, timeout=CALL_S)

    async def feed(self, job: str, pieces: AsyncIterator[bytes], *, principal: str | None = None) -> int:
        """Feed a job that was submitted with ``stdin``; ends when *pieces* were taken or the job reads no more.

        Waits for the job's start. Goes on where it was fed before. Returns how many bytes the attempt has taken of all
        that was ever fed to it, also when somebody else has taken the input over (`Feeding.taken_over` of `feeding`).
        An attempt that follows on a failed one begins with no input, and waits for somebody to feed it.
        """
        return await self.feeding(job, principal=principal).run(pieces)

    def feeding(self, job: str, *, patience_s: float | None = None, principal: str | None = None) -> Feeding:
        """The input of a job, for who wants to be told more or has a terminal; None: with this client's patience."""

        def open_call() -> Any:
            return self._jobs.Feed(timeout=FOREVER_S)

        patience_s = self._patience_s if patience_s is None else patience_s
        return Feeding(open_call, job, principal=self._as(principal), patience_s=patience_s)

    async def wait(
        self,
        jobs: Sequence[str],
        *,
        until: State = State.FINISHED,
        timeout_s: float = 0.0,
        principal: str | None = None,
    ) -> AsyncIterator[Progress]:
        """Yield where each job has come to, once, as soon as it is as far as *until* (RUNNING or FINISHED).

        Ends after the last one, or after *timeout_s* (0: no limit) with what there is.
        """
        clock, left = asyncio.get_running_loop().time, list(dict.fromkeys(jobs))
        give_up_at, left_s = clock() + timeout_s, timeout_s
        absence = Absence(self._patience_s)
        while True:
            request = jobs_pb2.WaitRequest(
                ids=left, until=types_pb2.State.ValueType(until), timeout_s=left_s, principal=self._as(principal)
            )
            call_s = left_s + CALL_S if 0 < left_s < FOREVER_S else FOREVER_S  # what is none, the coordinator refuses
            try:
                with CALLING:
                    async for message in self._jobs.Wait(request, timeout=call_s):
                        absence.heard()
                        over = {progress.id for progress in message.jobs}
                        left = [job for job in left if job not in over]
                        for progress in message.jobs:
                            yield wire_jobs.progress_from_proto(progress)
                return
            except PASSING as error:
                await absence.bear(error)
            left_s = give_up_at - clock() if timeout_s else 0.0
            if not left or left_s < 0:
                return

    async def wait_one(
        self, job: str, *, until: State = State.FINISHED, timeout_s: float = 0.0, principal: str | None = None
    ) -> Job | None:
        """Return the job once it has come as far as *until*; None when *timeout_s* passed first."""
        async for _ in self.wait([job], until=until, timeout_s=timeout_s, principal=principal):
            return await self.get(job, principal=principal)
        return None

    async def watch(
        self,
        jobs: Sequence[str] = (),
        *,
        after: int = 0,
        once: bool = False,
        patience_s: float | None = None,
        principal: str | None = None,
    ) -> AsyncGenerator[JobEvent]:
        """Yield committed transitions after event number *after*, each once; without end, or *once* those there are.

        Raises:
            InvalidRequest: there has been no event of this number; `describe` tells the newest.
        """
        request = jobs_pb2.WatchRequest(ids=jobs, after=after, once=once, principal=self._as(principal))
        absence = Absence(self._patience_s if patience_s is None else patience_s)
        while True:
            try:
                with CALLING:
                    async for message in self._jobs.Watch(request, timeout=FOREVER_S):
                        absence.heard()
                        request.after = message.number
                        yield wire_jobs.event_from_proto(message)
                return
            except PASSING as error:
                await absence.bear(error)

    async def read_log(
        self,
        job: str,
        *,
        start: int = 0,
        follow: bool = False,
        stage: int = 0,
        attempt: int = 0,
        go_on: bool = False,
        patience_s: float | None = None,
        principal: str | None = None,
    ) -> AsyncGenerator[LogChunk]:
        """Yield the ledger of an attempt from position *start* on.

        With *follow* it goes on until the log is complete or its rest is lost. Attempt 0 is the current one, whatever
        the stage, and with *follow* those that come after it, as they do with *go_on* after one that is named. To
        resume, start at the last position plus its bytes, in that stage and attempt; beyond that is `InvalidRequest`.
        """
        go_on = follow and (go_on or not attempt)
        request = jobs_pb2.ReadLogRequest(
            id=job, stage=stage, attempt=attempt, follow=follow, go_on=go_on, principal=self._as(principal)
        )
        setattr(request, "from", start)  # a word of Python
        absence = Absence(self._patience_s if patience_s is None else patience_s)
        while True:
            try:
                with CALLING:
                    async for message in self._jobs.ReadLog(request, timeout=FOREVER_S):
                        absence.heard()
                        chunk = _chunk_from_proto(message)
                        if chunk.frames:  # from here on it is this attempt's log, also when another one follows
                            request.stage, request.attempt = chunk.stage, chunk.attempt
                            setattr(request, "from", chunk.position + len(chunk.frames))
                        yield chunk
                return
            except PASSING as error:
                await absence.bear(error)

    async def workers(self, *, principal: str | None = None) -> list[Worker]:
        """Return every worker the coordinator knows."""
        request = jobs_pb2.ListWorkersRequest(principal=self._as(principal))
        with CALLING:
            answer = await self._cluster.ListWorkers(request, timeout=CALL_S)
        return [wire_workers.worker_from_proto(w) for w in answer.workers]

    async def drain_worker(
        self,
        worker: str,
        *,
        deadline_s: float | None = None,
        leave: bool = False,
        reason: str = "",
        principal: str | None = None,
    ) -> Worker:
        """Give a worker nothing more; after *deadline_s* what runs there is ended, with *leave* its agent ends at last.

        *worker* is an id or a name that only one worker has.
        """
        request = jobs_pb2.DrainWorkerRequest(
            worker=worker, deadline_s=deadline_s, leave=leave, reason=reason, principal=self._as(principal)
        )
        with CALLING:
            answer = await self._cluster.DrainWorker(request, timeout=CALL_S)
        return wire_workers.worker_from_proto(answer)

    async def resume_worker(self, worker: str, *, principal: str | None = None) -> Worker:
        """Take back `drain_worker`."""
        request = jobs_pb2.WorkerRequest(worker=worker, principal=self._as(principal))
        with CALLING:
            answer = await self._cluster.ResumeWorker(request, timeout=CALL_S)
        return wire_workers.worker_from_proto(answer)

    async def release_worker(self, worker: str, *, principal: str | None = None) -> Worker:
        """End the quarantine of a worker."""
        request = jobs_pb2.WorkerRequest(worker=worker, principal=self._as(principal))
        with CALLING:
            answer = await self._cluster.ReleaseWorker(request, timeout=CALL_S)
        return wire_workers.worker_from_proto(answer)

    async def describe(
        self, *, timeout_s: float = CALL_S, wait_for_ready: bool = False, principal: str | None = None
    ) -> Cluster:
        """Return what the coordinator says of itself; with *wait_for_ready* keep trying to connect."""
        with CALLING:
            answer = await self._cluster.Describe(
                jobs_pb2.DescribeRequest(principal=self._as(principal)),
                timeout=timeout_s,
                wait_for_ready=wait_for_ready,
            )
        return Cluster(
            version=answer.version,
            epoch=answer.epoch,
            queued=answer.queued,
            running=answer.running,
            workers=answer.workers,
            started_at_us=answer.started_at_us,
            data_dir=answer.data_dir,
            open_by_family=dict(answer.open_by_family),
            event=answer.event,
        )

    async def metrics(self, *, principal: str | None = None) -> bytes:
        """Return the coordinator's measurements in the text format of Prometheus."""
        with CALLING:
            answer = await self._cluster.Metrics(jobs_pb2.MetricsRequest(principal=self._as(principal)), timeout=CALL_S)
        return answer.text

    def _as(self, principal: str | None) -> str:
        return self._principal if principal is None else principal
