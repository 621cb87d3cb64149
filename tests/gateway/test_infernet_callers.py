"""Who calls the Infernet API, what each caller sees, and who may call at all."""

from pathlib import Path
from typing import Any

import pytest

from http_gateway.networks import parse_networks
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator, finished
from tests.gateway.infernet_calls import CONTAINERS, a_job, a_request, open_gateway

OTHER = 12345  # a user who is neither we nor root
FAMILY_PATHS = ("/health", "/info", "/api/jobs", "/infernet/api/jobs", "/resources", "/infernet/health")
OTHER_PATHS = ("/v1/jobs", "/v1/workers", "/jobs", "/metrics", "/discord/ping", "/api/x")


@pytest.fixture(autouse=True)
def containers(coordinator: FakeCoordinator) -> None:
    """What the coordinator knows."""
    coordinator.workloads.add(*CONTAINERS)


def owner_of(coordinator: FakeCoordinator, name: str) -> str:
    """Whose job it is."""
    return coordinator.jobs[name].spec.owner


# Principals


@pytest.mark.parametrize(
    ("headers", "status", "owner"),
    [
        ({}, 200, "local"),
        ({"x-api-key": "KEY"}, 200, "node"),
        ({"Authorization": "Bearer KEY"}, 200, "node"),
        ({"Authorization": "bearer  KEY "}, 200, "node"),
        ({"x-api-key": "KEY", "Authorization": "Bearer KEY"}, 200, "node"),
        ({"x-api-key": "wrong", "Authorization": "Bearer KEY"}, 401, ""),
        ({"x-api-key": "hst_0123456789ab_" + "A" * 43}, 401, ""),
        ({"x-api-key": "wrong"}, 401, ""),
        ({"x-api-key": ""}, 401, ""),
        ({"x-api-key": "", "Authorization": "Bearer KEY"}, 401, ""),
        ({"Authorization": ""}, 401, ""),
        ({"Authorization": "Basic KEY"}, 401, ""),
        ({"Authorization": "Basic YTpi"}, 401, ""),
        ({"Authorization": "Bearer"}, 401, ""),
        ({"Authorization": "Bearer "}, 401, ""),
        ({"Authorization": "Bearer wrong"}, 401, ""),
    ],
)
async def test_a_caller_on_this_host_is_the_key_it_shows_or_a_local_one(
    gateway: Caller, coordinator: FakeCoordinator, headers: dict[str, str], status: int, owner: str
) -> None:
    """A header that is there and holds no good key is refused: an empty variable does not give every right."""
    key = coordinator.access.add("submitter", owner="node")
    shown = {name: value.replace("KEY", key) for name, value in headers.items()}
    answer = await gateway.post("/api/jobs", a_request(), headers=shown)
    assert answer.status == status
    assert [job.spec.owner for job in coordinator.jobs.values()] == ([owner] if owner else [])


async def test_each_address_of_an_admitted_network_is_a_principal_of_its_own_unless_it_shows_a_key(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Addresses of other networks are local callers."""
    key = coordinator.access.add("submitter", owner="node")
    async with open_gateway(
        coordinator, tmp_path, admitted_networks=("127.0.0.2/31", "::1/128", "10.1.2.3")
    ) as gateway:
        for address, principal in (
            ("127.0.0.1", "local"),
            ("127.0.0.2", "address:127.0.0.2"),
            ("127.0.0.3", "address:127.0.0.3"),
            ("127.0.0.4", "local"),
        ):
            caller = gateway.caller(address)
            assert owner_of(coordinator, await a_job(caller)) == principal
            answer = await caller.post("/api/jobs", a_request(), headers={"x-api-key": key})
            assert owner_of(coordinator, answer.json["id"]) == "node"


async def test_results_and_lists_are_only_of_the_callers_jobs(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """For the given client: to another one the job is unknown, with or without its id."""
    key = coordinator.access.add("operator", owner="node")  # who sees all elsewhere sees his own here
    async with open_gateway(coordinator, tmp_path, admitted_networks=("127.0.0.0/30",)) as gateway:
        one, two = gateway.caller("127.0.0.1"), gateway.caller("127.0.0.2")
        names = {one: await a_job(one, "echo"), two: await a_job(two, "echo")}
        keyed = (await one.post("/api/jobs", a_request(), headers={"x-api-key": key})).json["id"]
        batch = (await two.post("/api/jobs/batch", [a_request()])).json[0]["id"]
        async with two.session.post(two.url + "/api/jobs/stream", json=a_request()) as response:
            stream = (await response.content.readline()).decode().strip()
            await coordinator.move(stream, finished)
        every = [*names.values(), keyed, batch, stream]
        for caller, headers, own in (
            (one, {}, [names[one]]),
            (two, {}, [names[two], batch, stream]),
            (one, {"x-api-key": key}, [keyed]),
            (two, {"x-api-key": key}, [keyed]),
        ):
            answer = await caller.get("/api/jobs", headers=headers)
            assert answer.json == own
            answer = await caller.get("/api/jobs", params=[("id", name) for name in every], headers=headers)
            assert [item["id"] for item in answer.json] == own


async def test_a_container_is_allowed_by_the_address_of_the_caller(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Of the connection; no header says it."""
    async with open_gateway(coordinator, tmp_path) as gateway:
        for address in ("127.0.0.1", "127.9.9.9"):
            await a_job(gateway.caller(address), "open")
            answer = await gateway.caller(address).post("/api/jobs", a_request("fenced"))
            assert answer.json["params"] == {"container": "fenced", "address": address}


# Who may call at all


async def test_another_users_process_is_admitted_by_a_key_or_by_its_network_to_this_api_alone(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """The document of PiXYZ has a list of processes, whose clients send no key either."""
    key = {"x-api-key": coordinator.access.add("operator")}
    options: dict[str, Any] = {"options": {"lookup": lambda peer, local: OTHER}}
    async with open_gateway(coordinator, tmp_path, **options, admitted_networks=("127.0.0.2",)) as gateway:
        admitted, refused = gateway.caller("127.0.0.2"), gateway.caller("127.0.0.1")
        for path in FAMILY_PATHS:
            assert (await admitted.get(path)).status == 200
            assert (await refused.get(path)).status == 403
        for path in OTHER_PATHS:
            assert (await admitted.get(path)).status == 403
            assert (await refused.get(path)).status == 403
        for path in (*FAMILY_PATHS, "/v1/jobs", "/v1/workers", "/jobs", "/processes", "/discord/ping"):
            assert (await admitted.get(path, headers=key)).status == 200
            assert (await refused.get(path, headers=key)).status == 200
        assert owner_of(coordinator, await a_job(admitted)) == "address:127.0.0.2"
        answer = await admitted.post("/v1/jobs", {"jobs": [{"argv": ["true"]}]})
        assert answer.status == 403
        assert len(coordinator.jobs) == 1


async def test_an_unknown_connection_is_401_unless_its_network_is_admitted(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Where the kernel does not say whose it is."""
    options: dict[str, Any] = {"options": {"lookup": lambda peer, local: None}}
    async with open_gateway(coordinator, tmp_path, **options) as gateway:
        assert (await gateway.caller().get("/info")).status == 401
    async with open_gateway(coordinator, tmp_path, **options, admitted_networks=("127.0.0.0/8",)) as gateway:
        assert (await gateway.caller().get("/info")).status == 200
        assert (await gateway.caller().get("/v1/jobs")).status == 401


@pytest.mark.parametrize(
    ("headers", "status", "with_key"),
    [
        ({"Host": "evil.example"}, 421, 421),
        ({"X-Forwarded-For": "127.0.0.2"}, 401, 200),
        ({"Origin": "https://evil.example"}, 403, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403, 403),
    ],
)
async def test_an_admitted_network_changes_nothing_about_hosts_proxies_and_foreign_pages(
    coordinator: FakeCoordinator, tmp_path: Path, headers: dict[str, str], status: int, with_key: int
) -> None:
    """They are refused as ever; a key says who is behind a proxy, and nothing about the others."""
    key = {"x-api-key": coordinator.access.add("viewer")}
    async with open_gateway(coordinator, tmp_path, admitted_networks=("127.0.0.0/8",)) as gateway:
        assert (await gateway.caller().get("/info", headers=headers)).status == status
        assert (await gateway.caller().get("/info", headers=headers | key)).status == with_key


def test_a_network_may_be_written_as_an_address_or_with_bits_of_a_host() -> None:
    """As people write them."""
    found = parse_networks(("10.1.2.3", "10.0.0.7/8", "::1", "fd00::1/8"), field="x")
    assert list(map(str, found)) == ["10.1.2.3/32", "10.0.0.0/8", "::1/128", "fd00::/8"]
