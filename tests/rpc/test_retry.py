"""Jobs.Retry: a finished job once more, as a new job that asks for the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from hostler.client import Client
from hostler.errors import (
    FileNotFound,
    HostlerError,
    JobNotFound,
    NotFinished,
    NotRunning,
    PermissionDenied,
    TooLarge,
    WorkloadNotFound,
)
from hostler.jobs import File, Job, JobSpec, Stage, Work
from hostler.policy import Scope
from hostler.v1 import jobs_pb2, jobs_pb2_grpc
from hostler.wire.work import work_from_bytes
from hostler.workloads import Runtime, Stdin, Workload
from tests.rpc.conftest import MakeWorker
from tests.rpc.test_described_jobs import BOTH, apply_render, of_render, whole
from tests.support.builders import a_spec, an_id
from tests.support.fake_worker import FakeWorker

UNLIKE = {"id", "attempt", "retry_of", "queued_at_us", "assigned_at_us", "version", "state", "pending_reasons"}


async def ended(client: Client, worker: FakeWorker, spec: JobSpec, *, count: int = 1, **end: Any) -> str:
    """A job that has ended; it is the worker's start of this number."""
    job = await client.submit_one(spec)
    key = (await worker.takes(count))[-1]
    await worker.report_started(key)
    await worker.report_ended(key, **end)
    assert await client.wait_one(job)
    return job


def drop(data_dir: Path, digest: str) -> None:
    """Remove stored bytes."""
    (path,) = data_dir.rglob(f"*{digest[8:]}")
    path.unlink()


async def again(client: Client, job: str, **options: Any) -> Job:
    """The job that repeats another."""
    (new,) = await client.retry([job], **options)
    if isinstance(new, HostlerError):
        raise new
    return await client.get(new)


def same(one: Job, other: Job) -> bool:
    """Whether they ask for the same; a key is not taken over."""
    return replace(one.spec, key="") == other.spec


async def test_a_command_is_asked_for_again(client: Client, worker: FakeWorker) -> None:
    """With everything but its idempotency key; the new job says what it repeats, and can be repeated."""
    spec = a_spec(
        "sh", "-c", "exit 3", name="n", key="k", labels={}, tags={"batch": "7"}, where="name = fake", priority=3
    )
    spec = replace(spec, work=replace(spec.work, env={"A": "b"}, cwd="/tmp", timeout_s=9.0))
    job = await ended(client, worker, spec, exit_code=3)

    new = await again(client, job)

    old = await client.get(job)
    assert (new.retry_of, old.retry_of) == (job, "")
    assert same(old, new) and old.spec.key == "k" and new.id != job
    await worker.takes(2)
    assert worker.starts[1].work == worker.starts[0].work
    key = (await worker.takes(2))[-1]
    await worker.report_ended(key)
    assert await client.wait_one(new.id)
    assert (await again(client, new.id)).retry_of == new.id


async def test_each_is_answered_in_its_place(client: Client, worker: FakeWorker) -> None:
    """One that is not over, one that never was, and a good one."""
    good = await ended(client, worker, a_spec())
    running = await client.submit_one(a_spec())

    results = await client.retry([running, good, an_id(9), "x", good])

    assert [type(result) for result in results] == [NotFinished, str, JobNotFound, JobNotFound, str]
    assert isinstance(results[0], NotFinished) and "stop it or wait for its end" in results[0].message
    assert results[1] != results[4]


async def test_a_job_of_a_workload_is_made_anew_of_the_same_version(client: Client, make_worker: MakeWorker) -> None:
    """With its parameters, files and retries; also when a newer version is there. The program gets the new job's id."""
    worker = await make_worker(runtimes=BOTH)
    workload = await apply_render(client, runtime=Runtime.COMMAND, argv=("cat",), script=None, stdin=Stdin.JOB)
    stored = await client.files.put(whole(b"scene"))
    file = File(path="inputs/scene", digest=stored.digest, size_bytes=stored.size_bytes)
    job = await ended(client, worker, of_render(work=Work(files=(file,)), retries=0, tags={"a": "b"}), exit_code=1)
    await client.workloads.apply([replace(workload, argv=("newer",))])

    new = await again(client, job)

    old = await client.get(job)
    assert (new.spec.workload, new.spec.workload_version) == ("render", 1)
    assert new.spec.tags == {"a": "b"}
    await worker.takes(2)
    first, second = (work_from_bytes(start.work) for start in worker.starts)
    assert (second.argv, {f.path for f in second.files}) == (first.argv, {f.path for f in first.files})
    (given,) = (f for f in second.files if f.path == "stdin.json")
    assert json.loads(given.content) == {"n": 3, "id": new.id}
    assert replace(old.spec, work=Work()) == replace(new.spec, work=Work())


async def test_a_chain_begins_at_its_first_stage(client: Client, make_worker: MakeWorker) -> None:
    """With the parameters that were given to that, although it is over long ago."""
    worker = await make_worker(runtimes=BOTH)
    await client.workloads.apply(
        [
            Workload(name="one", argv=("first",), stdin=Stdin.PARAMS),
            Workload(name="two", argv=("second",), stdin=Stdin.PARAMS),
        ]
    )
    chain = JobSpec(work=Work(), stages=(Stage(workload="one"), Stage(workload="two")), params='{"n": 1}')
    job = await client.submit_one(chain)
    (key,) = await worker.takes()
    await worker.report_started(key)
    await worker.report_ended(key, result=b'{"n": 2}')
    key = (await worker.takes(2))[-1]
    await worker.report_started(key)
    await worker.report_ended(key, exit_code=1)
    assert await client.wait_one(job)

    new = await again(client, job)

    await worker.takes(3)
    work = work_from_bytes(worker.starts[2].work)
    assert (work.argv, new.stage) == (("first",), 0)
    assert [f.content for f in work.files if f.path == "params.json"] == [b'{"n": 1}']
    assert [(stage.workload, stage.workload_version) for stage in new.spec.stages] == [("one", 1), ("two", 1)]


async def test_a_job_of_a_workload_that_was_removed_is_refused(client: Client, make_worker: MakeWorker) -> None:
    """Nothing new may name it."""
    worker = await make_worker(runtimes=BOTH)
    await apply_render(client)
    job = await ended(client, worker, of_render())
    await client.workloads.remove("render")

    with pytest.raises(WorkloadNotFound):
        await again(client, job)


async def test_a_job_whose_files_are_gone_says_which(client: Client, data_dir: Path, make_worker: MakeWorker) -> None:
    """And what to do."""
    worker = await make_worker(runtimes=BOTH)
    stored = await client.files.put(whole(b"gone"))
    file = File(path="inputs/scene", digest=stored.digest, size_bytes=stored.size_bytes)
    spec = a_spec()
    job = await ended(client, worker, replace(spec, work=replace(spec.work, files=(file,))))
    drop(data_dir, stored.digest)

    with pytest.raises(FileNotFound, match=r"the bytes of 'inputs/scene' are not stored .*store them again"):
        await again(client, job)


async def test_input_that_was_fed_is_not_kept(client: Client, worker: FakeWorker) -> None:
    """A job that would wait for it for ever is none that is asked for again."""
    spec = a_spec()
    job = await ended(client, worker, replace(spec, work=replace(spec.work, stdin=True)))

    with pytest.raises(NotRunning, match="standard input"):
        await again(client, job)


async def test_a_retry_needs_what_submitting_it_would(client: Client, make_worker: MakeWorker) -> None:
    """A foreign job is unknown; whoever may only name workloads cannot have a command again."""
    worker = await make_worker(runtimes=BOTH)
    await apply_render(client)
    keys = {
        role: f"key:{(await client.access.create_key(role, owner=owner, scopes=[role])).key.id}"
        for role, owner in (("developer", "ada"), ("submitter", "ada"), ("operator", "eve"))
    }
    stranger = f"key:{(await client.access.create_key('b', owner='bob', scopes=['developer'])).key.id}"
    viewer = f"key:{(await client.access.create_key('v', owner='ada', scopes=['viewer'])).key.id}"
    command = await client.submit_one(a_spec(), principal=keys["developer"])
    named = await client.submit_one(of_render(), principal=keys["submitter"])
    for key in await worker.takes(2):
        await worker.report_ended(key)
    for job in (command, named):
        assert await client.wait_one(job)

    for job in (command, named):
        with pytest.raises(JobNotFound):
            await again(client, job, principal=stranger)
        with pytest.raises(PermissionDenied, match=Scope.JOBS_SUBMIT):
            await again(client, job, principal=viewer)
        assert (await again(client, job, principal=keys["operator"])).spec.owner == "ada"
    assert (await again(client, named, principal=keys["submitter"])).spec.owner == "ada"
    with pytest.raises(PermissionDenied, match=Scope.JOBS_COMMAND):
        await again(client, command, principal=keys["submitter"])
    assert (await again(client, command, principal=keys["developer"])).spec.owner == "ada"


async def test_one_call_has_so_many(channel: grpc.aio.Channel, client: Client) -> None:
    """More are to be asked for in several."""
    with pytest.raises(TooLarge):
        await client.retry([an_id(1)] * 1001)
    answer = await jobs_pb2_grpc.JobsStub(channel).Retry(jobs_pb2.RetryRequest())
    assert len(answer.results) == 0
