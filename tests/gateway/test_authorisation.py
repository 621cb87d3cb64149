"""The authorisation matrix of HTTP: every route and method with every kind of credential, in secured mode.

It is generated from the table of policies and from the application's own routes: a route is covered the day it is
added, and one that is in no table stops the start.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from hostler.client import Client
from hostler.errors import InternalError
from hostler.jobs import Job, JobSpec, Work
from hostler.keys import RANDOM_BYTES, make_key
from hostler.lifecycle import State
from hostler.policy import ADDRESS, Door, Scope
from hostler.settings import load
from hostler.workloads import Workload
from http_gateway import open_requests
from http_gateway.app import make_app, serve
from http_gateway.callers import UNSAID
from http_gateway.key_checks import FRESH_S, KeyChecks
from http_gateway.open_requests import OpenRequests
from http_gateway.route_policy import RULES, RoutePolicy, Rule, name_of
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import WORKER, FakeCoordinator, an_end, finished, running
from tests.gateway.infernet_calls import a_request
from tests.gateway.pixyz_calls import multipart
from tests.support.waiting import eventually

UNKNOWN_KEY = make_key(b"\x07" * RANDOM_BYTES).text
GARBAGE = ("x", "hst_", "hst_000000000001_short", UNKNOWN_KEY, "'; drop table keys; --", "Bearer")
JOB = "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"
OWNER, OTHER = "somebody", "another"
PREFIXES = ("/scheduler", "/altron", "/pixyz", "/infernet")
FAMILIES = {"/start": "scheduler", "/stop": "scheduler", "/query": "scheduler", "/jobs": "pixyz", "/backend": "pixyz",
            "/subprocess": "altron"}  # fmt: skip
ON_WORKER = {"worker_id": WORKER, "job_id": JOB}
FORM = multipart(("process", b"echo"))
BODIES: Mapping[str, dict[str, Any]] = {
    "POST /start": {"json": {"worker_id": WORKER, "command": "true", "path": "x"}},
    "POST /stop": {"json": ON_WORKER},
    "POST /query": {"json": ON_WORKER},
    "POST /v1/jobs": {"json": {"jobs": [{"workload": "echo"}]}},
    "POST /v1/jobs/wait": {"json": {"ids": [JOB], "timeout": 0.01}},
    "POST /v1/jobs/{id}/signal": {"json": {"signal": "SIGINT"}},
    "POST /v1/files": {"data": b"bytes"},
    "POST /v1/workloads": {"json": {"workloads": [{"name": "new", "argv": ["true"]}]}},
    "POST /subprocess/job/create": {"json": {"title": "t", "description": "d", "priority": 1}},
    "POST /discord/message": {"json": [{"sender": "a", "text": "b"}]},
    "POST /jobs": {"data": {"process": "echo"}},
    "POST /dev/callback": {"json": {}},
    "POST /api/jobs": {"json": a_request()},
    "POST /api/jobs/batch": {"json": [a_request()]},
    "POST /api/jobs/stream": {"json": a_request()},
    "PUT /api/status": {"json": {"id": "x", "status": "running", "containers": []}},
}
QUERIES = {"GET /api/jobs": f"?id={JOB}"}
# Routes about one job, which answer about a foreign one exactly as about one that never was.
OF_JOBS = [name for name in RULES if ("{id}" in name and "/jobs" in name) or "{job_uuid}" in name] + [
    "POST /stop", "POST /query", "POST /v1/jobs/wait", "GET /subprocess/job/get_status",
    "GET /subprocess/job/get_result", "DELETE /subprocess/job/terminate", "GET /api/jobs",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """How a route is called so that the right key gets through."""

    name: str
    method: str
    path: str

    @property
    def options(self) -> dict[str, Any]:
        """A body that means something, where there is one."""
        return dict(BODIES.get(self.name, {}))


def calls() -> list[Call]:
    """Every route at every place where it is mounted, with every method that it takes."""
    app = make_app(cast(Client, SimpleNamespace(access=None)), load(data_dir="/nowhere"), secured=True)
    found: dict[tuple[str, str], Call] = {}
    for route in app.router.routes():
        template = route.resource.canonical if route.resource is not None else ""
        found[route.method, template] = Call(_name(route.method, template), route.method, _path(template))
    return list(found.values())


def _name(method: str, template: str) -> str:
    name = name_of(method, template)
    for prefix in PREFIXES:
        if name not in RULES:
            name = name_of(method, template.removeprefix(prefix))
    return name


def _path(template: str) -> str:
    for name, value in (
        ("{id}", WORKER if "/workers/" in template else JOB), ("{job_uuid}", JOB), ("{name}", "echo"),
        ("{process_name}", "echo"), ("{path}", "a.txt"), ("{file_path}", "a.txt"),
    ):  # fmt: skip
        template = template.replace(name, value)
    query = f"?job_id={JOB}" if "/subprocess/job/" in template else ""
    return template + (query or QUERIES.get(name_of("GET", template.removeprefix("/infernet")), ""))


CALLS = calls()
GUARDED = [call for call in CALLS if RULES[call.name].door is not Door.ANYBODY]
SECURED: dict[str, Any] = {"requests_per_s": 0, "altron_workload": "echo", "altron_reply_workload": "echo"}


@asynccontextmanager
async def secured_gateway(coordinator: FakeCoordinator, tmp_path: Path, **settings: Any) -> AsyncIterator[Caller]:
    """A gateway that asks everybody for a key, and is called by a local program of the same user."""
    coordinator.workloads.add(Workload(name="echo", documentation="Echoes.", argv=("cat",)))
    coordinator.on_submit = lambda job: finished(job, result=b'{"text": "x"}')
    app_settings = load(data_dir=tmp_path, **(SECURED | settings))
    async with (
        Client(coordinator.address, principal=UNSAID) as client,
        serve(make_app(client, app_settings, secured=True), "127.0.0.1", 0) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Caller(url, session)


def put_job(coordinator: FakeCoordinator, path: str, *, owner: str, running_now: bool = False) -> None:
    """Put a job there that the route at *path* is about."""
    for prefix in PREFIXES:
        path = path.removeprefix(prefix)
    default = "infernet" if path.startswith("/api/") else "native"
    family = next((name for start, name in FAMILIES.items() if path.startswith(start)), default)
    spec = JobSpec(work=Work(argv=("x",)), family=family, owner=owner, worker=WORKER)
    job = Job(id=JOB, spec=spec, state=State.QUEUED)
    result = {"end": an_end(result=b'{"a": 1}')}
    made = running(job) if running_now else replace(finished(job), **result)  # type: ignore[arg-type]
    coordinator.jobs[JOB] = made
    coordinator.outputs[JOB] = {"a.txt": b"x"}


async def status_of(gateway: Caller, call: Call, key: str | None, *, bearer: bool = False) -> tuple[int, str]:
    """Call, and return the status and the body."""
    shown = {"Authorization": f"Bearer {key}"} if bearer else {"x-api-key": str(key)}
    async with gateway.session.request(
        call.method, gateway.url + call.path, headers={} if key is None else shown, **call.options
    ) as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        if call.name == "GET /v1/events" and response.status == 200:
            return 200, ""  # it has no end
        return response.status, (await response.read()).decode(errors="replace")


def changed(coordinator: FakeCoordinator) -> Any:
    """What calls may have changed."""
    return (
        dict(coordinator.jobs), dict(coordinator.files.sizes), dict(coordinator.workloads.known),
        dict(coordinator.records.known), list(coordinator.workers), list(coordinator.signals), len(coordinator.graces),
    )  # fmt: skip


# The table


def test_every_rule_asks_for_something_and_of_networks_for_no_more_than_they_have() -> None:
    """Only three ask for a key and no scope; what is open to networks needs no more than callers from there have."""
    for name, rule in RULES.items():
        assert rule.scopes or rule.door is Door.ANYBODY or name in ("GET /", "GET /discord/ping", "POST /dev/callback")
        assert not rule.networks or ADDRESS.issuperset(rule.scopes), name


@pytest.mark.parametrize("rules", [{}, {**RULES, "GET /gone": Rule()}], ids=["too few", "too many"])
async def test_a_route_without_a_rule_and_a_rule_without_a_route_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: dict[str, Rule]
) -> None:
    """Deny by default."""
    policy = RoutePolicy(rules=rules)
    monkeypatch.setattr("http_gateway.app.RoutePolicy", lambda **_: policy)
    async with Client("unix:/nowhere", principal=UNSAID) as client:
        with pytest.raises(InternalError, match="route"):
            make_app(client, load(data_dir=tmp_path))


# The matrix


async def test_without_a_good_key_every_route_is_401_and_nothing_changes(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """None, garbage, expired, revoked, good from elsewhere: also for a local program of the same user."""
    access = coordinator.access
    expired, revoked = access.add("admin", expires_at_us=1), access.add("admin")
    access.revoke(revoked)
    elsewhere = access.add("admin", address="10.0.0.1")
    async with secured_gateway(coordinator, tmp_path) as gateway:
        before = changed(coordinator)
        for number, call in enumerate(GUARDED):
            put_job(coordinator, call.path, owner=OWNER)
            before = changed(coordinator)
            # The address waits after twenty keys that are no good; here each route is a new beginning.
            for key in (None, GARBAGE[number % len(GARBAGE)], expired, revoked, elsewhere):
                status, text = await status_of(gateway, call, key, bearer=bool(number % 2))
                assert status == 401 or (status == 429 and key), (call, key, text)
            assert changed(coordinator) == before, call
        assert (await gateway.get("/health")).status == 200


async def test_with_a_scope_too_few_every_route_is_403_and_with_the_right_ones_it_answers(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """The coordinator, which asks again, agrees: the rule names all that the handler needs."""
    access = coordinator.access
    async with secured_gateway(coordinator, tmp_path) as gateway:
        for call in GUARDED:
            rule = RULES[call.name]
            for missing in rule.scopes:
                key = access.add(*(set(Scope) - {missing}), owner=OWNER)
                put_job(
                    coordinator,
                    call.path,
                    owner=OWNER,
                )
                before = changed(coordinator)
                status, text = await status_of(gateway, call, key)
                assert status == 403, (call, missing, text)
                assert call.method == "HEAD" or missing in text
                assert changed(coordinator) == before
            key = access.add(*(rule.scopes or (Scope.AUDIT_READ,)), owner=OWNER)
            put_job(
                coordinator,
                call.path,
                owner=OWNER,
                running_now="signal" in call.name,
            )
            coordinator.workloads.add(Workload(name="echo", documentation="Echoes.", argv=("cat",)))
            status, text = await status_of(gateway, call, key)
            assert status in (200, 201), (call, text)


@pytest.mark.parametrize("name", OF_JOBS)
async def test_a_foreign_job_is_answered_exactly_like_an_unknown_one(
    coordinator: FakeCoordinator, tmp_path: Path, name: str
) -> None:
    """Status and body, in every family; with the scope for everybody's it is there."""
    everything = set(Scope) - {Scope.JOBS_ANY_OWNER, Scope.PRINCIPALS_ASSERT}
    key = coordinator.access.add(*everything, owner=OTHER)
    async with secured_gateway(coordinator, tmp_path) as gateway:
        for call in CALLS:
            if call.name != name:
                continue
            coordinator.jobs.clear()
            unknown = await status_of(gateway, call, key)
            put_job(coordinator, call.path, owner=OWNER, running_now="signal" in name)
            before = changed(coordinator)
            assert await status_of(gateway, call, key) == unknown, call
            assert unknown[0] in (404, 500) or (name == "GET /api/jobs" and unknown[1] in ("", "[]\n"))
            assert changed(coordinator) == before
            seeing = coordinator.access.add(*everything, Scope.JOBS_ANY_OWNER, owner=OTHER)
            if name != "GET /api/jobs":  # which shows the caller's own in any case
                assert (await status_of(gateway, call, seeing))[0] in (200, 202)


async def test_lists_show_ones_own_jobs(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """In every family that has one."""
    mine, other = (coordinator.access.add("developer", owner=owner) for owner in (OWNER, OTHER))
    async with secured_gateway(coordinator, tmp_path) as gateway:
        for path, family_path in (("/v1/jobs", "/v1"), ("/jobs", "/jobs"), ("/api/jobs", "/api/jobs")):
            put_job(coordinator, family_path, owner=OWNER)
            assert JOB in (await gateway.get(path, headers={"x-api-key": mine})).text
            assert JOB not in (await gateway.get(path, headers={"x-api-key": other})).text


async def test_no_route_and_a_wrong_method_tell_nothing_to_who_is_not_known(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """401 as everywhere; with a key they are what they are."""
    key = coordinator.access.add("viewer")
    async with secured_gateway(coordinator, tmp_path) as gateway:
        for method, path, status in (("GET", "/nowhere", 404), ("DELETE", "/v1/jobs", 405), ("GET", "/jobs/x/y", 404)):
            assert (await gateway.call(method, path)).status == 401
            assert (await gateway.call(method, path, headers={"x-api-key": key})).status == status


async def test_each_call_to_the_coordinator_says_for_whom_it_is(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """But those that the gateway makes for itself: how the cluster fares."""
    async with secured_gateway(coordinator, tmp_path) as gateway:
        await gateway.get("/health")
        key = coordinator.access.add(*Scope, owner=OWNER)
        for call in CALLS:
            put_job(coordinator, call.path, owner=OWNER)
            await status_of(gateway, call, key)
    assert {said for _, said in coordinator.access.seen} == {"", "key:000000000001"}
    assert {method for method, said in coordinator.access.seen if not said} == {"Cluster/Describe"}


# Open streams


@pytest.mark.parametrize(
    "path", [f"/v1/jobs/{JOB}/log?follow=1", f"/v1/jobs/{JOB}/log?raw=both&follow=1", f"/v1/jobs/{JOB}?wait=60"]
)
async def test_an_open_stream_ends_when_its_key_is_revoked(
    coordinator: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Within 30 s: by what was asked 10 s ago at most, every 10 s; here, sooner. Another's goes on."""
    assert FRESH_S + open_requests.RECHECK_S <= 20
    monkeypatch.setattr("http_gateway.open_requests.RECHECK_S", 0.05)
    monkeypatch.setattr("http_gateway.key_checks.FRESH_S", 0.05)
    key, other = (coordinator.access.add("viewer", owner=OWNER) for _ in range(2))
    async with secured_gateway(coordinator, tmp_path) as gateway:
        put_job(coordinator, "/v1", owner=OWNER, running_now=True)
        async with asyncio.timeout(20):
            reading, staying = (asyncio.create_task(_read(gateway, path, each)) for each in (key, other))
            await eventually(lambda: len(coordinator.access.seen) >= 4, "both are being answered")
            coordinator.access.revoke(key)
            assert await reading in ("broken", "401")
            assert not staying.done()
            await coordinator.move(JOB, finished)
            assert await staying == "200"


async def test_a_stream_of_a_container_ends_when_its_key_is_revoked(
    coordinator: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of logs."""
    monkeypatch.setattr("http_gateway.open_requests.RECHECK_S", 0.05)
    monkeypatch.setattr("http_gateway.key_checks.FRESH_S", 0.05)
    key = coordinator.access.add("submitter")
    async with secured_gateway(coordinator, tmp_path) as gateway:
        coordinator.on_submit = running
        async with (
            asyncio.timeout(20),
            gateway.session.post(
                f"{gateway.url}/api/jobs/stream", json=a_request(), headers={"x-api-key": key}
            ) as response,
        ):
            assert await response.content.readline()
            coordinator.access.revoke(key)
            with pytest.raises(aiohttp.ClientError):
                await response.content.read()


async def test_a_recheck_that_cannot_be_made_ends_nothing(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """A coordinator that restarts is bridged."""
    async with Client(f"unix:{tmp_path}/none.sock", principal=UNSAID) as client:
        await OpenRequests(KeyChecks(client.access), at_once_max=1).recheck()


async def _read(gateway: Caller, path: str, key: str) -> str:
    try:
        async with gateway.session.get(gateway.url + path, headers={"x-api-key": key}) as response:
            await response.content.read()
            return str(response.status)
    except aiohttp.ClientError:
        return "broken"


def test_the_matrix_is_not_empty() -> None:
    """It has every rule, and both methods of what is read."""
    assert {call.name for call in CALLS} == set(RULES)
    assert {call.method for call in CALLS} == {"GET", "HEAD", "POST", "PUT", "DELETE"}
