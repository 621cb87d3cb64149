"""`PUT /api/status` of the Infernet document: jobs that somebody else runs, and says so."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from hostler.errors import InvalidRequest
from hostler.jobs import Record
from hostler.settings import load
from http_gateway.app import make_app
from http_gateway.infernet_shapes import RECORDED_FAILURE
from tests.gateway.conftest import Answer, Caller
from tests.gateway.fake_coordinator import FakeCoordinator
from tests.gateway.infernet_calls import CONTAINERS, a_job, open_gateway


async def put(gateway: Caller, body: Any, path: str = "/api/status") -> Answer:
    """PUT a body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await gateway.call("PUT", path, data=io.BytesIO(raw))


def a_record(**changes: Any) -> dict[str, Any]:
    """A body."""
    return {"id": "outside", "status": "success", "containers": ["a", "b"], **changes}


async def test_put_status_registers_job_id_and_status_with_the_node(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`PUT /api/status`: 200, and JSON, which the client reads; containers need not exist, other keys do no harm."""
    for path in ("/api/status", "/infernet/api/status"):
        answer = await put(gateway, a_record(data={"x": 1}), path)
        assert (answer.status, answer.json, answer.text) == (200, None, "null\n")
    assert coordinator.records.known == {
        ("local", "outside"): Record(id="outside", status="success", containers=("a", "b"))
    }
    assert (await put(gateway, a_record(id="none:of:them", containers=[]))).status == 200


async def test_a_recorded_job_has_the_status_it_was_given_last(gateway: Caller) -> None:
    """Once, in results and lists; a failed one says in which container, for clients look there."""
    expected = {
        "running": None,
        "failed": {"container": "b", "error": RECORDED_FAILURE},
        "success": None,
    }
    for status in ("running", "failed", "running", "success"):
        assert (await put(gateway, a_record(status=status))).status == 200
        answer = await gateway.get("/api/jobs?id=outside")
        assert answer.json == [{"id": "outside", "status": status, "result": expected[status]}]
        answer = await gateway.get("/api/jobs?id=outside&intermediate=true&id=outside")
        assert [item["intermediate_results"] for item in answer.json] == [[], []]
        assert (await gateway.get("/api/jobs")).json == ["outside"]
        assert bool((await gateway.get("/api/jobs?pending=true")).json) == (status == "running")
    await put(gateway, a_record(status="failed", containers=[]))
    assert (await gateway.get("/api/jobs?id=outside")).json[0]["result"]["container"] == ""


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (a_record(status="done"), "Status is invalid"),
        (a_record(status=None), "Status is invalid"),
        (a_record(status=["success"]), "Status is invalid"),
        (b"", "Could not store job status: "),
        (b'{"id": "x",}', "Could not store job status: "),
        ([], "Could not store job status: a JSON object"),
        ({"status": "success", "containers": []}, 'Could not store job status: missing value for field "id"'),
        ({"id": "x", "containers": []}, 'Could not store job status: missing value for field "status"'),
        ({"id": "x", "status": "success"}, 'Could not store job status: missing value for field "containers"'),
        (a_record(id=7), 'Could not store job status: wrong value for field "id"'),
        (a_record(id=""), 'Could not store job status: wrong value for field "id": a text of 1 to 200 characters'),
        (a_record(id="x" * 201), 'Could not store job status: wrong value for field "id"'),
        (a_record(containers="a"), 'Could not store job status: wrong value for field "containers"'),
        (a_record(containers=[1]), 'Could not store job status: wrong value for field "containers"'),
        (a_record(containers=["a"] * 101), 'Could not store job status: wrong value for field "containers"'),
        (a_record(containers=["a" * 201]), 'Could not store job status: wrong value for field "containers"'),
    ],
)
async def test_put_status_failure_is_400_for_every_bad_body(
    gateway: Caller, coordinator: FakeCoordinator, body: Any, error: str
) -> None:
    """With a text, and nothing is recorded."""
    answer = await put(gateway, body)
    assert (answer.status, set(answer.json)) == (400, {"error"})
    assert answer.json["error"].startswith(error)
    assert not coordinator.records.known


async def test_put_status_failure_is_400_for_a_job_that_the_cluster_runs(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """It is meant for jobs from outside."""
    coordinator.workloads.add(*CONTAINERS)
    name = await a_job(gateway)
    answer = await put(gateway, a_record(id=name, status="success"))
    assert (answer.status, set(answer.json)) == (400, {"error"})
    assert name in answer.json["error"]
    assert (await gateway.get("/api/jobs", params={"id": name})).json[0]["status"] == "running"


async def test_put_status_is_403_from_a_network_that_may_not(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """In the real node's word, before the body is looked at; the settings say who may."""
    networks = ("127.0.0.2/32", "::1/128")
    async with open_gateway(coordinator, tmp_path, infernet_status_networks=networks) as gateway:
        for body in (a_record(), b"{"):
            answer = await put(gateway.caller("127.0.0.1"), body)
            assert (answer.status, answer.json) == (403, {"error": "Unauthorized"})
        assert not coordinator.records.known
        assert (await put(gateway.caller("127.0.0.2"), a_record())).status == 200


async def test_a_recorded_status_is_only_the_principals_who_recorded_it(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Two of them may record the same id."""
    async with open_gateway(coordinator, tmp_path, admitted_networks=("127.0.0.0/8",)) as gateway:
        one, two = gateway.caller("127.0.0.1"), gateway.caller("127.0.0.2")
        await put(one, a_record(status="running"))
        assert (await two.get("/api/jobs?id=outside")).json == []
        assert (await two.get("/api/jobs")).json == []
        await put(two, a_record(status="failed"))
        assert (await one.get("/api/jobs?id=outside")).json[0]["status"] == "running"


async def test_not_now_is_503(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It was not recorded."""
    await coordinator.stop()
    answer = await put(gateway, a_record())
    assert (answer.status, set(answer.json)) == (503, {"error"})


@pytest.mark.parametrize("name", ["infernet_status_networks", "admitted_networks"])
async def test_a_setting_with_a_network_that_is_none_does_not_let_the_gateway_start(
    coordinator: FakeCoordinator, tmp_path: Path, name: str
) -> None:
    """It is named."""
    with pytest.raises(InvalidRequest, match=f"setting {name}: '10.0.0.0/33'") as caught:
        make_app(None, load(data_dir=tmp_path, **{name: ("10.0.0.0/8", "10.0.0.0/33")}))  # type: ignore[arg-type]
    assert caught.value.field == name
