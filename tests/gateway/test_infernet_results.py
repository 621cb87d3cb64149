"""`GET /api/jobs` of the Infernet document: results by id, intermediate results, and lists of ids."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
import pytest

from hostler.frames import ERR, OUT
from hostler.jobs import Failure, Job, JobSpec, LogStatus, Record
from hostler.lifecycle import Outcome, State
from http_gateway.infernet_shapes import EXPIRED
from http_gateway.streamed_json import WHOLE_BYTES_MAX
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import NOT_NOW, FakeCoordinator, finished, killed
from tests.gateway.infernet_calls import CONTAINERS, UNKNOWN, a_job, a_request, advanced, the_result

STATES = {"queued": State.QUEUED, "assigned": State.ASSIGNED, "running": State.RUNNING, "stopping": State.STOPPING}


@pytest.fixture(autouse=True)
def containers(coordinator: FakeCoordinator) -> None:
    """What the coordinator knows."""
    coordinator.workloads.add(*CONTAINERS)


def after(*results: bytes, last: bytes = b'"z"', outcome: Outcome = Outcome.SUCCEEDED, **changes: Any) -> Any:
    """What becomes of a chain that ends after some stages; fields of its last end."""

    def change(job: Job) -> Job:
        chain = advanced(job, *results)
        return replace(finished(chain, outcome, result=last, **changes), past=chain.past, stage=chain.stage)

    return change


def advanced_by(results: tuple[bytes, ...], job: Job) -> Job:
    """What becomes of a chain whose first stages have ended with these results."""
    return advanced(job, *results)


# By id


@pytest.mark.parametrize("state", STATES)
async def test_the_status_of_a_job_that_is_not_over_is_running_and_its_result_is_null(
    gateway: Caller, coordinator: FakeCoordinator, state: str
) -> None:
    """Waiting, running or being stopped: the client polls on this word."""
    name = await a_job(gateway)
    await coordinator.move(name, lambda job: replace(job, state=STATES[state]))
    for path in ("/api/jobs", "/infernet/api/jobs"):
        answer = await gateway.get(path, params={"id": name})
        assert (answer.status, answer.json) == (200, [{"id": name, "status": "running", "result": None}])


@pytest.mark.parametrize("output", [b'{"output": "x"}', b"[1, 2.50]", b'"text"', b"null", b"17", b'"\\ud800"', b"{}\n"])
async def test_the_status_of_a_job_that_succeeded_is_success_and_its_result_is_the_last_containers_output(
    gateway: Caller, coordinator: FakeCoordinator, output: bytes
) -> None:
    """ContainerOutput: any JSON, as the container wrote it."""
    name = await a_job(gateway, "echo", "inner")
    await coordinator.move(name, after(b'"a"', last=output))
    assert await the_result(gateway, name) == {
        "id": name, "status": "success", "result": {"container": "inner", "output": json.loads(output)},
    }  # fmt: skip


async def test_a_container_that_left_no_result_has_put_out_null(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """The result itself is never null, for clients look into it; what is no JSON cannot break the answer."""
    names = [await a_job(gateway) for _ in range(3)]
    await coordinator.move(names[0], lambda job: finished(job))
    await coordinator.move(names[1], lambda job: finished(job, result=b'{"a": NaN}'))
    await coordinator.move(names[2], lambda job: finished(job, result=b'"\xff'))
    answer = await gateway.get("/api/jobs", params=[("id", name) for name in names])
    assert [item["status"] for item in answer.json] == ["success"] * 3
    assert answer.json[0]["result"] == {"container": "echo", "output": None}
    for item in answer.json[1:]:
        assert item["result"] == {"container": "echo", "output": None, "error": "the result is not JSON"}


@pytest.mark.parametrize(
    ("outcome", "changes", "error"),
    [
        (Outcome.FAILED, {"failure": Failure(type="E", module="m", message="no faces"), "error": "x"}, "no faces"),
        (Outcome.FAILED, {"failure": Failure(type="E", module="m", message=""), "error": "no podman"}, "no podman"),
        (Outcome.FAILED, {"evidence": "exited with code 3", "exit_code": 3}, "exited with code 3"),
        (Outcome.TIMED_OUT, {"evidence": ""}, "the container took longer than its time limit"),
        (Outcome.TIMED_OUT, {"evidence": "it ran longer than 180 s"}, "it ran longer than 180 s"),
        (Outcome.STOPPED, {"evidence": ""}, "the job was stopped"),
        (Outcome.LOST, {"evidence": ""}, "the worker that ran the container was lost"),
        (Outcome.REJECTED, {"evidence": ""}, "no worker would run the container"),
        (Outcome.FAILED, {"evidence": ""}, "the container failed"),
    ],
)
async def test_the_status_of_any_other_job_is_failed_and_its_result_is_the_error_of_the_container_that_failed(
    gateway: Caller, coordinator: FakeCoordinator, outcome: Outcome, changes: Any, error: str
) -> None:
    """ContainerError: always a text; the containers after it were never called."""
    name = await a_job(gateway, "echo", "inner", "prover")
    await coordinator.move(name, after(b'"a"', last=b"", outcome=outcome, **changes))
    assert await the_result(gateway, name, intermediate="true") == {
        "id": name,
        "status": "failed",
        "result": {"container": "inner", "error": error},
        "intermediate_results": [{"container": "echo", "output": "a"}],
    }


async def test_with_intermediate_true_it_includes_intermediate_results_as_the_chain_advances(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Without the flag the key is absent; for one container the list is empty."""
    name = await a_job(gateway, "echo", "inner", "prover")
    seen = []
    for results in ((), (b'{"n":1}',), (b'{"n":1}', b"[2]")):
        await coordinator.move(name, partial(advanced_by, results))
        result = await the_result(gateway, name, intermediate="true")
        assert (result["status"], result["result"]) == ("running", None)
        seen.append(result["intermediate_results"])
    one, two = {"container": "echo", "output": {"n": 1}}, {"container": "inner", "output": [2]}
    assert seen == [[], [one], [one, two]]
    await coordinator.move(name, after(b'{"n":1}', b"[2]"))
    assert "intermediate_results" not in await the_result(gateway, name)
    assert "intermediate_results" not in await the_result(gateway, name, intermediate="false")
    assert (await the_result(gateway, name, intermediate="1"))["intermediate_results"] == [one, two]
    alone = await a_job(gateway)
    assert (await the_result(gateway, alone, intermediate="TRUE"))["intermediate_results"] == []


async def test_results_come_in_the_order_of_the_request_and_unknown_ids_are_left_out(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """A repeated id comes back repeated; ids with a comma are one unknown id; no id at all is none."""
    a, b, c = [await a_job(gateway) for _ in range(3)]
    await coordinator.move(b, lambda job: finished(job, result=b"1"))
    asked = [c, UNKNOWN, b, a, f"{a},{b}", b, "x" * 300, "../..", "%00"]
    answer = await gateway.get("/api/jobs", params=[("id", name) for name in asked])
    assert [item["id"] for item in answer.json] == [c, b, a, b]
    for path in (f"/api/jobs?id={UNKNOWN}", "/api/jobs?id=", f"/api/jobs?id={a},{b}", "/api/jobs?id=%FF%00"):
        answer = await gateway.get(path)
        assert (answer.status, answer.json) == (200, [])


async def test_pending_is_not_looked_at_when_an_id_is_given_nor_intermediate_when_none_is(gateway: Caller) -> None:
    """Each is only used there."""
    name = await a_job(gateway)
    assert (await gateway.get(f"/api/jobs?id={name}&pending=junk")).status == 200
    assert (await gateway.get("/api/jobs?intermediate=junk")).status == 200


@pytest.mark.parametrize("query", ["id=x&intermediate=junk", "id=x&intermediate=", "pending=junk", "pending=2"])
async def test_get_jobs_failure_is_400_for_a_boolean_that_is_none(gateway: Caller, query: str) -> None:
    """true, false, 1 and 0 are, in any case."""
    answer = await gateway.get(f"/api/jobs?{query}")
    assert (answer.status, set(answer.json)) == (400, {"error"})
    assert "is true or false" in answer.json["error"]


async def test_a_job_of_another_api_is_unknown_here(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Whoever it belongs to."""
    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"], "owner": "local"}]})
    other = answer.json["jobs"][0]["id"]
    assert (await gateway.get("/api/jobs", params={"id": other})).json == []
    assert (await gateway.get("/api/jobs")).json == []


# Large ones


async def test_a_result_that_is_stored_apart_is_put_in_its_place(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Of the last container and of those before; in pieces, and the same for the client."""
    large = json.dumps({"output": ["x" * 1000] * 3000}).encode()
    digest = coordinator.files.store(large)
    name = await a_job(gateway, "echo", "inner")
    await coordinator.move(name, after(b"", last=b"", result_digest=digest, result_bytes=len(large)))
    await coordinator.move(name, lambda job: replace(job, past=advanced(job, b"", s0=digest).past, stage=1))
    result = await the_result(gateway, name, intermediate="true")
    assert result["result"] == {"container": "inner", "output": json.loads(large)}
    assert result["intermediate_results"] == [{"container": "echo", "output": json.loads(large)}]


async def test_a_stored_result_whose_time_is_over_is_said_to_be_gone(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The job has succeeded all the same."""
    name = await a_job(gateway)
    await coordinator.move(name, lambda job: finished(job, result_digest="0" * 64, result_bytes=1 << 20))
    result = await the_result(gateway, name)
    assert result["status"] == "success"
    assert result["result"] == {"container": "echo", "output": None, "error": "the result is not stored any more"}


async def test_an_answer_that_cannot_be_had_whole_breaks_off(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Before its beginning it is 503; afterwards the connection breaks, so that nobody takes it for the whole."""
    names = [await a_job(gateway) for _ in range(30)]
    for name in names:
        await coordinator.move(name, lambda job: finished(job, result=b'"' + b"x" * (WHOLE_BYTES_MAX // 10) + b'"'))
    query = [("id", name) for name in names]
    assert len((await gateway.get("/api/jobs", params=query)).json) == 30
    asked = coordinator.Get

    async def failing(request: Any, context: Any) -> Any:
        if request.id == names[-1]:
            coordinator.refuse = NOT_NOW
        return await asked(request, context)

    await coordinator.stop()
    coordinator.Get = failing  # type: ignore[method-assign]
    await coordinator.start()
    answer = await gateway.session.get(gateway.url + "/api/jobs", params=query)
    with pytest.raises(aiohttp.ClientPayloadError):
        await answer.read()
    assert (await gateway.get("/api/jobs", params=query)).status == 503


async def test_head_answers_as_get_does_without_a_body(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Also where the answer is large."""
    name = await a_job(gateway)
    await coordinator.move(name, lambda job: finished(job, result=b'"' + b"x" * 250_000 + b'"'))
    query = [("id", name)] * 3
    async with gateway.session.head(gateway.url + "/api/jobs", params=query) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    assert (await gateway.get("/api/jobs")).json == [name]


async def test_the_output_of_a_streaming_job_is_its_text(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """As the real node stores it; what the container itself left as its result comes first."""
    name = await a_job(gateway)
    await coordinator.move(name, lambda job: replace(job, spec=_streaming(job.spec)))
    await coordinator.write(name, (OUT, b"one "), (ERR, b"noise"), (OUT, b"two"))
    await coordinator.move(name, lambda job: finished(job))
    assert (await the_result(gateway, name))["result"] == {"container": "echo", "output": {"output": "one two"}}
    await coordinator.move(name, lambda job: finished(job, result=b"[1]"))
    assert (await the_result(gateway, name))["result"] == {"container": "echo", "output": [1]}


async def test_an_output_that_expired_is_not_an_empty_one(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It is null, and says why."""
    name = await a_job(gateway)
    await coordinator.move(name, lambda job: replace(job, spec=_streaming(job.spec)))
    await coordinator.move(name, lambda job: replace(finished(job), log_status=LogStatus.EXPIRED))
    expected = {"container": "echo", "output": None, "error": EXPIRED}
    assert (await the_result(gateway, name))["result"] == expected


def _streaming(spec: JobSpec) -> JobSpec:
    return replace(spec, work=replace(spec.work, env={"HOSTLER_SERVICE_DESTINATION": "2"}))


# Lists


async def test_without_an_id_it_is_a_list_of_the_clients_job_ids_filtered_by_pending(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """true: pending ones; false: finished ones; omitted: all. Recorded ones are among them, once each."""
    assert (await gateway.get("/api/jobs")).json == []
    a, b, c = [await a_job(gateway) for _ in range(3)]
    await coordinator.move(b, lambda job: finished(job, result=b"1"))
    await coordinator.move(c, killed)
    for record in (Record(id="r", status="running"), Record(id="s", status="success"), Record(id="f", status="failed")):
        coordinator.records.known["local", record.id] = record
    for path in ("/api/jobs", "/infernet/api/jobs"):
        assert (await gateway.get(path)).json == [a, b, c, "r", "s", "f"]
        for yes, no in (("true", "false"), ("TRUE", "False"), ("1", "0")):
            assert (await gateway.get(path, params={"pending": yes})).json == [a, "r"]
            assert (await gateway.get(path, params={"pending": no})).json == [b, c, "s", "f"]


async def test_a_list_of_many_thousands_is_whole(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Over several pages of the coordinator, and sent while it is made."""
    made: list[str] = []
    for _ in range(3):
        answer = await gateway.post("/api/jobs/batch", [a_request()] * 4000)
        made += [item["id"] for item in answer.json]
    answer = await gateway.get("/api/jobs")
    assert answer.json == made
    assert answer.headers["Transfer-Encoding"] == "chunked"


async def test_not_now_is_503_on_every_read(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """As JSON."""
    coordinator.refuse = NOT_NOW
    for path in ("/info", "/api/jobs", f"/api/jobs?id={UNKNOWN}"):
        answer = await gateway.get(path)
        assert (answer.status, answer.json) == (503, {"error": NOT_NOW.message})
