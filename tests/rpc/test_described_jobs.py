"""Jobs that say more than a command: workloads, parameters, files, secrets, retries."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.app import Coordinator
from hostler.client import Client
from hostler.endpoint import coordinator_socket
from hostler.errors import FileNotFound, HostlerError, InvalidRequest, KeyConflict, WorkloadNotFound
from hostler.jobs import Advance, File, JobSpec, PythonScript, Stage, Step, Work
from hostler.lifecycle import Outcome, State
from hostler.settings import load
from hostler.v1 import types_pb2, workers_pb2
from hostler.wire.work import key_to_proto, work_from_bytes
from hostler.workloads import Applied, Origin, Runtime, Stdin, Workload
from tests.rpc.conftest import MakeWorker
from tests.support.builders import some_frames
from tests.support.fake_worker import FakeWorker
from tests.support.waiting import eventually, until

SOURCE = b"def main(ctx, params):\n    return params\n"
SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False})
BOTH = ["command", "python"]


async def whole(content: bytes) -> AsyncIterator[bytes]:
    """Bytes in one piece."""
    yield content


async def a_script(client: Client, source: bytes = SOURCE) -> File:
    """A stored script."""
    stored = await client.files.put(whole(source))
    return File(path="render.py", digest=stored.digest, size_bytes=stored.size_bytes)


async def apply_render(client: Client, **changes: Any) -> Workload:
    """A registered Python workload."""
    given: dict[str, Any] = {
        "name": "render",
        "runtime": Runtime.PYTHON,
        "script": await a_script(client),
        "params_schema": SCHEMA,
        "timeout_s": 60.0,
        "retries": 2,
    }
    workload = Workload(**(given | changes))
    await client.workloads.apply([workload])
    return workload


SHADOW = {"work": Work(files=(File(path="script/html.py", content=b"x"),))}


def of_render(**changes: Any) -> JobSpec:
    """A job that names it."""
    return replace(JobSpec(work=Work(), workload="render", params='{"n": 3}'), **changes)


async def started(worker: FakeWorker, count: int = 1) -> Work:
    """The work of the latest start."""
    await worker.takes(count)
    return work_from_bytes(worker.starts[-1].work)


# Workloads


async def test_what_ships_is_there_from_the_first_moment(data_dir: Path) -> None:
    """The documented sample processes among it; what a directory holds comes on top."""
    found = data_dir / "workloads"
    found.mkdir()
    (found / "mine.toml").write_text('argv = ["true"]\ndocumentation = "Mine."\n')
    (found / "sleep.toml").write_text('argv = ["sleep", "1"]\n')
    settings = load(data_dir=data_dir, grpc="", disk_reserve_bytes=0, workloads_dir=str(found))
    address = f"unix:{coordinator_socket(data_dir)}"

    async with Coordinator(settings), Client(address) as client:
        workloads = {workload.name: workload for workload in await client.workloads.list()}

    assert list(workloads) == sorted(workloads)
    assert workloads["api_test"].origin is Origin.SHIPPED
    assert (workloads["mine"].documentation, workloads["mine"].origin) == ("Mine.", Origin.DIRECTORY)
    assert workloads["sleep"].argv == ("sleep", "1")


async def test_a_directory_that_cannot_be_used_stops_the_start(data_dir: Path) -> None:
    """And the text names the file and what is wrong in it."""
    (data_dir / "bad.toml").write_text('argv = ["true"]\ntimeout = 3\n')
    settings = load(data_dir=data_dir, grpc="", disk_reserve_bytes=0, workloads_dir=str(data_dir))

    with pytest.raises(InvalidRequest, match=r"bad\.toml.*timeout"):
        async with Coordinator(settings):
            pass


async def test_a_definition_is_read_back_as_it_was_applied(client: Client) -> None:
    """With its version; every field."""
    script = await a_script(client)
    workload = Workload(
        name="render",
        documentation="Renders.",
        runtime=Runtime.PYTHON,
        script=script,
        entrypoint="go",
        interpreter="/usr/bin/python3",
        params_schema=SCHEMA,
        stdin=Stdin.JOB,
        env={"A": "1"},
        cwd="/",
        timeout_s=5.0,
        grace_s=1.0,
        output_bytes_max=7,
        retries=3,
        retry_on=("signal",),
        labels={"gpu": "yes"},
        slots=2,
        secrets={"TOKEN": "render-token"},
        external=False,
        families=("pixyz",),
    )

    assert await client.workloads.apply([workload]) == [Applied(name="render", version=1, changed=True)]
    found = await client.workloads.get("render")

    assert found.applied_at_us > 0
    assert replace(found, version=0, applied_at_us=0) == workload


async def test_all_definitions_are_applied_or_none(client: Client) -> None:
    """One that cannot be used is named."""
    good, bad = Workload(name="good", argv=("true",)), Workload(name="bad", argv=())

    with pytest.raises(InvalidRequest) as refused:
        await client.workloads.apply([good, bad])

    assert "bad" in refused.value.message
    with pytest.raises(WorkloadNotFound):
        await client.workloads.get("good")


async def test_a_script_must_be_stored_first(client: Client) -> None:
    """The definition names bytes; without them it would fail at its first job."""
    missing = File(path="x.py", digest="0" * 64)

    with pytest.raises(InvalidRequest, match="store it first"):
        await client.workloads.apply([Workload(name="x", runtime=Runtime.PYTHON, script=missing)])


async def test_older_versions_stay_readable(client: Client) -> None:
    """A job may name one."""
    await apply_render(client)
    await apply_render(client, documentation="newer")

    assert (await client.workloads.get("render")).version == 2
    assert (await client.workloads.get("render", version=1)).documentation == ""
    with pytest.raises(WorkloadNotFound):
        await client.workloads.get("render", version=3)


async def test_a_workload_that_was_removed_can_no_longer_be_named(client: Client) -> None:
    """Neither by a job nor for another removal; what jobs ran can still be looked at, by its version."""
    await apply_render(client)

    await client.workloads.remove("render")

    for refused in await client.submit([of_render(), of_render(workload_version=1)]):
        assert isinstance(refused, WorkloadNotFound)
    with pytest.raises(WorkloadNotFound):
        await client.workloads.get("render")
    assert (await client.workloads.get("render", version=1)).name == "render"
    with pytest.raises(WorkloadNotFound):
        await client.workloads.remove("render")


# Jobs of workloads


async def test_a_job_gets_what_its_workload_defines(client: Client, make_worker: MakeWorker) -> None:
    """Program, parameters, time limit and retries; and it says which version it runs."""
    worker = await make_worker(runtimes=BOTH)
    workload = await apply_render(client)

    job = await client.get(await client.submit_one(of_render(name="mine")))
    work = await started(worker)

    assert work.python == PythonScript(path="script/render.py")
    files = {file.path: file for file in work.files}
    assert workload.script is not None and files["script/render.py"].digest == workload.script.digest
    assert files["params.json"].content == b'{"n": 3}'
    assert (work.timeout_s, work.workspace) == (60.0, True)
    assert (job.spec.workload, job.spec.workload_version, job.spec.retries) == ("render", 1, 2)
    assert job.spec.name == "mine"


async def test_a_job_can_name_an_older_version(client: Client, make_worker: MakeWorker) -> None:
    """And gets that one."""
    worker = await make_worker(runtimes=BOTH)
    await apply_render(client)
    await apply_render(client, timeout_s=7.0)

    await client.submit_one(of_render(workload_version=1))

    assert (await started(worker)).timeout_s == 60.0


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"workload": "nobody"}, WorkloadNotFound, "nobody"),
        ({"workload_version": 9}, WorkloadNotFound, "version 9"),
        ({"params": '{"n": "x"}'}, InvalidRequest, "n"),
        ({"params": "{"}, InvalidRequest, "JSON"),
        ({"work": Work(argv=("true",))}, InvalidRequest, "program"),
        ({"work": Work(files=(File(path="inputs/a", digest="0" * 64),))}, FileNotFound, "inputs/a"),
        ({"work": Work(files=(File(path="../a", content=b"x"),))}, InvalidRequest, "path"),
        ({"work": Work(files=(File(path="script/re.py", content=b"x"),))}, InvalidRequest, "put it under inputs/"),
        (
            {"workload": "", "stages": (Stage(workload="render"),) * 2} | SHADOW,
            InvalidRequest,
            "as 'inputs/html.py'",
        ),
    ],
)
async def test_a_job_that_cannot_be_is_an_error_in_its_place(
    client: Client, make_worker: MakeWorker, changes: dict[str, Any], kind: type[HostlerError], said: str
) -> None:
    """And spoils no other."""
    await make_worker(runtimes=BOTH)
    await apply_render(client)

    first, wrong, last = await client.submit([of_render(), of_render(**changes), of_render()])

    assert isinstance(first, str) and isinstance(last, str)
    assert isinstance(wrong, kind) and said in wrong.message, wrong


async def test_an_internal_workload_cannot_be_named(client: Client) -> None:
    """Only a chain may come to it."""
    await apply_render(client, external=False)

    assert isinstance((await client.submit([of_render()]))[0], InvalidRequest)


async def test_a_job_waits_for_a_worker_that_has_its_runtime(client: Client, make_worker: MakeWorker) -> None:
    """And says so."""
    await make_worker()
    await apply_render(client)
    job = await client.submit_one(of_render())
    await eventually(lambda: True)
    assert (await client.get(job)).pending_reasons == ("1 worker has no runtime python",)

    other = await make_worker(runtimes=BOTH, workloads=["r*"], journal_id="other")

    assert [key.job for key in await other.takes()] == [job]


async def test_a_key_stands_for_the_job_as_it_was_asked_for(client: Client) -> None:
    """Also when its workload has another version by now."""
    await apply_render(client)
    first = await client.submit_one(of_render(key="k"))
    await apply_render(client, timeout_s=7.0)

    assert await client.submit_one(of_render(key="k")) == first
    assert isinstance((await client.submit([of_render(key="k", params='{"n": 4}')]))[0], KeyConflict)


@pytest.mark.parametrize("over", [False, True])
async def test_a_repeated_submission_gives_its_job_whatever_has_become_of_its_workload(
    client: Client, make_worker: MakeWorker, over: bool
) -> None:
    """Removed, or with a schema that refuses the parameters now; the job may be over or still wait."""
    await apply_render(client)
    first = await client.submit_one(of_render(key="k"))
    if over:
        worker = await make_worker(runtimes=BOTH)
        (key,) = await worker.takes()
        await worker.report_ended(key)
        await client.wait_one(first)

    await apply_render(client, params_schema=json.dumps({"type": "object", "required": ["m"]}))
    assert await client.submit_one(of_render(key="k")) == first
    await client.workloads.remove("render")
    assert await client.submit_one(of_render(key="k")) == first

    other, without = await client.submit([of_render(key="k", params='{"n": 4}'), of_render()])
    assert isinstance(other, WorkloadNotFound) and isinstance(without, WorkloadNotFound)


async def test_a_script_of_ones_own_runs_without_a_workload(client: Client, make_worker: MakeWorker) -> None:
    """With parameters, as it was sent."""
    worker = await make_worker(runtimes=BOTH)
    script = replace(await a_script(client), path="script/own.py")
    work = Work(files=(script,), python=PythonScript(path="script/own.py", entrypoint="go"))

    await client.submit_one(JobSpec(work=work, params='[1, "two"]'))
    found = await started(worker)

    assert found.python == work.python and found.workspace
    assert {file.path: file.content for file in found.files}["params.json"] == b'[1, "two"]'


async def test_a_file_for_standard_input_is_one_of_the_files_also_where_there_are_none(client: Client) -> None:
    """A command with nothing else would be accepted, and fail as not started on its worker."""
    (refused,) = await client.submit([JobSpec(work=Work(argv=("cat",), stdin_path="inputs/a"))])

    assert isinstance(refused, InvalidRequest)
    assert (refused.field, str(refused)) == ("stdin_path", "stdin_path names 'inputs/a', which is none of the files")


# Secrets


def put_secrets(data_dir: Path, text: str, mode: int = 0o600) -> None:
    """Write the file of secrets."""
    file = data_dir / "secrets.toml"
    file.write_text(text)
    file.chmod(mode)


async def test_a_secret_travels_in_the_start_alone(client: Client, make_worker: MakeWorker, data_dir: Path) -> None:
    """It is in no work, no job and no event."""
    put_secrets(data_dir, 'render-token = "s3cr3t-value"\n')
    worker = await make_worker(runtimes=BOTH)
    await apply_render(client, secrets={"TOKEN": "render-token"})

    job = await client.submit_one(of_render())
    await worker.takes()

    (start,) = worker.starts
    assert dict(start.secrets) == {"TOKEN": "s3cr3t-value"}
    assert b"s3cr3t" not in start.work
    assert "s3cr3t" not in repr(found := await client.get(job))
    assert found.spec.secrets == {"TOKEN": "render-token"}
    for file in (data_dir / "coordinator").rglob("*"):
        assert not file.is_file() or b"s3cr3t" not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("text", "mode"), [("", 0o600), ('other = "x"', 0o600), ('render-token = "x"', 0o644), ("[", 0o600)]
)
async def test_a_job_whose_secret_cannot_be_had_is_refused(
    client: Client, data_dir: Path, text: str, mode: int
) -> None:
    """At once, and the text says what to do; never with a value in it."""
    put_secrets(data_dir, text, mode)
    await apply_render(client, secrets={"TOKEN": "render-token"})

    (refused,) = await client.submit([of_render()])

    assert isinstance(refused, InvalidRequest) and "secrets.toml" in refused.message


async def test_a_secret_that_has_gone_rejects_the_job_before_it_starts(
    client: Client, make_worker: MakeWorker, data_dir: Path
) -> None:
    """It never runs without it."""
    put_secrets(data_dir, 'render-token = "x"\n')
    await apply_render(client, secrets={"TOKEN": "render-token"})
    job = await client.submit_one(of_render())
    (data_dir / "secrets.toml").unlink()

    worker = await make_worker(runtimes=BOTH)
    ended = await client.wait_one(job, timeout_s=10)

    assert ended is not None and ended.outcome is Outcome.REJECTED
    assert ended.end is not None and "render-token" in ended.end.evidence
    assert worker.starts == []


# How it gets on


async def test_what_a_worker_notes_of_an_attempt_is_shown(client: Client, worker: FakeWorker) -> None:
    """Phase, percent and steps while it runs; the list of outputs too."""
    job = await client.submit_one(JobSpec(work=Work(argv=("x",), workspace=True)))
    (key,) = await worker.takes()
    await worker.report_started(key)
    advance = types_pb2.Advance(percent=40, steps=[types_pb2.Step(text="mesh", duration_s=-1)])
    listed = [types_pb2.OutputFile(path="a.txt", size_bytes=3)]
    note = workers_pb2.Note(
        key=key_to_proto(key), phase="collecting", advance=advance, outputs_listed=True, outputs=listed
    )
    await worker.write(workers_pb2.WorkerMessage(notes=[note]))

    async def noted() -> bool:
        return (await client.get(job)).phase == "collecting"

    await until(noted)
    found = await client.get(job)
    assert found.advance == Advance(percent=40, steps=(Step(text="mesh"),))
    outputs = await client.files.outputs(job)
    assert outputs.live and [file.path for file in outputs.files] == ["a.txt"]


# Retries


async def test_a_failed_attempt_is_tried_again_and_its_end_is_shown(client: Client, worker: FakeWorker) -> None:
    """`queued` with a time in between; then the next attempt, and the first among the past ones."""
    job = await client.submit_one(JobSpec(work=Work(argv=("x",)), retries=1))
    (first,) = await worker.takes()
    await worker.report_started(first)
    await worker.report_ended(first, exit_code=7, ledger=some_frames(b"one\n"))
    await eventually(lambda: worker.acknowledged)

    waiting = await client.get(job)
    assert (waiting.state, waiting.retried) == (State.QUEUED, 1)
    assert waiting.due_at_us > waiting.queued_at_us

    second = (await worker.takes(2))[-1]
    assert (second.job, second.attempt) == (job, 2)
    await worker.report_ended(second, ledger=some_frames(b"two\n"))
    ended = await client.wait_one(job, timeout_s=10)

    assert ended is not None and (ended.outcome, ended.retried) == (Outcome.SUCCEEDED, 1)
    (past,) = ended.past
    assert (past.attempt, past.outcome, past.end.exit_code) == (1, Outcome.FAILED, 7)


async def test_a_follower_reads_the_logs_of_all_attempts_in_order(client: Client, worker: FakeWorker) -> None:
    """Each from its own beginning, told apart by the attempt."""
    job = await client.submit_one(JobSpec(work=Work(argv=("x",)), retries=1))
    (first,) = await worker.takes()
    chunks: list[tuple[int, int, bytes]] = []

    async def follow() -> None:
        async for chunk in client.read_log(job, follow=True):
            if chunk.frames:
                chunks.append((chunk.attempt, chunk.position, chunk.frames))

    following = asyncio.create_task(follow())
    await worker.report_started(first)
    await worker.report_ended(first, exit_code=7, ledger=some_frames(b"one\n"))
    await eventually(lambda: chunks)
    second = (await worker.takes(2))[-1]
    await worker.report_ended(second, ledger=some_frames(b"two\n"))
    await asyncio.wait_for(following, 10)

    assert chunks == [(1, 0, some_frames(b"one\n")), (2, 0, some_frames(b"two\n"))]
