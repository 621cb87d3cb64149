"""The start/stop/query document, end to end, as its reader would try it."""

import asyncio
from typing import Any

from hostler.jobs import JobQuery
from tests.cluster.real_cluster import RealCluster, processes_of, until

COUNT = 'for n in $(seq 1 30); do echo "$n"; sleep 1; done; echo done\n'


async def _query(cluster: RealCluster, worker: str, job: str) -> Any:
    status, answer = await cluster.post("/query", {"worker_id": worker, "job_id": job})
    assert status == 200
    return answer


async def _finished(cluster: RealCluster, worker: str, job: str) -> Any:
    async def done() -> Any:
        answer = await _query(cluster, worker, job)
        return answer if answer["done"] else None

    return await until(done, f"the end of {job}")


async def test_the_three_exchanges_of_the_document(cluster: RealCluster) -> None:
    """Start, query, stop, query: the answers are those of the document, and stop leaves nothing."""
    await cluster.up()
    worker = await cluster.worker_id()
    script = cluster.directory / "count.sh"
    script.write_text(COUNT)

    status, started = await cluster.post("/start", {"worker_id": worker, "command": "bash", "path": str(script)})
    assert status == 201
    call = {"worker_id": worker, "job_id": started["job_id"]}
    assert await _query(cluster, **{"worker": worker, "job": started["job_id"]}) == {
        "done": False,
        "error": False,
        "error_text": "",
    }
    await cluster.says(started["job_id"], b"1\n")
    assert await cluster.post("/stop", call) == (200, {"success": True})
    assert processes_of({started["job_id"]}) == []
    assert await cluster.post("/query", call) == (200, {"done": True, "error": True, "error_text": "signal: killed"})
    assert await cluster.post("/stop", call) == (200, {"success": True})
    assert (await cluster.log(started["job_id"])).startswith(b"1\n")


async def test_ends_read_as_the_document_says(cluster: RealCluster) -> None:
    """Exit 0, exit 3, an own signal, a missing program, and the prefix /scheduler."""
    await cluster.up()
    worker = await cluster.worker_id()

    async def run(script: str) -> Any:
        path = cluster.directory / "script.sh"
        path.write_text(script)
        status, started = await cluster.post(
            "/scheduler/start", {"worker_id": worker, "command": "sh", "path": str(path)}
        )
        assert status == 201
        return await _finished(cluster, worker, started["job_id"])

    assert await run("true") == {"done": True, "error": False, "error_text": ""}
    assert await run("exit 3") == {"done": True, "error": True, "error_text": "exit status 3"}
    assert await run("kill -TERM $$") == {"done": True, "error": True, "error_text": "signal: terminated"}
    assert await cluster.post("/start", {"worker_id": worker, "command": "nopecmd", "path": "x"}) == (
        500,
        {"error": 'exec: "nopecmd": executable file not found in $PATH'},
    )


async def test_bad_requests_are_500_with_a_text_and_the_gateway_goes_on(cluster: RealCluster) -> None:
    """`{}`, an array, bad JSON, a number for a string, an unknown worker, another family's job."""
    await cluster.up()
    worker = await cluster.worker_id()
    unknown = "d5feef60-3029-11e9-b210-d663bd873d93"
    assert await cluster.post("/start", {}) == (500, {"error": "worker not found"})
    assert await cluster.post("/start", {"worker_id": unknown, "command": "true", "path": ""}) == (
        500,
        {"error": "worker not found"},
    )
    for body in ("[]", "{nope", '{"worker_id": 1}', "", "null"):
        for path in ("/start", "/stop", "/query"):
            status, answer = await cluster.post(path, body)
            assert status == 500, (path, body)
            assert isinstance(answer["error"], str)
            assert answer["error"]
    _, submitted = await cluster.post("/v1/jobs", {"jobs": [{"argv": ["true"]}]})
    foreign = {"worker_id": worker, "job_id": submitted["jobs"][0]["id"]}
    assert await cluster.post("/query", foreign) == (500, {"error": "job not found"})
    status, _ = await cluster.get("/health")
    assert status == 200


async def test_a_worker_that_is_gone_is_not_found(cluster: RealCluster) -> None:
    """As soon as its stream is lost, calls that name it say so; when it is back its job is there again."""
    await cluster.up()
    worker = await cluster.worker_id()
    status, started = await cluster.post("/start", {"worker_id": worker, "command": "sleep", "path": "60"})
    assert status == 201
    call = {"worker_id": worker, "job_id": started["job_id"]}
    cluster.end("w1", 9)

    async def not_found() -> bool:
        return await cluster.post("/query", call) == (500, {"error": "worker not found"})

    await until(not_found, "worker not found")
    cluster.start("w1")
    await cluster.connected(1)
    assert await cluster.worker_id() == worker
    assert (await cluster.post("/query", call))[1]["done"] is False
    assert await asyncio.wait_for(cluster.post("/stop", call), 30) == (200, {"success": True})


async def test_a_drained_worker_starts_nothing_and_has_the_jobs_that_it_ran(cluster: RealCluster) -> None:
    """The start is refused with the reason, and no job is left that would run once the worker is given work again."""
    await cluster.up()
    worker = await cluster.worker_id()
    start = {"worker_id": worker, "command": "true", "path": ""}
    status, started = await cluster.post("/start", start)
    assert status == 201
    await _finished(cluster, worker, started["job_id"])
    await cluster.client.drain_worker("w1", reason="new disks")

    refused = await cluster.post("/start", start)

    assert refused == (500, {"error": "worker w1 takes no new work: it is drained on request: new disks"})
    assert [job.id for job in (await cluster.client.find(JobQuery())).jobs] == [started["job_id"]]
    assert (await _query(cluster, worker, started["job_id"]))["done"]
    assert (await cluster.post("/stop", {"worker_id": worker, "job_id": started["job_id"]}))[0] == 200
