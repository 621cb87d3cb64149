"""Which parts of the PiXYZ document need a key, where keys are needed, and how its absence is said."""

from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator
from tests.gateway.pixyz_calls import SLEEP, UNKNOWN, open_gateway, post_form
from tests.gateway.test_pixyz import UUID_PATHS

KEYED = (("GET", "/jobs"), ("POST", "/jobs"), *(("GET", path.format(UNKNOWN)) for path in UUID_PATHS))
FREE = ("/processes", "/processes/sleep")


@pytest.mark.parametrize(("method", "path"), KEYED)
@pytest.mark.parametrize("prefix", ["", "/pixyz"])
async def test_without_the_right_key_jobs_and_backend_are_401(
    coordinator: FakeCoordinator, tmp_path: Path, method: str, path: str, prefix: str
) -> None:
    """`x-api-key`, where keys are needed; the refusal comes before anything else is looked at."""
    key = coordinator.access.add("developer")
    networks = ("127.0.0.0/8",)  # who is admitted by network needs one here all the same
    async with open_gateway(
        coordinator, tmp_path, secured=True, admitted_networks=networks, requests_per_s=0
    ) as gateway:
        for headers in ({}, {"x-api-key": ""}, {"x-api-key": "k"}, {"x-api-key": key[:-1]}, {"x-api-key": "\u00fc"}):
            for spelled in (path, path + "/", path.replace(UNKNOWN, "no-uuid")):
                answer = await gateway.call(method, prefix + spelled, headers=headers)
                assert (answer.status, answer.json) == (401, {"detail": "Invalid token"})
                assert answer.headers["WWW-Authenticate"] == "x-api-key"
        answer = await gateway.call(method, prefix + path, headers={"X-API-KEY": key})
        assert answer.status in (200, 404, 422)


async def test_processes_and_root_need_no_key_in_an_admitted_network_unless_the_setting_says_so(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Clients send none there."""
    coordinator.workloads.add(SLEEP)
    key = coordinator.access.add("viewer")
    networks: dict[str, Any] = {"admitted_networks": ("127.0.0.0/8",)}
    async with open_gateway(coordinator, tmp_path, secured=True, **networks) as gateway:
        for path in FREE:
            assert (await gateway.get(path)).status == 200
        assert (await gateway.post("/dev/callback", {})).status == 401
        assert (await gateway.post("/dev/callback", {}, headers={"x-api-key": key})).status == 200
        async with gateway.session.get(gateway.url) as answer:
            assert answer.status == 200
    settings: list[dict[str, Any]] = [networks | {"key_for_processes": True}, {}]
    for more in settings:
        async with open_gateway(coordinator, tmp_path, secured=True, **more) as gateway:
            for path in FREE:
                assert (await gateway.get(path)).status == 401
                assert (await gateway.get(path, headers={"x-api-key": key})).status == 200


async def test_on_this_host_a_key_of_another_server_does_no_harm(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Clients of this API must send one along; an empty one, one in another place and a bad one of ours are refused."""
    coordinator.workloads.add(SLEEP)
    for headers in ({"x-api-key": "K"}, {}):
        for path in ("/jobs", "/pixyz/jobs", "/processes"):
            assert (await gateway.get(path, headers=headers)).status == 200
    assert (await gateway.get("/v1/jobs", headers={"x-api-key": "K"})).status == 401
    for headers in ({"x-api-key": ""}, {"Authorization": "Bearer K"}, {"Authorization": "Basic YTpi"}):
        answer = await gateway.get("/jobs", headers=headers)
        assert (answer.status, answer.json) == (401, {"detail": "Invalid token"})
    key = coordinator.access.add("viewer")
    assert (await gateway.get("/jobs", headers={"x-api-key": key})).status == 200
    assert (await post_form(gateway, ("process", b"sleep"), **{"x-api-key": key})).status == 403
    assert (await gateway.get("/jobs", headers={"x-api-key": key[:-1] + "x"})).status == 401
