"""Chains, brief lists and records, as a program calls them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.rpc import log_service
from coordinator.rpc.disk_reserve import DiskReserve
from hostler.client import Client, LogChunk
from hostler.errors import InvalidRequest, NotRunning, TooLarge, Unavailable, WorkloadNotFound
from hostler.jobs import BriefJob, File, JobQuery, JobSpec, Record, Stage, Work
from hostler.lifecycle import Outcome, State
from hostler.wire.work import work_from_bytes
from hostler.workloads import ResultFrom, Stdin, Workload
from tests.rpc.test_described_jobs import whole
from tests.support.builders import a_spec, an_id, some_frames
from tests.support.fake_worker import FakeWorker
from tests.support.waiting import eventually


def process(name: str, **changes: Any) -> Workload:
    """A process: JSON in, JSON out."""
    given: dict[str, Any] = {"argv": (name,), "stdin": Stdin.PARAMS, "result": ResultFrom.STDOUT} | changes
    return Workload(name=name, **given)


def chain(*names: str, **changes: Any) -> JobSpec:
    """A job of these stages."""
    given: dict[str, Any] = {"work": Work(), "params": '{"n": 1}'} | changes
    return JobSpec(stages=tuple(Stage(workload=name) for name in names), **given)


@pytest.fixture(autouse=True)
async def workloads(client: Client) -> None:
    """Three processes and one that only later stages may name."""
    await client.workloads.apply([process("one"), process("two"), process("three", timeout_s=5.0)])
    await client.workloads.apply([process("inner", external=False)])


async def test_each_result_goes_to_the_next_stage_and_is_kept(client: Client, worker: FakeWorker) -> None:
    """Readable while the chain runs, in the order of the stages."""
    job = await client.submit_one(chain("one", "two", "three"))
    (first,) = await worker.takes()
    assert work_from_bytes(worker.starts[-1].work).argv == ("one",)
    await worker.report_ended(first, result=b'{"from": "one"}')
    second = (await worker.takes(2))[-1]
    work = work_from_bytes(worker.starts[-1].work)
    assert (second.stage, second.attempt, work.argv) == (1, 1, ("two",))
    assert {f.path: f.content for f in work.files}[work.stdin_path] == b'{"from": "one"}'

    found = await client.get(job)
    assert (found.stage, [json.loads(past.end.result) for past in found.past]) == (1, [{"from": "one"}])
    assert [stage.workload for stage in found.spec.stages] == ["one", "two", "three"]
    assert [stage.workload_version for stage in found.spec.stages] == [1, 1, 1]

    await worker.report_ended(second, result=b"2")
    third = (await worker.takes(3))[-1]
    assert work_from_bytes(worker.starts[-1].work).timeout_s == 5.0
    await worker.report_ended(third, result=b"3")
    ended = await client.wait_one(job, timeout_s=10)

    assert ended is not None and ended.outcome is Outcome.SUCCEEDED and ended.end is not None
    assert [past.end.result for past in ended.past] + [ended.end.result] == [b'{"from": "one"}', b"2", b"3"]
    assert [(past.stage, past.outcome) for past in ended.past] == [(0, Outcome.SUCCEEDED), (1, Outcome.SUCCEEDED)]


async def test_what_is_common_to_the_stages_goes_to_each(client: Client, worker: FakeWorker) -> None:
    """Environment and limits; files go to the first alone."""
    work = Work(env={"A": "1"}, timeout_s=7.0, files=(File(path="inputs/a", content=b"x"),))
    await client.submit_one(chain("one", "two", work=work))
    (first,) = await worker.takes()
    before = work_from_bytes(worker.starts[-1].work)
    await worker.report_ended(first, result=b"1")
    await worker.takes(2)
    after = work_from_bytes(worker.starts[-1].work)

    assert (before.env["A"], after.env["A"], before.timeout_s, after.timeout_s) == ("1", "1", 7.0, 7.0)
    assert "inputs/a" in {f.path for f in before.files} and "inputs/a" not in {f.path for f in after.files}


async def test_a_follower_reads_the_log_of_every_stage_in_order(client: Client, worker: FakeWorker) -> None:
    """Also when the log of the first still arrives while those after it are long over."""
    logs = [some_frames(text * 3) for text in (b"one", b"two", b"three")]
    job = await client.submit_one(chain("one", "two", "three"))
    (first,) = await worker.takes()
    await worker.open_push()
    await worker.push(first, 0, logs[0])
    await worker.stored(first, len(logs[0]))
    chunks: list[LogChunk] = []

    async def follow() -> None:
        async for chunk in client.read_log(job, follow=True):
            chunks.append(chunk)

    following = asyncio.create_task(follow())
    await eventually(lambda: len(chunks) == 1)
    await worker.report_ended(first, result=b"1", ledger_bytes=len(logs[0] * 2))
    for number in (1, 2):
        key = (await worker.takes(number + 1))[-1]
        await worker.report_ended(key, result=b"2", ledger=logs[number])
    assert await client.wait_one(job, timeout_s=10)
    await worker.push(first, len(logs[0]), logs[0])

    await asyncio.wait_for(following, 10)
    found = [(chunk.stage, chunk.attempt, chunk.position, chunk.frames) for chunk in chunks if chunk.frames]
    assert found == [
        (0, 1, 0, logs[0]),
        (0, 1, len(logs[0]), logs[0]),
        (1, 1, 0, logs[1]),
        (2, 1, 0, logs[2]),
    ]
    assert [chunk.end for chunk in chunks] == [False] * 4 + [True]


async def test_the_end_of_a_stage_is_told_to_whoever_follows_its_log(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not when it would have looked by itself."""
    monkeypatch.setattr(log_service, "LOOK_AGAIN_S", 600.0)
    job = await client.submit_one(chain("one", "two"))
    (first,) = await worker.takes()
    await worker.open_push()
    await worker.push(first, 0, some_frames(b"one"))
    await worker.stored(first, len(some_frames(b"one")))
    chunks: list[LogChunk] = []

    async def follow() -> None:
        async for chunk in client.read_log(job, attempt=1, follow=True):
            chunks.append(chunk)

    following = asyncio.create_task(follow())
    await eventually(lambda: len(chunks) == 1)

    await worker.report_ended(first, result=b"1", ledger_bytes=len(some_frames(b"one")))

    await asyncio.wait_for(following, 10)
    assert chunks[-1].end


async def test_a_chain_runs_the_versions_it_was_accepted_with(client: Client, worker: FakeWorker) -> None:
    """Whatever is applied in the meantime."""
    await client.submit_one(chain("one", "two"))
    (first,) = await worker.takes()
    await client.workloads.apply([process("two", argv=("newer",))])
    await worker.report_ended(first, result=b"1")
    await worker.takes(2)

    assert work_from_bytes(worker.starts[-1].work).argv == ("two",)


async def test_params_that_were_stored_go_to_the_first_stage(client: Client, worker: FakeWorker) -> None:
    """As a file params.json with a digest."""
    stored = await client.files.put(whole(b'{"big": 1}'))
    given = File(path="params.json", digest=stored.digest, size_bytes=stored.size_bytes)
    await client.submit_one(chain("one", params="", work=Work(files=(given,))))
    await worker.takes()

    work = work_from_bytes(worker.starts[-1].work)
    assert {f.path: f.digest for f in work.files} == {"params.json": stored.digest}


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (chain("one", "nobody"), WorkloadNotFound),
        (chain("inner", "one"), InvalidRequest),
        (chain("one", "two", workload="one"), InvalidRequest),
        (chain("one", work=Work(argv=("true",))), InvalidRequest),
        (chain(*["one"] * 101), TooLarge),
        (chain("one", params="{"), InvalidRequest),
        (chain("one", "labelled", labels={"gpu": "no"}), InvalidRequest),
        (chain("one", "secretive", work=Work(env={"TOKEN": "x"})), InvalidRequest),
        (chain("one", "two", on_lost="retry"), InvalidRequest),
    ],
)
async def test_a_chain_that_cannot_be_is_an_error_in_its_place(
    client: Client, spec: JobSpec, kind: type, data_dir: Path
) -> None:
    """And spoils no other; what a later stage would refuse is known at once too."""
    secrets = data_dir / "secrets.toml"
    secrets.write_text('token = "x"\n')
    secrets.chmod(0o600)
    await client.workloads.apply(
        [process("labelled", labels={"gpu": "yes"}), process("secretive", secrets={"TOKEN": "token"})]
    )
    good, bad, last = await client.submit([chain("one"), spec, chain("one", "inner")])

    assert isinstance(good, str) and isinstance(last, str)
    assert isinstance(bad, kind), bad


# Brief lists


async def test_a_brief_list_has_every_job_of_its_filter(client: Client) -> None:
    """Ids and states, in pages of ten thousand."""
    await client.submit([a_spec(family="infernet", owner="ada") for _ in range(10_001 - 1)])
    last = await client.submit_one(a_spec(family="infernet", owner="ada"))
    await client.submit_one(a_spec(family="infernet", owner="bob"))

    pages = [page async for page in client.find_brief(JobQuery(family="infernet", owner="ada"))]

    assert [len(page) for page in pages] == [10_000, 1]
    assert pages[1] == [BriefJob(last, State.QUEUED, Outcome.NONE)]
    assert (await client.describe()).open_by_family == {"infernet": 10_002}


# Records


async def test_a_record_is_kept_and_replaced(client: Client) -> None:
    """One for each id; the last word counts."""
    await client.records.put(Record(id="outside", status="running", containers=("a", "b")))
    await client.records.put(Record(id="outside", status="failed"))
    await client.records.put(Record(id="other", status="success"))

    (found,) = await client.records.find(["outside", "unknown"])
    assert (found.status, found.containers) == ("failed", ())
    assert found.at_us > 0
    assert {record.id for record in await client.records.find()} == {"outside", "other"}


async def test_records_belong_to_their_principal(client: Client) -> None:
    """Nobody else finds them, and the same id means something else to him."""
    await client.records.put(Record(id="x", status="running"), principal="address:10.0.0.1")
    await client.records.put(Record(id="x", status="failed"), principal="address:10.0.0.2")

    assert [r.status for r in await client.records.find(principal="address:10.0.0.1")] == ["running"]
    assert [r.status for r in await client.records.find(["x"], principal="address:10.0.0.2")] == ["failed"]
    assert await client.records.find(principal="address:10.0.0.3") == []


async def test_nothing_new_is_kept_while_the_disk_is_full(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither records nor workloads: the room left is for the ends of what runs."""

    def no_space(self: DiskReserve) -> None:
        raise Unavailable("no space", retry_after_s=30)

    monkeypatch.setattr(DiskReserve, "check", no_space)

    with pytest.raises(Unavailable):
        await client.records.put(Record(id="outside", status="running"))
    with pytest.raises(Unavailable):
        await client.workloads.apply([process("four")])


async def test_a_job_of_the_cluster_cannot_be_a_record(client: Client, worker: FakeWorker) -> None:
    """Neither while it runs nor when it is over."""
    job = await client.submit_one(a_spec())
    with pytest.raises(NotRunning):
        await client.records.put(Record(id=job, status="failed"))
    (key,) = await worker.takes()
    await worker.report_ended(key)
    await eventually(lambda: worker.acknowledged)

    with pytest.raises(NotRunning):
        await client.records.put(Record(id=job, status="failed"))


@pytest.mark.parametrize(
    "record",
    [
        Record(id="", status="running"),
        Record(id="x" * 201, status="running"),
        Record(id="x", status="done"),
        Record(id="x", status="running", containers=("a",) * 101),
    ],
)
async def test_a_record_that_cannot_be_is_refused(client: Client, record: Record) -> None:
    """With what is wrong."""
    with pytest.raises(InvalidRequest):
        await client.records.put(record)


async def test_the_id_of_a_record_is_any_text(client: Client) -> None:
    """It is no uuid of ours."""
    await client.records.put(Record(id=an_id(5).upper() + " ü", status="success"))

    assert len(await client.records.find()) == 1
