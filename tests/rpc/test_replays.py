"""Whatever was said once and is said again does nothing: every frame of a worker's and a client's session, replayed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest

from hostler.audit import REFUSED
from hostler.client import open_channel
from hostler.ids import AttemptKey
from hostler.jobs import JobQuery
from hostler.lifecycle import State
from hostler.tls import Access, Target
from hostler.v1 import access_pb2, jobs_pb2, workers_pb2
from hostler.wire.jobs import spec_to_proto
from hostler.workers import WorkerState
from tests.support.builders import a_spec, some_frames
from tests.support.fake_worker import RUNNING, FakeWorker
from tests.support.other_hosts import Joined, Site, join, pinned, served
from tests.support.waiting import eventually, until
from worker_agent.joining import make_request

LOG = some_frames(b"once")
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
WRONG = grpc.StatusCode.INVALID_ARGUMENT


class Frame(NamedTuple):
    """What went over a connection once."""

    method: str
    content: bytes


class Recording(NamedTuple):
    """A session, and what may replay it."""

    site: Site
    a: Joined
    b: Joined
    anybody: Target  # the port for keys, without one
    metadata: tuple[tuple[str, str], ...]  # of the client
    calls: dict[str, Frame]
    controls: list[workers_pb2.WorkerMessage]  # what `a` said, its hello first
    push: workers_pb2.LogPush
    victim: AttemptKey  # an attempt that runs on `a` now


@pytest.fixture
async def recorded(data_dir: Path) -> AsyncIterator[Recording]:
    """Two jobs ran on a worker, one to its end and one until it was stopped; a third one runs there."""
    async with served(data_dir) as site:
        yield await _record(site)


async def _record(site: Site) -> Recording:
    invitation = await site.invite()
    anybody = Target(site.address, Access(ca=await pinned(site, invitation.fingerprint)))
    calls = {"join": Frame("Access/Join", _bytes(access_pb2.JoinRequest(token=invitation.token, name="x",
                                                                        request=make_request()[1])))}  # fmt: skip
    await _call(anybody, calls["join"])
    a, b = await join(site, "a"), await join(site, "b")
    calls["renew"] = Frame("Access/Renew", _bytes(access_pb2.RenewRequest(request=make_request()[1])))
    await _call(a.target, calls["renew"])
    metadata = (("x-api-key", (await site.local.access.create_key("ada", scopes=["developer"])).text),)

    worker = FakeWorker(a.target, name="a")
    await worker.connect()
    specs = [a_spec(worker=a.id, key=f"once-{number}") for number in range(2)]
    calls["submit"] = Frame("Jobs/Submit", _bytes(jobs_pb2.SubmitRequest(jobs=map(spec_to_proto, specs))))
    results = jobs_pb2.SubmitResponse.FromString(await _call(anybody, calls["submit"], metadata)).results
    first, second = await worker.takes(2)
    for key in (first, second):
        await worker.report_started(key)
    await worker.open_push()
    await worker.push(first, 0, LOG)
    await worker.stored(first, len(LOG))
    await worker.report_ended(first, ledger_bytes=len(LOG))
    calls["stop"] = Frame("Jobs/Stop", _bytes(jobs_pb2.StopRequest(id=results[1].id, grace_s=0.0, wait_s=10.0)))
    stopping = asyncio.create_task(_call(anybody, calls["stop"], metadata))
    await eventually(lambda: worker.stops, "the stop has arrived")
    await worker.report_ended(second)
    await stopping
    await worker.write(workers_pb2.WorkerMessage(sent_at_ns=7))
    async for _ in site.local.wait([result.id for result in results], timeout_s=10):
        pass
    push = workers_pb2.LogPush(session=worker.session)
    push.parts.add(key=worker.sent[1].reports[0].key, position=0, frames=LOG)

    running = await site.local.submit_one(a_spec(worker=a.id, key="victim"))
    victim = (await worker.takes(3))[2]
    await worker.report_started(victim)
    async for _ in site.local.wait([running], until=State.RUNNING, timeout_s=10):
        pass
    controls = list(worker.sent)
    await worker.close()
    return Recording(site, a, b, anybody, metadata, calls, controls, push, victim)


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


async def _call(target: Target, frame: Frame, metadata: Sequence[tuple[str, str]] = ()) -> bytes:
    async with open_channel(target) as channel:
        call: Any = channel.unary_unary(f"/hostler.v1.{frame.method}")
        return bytes(await call(frame.content, metadata=metadata, timeout=20))


async def _code(target: Target, frame: Frame, metadata: Sequence[tuple[str, str]] = ()) -> grpc.StatusCode:
    try:
        await _call(target, frame, metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def _all_jobs(site: Site) -> tuple[list[Any], bytes]:
    """Every job with its attempts and ends, and the log of the first."""
    page = await site.local.find(JobQuery(limit=100))
    log = b"".join([chunk.frames async for chunk in site.local.read_log(page.jobs[0].id)])
    return [(job.id, job.state, job.attempt, job.end, job.past) for job in page.jobs], log


async def _refusals(site: Site, action: str, principal: str) -> int:
    """How many lines of the audit log there are about it."""
    entries = [entry async for entry in site.local.access.read_audit()]
    return sum((e.action, e.principal, e.decision) == (action, principal, REFUSED) for e in entries)


async def _noted(site: Site, action: str, principal: str) -> None:
    async def is_noted() -> int:
        return await _refusals(site, action, principal)

    await until(is_noted, f"{action} of {principal or 'nobody'} in the audit log")


async def _replay_controls(
    site: Site, who: Joined, frames: Sequence[workers_pb2.WorkerMessage], held: Sequence[AttemptKey] = (), **hello: Any
) -> FakeWorker:
    """Say it on a fresh stream of *who*, and return when all of it was heard, or the stream was ended."""
    worker = FakeWorker(who.target, **hello)
    worker.id = who.id
    await worker.connect(inventory=[(key, RUNNING) for key in held])
    last = workers_pb2.WorkerMessage(draining=True)
    try:
        for frame in [*frames, last]:
            await worker.write(workers_pb2.WorkerMessage.FromString(_bytes(frame)))
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return worker

    async def is_heard() -> bool:
        seen = {each.id: each.state for each in await site.local.workers()}
        return seen[who.id] is WorkerState.DRAINING or worker._control.done()

    await until(is_heard, "what was replayed was heard")
    return worker


async def test_a_workers_frames_do_nothing_in_another_session(recorded: Recording) -> None:
    """Each on a stream of its own, and all on one, the last first; what runs there runs on."""
    site, before = recorded.site, await _all_jobs(recorded.site)
    frames = recorded.controls[1:-1]  # without the hello, and without what is said of what runs now
    assert len(frames) >= 5
    sequences = [[frame] for frame in frames] + [frames, frames[::-1]]
    for generation, sequence in enumerate(sequences, 2):
        worker = await _replay_controls(
            site, recorded.a, sequence, [recorded.victim], name="a", generation=generation, mark=3
        )
        assert worker.starts == worker.stops == []
        await worker.close()
        assert await _all_jobs(site) == before

    worker = FakeWorker(recorded.a.target, name="a", generation=50, mark=3)
    worker.id = recorded.a.id
    await worker.connect(inventory=[(recorded.victim, RUNNING)])
    await worker.open_push()
    for push in (recorded.push, workers_pb2.LogPush(session=worker.session, parts=recorded.push.parts)):
        await worker._bulk.write(push)
    await worker.write(workers_pb2.WorkerMessage(sent_at_ns=99))
    await worker.report_ended(recorded.victim, exit_code=3)
    async for _ in site.local.wait([before[0][2][0]], timeout_s=10):
        pass
    after = await _all_jobs(site)
    assert (after[0][:2], after[1]) == (before[0][:2], before[1])
    await worker.close()


async def test_without_its_hello_a_frame_is_refused(recorded: Recording) -> None:
    """Nothing is taken from a stream whose worker has not said how it stands."""
    before = await _all_jobs(recorded.site)
    for frame in recorded.controls[1:]:
        async with open_channel(recorded.a.target) as channel:
            call: Any = channel.stream_stream("/hostler.v1.Workers/Connect")()
            await call.write(_bytes(frame))
            assert await asyncio.wait_for(call.code(), 10) is WRONG
    assert await _all_jobs(recorded.site) == before


async def test_the_hello_of_an_earlier_start_is_not_taken(recorded: Recording) -> None:
    """It would say that nothing runs there; the stream that stands stays."""
    worker = FakeWorker(recorded.a.target, name="a", generation=5, mark=3)
    worker.id = recorded.a.id
    await worker.connect(inventory=[(recorded.victim, RUNNING)])
    before = await _all_jobs(recorded.site)
    async with open_channel(recorded.a.target) as channel:
        call: Any = channel.stream_stream("/hostler.v1.Workers/Connect")()
        await call.write(_bytes(recorded.controls[0]))
        assert await asyncio.wait_for(call.code(), 10) is DENIED
    assert await _all_jobs(recorded.site) == before
    await worker.close()


async def test_a_workers_frames_do_nothing_from_another_worker(recorded: Recording) -> None:
    """Its hello is refused and noted when it names the other one; what it says of attempts is nobody's."""
    site, before = recorded.site, await _all_jobs(recorded.site)
    claim = workers_pb2.WorkerMessage.FromString(_bytes(recorded.controls[0]))
    claim.hello.worker = recorded.a.id
    async with open_channel(recorded.b.target) as channel:
        call: Any = channel.stream_stream("/hostler.v1.Workers/Connect")()
        await call.write(_bytes(claim))
        assert await asyncio.wait_for(call.code(), 10) is DENIED
    await _noted(site, "Workers/Connect", f"worker:{recorded.b.id}")

    frames = recorded.controls[1:]
    for generation, sequence in enumerate([*([frame] for frame in frames), frames[::-1]], 2):
        worker = await _replay_controls(site, recorded.b, sequence, name="b", generation=generation)
        assert worker.starts == worker.stops == []
        await worker.open_push()
        for push in (recorded.push, workers_pb2.LogPush(session=worker.session, parts=recorded.push.parts)):
            await worker._bulk.write(push)
        await worker.close()
    after = await _all_jobs(site)
    assert after == before


async def test_a_clients_calls_do_nothing_a_second_time(recorded: Recording) -> None:
    """With the key that was shown: the same jobs and the same ends. Without it, from a worker too: a refusal."""
    site, before = recorded.site, await _all_jobs(recorded.site)
    submit, stop = recorded.calls["submit"], recorded.calls["stop"]
    for frame in (stop, submit, submit, stop):
        answer = await _call(recorded.anybody, frame, recorded.metadata)
        if frame is submit:
            results = jobs_pb2.SubmitResponse.FromString(answer).results
            assert [result.id for result in results] == [job[0] for job in before[0][:2]]
    assert await _all_jobs(site) == before

    for frame in (submit, stop):
        assert await _code(recorded.anybody, frame) is UNKNOWN
        await _noted(site, frame.method, "")
    refused = jobs_pb2.SubmitResponse.FromString(await _call(recorded.b.target, submit)).results
    assert {result.error.code for result in refused} == {"permission_denied"}
    assert await _code(recorded.b.target, stop) is DENIED
    for frame in (submit, stop):
        await _noted(site, frame.method, f"worker:{recorded.b.id}")
    assert await _all_jobs(site) == before


async def test_an_invitation_and_a_certificate_request_are_good_once(recorded: Recording) -> None:
    """For nobody: neither for who used them nor for another worker; each try is noted."""
    site = recorded.site
    again, renew = recorded.calls["join"], recorded.calls["renew"]
    for target in (recorded.anybody, recorded.b.target):
        assert await _code(target, again) is UNKNOWN
    request = access_pb2.JoinRequest.FromString(again.content)
    request.token = (await site.invite()).token
    assert await _code(recorded.anybody, Frame(again.method, _bytes(request))) is WRONG
    await _noted(site, "Access/Join", f"invitation:{request.token.split('_')[1]}")
    for who in (recorded.a, recorded.b):
        assert await _code(who.target, renew) is WRONG
        await _noted(site, "Access/Renew", f"worker:{who.id}")
    assert await _code(recorded.anybody, renew) is UNKNOWN
