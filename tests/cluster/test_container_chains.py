"""Chains through containers and services, by the Infernet API: each stage another runtime, on two workers."""

import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web

from hostler.jobs import Container, Service
from hostler.workloads import ResultFrom, Runtime, Stdin, Workload
from tests.cluster.real_cluster import RealCluster, until
from tests.cluster.test_chains import process
from tests.worker.container_bench import IMAGE, PodmanBench, a_podman

pytestmark = pytest.mark.ci

# Takes JSON in one line and gives it back in a list with a name; each start leaves a line in the workspace's outputs.
WRAP = 'read -r given; {between}\nprintf \'[%s, "{name}"]\' "$given"'


@contextlib.asynccontextmanager
async def a_service() -> AsyncIterator[str]:
    """A service that somebody else runs: what is posted as data comes back with a name. Yields its base URL."""

    async def output(request: web.Request) -> web.Response:
        body = await request.json()
        assert set(body) == {"source", "destination", "data", "requires_proof"}
        return web.json_response([body["data"], "service"])

    app = web.Application()
    app.router.add_post("/service_output", output)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanBench]:
    """A podman with an image of busybox."""
    with a_podman() as bench:
        yield bench


def wrap(name: str, **changes: Any) -> Workload:
    """A process."""
    return process(name, WRAP.format(name=name, between=changes.pop("between", ":")), **changes)


def boxed(name: str, between: str = ":") -> Workload:
    """The same in a container."""
    return Workload(
        name=name,
        runtime=Runtime.CONTAINER,
        argv=("/bin/sh", "-c", WRAP.format(name=name, between=between)),
        stdin=Stdin.PARAMS,
        result=ResultFrom.STDOUT,
        container=Container(image=IMAGE),
    )


async def start(cluster: RealCluster, podman: PodmanBench, *workloads: Workload) -> None:
    """Two workers with podman, the second of them at a site of its own."""
    cluster.start("coordinator")
    for name, labels in (("w1", {}), ("w2", {"site": "b"})):
        cluster.start(name, labels=labels, podman="podman", podman_options=podman.options)
    cluster.start("gateway")
    await cluster.connected(2)

    async def offered() -> bool:
        workers = await cluster.client.workers()
        return sum("container" in worker.runtimes for worker in workers) == 2

    await until(offered, "two workers that run containers", 60.0)
    await cluster.client.workloads.apply(workloads)
    await cluster.gateway_up()


async def submit(cluster: RealCluster, *containers: str, data: Any = None) -> str:
    """POST /api/jobs."""
    status, body = await cluster.post("/api/jobs", {"containers": list(containers), "data": data or {"n": 1}})
    assert status == 200, body
    return str(body["id"])


async def result(cluster: RealCluster, job: str, within_s: float = 90.0) -> dict[str, Any]:
    """GET /api/jobs, once the job is over."""

    async def over() -> Any:
        status, found = await cluster.get(f"/api/jobs?id={job}&intermediate=true")
        # While the coordinator is away the gateway says so.
        return found[0] if status == 200 and found[0]["status"] != "running" else None

    found: dict[str, Any] = await until(over, f"the end of {job}", within_s)
    return found


async def test_a_chain_goes_through_processes_a_container_and_a_service(
    cluster: RealCluster, podman: PodmanBench
) -> None:
    """Five stages over two workers; the output of each container is the input of the next."""
    async with a_service() as url:
        service = Workload(name="service", runtime=Runtime.SERVICE, service=Service(url=url))
        await start(cluster, podman, wrap("a"), boxed("box"), wrap("b", labels={"site": "b"}), service, wrap("c"))
        names = ["a", "box", "b", "service", "c"]
        job = await submit(cluster, *names)
        found = await result(cluster, job)

    assert found["status"] == "success", found
    expected: Any = {"n": 1}
    outputs = [*found["intermediate_results"], found["result"]]
    for output, name in zip(outputs, names, strict=True):
        expected = [expected, name]
        assert output == {"container": name, "output": expected}
    podman.wait_for_nothing()


@pytest.mark.parametrize("part", ["w1", "coordinator"])
async def test_a_part_is_killed_while_a_container_of_a_chain_runs(
    cluster: RealCluster, podman: PodmanBench, part: str
) -> None:
    """It runs on, the chain ends right, and no stage runs twice."""
    truth = cluster.directory / "truth"
    note = f'echo "$HOSTLER_ATTEMPT" >>{truth}'
    await start(
        cluster,
        podman,
        wrap("a", between=note, labels={}),
        boxed("box", between='echo "$HOSTLER_JOB" >/outputs/ran; sleep 3'),
        wrap("c", between=note),
    )
    job = await submit(cluster, "a", "box", "c")

    async def in_the_container() -> bool:
        (found,) = (await cluster.get(f"/api/jobs?id={job}&intermediate=true"))[1]
        return len(found["intermediate_results"]) == 1 and bool(podman.containers())

    await until(in_the_container, "the container of the second stage", 60.0)
    cluster.end(part, signal.SIGKILL)
    cluster.start(part, **({"podman": "podman", "podman_options": podman.options} if part == "w1" else {}))
    found = await result(cluster, job)

    assert found["status"] == "success", found
    assert found["result"]["output"] == [[[{"n": 1}, "a"], "box"], "c"]
    stages = sorted(line.split(".")[1] for line in truth.read_text().split())
    assert stages == ["0", "2"]
    podman.wait_for_nothing()


async def test_five_hundred_chains_in_one_batch_with_five_bad_items(cluster: RealCluster, podman: PodmanBench) -> None:
    """Each bad item is an error in its place, and every good one ends right."""
    await start(cluster, podman, wrap("a"), wrap("b"))
    items: list[Any] = [{"containers": ["a", "b"], "data": {"n": number}} for number in range(500)]
    bad = {7: {"containers": []}, 100: 5, 250: {"containers": ["nobody"], "data": {}}, 400: {"data": {}}, 499: None}
    for place, item in bad.items():
        items[place] = item

    status, answers = await cluster.post("/api/jobs/batch", items)
    assert status == 200 and len(answers) == 500
    assert [place for place, answer in enumerate(answers) if "error" in answer] == sorted(bad)
    ids = [answer["id"] for answer in answers if "id" in answer]

    async def all_over() -> bool:
        return bool((await cluster.get("/api/jobs?pending=true"))[1] == [])

    await until(all_over, "the end of every chain", 110.0)
    for place in (0, 250 - 1, 498):
        (found,) = (await cluster.get(f"/api/jobs?id={answers[place]['id']}"))[1]
        assert found["result"] == {"container": "b", "output": [[{"n": place}, "a"], "b"]}
    assert sorted((await cluster.get("/api/jobs"))[1]) == sorted(ids)
    assert json.dumps((await cluster.get("/info"))[1]["pending"]) == '{"offchain": 0, "onchain": 0}'
