"""What the coordinator writes into its audit log about calls."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from coordinator.rpc.auditing import CHANGING, DURABLE, ENDING, READING, SUBMIT
from hostler.access_client import TurnedAway
from hostler.audit import ALLOWED, REFUSED, Entry, entries_after, verify
from hostler.client import Client
from hostler.errors import HostlerError, KeyNotFound, PermissionDenied, TooLarge, Unauthenticated, Unavailable
from hostler.policy import RPCS
from hostler.v1 import jobs_pb2
from hostler.wire.jobs import spec_to_proto
from tests.support.builders import a_spec
from tests.support.fake_worker import FakeWorker
from tests.support.waiting import eventually, until


async def noted(client: Client, action: str, count: int = 1) -> list[Entry]:
    """The entries of an action, once there are so many."""

    async def enough() -> list[Entry]:
        found = [entry async for entry in client.access.read_audit() if entry.action == action]
        return found if len(found) >= count else []

    return await until(enough, f"{count} entries of {action}")


def test_of_every_rpc_somebody_has_said_whether_it_is_noted() -> None:
    """A new RPC is in the table of policy, and in one of the lists of auditing."""
    assert set(CHANGING) | READING | {SUBMIT} == set(RPCS)
    assert not set(CHANGING) & READING
    assert set(CHANGING) >= ENDING | DURABLE


async def test_many_jobs_of_one_call_are_one_line(client: Client, data_dir: Path) -> None:
    """With their number, the first one's id and the digest of the call; nothing of their content."""
    specs = [a_spec("echo", f"canary-{n}") for n in range(1000)]
    results = await client.submit(specs)
    (entry,) = await noted(client, "Jobs/Submit")
    assert entry.principal == entry.credential == "local"
    assert (entry.address, entry.decision) == ("unix", ALLOWED)
    assert entry.target == f"{results[0]} and 999 more"
    call = jobs_pb2.SubmitRequest(jobs=[spec_to_proto(spec) for spec in specs])
    digest = hashlib.sha256(call.SerializeToString()).hexdigest()
    assert entry.detail == f"1000 accepted, 0 refused, sha256 of the call {digest}"
    files = list((data_dir / "coordinator/audit").glob("*.jsonl"))
    assert all(b"canary" not in file.read_bytes() for file in files)
    assert verify(data_dir / "coordinator/audit").problem == ""


async def test_a_retry_is_one_line_with_what_came_of_it(client: Client, worker: FakeWorker) -> None:
    """The jobs that were to be repeated, and the new ones; one that gave nothing counts as refused."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.report_ended(key)
    assert await client.wait_one(job)

    new, _ = await client.retry([job, "x"])
    await client.retry(["x"])

    one, other = await noted(client, "Jobs/Retry", 2)
    assert (one.decision, one.target) == (ALLOWED, f"{job} and 1 more")
    assert one.detail == f"1 accepted, as {new}; 1 refused: job_not_found"
    assert (other.decision, other.target, other.detail) == (REFUSED, "x", "0 accepted; 1 refused: job_not_found")


async def test_a_call_of_a_gateway_is_one_line_for_each_of_its_callers(client: Client) -> None:
    """Under the name of the one for whom it asks; who is not known, or may not, is told too."""
    alice = await client.access.create_key("alice", scopes=["developer"])
    viewer = await client.access.create_key("bob", scopes=["viewer"])
    asked = [f"key:{alice.key.id}"] * 2 + [f"key:{viewer.key.id}", "key:000000000000"]
    await client.submit([replace(a_spec("true"), principal=principal) for principal in asked])
    found = await noted(client, "Jobs/Submit", 3)
    assert [(e.principal, e.credential, e.decision) for e in found] == [
        ("alice", alice.key.id, ALLOWED),
        ("bob", viewer.key.id, REFUSED),
        ("", "000000000000", REFUSED),
    ]
    assert [e.detail[:22] for e in found] == [
        "2 accepted, 0 refused,",
        "0 accepted, 1 refused,",
        "0 accepted, 1 refused,",
    ]
    assert found[1].detail.endswith(": permission_denied")
    assert found[2].detail.endswith(": unauthenticated")


async def test_keys_and_what_is_done_with_them_are_on_the_disk_before_the_answer(
    client: Client, address: str, data_dir: Path
) -> None:
    """Making, using and revoking a key, by its id and never its text."""
    directory = data_dir / "coordinator/audit"
    made = await client.access.create_key("ci", scopes=["viewer"])
    (entry,) = [e for e in entries_after(directory, 0) if e.action == "Access/CreateKey"]
    assert (entry.target, entry.detail) == (made.key.id, "owner ci, scopes viewer")
    with pytest.raises(KeyNotFound):
        await client.access.revoke_key("000000000000")
    await client.access.revoke_key(made.key.id)
    (revoked,) = [e for e in entries_after(directory, 0) if e.action == "Access/RevokeKey" and e.decision == ALLOWED]
    assert revoked.target == made.key.id
    texts = b"".join(path.read_bytes() for path in directory.iterdir())
    assert made.text.encode() not in texts
    assert made.text.split("_", 2)[2].encode() not in texts


async def test_whoever_is_turned_away_is_noted_also_where_he_would_only_read(
    client: Client, channel: grpc.aio.Channel
) -> None:
    """A key without the scope, and a credential that is none: of it nothing is written."""
    key = await client.access.create_key("ci", scopes=["metrics:read"])
    with pytest.raises(PermissionDenied):
        await client.workers(principal=f"key:{key.key.id}")
    (entry,) = await noted(client, "Cluster/ListWorkers")
    assert (entry.principal, entry.credential, entry.decision) == ("ci", key.key.id, REFUSED)
    assert "workers:read" in entry.detail

    call: Any = channel.unary_unary("/hostler.v1.Jobs/Get")
    with pytest.raises(grpc.aio.AioRpcError):
        await call(b"", metadata=(("x-api-key", "hst_0123456789ab_" + "canary0" * 6 + "x"),))
    (entry,) = await noted(client, "Jobs/Get")
    assert (entry.principal, entry.address, entry.decision) == ("", "unix", REFUSED)
    assert "canary" not in repr(entry)

    with pytest.raises(Unauthenticated):
        await client.access.authenticate("hst_0123456789ab_" + "canary0" * 6 + "x", address="10.0.0.9")
    (entry,) = await noted(client, "Access/Authenticate")
    assert (entry.address, entry.decision) == ("10.0.0.9", REFUSED)
    assert "canary" not in repr(entry)


async def test_stops_records_workloads_and_drains_are_noted(client: Client, worker: FakeWorker) -> None:
    """Each with what it was about; also those that led to nothing."""
    job = await client.submit_one(a_spec("true", worker=worker.id))
    await worker.takes()
    stopping = asyncio.create_task(client.stop(job))
    await eventually(lambda: worker.stops)
    stopping.cancel()  # who asked for it and went away is told, too
    await asyncio.gather(stopping, return_exceptions=True)
    await noted(client, "Jobs/Stop")
    with pytest.raises(HostlerError):
        await client.stop("7e43c7d8-0000-4000-8000-000000000000", wait_s=0.0)
    found = await noted(client, "Jobs/Stop", 2)
    assert [(e.target, e.decision, e.detail) for e in found] == [
        (job, ALLOWED, "no answer was given; it may be done"),
        ("7e43c7d8-0000-4000-8000-000000000000", REFUSED, "job_not_found"),
    ]
    await client.drain_worker(worker.id)
    assert [e.target for e in await noted(client, "Cluster/DrainWorker")] == [worker.id]


async def test_a_worker_that_refuses_is_noted_with_its_reason(client: Client, worker: FakeWorker) -> None:
    """What a worker's own policy forbids is seen in the coordinator's log."""
    job = await client.submit_one(a_spec("true"))
    (key,) = await worker.takes()
    await worker.report_never_ran(key, refusal="refused by the worker's policy, rule mode: no\nsuch \x1b[2J program")
    (entry,) = await noted(client, "worker/Refuse")
    assert (entry.principal, entry.decision) == (f"worker:{worker.id}", REFUSED)
    assert job in entry.target
    assert entry.detail.startswith("refused by the worker's policy, rule mode")


async def test_without_room_for_entries_new_work_is_refused_and_stops_work(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit log's disk is full: a submit is Unavailable with a time to come back, a stop is not."""
    job = await client.submit_one(a_spec("true"))
    await worker.takes()
    with monkeypatch.context() as patched:
        patched.setattr("coordinator.audit.AuditLog.check", _full)
        with pytest.raises(Unavailable) as refused:
            await client.submit([a_spec("true")])
        assert refused.value.retry_after_s == 5
        stopped = await client.stop(job, wait_s=0.0)
        assert stopped is not None
    await client.submit_one(a_spec("true"))


def _full(self: object) -> None:
    raise Unavailable("the audit log cannot keep up: No space left on device", retry_after_s=5)


async def test_what_is_done_and_not_on_the_disk_yet_is_one_line_that_says_it_was_done(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told that it is late; the log does not say of the same call that it was refused, too."""
    made = await client.access.create_key("ci", scopes=["viewer"])
    with monkeypatch.context() as patched:
        patched.setattr("coordinator.audit.AuditLog.settled", _late)
        with pytest.raises(Unavailable, match="it is done"):
            await client.access.revoke_key(made.key.id)
    await client.access.create_key("after", scopes=["viewer"])

    (entry,) = await noted(client, "Access/RevokeKey")
    assert (entry.decision, entry.target, entry.detail) == (ALLOWED, made.key.id, "")


async def _late(self: object) -> None:
    raise Unavailable("it is done, and its entry in the audit log is not written yet: the disk is slow")


async def test_start_and_stop_of_the_coordinator_are_entries(client: Client, data_dir: Path) -> None:
    """The first entry of a run says that it began."""
    first = (await noted(client, "coordinator/Start"))[0]
    assert (first.number, first.decision, first.principal) == (1, "noted", "coordinator")


async def test_reading_needs_its_scope_and_goes_on_from_a_number(client: Client) -> None:
    """An operator may, a developer may not."""
    for name, role in (("op", "operator"), ("dev", "developer")):
        made = await client.access.create_key(name, scopes=[role])
        reading = client.access.read_audit(after=1, limit=1, principal=f"key:{made.key.id}")
        if role == "operator":
            assert [entry.number async for entry in reading] == [2]
        else:
            with pytest.raises(PermissionDenied):
                [entry async for entry in reading]


async def test_whom_a_gateway_turned_away_is_noted_in_its_words(client: Client) -> None:
    """With how often; a caller who may not speak for others notes nothing but that he tried."""
    refusals = [
        TurnedAway("GET /v1/jobs", "", "", "10.0.0.9", "misdirected_request: the Host header names another host", 41),
        TurnedAway("POST /v1/jobs", "ada", "0123456789ab", "10.0.0.8", "permission_denied: no", 1),
    ]
    await client.access.note_refusals(refusals)
    (entry,) = await noted(client, "http/GET /v1/jobs")
    assert (entry.principal, entry.address, entry.decision) == ("", "10.0.0.9", REFUSED)
    assert entry.detail == "misdirected_request: the Host header names another host (41 times)"
    (entry,) = await noted(client, "http/POST /v1/jobs")
    assert (entry.principal, entry.credential, entry.detail) == ("ada", "0123456789ab", "permission_denied: no")

    with pytest.raises(TooLarge):
        await client.access.note_refusals(refusals * 501)
