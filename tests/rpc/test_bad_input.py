"""Bytes that are no message, messages that are too long, methods that are not there: the server goes on."""

import asyncio
import math
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest

from hostler.channel_options import MESSAGE_BYTES_MAX
from hostler.client import Client
from hostler.errors import ErrorCode, InvalidRequest
from hostler.jobs import JobQuery
from hostler.lifecycle import State
from hostler.v1 import access_pb2, files_pb2, jobs_pb2, jobs_pb2_grpc, workers_pb2, workloads_pb2
from hostler.workers import WorkerState
from tests.support.builders import a_spec, an_id
from tests.support.fake_worker import FakeWorker

UNARY = [
    "Jobs/Submit",
    "Jobs/Get",
    "Jobs/Explain",
    "Jobs/List",
    "Jobs/Stop",
    "Jobs/Signal",
    "Jobs/ListOutputs",
    "Records/Put",
    "Records/Find",
    "Cluster/ListWorkers",
    "Cluster/DrainWorker",
    "Cluster/ResumeWorker",
    "Cluster/ReleaseWorker",
    "Cluster/Describe",
    "Cluster/Metrics",
    "Workloads/Apply",
    "Workloads/Get",
    "Workloads/List",
    "Workloads/Remove",
    "Access/CreateKey",
    "Access/ListKeys",
    "Access/RevokeKey",
    "Jobs/Retry",
    "Access/Authenticate",
    "Access/NoteRefusals",
    "Access/Invite",
    "Access/Join",
    "Access/Renew",
    "Access/RevokeWorker",
]
STREAMS = ["Jobs/Wait", "Jobs/Watch", "Jobs/ReadLog", "Jobs/ReadOutput", "Jobs/ReadArchive", "Files/Read"]
DUPLEX = ["Jobs/Feed", "Workers/Connect", "Workers/PushLog", "Workers/SendOutput", "Files/Put"]
NO_TEXT = ("Access/Invite", "Access/Renew")  # in the first field of their requests
EVERY = UNARY + STREAMS + DUPLEX
MALFORMED = {
    "ones": b"\xff" * 12,
    "a torn field": b"\x0a\x7fabc",
    "an endless number": b"\x08" + b"\xff" * 11,
    "a group without an end": b"\x0b\x0b\x0b",
    "text that is no UTF-8": b"\x0a\x03\xff\xfe\xfd",
}
READ_FROM_BEYOND = jobs_pb2.ReadLogRequest(id=an_id(1))
setattr(READ_FROM_BEYOND, "from", (1 << 64) - 1)  # a word of Python
CASES = [
    (method, kind)
    for method in EVERY
    for kind in MALFORMED
    # Where there is no text it is an unknown field, as it must be; so are the bytes that Files.Put begins with.
    if not (kind == "text that is no UTF-8" and method in (*NO_TEXT, "Files/Put"))
]


def call(channel: Any, method: str, message: bytes) -> Any:
    """Call a method with bytes."""
    path = f"/hostler.v1.{method}"
    if method in STREAMS:
        return channel.unary_stream(path)(message, timeout=10)
    if method in DUPLEX:
        return channel.stream_stream(path)(iter([message]), timeout=10)
    return channel.unary_unary(path)(message, timeout=10)


async def outcome(called: Any) -> tuple[grpc.StatusCode, dict[str, str]]:
    """The status and the trailers of a call."""
    status = await called.code()
    return status, {str(key): str(value) for key, value in await called.trailing_metadata()}


def test_every_method_of_the_contract_is_called_here() -> None:
    """A method that is added is added here."""
    files = (access_pb2, jobs_pb2, files_pb2, workloads_pb2, workers_pb2)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    named = {f"{service.name}/{method.name}" for service in services for method in service.methods}

    assert named - {"Access/ReadAudit"} == set(EVERY)


@pytest.mark.parametrize(("method", "kind"), CASES)
async def test_bytes_that_are_no_message_are_an_invalid_argument(
    client: Client, channel: Any, method: str, kind: str
) -> None:
    """With the stable code, in every method; and the server goes on."""
    status, trailers = await outcome(call(channel, method, MALFORMED[kind]))

    assert (status, trailers.get("hostler-code")) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")
    assert (await client.describe()).queued == 0


BROKEN_OFF_SHARE = 0.04


async def test_random_bytes_never_make_a_fault_of_ours(client: Client, channel: Any) -> None:
    """Seeded; some of them are messages, and then they are answered or refused for what they say."""
    random = Random(1)
    allowed = {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    methods = [method for method in EVERY if method not in ("Jobs/Watch", "Workers/Connect", "Workers/PushLog")]
    calls = [call(channel, method, random.randbytes(random.randrange(1, 40))) for method in methods * 30]

    found = [(method, (await outcome(each))[0]) for method, each in zip(methods * 30, calls, strict=True)]

    # Of a thousand calls that are refused at once, gRPC itself shows about twenty as broken off: also of a server that
    # does nothing but refuse.
    broken_off = [method for method, status in found if status is grpc.StatusCode.CANCELLED]
    assert len(broken_off) <= BROKEN_OFF_SHARE * len(found)
    wrong = {(method, status) for method, status in found if status not in (*allowed, grpc.StatusCode.CANCELLED)}
    # Random bytes are no invitation, and no certificate.
    joining = {("Access/Join", grpc.StatusCode.UNAUTHENTICATED), ("Access/Renew", grpc.StatusCode.PERMISSION_DENIED)}
    assert wrong <= joining, wrong
    assert await client.submit_one(a_spec())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Jobs/List", jobs_pb2.ListRequest(after="9" * 40)),
        ("Jobs/ReadLog", READ_FROM_BEYOND),
    ],
)
async def test_numbers_beyond_every_limit_are_no_fault_of_ours(channel: Any, method: str, message: Any) -> None:
    """They are larger than the database can hold."""
    status, _ = await outcome(call(channel, method, message.SerializeToString()))

    assert status in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize("seconds", [math.nan, -5.0, math.inf])
async def test_what_is_no_length_of_time_is_refused(client: Client, channel: Any, seconds: float) -> None:
    """Nothing has happened then: no job is submitted or stopped, and nobody waits for ever."""
    job = await client.submit_one(a_spec())
    stub = jobs_pb2_grpc.JobsStub(channel)
    calls = {
        "grace": stub.Stop(jobs_pb2.StopRequest(id=job, grace_s=seconds), timeout=10),
        "wait": stub.Stop(jobs_pb2.StopRequest(id=job, wait_s=seconds), timeout=10),
        "deadline": jobs_pb2_grpc.ClusterStub(channel).DrainWorker(
            jobs_pb2.DrainWorkerRequest(deadline_s=seconds), timeout=10
        ),
    }
    for field, called in calls.items():
        status, trailers = await outcome(called)
        assert (status, trailers["hostler-field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)

    with pytest.raises(InvalidRequest, match="timeout is a number of seconds, 0 for no limit"):
        await client.wait_one(job, timeout_s=seconds)
    with pytest.raises(InvalidRequest, match="wait is a number of seconds"):
        await client.submit_and_wait([a_spec()], wait_s=seconds)
    with pytest.raises(InvalidRequest, match="wait is a number of seconds"):
        await client.stop(job, grace_s=0.0, wait_s=seconds)

    assert [(found.id, found.state) for found in (await client.find(JobQuery())).jobs] == [(job, State.QUEUED)]


async def test_a_reason_of_a_drain_that_is_too_long_is_refused(client: Client, worker: FakeWorker) -> None:
    """It would be cut, and what is left may say something else."""
    with pytest.raises(InvalidRequest, match="the reason has 201 characters; at most 200") as refused:
        await client.drain_worker(worker.id, reason="x" * 201)

    assert refused.value.field == "reason"
    assert [one.state for one in await client.workers()] == [WorkerState.CONNECTED]
    assert (await client.drain_worker(worker.id, reason="é" * 200)).reason == "é" * 200


@pytest.mark.parametrize(("brief", "most"), [(False, 1000), (True, 10_000)])
async def test_a_page_that_is_too_long_is_refused(client: Client, channel: Any, brief: bool, most: int) -> None:
    """Whoever gets less than was asked for may take it for all there is."""
    job = await client.submit_one(a_spec())
    stub = jobs_pb2_grpc.JobsStub(channel)
    for limit in (most + 1, (1 << 32) - 1):
        status, trailers = await outcome(stub.List(jobs_pb2.ListRequest(limit=limit, brief=brief), timeout=10))
        assert (status, trailers["hostler-field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "limit")

    for limit in (0, 1, most):
        answer = await stub.List(jobs_pb2.ListRequest(limit=limit, brief=brief), timeout=10)
        assert [found.id for found in answer.jobs] == [job]


@pytest.mark.parametrize("beyond", [1, 1 << 40, None])
async def test_a_watch_from_beyond_every_event_is_refused(client: Client, beyond: int | None) -> None:
    """Whoever has the number from another state of the cluster would hear nothing; the newest number is named."""
    await client.submit_one(a_spec())
    newest = (await client.describe()).event
    after = (1 << 64) - 1 if beyond is None else newest + beyond

    with pytest.raises(InvalidRequest, match=f"no event {after} here: the newest has the number {newest}") as refused:
        await asyncio.wait_for(anext(client.watch(after=after)), 5)

    assert refused.value.field == "after"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(client.watch(after=newest)), 0.2)


async def test_a_message_that_is_too_long_is_refused(client: Client, address: str) -> None:
    """Before it is parsed; and the server goes on."""
    unbounded = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=unbounded) as made:
        channel: Any = made
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/hostler.v1.Jobs/Submit")(bytes(MESSAGE_BYTES_MAX + 1), timeout=20)

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await client.submit_one(a_spec())


@pytest.mark.parametrize("path", ["/hostler.v1.Jobs/Burn", "/hostler.v2.Jobs/Submit", "/x", "/hostler.v1.Jobs/submit"])
async def test_a_method_that_is_not_there_is_unimplemented(channel: Any, path: str) -> None:
    """As the protocol says."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary(path)(b"", timeout=10)

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_error_of_a_call_carries_its_code_and_field(channel: Any) -> None:
    """In the trailers, for programs; the text is for people."""
    stub = jobs_pb2_grpc.JobsStub(channel)
    unknown = stub.Get(jobs_pb2.GetRequest(id=an_id(9)), timeout=10)
    mistaken = stub.List(jobs_pb2.ListRequest(after="x"), timeout=10)

    assert await outcome(unknown) == (grpc.StatusCode.NOT_FOUND, {"hostler-code": ErrorCode.JOB_NOT_FOUND.value})
    assert await outcome(mistaken) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        {"hostler-code": ErrorCode.INVALID_REQUEST.value, "hostler-field": "after"},
    )
    assert an_id(9) in await unknown.details()


async def test_a_client_that_goes_away_takes_its_waits_along(client: Client, channel: Any) -> None:
    """Hundreds of abandoned waits leave nothing that is told later."""
    job = await client.submit_one(a_spec())
    message = jobs_pb2.WaitRequest(ids=[job]).SerializeToString()
    calls = [call(channel, "Jobs/Wait", message) for _ in range(100)]
    await client.describe()  # so that the waits before it are under way
    for each in calls:
        each.cancel()

    assert (await client.stop(job)).state.word == "finished"
