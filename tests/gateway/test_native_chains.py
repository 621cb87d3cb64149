"""``/v1``: chains, results of any size, and workloads that are containers and services."""

from dataclasses import replace
from typing import Any

import pytest

from hostler.jobs import Container, JobSpec, PastAttempt, Service, Stage
from hostler.lifecycle import Outcome
from hostler.workloads import ResultFrom, Runtime, Stdin
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import WORKER, FakeCoordinator, an_end, finished, running
from tests.gateway.test_native import UNKNOWN, submitted

STAGES = [{"workload": "clean", "version": 3}, {"workload": "stats"}]
LARGE = b'["' + b"x" * 1_500_000 + b'"]'


async def a_chain(gateway: Caller, coordinator: FakeCoordinator, first: bytes, **changes: Any) -> str:
    """A chain whose first stage has left *first* and whose second one runs, or has ended with *changes*."""
    job = await submitted(gateway, argv=[], stages=STAGES, params={"n": 1})
    past = PastAttempt(stage=0, attempt=2, worker=WORKER, outcome=Outcome.SUCCEEDED, end=an_end(result=first))
    await coordinator.move(job, lambda j: replace(running(j), stage=1, past=(past,)))
    if changes:
        await coordinator.move(job, lambda j: replace(finished(j, **changes), stage=1, past=(past,)))
    return job


async def fetched(gateway: Caller, path: str) -> tuple[int, str, bytes]:
    """Status, type and body."""
    async with gateway.session.get(gateway.url + path) as answer:
        return answer.status, answer.content_type, await answer.read()


async def test_a_chain_is_submitted_and_shown(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Its stages are there as they were asked for, with what each has left."""
    job = await a_chain(gateway, coordinator, b'{"text": "a"}')
    spec: JobSpec = coordinator.jobs[job].spec
    assert spec.stages == (Stage(workload="clean", workload_version=3), Stage(workload="stats"))
    assert (spec.workload, spec.params) == ("", '{"n":1}')

    first, second = (await gateway.get(f"/v1/jobs/{job}")).json["stages"]
    assert first == {
        "workload": "clean",
        "version": 3,
        "state": "finished",
        "outcome": "succeeded",
        "attempt": 2,
        "worker": WORKER,
        "result": {"text": "a"},
        "result_bytes": 13,
    }
    assert (second["workload"], second["state"], second["result"]) == ("stats", "running", None)


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"stages": STAGES, "argv": ["true"]}, "stages"),
        ({"stages": STAGES, "workload": "a"}, "stages"),
        ({"stages": STAGES, "python": {"path": "a.py"}}, "stages"),
        ({"stages": STAGES, "workload_version": 1}, "workload_version"),
        ({"stages": "clean"}, "stages"),
        ({"stages": ["clean"]}, "stages.0"),
        ({"stages": [{}]}, "stages.0.workload"),
        ({"stages": [{"workload": "a", "version": -1}]}, "stages.0.version"),
        ({"stages": [{"workload": "a", "version": "1"}]}, "stages.0.version"),
        ({"stages": [{"workload": "a", "params": {}}]}, "stages.0.params"),
    ],
)
async def test_a_wrong_chain_is_an_error_in_its_place(gateway: Caller, item: dict[str, Any], field: str) -> None:
    """The others are not touched by it."""
    answer = await gateway.post("/v1/jobs", {"jobs": [item, {"argv": ["true"]}]})

    wrong, right = answer.json["jobs"]
    assert (wrong["error"]["code"], wrong["error"]["field"]) == ("invalid_request", field)
    assert "id" in right


@pytest.mark.parametrize("query", ["", "?stage=1"])
async def test_a_result_is_sent_as_it_was_left(gateway: Caller, coordinator: FakeCoordinator, query: str) -> None:
    """Of a chain that of its last stage, or of the one that is asked for."""
    job = await a_chain(gateway, coordinator, b'{"text":  "a"}', result=b"[1,  2]")

    assert await fetched(gateway, f"/v1/jobs/{job}/result{query}") == (200, "application/json", b"[1,  2]\n")
    assert (await fetched(gateway, f"/v1/jobs/{job}/result?stage=0"))[2] == b'{"text":  "a"}\n'


async def test_a_large_result_is_streamed(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """And is no part of what shows the job."""
    digest = coordinator.files.store(LARGE)
    job = await submitted(gateway)
    await coordinator.move(job, lambda j: finished(j, result_digest=digest, result_bytes=len(LARGE)))

    assert await fetched(gateway, f"/v1/jobs/{job}/result") == (200, "application/json", LARGE + b"\n")
    shown = (await gateway.get(f"/v1/jobs/{job}")).json
    assert (shown["result"], shown["result_bytes"], shown["stages"]) == (None, len(LARGE), None)


async def test_head_of_a_result_tells_its_length_and_sends_nothing(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """As of every other answer that ends; also of one that is stored apart."""
    digest = coordinator.files.store(LARGE)
    small, large, none = [await submitted(gateway) for _ in range(3)]
    await coordinator.move(small, lambda j: finished(j, result=b"[1]"))
    await coordinator.move(large, lambda j: finished(j, result_digest=digest, result_bytes=len(LARGE)))

    for job, length in ((small, len(b"[1]\n")), (large, len(LARGE + b"\n"))):
        async with gateway.session.head(f"{gateway.url}/v1/jobs/{job}/result") as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, str(length))
    async with gateway.session.head(f"{gateway.url}/v1/jobs/{none}/result") as answer:
        assert answer.status == 404


async def test_a_result_that_is_not_there_is_404(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Not yet, never, not any more; no such stage is a wrong request."""
    runs = await a_chain(gateway, coordinator, b"1")
    none = await submitted(gateway)
    await coordinator.move(none, finished)
    gone = await submitted(gateway)
    await coordinator.move(gone, lambda j: finished(j, result_digest="0" * 64, result_bytes=300_000))

    for job in (runs, none, gone):
        answer = await gateway.get(f"/v1/jobs/{job}/result")
        assert (answer.status, answer.json["error"]["code"]) == (404, "file_not_found")
    assert (await gateway.get(f"/v1/jobs/{UNKNOWN}/result")).json["error"]["code"] == "job_not_found"
    for query in ("stage=2", "stage=-1", "stage=x", "stages=1"):
        assert (await gateway.get(f"/v1/jobs/{runs}/result?{query}")).status == 400


async def test_containers_and_services_are_registered(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """What is shown of them can be registered again, and is the same."""
    container = {"image": "localhost/app:1", "memory_bytes": 64 << 20, "cpus": 1, "volumes": ["/a:/b:ro"]}
    items = [
        {"name": "app", "runtime": "container", "container": container, "allowed_networks": ["10.0.0.0/8"]},
        {"name": "raw", "runtime": "container", "container": container, "stdin": "", "result": ""},
        {"name": "far", "runtime": "service", "service": {"url": "http://there"}, "resources": {"a": [1]}},
        {"name": "filter", "argv": ["cat"], "stdin": "params", "result": "stdout", "proofs": True},
    ]
    assert (await gateway.post("/v1/workloads", {"workloads": items})).status == 200

    known = coordinator.workloads.known
    wanted = Container(image="localhost/app:1", memory_bytes=64 << 20, cpus=1.0, volumes=("/a:/b:ro",))
    assert (known["app"].container, known["app"].allowed_networks) == (wanted, ("10.0.0.0/8",))
    assert (known["app"].stdin, known["app"].result) == (Stdin.PARAMS, ResultFrom.STDOUT)
    assert (known["raw"].stdin, known["raw"].result) == (Stdin.NOTHING, ResultFrom.FILE)
    assert (known["far"].service, known["far"].resources) == (Service(url="http://there"), '{"a": [1]}')
    assert (known["filter"].runtime, known["filter"].proofs) == (Runtime.COMMAND, True)
    before = dict(known)
    shown = (await gateway.get("/v1/workloads")).json["workloads"]
    assert (await gateway.post("/v1/workloads", {"workloads": shown})).status == 200
    assert {name: replace(one, version=1) for name, one in known.items()} == before


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"runtime": "container"}, "container"),
        ({"runtime": "container", "container": {}}, "container.image"),
        ({"runtime": "container", "container": {"image": "-v"}}, "container"),
        ({"runtime": "container", "container": {"image": "a", "memory_bytes": "64M"}}, "container.memory_bytes"),
        ({"runtime": "container", "container": {"image": "a", "port": 70_000}}, "container.port"),
        ({"runtime": "service", "service": {"url": "http://a", "name": "b"}}, "service.name"),
        ({"runtime": "service", "service": {"url": "there"}}, "service"),
        ({"argv": ["x"], "result": "stderr"}, "result"),
        ({"argv": ["x"], "allowed_networks": ["x"]}, "allowed_networks"),
        ({"argv": ["x"], "resources": []}, "resources"),
    ],
)
async def test_a_wrong_definition_is_refused_by_name(gateway: Caller, item: dict[str, Any], field: str) -> None:
    """And the field that is wrong."""
    answer = await gateway.post("/v1/workloads", {"workloads": [{"name": "app"} | item]})

    assert (answer.status, answer.json["error"]["field"]) == (400, field), answer.text
    assert "'app'" in answer.json["error"]["message"]
