"""Workers, labels, many jobs, long logs: what a user tries in the first hour."""

import hashlib
import random

import pytest

from hostler import frames
from hostler.jobs import JobSpec, LogStatus, Work
from hostler.lifecycle import Outcome, State
from tests.cluster.real_cluster import RealCluster, shell, until

FLAT_BYTES = 32 * 1024 * 1024


async def test_a_pinned_job_runs_on_its_worker(cluster: RealCluster) -> None:
    """Two workers, one job pinned to each."""
    await cluster.up("w1", "w2")
    for name in ("w1", "w2"):
        worker = await cluster.worker_id(name)
        job = await cluster.client.submit_one(JobSpec(work=Work(argv=("true",)), worker=worker))
        done = await cluster.client.wait_one(job, timeout_s=20)
        assert done is not None
        assert (done.worker, done.outcome) == (worker, Outcome.SUCCEEDED)


async def test_a_label_no_worker_has_keeps_a_job_waiting_until_one_joins(cluster: RealCluster) -> None:
    """It says why it waits, and starts when a matching worker is there."""
    await cluster.up()
    status, answer = await cluster.post("/v1/jobs", {"jobs": [{"argv": ["true"], "labels": {"zone": "north"}}]})
    assert status == 200
    job = answer["jobs"][0]["id"]
    _, waiting = await cluster.get(f"/v1/jobs/{job}")
    assert waiting["state"] == "queued"
    assert waiting["pending"] == ["1 worker does not have the label zone=north"]
    cluster.start("w2", labels={"zone": "north"})
    done = await cluster.client.wait_one(job, timeout_s=20)
    assert done is not None
    assert done.worker == await cluster.worker_id("w2")


async def test_streams_are_apart_byte_exact_and_resumable(cluster: RealCluster) -> None:
    """stdout and stderr as the program wrote them; any position continues where it says."""
    await cluster.up()
    script = "for n in $(seq 1 200); do echo out $n; echo err $n >&2; done; printf '\\377\\000end'"
    job = await cluster.client.submit_one(shell(script))
    out = b"".join(b"out %d\n" % n for n in range(1, 201)) + b"\xff\x00end"
    assert await cluster.log(job, frames.OUT) == out
    assert await cluster.log(job, frames.ERR) == b"".join(b"err %d\n" % n for n in range(1, 201))
    async with cluster.http.get(f"/v1/jobs/{job}/log?raw=out") as answer:
        assert await answer.read() == out
    whole = b"".join([chunk.frames async for chunk in cluster.client.read_log(job)])
    border = len(frames.encode(frames.OUT, next(frames.iter_frames(whole)).payload, 0))
    rest = b"".join([chunk.frames async for chunk in cluster.client.read_log(job, start=border)])
    assert rest == whole[border:]


async def test_a_cap_ends_in_a_marker_with_the_bytes_dropped(cluster: RealCluster) -> None:
    """What was written and not kept is counted, not silent."""
    await cluster.up()
    job = await cluster.client.submit_one(shell("head -c 300000 /dev/zero", output_bytes_max=100_000))
    done = await cluster.client.wait_one(job, timeout_s=20)
    assert done is not None
    assert done.end is not None
    assert (done.end.exit_code, done.end.dropped_bytes) == (0, 200_000)
    gaps = [
        frames.parse_gap(frame.payload)
        async for chunk in cluster.client.read_log(job, follow=True)
        for frame in frames.iter_frames(chunk.frames)
        if frame.kind == frames.GAP
    ]
    assert sum(out for out, _ in gaps) == 200_000
    assert len(await cluster.log(job)) == 100_000


@pytest.mark.ci
async def test_a_hundred_megabytes_come_back_identical_with_flat_memory(cluster: RealCluster) -> None:
    """Through agent, coordinator and gateway; read while it is written, and again afterwards."""
    await cluster.up()
    parts = ("coordinator", "gateway", "w1")
    before = {part: cluster.memory_bytes(part) for part in parts}
    seed = "import random,sys; r=random.Random(7); [sys.stdout.buffer.write(r.randbytes(1000000)) for _ in range(100)]"
    job = await cluster.client.submit_one(JobSpec(work=Work(argv=("python3", "-c", seed))))
    digests, highest = [], dict(before)
    for _ in range(2):
        digest = hashlib.sha256()
        async with cluster.http.get(f"/v1/jobs/{job}/log?raw=out&follow=1") as answer:
            async for piece in answer.content.iter_chunked(1 << 20):
                digest.update(piece)
                highest = {part: max(highest[part], cluster.memory_bytes(part)) for part in parts}
        digests.append(digest.hexdigest())

    source = random.Random(7)
    expected = hashlib.sha256(b"".join(source.randbytes(1_000_000) for _ in range(100))).hexdigest()
    assert digests == [expected, expected]
    grown = {part: highest[part] - before[part] for part in parts}
    assert all(growth < FLAT_BYTES for growth in grown.values()), grown
    found = await cluster.client.get(job)
    assert (found.log_bytes, found.log_status) == (100_000_000, LogStatus.COMPLETE)


@pytest.mark.ci
async def test_ten_thousand_jobs_in_one_call(cluster: RealCluster) -> None:
    """A bad item is an error in its place; each of the rest has its own exit code; memory stays bounded."""
    await cluster.up()
    items: list[dict[str, object]] = [{"argv": ["sh", "-c", f"exit {n % 7}"]} for n in range(10_000)]
    items[17] = {"argv": []}
    items[4711] = {"argv": ["true"], "worker": "nobody"}
    status, answer = await cluster.post("/v1/jobs", {"jobs": items})
    assert status == 200
    results = answer["jobs"]
    assert len(results) == 10_000
    assert {n for n, result in enumerate(results) if "error" in result} == {17, 4711}
    assert results[17]["error"]["field"] == "argv"
    assert results[4711]["error"]["code"] == "worker_not_found"
    ids = {result["id"]: n for n, result in enumerate(results) if "id" in result}
    codes = {}
    async for progress in cluster.client.wait(list(ids), timeout_s=180):
        codes[progress.id] = progress.exit_code
    assert codes == {job: n % 7 for job, n in ids.items()}
    assert cluster.memory_bytes("coordinator") + cluster.memory_bytes("gateway") < 200_000_000


async def test_a_key_gives_the_same_job_also_after_its_end(cluster: RealCluster) -> None:
    """A client that repeats its submission after a lost answer runs nothing twice."""
    await cluster.up()
    body = {"jobs": [{"argv": ["true"], "key": "once"}]}
    _, first = await cluster.post("/v1/jobs", body)
    await cluster.client.wait_one(first["jobs"][0]["id"], timeout_s=20)
    _, again = await cluster.post("/v1/jobs", body)
    assert again == first
    _, other = await cluster.post("/v1/jobs", {"jobs": [{"argv": ["false"], "key": "once"}]})
    assert other["jobs"][0]["error"]["code"] == "key_conflict"


async def test_priority_then_age_decide_who_is_next(cluster: RealCluster) -> None:
    """With one slot, the waiting jobs run in that order."""
    await cluster.up("w1", slots=1)
    blocker = await cluster.client.submit_one(shell("sleep 300", grace_s=0))
    await cluster.client.wait_one(blocker, until=State.RUNNING, timeout_s=20)
    order = cluster.directory / "order"
    specs = [shell(f"echo {name} >>{order}", priority=p) for name, p in (("a", 0), ("b", 5), ("c", 0), ("d", 5))]
    ids = [answer for answer in await cluster.client.submit(specs) if isinstance(answer, str)]
    await cluster.client.stop(blocker)
    async for _ in cluster.client.wait(ids, timeout_s=30):
        pass

    async def all_there() -> bool:
        return order.read_text().split() == ["b", "d", "a", "c"]

    await until(all_there, "the order b d a c")
