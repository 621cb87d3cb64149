"""Whom the gateway turns away by itself it tells the coordinator: counted, bounded, and kept while that is away."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostler.policy import EVERYTHING
from http_gateway import refusals
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator
from tests.gateway.infernet_calls import open_gateway
from tests.gateway.test_authorisation import secured_gateway
from tests.support.waiting import eventually

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a second."""
    monkeypatch.setattr(refusals, "EVERY_S", 0.05)


async def told(coordinator: FakeCoordinator, enough: Callable[[list[Any]], bool]) -> list[tuple[str, str, str, str]]:
    """What was told, once it is enough: action, principal, credential and detail; all comes from here."""
    found = coordinator.access.turned_away
    await eventually(lambda: enough(found), "the coordinator was told")
    assert {each.address for each in found} == {HERE}
    return [(each.action, each.principal, each.credential, each.detail) for each in found]


def words(found: list[tuple[str, str, str, str]]) -> list[tuple[str, str]]:
    """The action, and the stable word of each."""
    return [(action, detail.partition(":")[0]) for action, _, _, detail in found]


async def test_pages_proxies_and_other_hosts_are_told_with_the_route(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Nobody is known then; the path itself is told nowhere."""
    job = "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"
    for method, path, headers in (
        ("GET", f"/v1/jobs/{job}?a=canary", {"Host": "evil.example"}),
        ("POST", "/v1/jobs", {"Origin": "https://evil.example"}),
        ("GET", "/canary", {"Via": "x"}),
    ):
        await gateway.call(method, path, headers=headers)
    found = await told(coordinator, lambda found: len(found) == 3)

    assert sorted(words(found)) == [
        ("GET (no route)", "unauthenticated"),
        ("GET /v1/jobs/{id}", "misdirected_request"),
        ("POST /v1/jobs", "permission_denied"),
    ]
    assert {(principal, credential) for _, principal, credential, _ in found} == {("", "")}
    assert "canary" not in repr(found) and job not in repr(found)


async def test_what_a_caller_may_not_is_told_under_its_name(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """Of a key its id and its owner; of one that is no good nothing."""
    key = coordinator.access.add("metrics:read", owner="ada")
    async with secured_gateway(coordinator, tmp_path) as gateway:
        assert (await gateway.get("/v1/workers", headers={"x-api-key": key})).status == 403
        assert (await gateway.get("/v1/workers")).status == 401
        assert (await gateway.get("/v1/workers", headers={"x-api-key": "canary"})).status == 401
        found = await told(coordinator, lambda found: len(found) == 3)

    by_detail = {detail: (principal, credential) for _, principal, credential, detail in found}
    assert by_detail.pop("permission_denied: this needs the scope workers:read, which the caller does not have") == (
        "ada",
        key.split("_")[1],
    )
    assert set(by_detail.values()) == {("", "")}
    assert "canary" not in repr(found)


async def test_who_asks_too_often_is_told_with_a_count(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """The same refusal of the same caller is one line, however often it comes within a second."""
    key = coordinator.access.add(*EVERYTHING, owner="ada")
    async with secured_gateway(coordinator, tmp_path, requests_per_s=1.0) as gateway:
        asking = [gateway.get("/v1/workers", headers={"x-api-key": key}) for _ in range(8)]
        refused = [answer.status for answer in await asyncio.gather(*asking)].count(429)
        assert refused >= 4
        await eventually(lambda: sum(e.times for e in coordinator.access.turned_away) == refused, "all were counted")
        assert {e.detail.partition(":")[0] for e in coordinator.access.turned_away} == {"overloaded"}

    coordinator.access.turned_away.clear()
    async with secured_gateway(coordinator, tmp_path) as gateway:
        for _ in range(200):
            await gateway.get("/v1/workers")
        await eventually(lambda: sum(e.times for e in coordinator.access.turned_away) == 200, "all were counted")
    assert len(coordinator.access.turned_away) < 100


async def test_an_address_that_may_not_put_a_status_is_told(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """The network that may is a setting of the family."""
    networks = {"admitted_networks": ("127.0.0.0/8",), "infernet_status_networks": ("10.0.0.0/8",)}
    async with open_gateway(coordinator, tmp_path, options={"secured": True}, **networks) as gateway:
        body = {"id": "9f2c", "status": "running", "containers": ["echo"]}
        async with gateway.caller().session.put(gateway.url + "/api/status", json=body) as response:
            assert response.status == 403
        found = await told(coordinator, bool)
    assert found == [("PUT /api/status", f"address:{HERE}", "", "permission_denied: Unauthorized")]


async def test_kinds_are_bounded_and_nothing_is_lost_while_the_coordinator_is_away(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those above the bound are counted together; what could not be told is told later."""
    monkeypatch.setattr(refusals, "KINDS_MAX", 5)
    coordinator.access.notes_fail = True
    routes = ["/v1/jobs", "/v1/workers", "/v1/cluster", "/info", "/processes", "/jobs", "/docs", "/metrics", "/query"]
    for path in routes:
        await gateway.get(path, headers={"Via": "x"})
    coordinator.access.notes_fail = False
    await eventually(lambda: sum(e.times for e in coordinator.access.turned_away) == len(routes), "all were told")

    assert len(coordinator.access.turned_away) <= 6
    assert any(e.action == "any" for e in coordinator.access.turned_away)


async def test_what_is_left_is_told_when_the_gateway_ends(
    coordinator: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only once a second."""
    monkeypatch.setattr(refusals, "EVERY_S", 1000)
    async with secured_gateway(coordinator, tmp_path) as gateway:
        await gateway.get("/v1/workers")
    assert len(coordinator.access.turned_away) == 1
