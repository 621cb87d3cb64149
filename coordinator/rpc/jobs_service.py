"""The service that programs call: decode, ask engine or store, encode."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import compress
from operator import eq

from coordinator import decisions
from coordinator.decisions import Submission
from coordinator.engine import Engine
from coordinator.live import Live
from coordinator.pending import sent_ahead, why_pending
from coordinator.rpc.context import Caller, owner_seen, visible
from coordinator.rpc.disk_reserve import DiskReserve
from coordinator.rpc.submissions import Submissions, is_described, refused, submission
from coordinator.sessions import Sessions
from coordinator.storage.protocol import Store
from coordinator.storage.selection import BRIEF_PAGE_MAX, PAGE_MAX
from coordinator.watchers import Waiter, Watchers
from hostler.clock import Clock
from hostler.errors import (
    HostlerError,
    InvalidRequest,
    JobNotFound,
    KeyConflict,
    NotRunning,
    TooLarge,
    Unauthenticated,
)
from hostler.ids import is_uuid, new_uuid
from hostler.job_filters import parse_filter
from hostler.jobs import DURATION_S_MAX, SUBMIT_ITEMS_MAX, Job, OutputFile, Progress
from hostler.lifecycle import ON_A_WORKER, State
from hostler.policy import LOCAL, Principal
from hostler.state_text import state_text
from hostler.v1 import jobs_pb2, types_pb2
from hostler.wire import jobs as wire
from hostler.wire.errors import error_to_proto
from hostler.wording import not_yet_text

EVENTS_PER_READ = 500
WATCH_IDS_MAX = 1000
SLICE_BYTES = 256 * 1024  # of the items of a call, before others get their turn
ITEM_BYTES = 512  # what an item costs besides its length
ID_CHARACTERS = 36
STOP_WAIT_S = 30.0  # for the proof of a stop, when nothing is said


class JobsService:
    """See ``protos/hostler/v1/jobs.proto``; each method is one RPC."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        sessions: Sessions,
        watchers: Watchers,
        disk: DiskReserve,
        clock: Clock,
        submissions: Submissions,
    ) -> None:
        self._engine = engine
        self._submissions = submissions
        self._store = store
        self._sessions = sessions
        self._watchers = watchers
        self._disk = disk
        self._clock = clock

    async def submit(self, request: jobs_pb2.SubmitRequest, caller: Caller) -> jobs_pb2.SubmitResponse:
        """Submit: per-item results in order, durable before the answer."""
        if len(request.jobs) > SUBMIT_ITEMS_MAX:
            raise TooLarge(f"{len(request.jobs)} jobs in one call; at most {SUBMIT_ITEMS_MAX}", field="jobs")
        _check_seconds(request.wait_s, "wait", "0 for not at all")
        self._disk.check()
        messages = list(request.jobs)
        repeated = [
            False,
            *map(eq, messages, messages[1:]),
        ]  # one like that before it: looked at once, and its bytes kept once
        described: list[bool] = []
        for message, again in zip(messages, repeated, strict=False):
            described.append(described[-1] if again else is_described(message))
        definitions = await self._submissions.known(compress(messages, described))
        random = os.urandom(16 * len(messages))
        asking: dict[str, Principal | HostlerError] = {}  # by what is asserted
        items: list[Submission] = []
        looked_at = 0
        is_long = ITEM_BYTES * len(messages) + request.ByteSize() > SLICE_BYTES
        for i, message in enumerate(messages):
            if is_long:
                looked_at += ITEM_BYTES + message.ByteSize()
                if looked_at > SLICE_BYTES:
                    looked_at = 0
                    await asyncio.sleep(0)
            job_id = new_uuid(random[16 * i : 16 * i + 16])
            principal = asking.get(message.principal) or asking.setdefault(
                message.principal, _asking(caller, message.principal)
            )
            if isinstance(principal, HostlerError):
                items.append(refused(message, job_id, principal))
            elif described[i]:
                items.append(await self._submissions.make(message, job_id, principal, definitions))
            elif repeated[i]:
                items.append(items[-1].with_id(job_id))
            else:
                items.append(submission(message, job_id, principal))
        items = await self._refuse_used_keys(items)
        results = await self._engine.submit(items)
        # A key that was used for a job that is over gives that job's id, in its place.
        results = [
            item.error.job if isinstance(item.error, _KnownJob) else r for item, r in zip(items, results, strict=True)
        ]
        answer = jobs_pb2.SubmitResponse()
        for result in results:
            if isinstance(result, str):
                answer.results.add().id = result
            else:
                answer.results.add(error=error_to_proto(result))
        if request.wait_s > 0:
            await self._add_progress(answer, request.wait_s)
        return answer

    async def _refuse_used_keys(self, items: list[Submission]) -> list[Submission]:
        """Find keys of jobs that are over and so are known only to the store."""
        keys = {(item.owner, item.key) for item in items if item.key}
        if not keys:
            return items
        used = await self._store.find_by_keys(keys)
        checked = []
        for item in items:
            found = used.get((item.owner, item.key)) if item.key else None
            if found is not None and found[1] == item.digest:
                item = item._replace(error=_KnownJob(found[0]))  # whatever would be wrong with it today
            elif found is not None and item.error is None:
                item = item._replace(error=KeyConflict(decisions.CONFLICT.format(item.key), field="key"))
            checked.append(item)
        return checked

    async def _add_progress(self, answer: jobs_pb2.SubmitResponse, wait_s: float) -> None:
        places: dict[str, list[jobs_pb2.SubmitResult]] = {}  # one key may stand for several items
        for result in answer.results:
            if result.id:
                places.setdefault(result.id, []).append(result)
        async for group in self._progress(list(places), State.FINISHED, wait_s, LOCAL):
            for progress in group:
                for place in places[progress.id]:
                    wire.put_progress(place.progress, progress)

    async def get(self, request: jobs_pb2.GetRequest, principal: Principal) -> types_pb2.Job:
        """Get: one job as it stands."""
        return wire.job_to_proto(await self.find(request.id, principal, request.family))

    async def find(self, job_id: str, principal: Principal, family: str = "") -> Job:
        """Return a job as it stands. Raises JobNotFound."""
        job = await self._store.get_job(job_id) if is_uuid(job_id) else None
        return (await self._with_live_facts([visible(job, job_id, principal, family)]))[0]

    async def _with_live_facts(self, jobs: Sequence[Job]) -> list[Job]:
        """Add what only memory knows: why a job waits, whether its worker can be reached."""
        if all(job.state is State.FINISHED for job in jobs):
            return list(jobs)
        return await self._engine.look(lambda live: [self._as_seen(live, job) for job in jobs])

    def _as_seen(self, live: Live, job: Job) -> Job:
        entry = live.job(job.id)
        if job.state is State.FINISHED or entry is None:
            return job
        if job.state is State.QUEUED and entry.state is State.QUEUED:
            reasons = why_pending(live, entry, self._engine.standings)
            return replace(job, pending_reasons=tuple(why.text for why in reasons))
        worker = live.workers.get(job.worker)
        if job.state in ON_A_WORKER and not job.phase and worker is not None and not worker.connected:
            return replace(job, phase="unreachable")
        if worker is not None and (ahead := sent_ahead(live, entry, worker)) is not None:
            return replace(job, pending_reasons=(ahead.text,))
        session = self._sessions.get(job.worker)
        if session is None:
            return job
        key = entry.attempt_key
        sample, note = session.samples.get(key), session.notes.get(key)
        if sample is not None:
            job = replace(job, usage=sample)
        if note is not None:
            job = replace(job, advance=note.advance, phase=job.phase or note.phase)
        return job

    def live_outputs(self, job_id: str) -> tuple[OutputFile, ...]:
        """What a running job has in its output directory, as its worker said last."""
        entry = self._engine.live.job(job_id)
        session = self._sessions.get(entry.worker) if entry is not None else None
        note = session.notes.get(entry.attempt_key) if entry is not None and session is not None else None
        return note.outputs if note is not None else ()

    async def list(self, request: jobs_pb2.ListRequest, principal: Principal) -> jobs_pb2.ListResponse:
        """List: a page of jobs by filter, one's own unless everybody's are seen."""
        if request.after and not request.after.isdecimal():
            raise InvalidRequest("after is not the `next` of an earlier page", field="after")
        if len(request.id_prefix) > ID_CHARACTERS:
            raise InvalidRequest(f"an id has {ID_CHARACTERS} characters", field="id_prefix")
        most = BRIEF_PAGE_MAX if request.brief else PAGE_MAX
        if request.limit > most:
            raise InvalidRequest(f"limit is a number from 1 to {most}, 0 for 100", field="limit")
        if any(state not in State._value2member_map_ for state in request.states):
            raise InvalidRequest("states names a state that does not exist", field="states")
        query = wire.query_from_proto(request)
        if query.filter:
            parse_filter(query.filter)  # what is wrong with it is said also to who sees no job
        only = owner_seen(principal)
        if only is not None:
            if query.owner not in ("", only):
                return jobs_pb2.ListResponse()
            query = replace(query, owner=only)
        if request.brief:
            found, following = await self._store.find_brief(query)
            brief = jobs_pb2.ListResponse(next=following)
            for job_id, state, outcome in found:
                brief.jobs.add(
                    id=job_id,
                    state=types_pb2.State.ValueType(state),
                    outcome=types_pb2.Outcome.ValueType(outcome),
                )
            return brief
        page = await self._store.find_jobs(query)
        jobs = await self._with_live_facts(page.jobs)
        return jobs_pb2.ListResponse(jobs=[wire.job_to_proto(job) for job in jobs], next=page.next)

    async def stop(self, request: jobs_pb2.StopRequest, principal: Principal) -> types_pb2.Job:
        """Stop: answered once nothing is left, or still ``stopping`` after the wait."""
        job = await self.find(request.id, principal, request.family)
        if job.state is State.FINISHED:
            return wire.job_to_proto(job)
        grace_s = request.grace_s if request.HasField("grace_s") else job.spec.work.grace_s
        _check_seconds(grace_s, "grace", "0 for SIGKILL at once")
        _check_seconds(request.wait_s, "wait", f"0 for {STOP_WAIT_S:g}")
        by = principal.name
        waiter = Waiter()
        try:
            self._engine.post(lambda live, now: decisions.on_stop(live, job.id, grace_s, by, waiter, now))
            await waiter.ready(grace_s + (request.wait_s or STOP_WAIT_S))
        except JobNotFound:
            pass  # it left memory in between: it is over
        finally:
            self._watchers.remove(waiter)
        return wire.job_to_proto(await self.find(request.id, principal, request.family))

    async def signal(self, request: jobs_pb2.SignalRequest, principal: Principal) -> jobs_pb2.SignalResponse:
        """Signal: to the main process of a running job."""
        job = await self.find(request.id, principal)
        if request.signal not in signal.valid_signals():
            raise InvalidRequest("signal is a number from 1 to 64, but neither 32 nor 33", field="signal")
        if job.state is State.FINISHED:
            raise NotRunning(f"job {job.id} is over ({state_text(job)}), so it takes no signal")
        await self._engine.signal(request.id, request.signal, alone=request.alone)
        return jobs_pb2.SignalResponse()

    async def wait(self, request: jobs_pb2.WaitRequest, principal: Principal) -> AsyncIterator[jobs_pb2.WaitResponse]:
        """Wait: each job once, as soon as it is far enough."""
        if len(request.ids) > SUBMIT_ITEMS_MAX:
            raise TooLarge(f"{len(request.ids)} ids in one call; at most {SUBMIT_ITEMS_MAX}", field="ids")
        _check_seconds(request.timeout_s, "timeout", "0 for no limit")
        until = State.RUNNING if request.until == types_pb2.STATE_RUNNING else State.FINISHED
        groups = self._progress(list(dict.fromkeys(request.ids)), until, request.timeout_s, principal)
        async with aclosing(groups):
            async for group in groups:
                answer = jobs_pb2.WaitResponse()
                for progress in group:
                    wire.put_progress(answer.jobs.add(), progress)
                yield answer

    async def _progress(
        self, ids: Sequence[str], until: State, timeout_s: float, principal: Principal
    ) -> AsyncGenerator[Sequence[Progress], None]:
        """Yield groups of progress until every job was told or the time is over (0: never)."""
        waiter = Waiter()
        deadline = self._clock.monotonic() + timeout_s if timeout_s else None
        left = len(ids)
        try:
            self._engine.post(lambda live, now: decisions.on_wait(live, ids, until, waiter, principal.sees))
            absent = await waiter.absent
            if absent:
                over = await self._store.find_progress(absent, owner_seen(principal))
                unknown = next((job_id for job_id in absent if job_id not in over), None)
                if unknown is not None:
                    raise JobNotFound(f"job {unknown[:64]!r} not found")
                left -= len(over)
                yield list(over.values())
            while left:
                patience = None if deadline is None else deadline - self._clock.monotonic()
                if patience is not None and patience <= 0:
                    return
                group = await waiter.ready(patience)
                left -= len(group)
                if group:
                    yield group
        finally:
            self._watchers.remove(waiter)

    async def watch(self, request: jobs_pb2.WatchRequest, principal: Principal) -> AsyncIterator[jobs_pb2.JobEvent]:
        """Watch: committed transitions, without end unless only those are asked for that there are."""
        if len(request.ids) > WATCH_IDS_MAX:
            raise TooLarge(f"{len(request.ids)} ids in one call; at most {WATCH_IDS_MAX}", field="ids")
        after, only = request.after, owner_seen(principal)
        newest = await self._store.newest_event()
        if after > newest:  # whoever has this number from another state of the cluster would hear nothing for ever
            raise InvalidRequest(not_yet_text(after, newest), field="after")
        with self._watchers.watcher() as changed:
            while True:
                changed.clear()
                before = after
                if only is None:
                    events = await self._store.events_after(after, request.ids, EVENTS_PER_READ)
                    after = events[-1].number if events else after
                else:
                    events, after = await self._store.events_of(only, after, request.ids, EVENTS_PER_READ)
                for event in events:
                    yield wire.event_to_proto(event)
                if after == before:
                    if request.once:
                        return
                    await changed.wait()
                    await asyncio.sleep(0.02)  # a busy engine commits often: read a few commits at once


def _check_seconds(seconds: float, field: str, zero: str) -> None:
    """Refuse what is no length of time, as NaN; *zero* says what 0 means."""
    if not 0 <= seconds <= DURATION_S_MAX:
        raise InvalidRequest(f"{field} is a number of seconds, {zero}", field=field)


def _asking(caller: Caller, asserted: str) -> Principal | HostlerError:
    try:
        return caller.acting_for(asserted)
    except Unauthenticated as error:
        return error


class _KnownJob(HostlerError):
    """Not an error to show: the key was used before for the same job, which is over."""

    def __init__(self, job: str) -> None:
        super().__init__("known")
        self.job = job
