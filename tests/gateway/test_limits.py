"""How much one caller may ask for: rates, requests at once, connections, downloads, keys that are no good."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hostler.access_client import Holder
from hostler.errors import Overloaded, Unauthenticated
from hostler.keys import RANDOM_BYTES, make_key
from hostler.policy import Scope
from http_gateway import key_checks, open_requests
from http_gateway.connections import ConnectionLimits
from http_gateway.key_checks import FAILURES_BURST, KeyChecks, block_of
from http_gateway.networks import Address, parse_networks
from http_gateway.token_buckets import TokenBuckets
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator, running
from tests.gateway.pixyz_calls import open_gateway
from tests.support.waiting import eventually, until

HOUR_US = 3_600_000_000


def address(text: str) -> Address:
    """An address."""
    return parse_networks((text,), field="x")[0].network_address


def a_key(number: int) -> str:
    """A text that could be a key."""
    return make_key(number.to_bytes(RANDOM_BYTES)).text


class Access:
    """Knows one key; counts how often it is asked."""

    def __init__(self, good: str = "", *, expires_at_us: int = 0) -> None:
        self.good = good
        self.expires_at_us = expires_at_us
        self.asked = 0

    async def authenticate(self, text: str, *, address: str = "") -> Holder:
        """Whose it is."""
        self.asked += 1
        await asyncio.sleep(0)
        if text != self.good:
            raise Unauthenticated("no good")
        return Holder(
            principal="key:1", owner="me", scopes=frozenset({Scope.JOBS_READ, "new"}), expires_at_us=self.expires_at_us
        )


# Buckets


def test_a_bucket_gives_its_burst_and_then_the_rate() -> None:
    """And says how long to wait; another one is not touched."""
    buckets = TokenBuckets(per_s=2, burst=3)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.wait_s("a", 0.25) == 0.25
    assert buckets.take("b", 0.25) == 0
    assert [buckets.take("a", 0.5), buckets.take("a", 0.5)] == [0, 0.5]
    assert [buckets.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert TokenBuckets(per_s=0, burst=0).take("a", 0.0) == 0


def test_a_million_names_take_no_more_room_than_the_table_has() -> None:
    """The bucket that was used longest ago goes."""
    buckets = TokenBuckets(per_s=1, burst=1, buckets_max=100)
    for number in range(10_000):
        buckets.take(str(number), 0.0)
        buckets.take("busy", 0.0)
        buckets.take("busy", 1.0 + number)
    assert len(buckets) == 100
    assert buckets.take("busy", 10_000.0) > 0


def test_one_host_of_ipv6_is_one_place() -> None:
    """It has 2**64 addresses."""
    assert block_of(address("2001:db8::1")) == block_of(address("2001:db8::ffff:1")) != block_of(address("2001:db9::1"))
    assert block_of(address("10.0.0.1")) != block_of(address("10.0.0.2"))


# Keys


async def test_whose_a_key_is_is_asked_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by many at once; scopes that this gateway does not know are left aside."""
    access = Access(a_key(1))
    keys = KeyChecks(access)
    found = await asyncio.gather(*(keys.caller(a_key(1), address("10.0.0.1")) for _ in range(20)))
    assert {(each.principal, each.owner, each.scopes) for each in found} == {("key:1", "me", frozenset({"jobs:read"}))}
    assert access.asked == 1
    await keys.caller(a_key(1), address("10.0.0.2"))  # from where it is good may matter
    monkeypatch.setattr(key_checks, "FRESH_S", 0.0)
    expiring = KeyChecks(access)
    await expiring.caller(a_key(1), None)
    await expiring.caller(a_key(1), None)
    assert access.asked == 4


async def test_a_key_is_asked_about_again_when_it_expires() -> None:
    """However fresh the answer is."""
    access = Access(a_key(1), expires_at_us=HOUR_US)
    now = [HOUR_US - 1]
    keys = KeyChecks(access, wall_us=lambda: now[0])
    await keys.caller(a_key(1), None)
    await asyncio.sleep(0.01)
    access.good = ""
    with pytest.raises(Unauthenticated):
        await keys.caller(a_key(1), None)


async def test_who_shows_many_keys_that_are_no_good_waits_and_a_good_neighbour_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The coordinator is asked about a few of them; a text that can be no key is not asked about at all."""
    access = Access(a_key(1))
    keys = KeyChecks(access)
    place = address("10.0.0.1")
    await keys.caller(a_key(1), place)
    refused: list[type[Exception]] = []
    for number in range(2, 200):
        with pytest.raises((Unauthenticated, Overloaded)) as caught:
            await keys.caller(a_key(number) if number % 2 else f"x{number}", place)
        refused.append(caught.type)
    assert refused[: int(FAILURES_BURST)] == [Unauthenticated] * int(FAILURES_BURST)
    assert set(refused[int(FAILURES_BURST) + 1 :]) == {Overloaded}
    assert access.asked <= 1 + FAILURES_BURST
    monkeypatch.setattr(key_checks, "FRESH_S", 0.0)
    for _ in range(3):
        assert (await keys.caller(a_key(1), place)).owner == "me"
    with pytest.raises(Unauthenticated):
        await keys.caller(a_key(500), address("10.0.0.2"))


async def test_answers_about_keys_take_no_more_room_than_the_table_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are shown, from however many addresses."""
    monkeypatch.setattr(key_checks, "KEPT_MAX", 10)
    keys = KeyChecks(Access())
    for number in range(100):
        with pytest.raises(Unauthenticated):
            await keys.caller(a_key(number), address(f"10.0.0.{number}"))
    assert len(keys._answers) == 10


# Rates


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/query", {"error": str}),
        ("/v1/workers", {"error": dict}),
        ("/discord/ping", {"error": str}),
        ("/api/jobs", {"error": str}),
        ("/jobs", {"detail": str}),
        ("/health", {"error": str}),
    ],
)
async def test_a_key_that_asks_too_often_is_429_in_the_form_of_the_family(
    coordinator: FakeCoordinator, tmp_path: Path, path: str, form: dict[str, type]
) -> None:
    """With Retry-After; another key, and a local caller, are not touched."""
    noisy, quiet = coordinator.access.add("developer"), coordinator.access.add("developer")
    method = "POST" if path == "/query" else "GET"
    options: dict[str, Any] = {"json": {}} if path == "/query" else {}
    async with open_gateway(coordinator, tmp_path, requests_per_s=1) as gateway:

        async def call(key: str | None) -> Any:
            return await gateway.call(method, path, headers={"x-api-key": key} if key else {}, **options)

        statuses = [(await call(noisy)).status for _ in range(2)]
        answers = await asyncio.gather(*(call(noisy) for _ in range(3)))
        assert 429 not in statuses
        refused = next(answer for answer in answers if answer.status == 429)
        assert {name: type(value) for name, value in refused.json.items()} == form
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await call(quiet)).status != 429
        assert 429 not in [(await call(None)).status for _ in range(10)]


async def test_callers_without_a_key_are_slowed_down_by_their_addresses(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """In secured mode, where anybody may call."""
    async with open_gateway(coordinator, tmp_path, secured=True, requests_per_s=1) as gateway:
        statuses = [answer.status for answer in await asyncio.gather(*(gateway.get("/v1/jobs") for _ in range(8)))]
        assert set(statuses) == {401, 429}
        key = coordinator.access.add("viewer")
        assert (await gateway.get("/v1/jobs", headers={"x-api-key": key})).status == 200


# At once


async def test_one_key_has_only_so_many_requests_open(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """Streams above all; those of others do not count, and one that ends makes room."""
    noisy, quiet = (coordinator.access.add("developer", owner="me") for _ in range(2))
    coordinator.on_submit = running
    async with open_gateway(coordinator, tmp_path, requests_at_once=2) as gateway:
        job = (await gateway.post("/v1/jobs", {"jobs": [{"argv": ["x"]}]}, headers={"x-api-key": noisy})).json
        path = f"/v1/jobs/{job['jobs'][0]['id']}/log?follow=1"
        streams = [await _opened(gateway, path, noisy) for _ in range(2)]
        answer = await gateway.get("/v1/jobs", headers={"x-api-key": noisy})
        assert (answer.status, answer.json["error"]["code"]) == (429, "overloaded")
        for key in (quiet, None):
            assert (await gateway.get("/v1/jobs", headers={"x-api-key": key} if key else {})).status == 200
        streams.pop().close()

        async def served() -> bool:
            return (await gateway.get("/v1/jobs", headers={"x-api-key": noisy})).status == 200

        await until(served, "room for another")
        streams.pop().close()
        await eventually(lambda: coordinator.readers == 0)


async def test_only_so_many_files_are_sent_at_once(
    coordinator: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may wait for a reader who does not read, with what is on the way to it."""
    monkeypatch.setattr(open_requests, "DOWNLOADS_MAX", 0)
    async with open_gateway(coordinator, tmp_path) as gateway:
        job = (await gateway.post("/v1/jobs", {"jobs": [{"argv": ["x"]}]})).json["jobs"][0]["id"]
        assert (await gateway.get(f"/v1/jobs/{job}/outputs/files/a")).status == 429
        assert (await gateway.get(f"/jobs/{job}/outputs/archive")).status == 429
        assert (await gateway.get(f"/v1/jobs/{job}/outputs")).status == 200


class Transport(asyncio.Transport):
    """A connection from an address."""

    def __init__(self, host: str) -> None:
        super().__init__({"peername": (host, 1234)})


def test_one_address_of_another_host_has_only_so_many_connections() -> None:
    """On this host all have the same address, and only the limit of all together counts."""
    limits = ConnectionLimits(in_all=8, per_address=2)
    places = [limits.take(Transport("10.0.0.1")) for _ in range(3)]
    assert places == ["10.0.0.1", "10.0.0.1", None]
    assert limits.take(Transport("10.0.0.2")) == "10.0.0.2"
    assert [limits.take(Transport("127.0.0.1")) for _ in range(6)] == ["", "", "", "", "", None]
    limits.leave("10.0.0.1")
    assert limits.take(Transport("10.0.0.1")) == "10.0.0.1"


async def _opened(gateway: Caller, path: str, key: str) -> Any:
    response = await gateway.session.get(gateway.url + path, headers={"x-api-key": key})
    assert response.status == 200
    return response


async def test_brief_requests_of_one_key_take_turns_and_nobody_else_waits_for_them(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Four at a time; those that may last, and those of others, do not wait."""
    noisy, quiet = (coordinator.access.add("developer", owner="me") for _ in range(2))
    coordinator.hold.clear()
    async with open_gateway(coordinator, tmp_path) as gateway:

        async def submit() -> int:
            body = {"jobs": [{"argv": ["x"]}]}
            return (await gateway.post("/v1/jobs", body, headers={"x-api-key": noisy})).status

        calls = [asyncio.create_task(submit()) for _ in range(10)]
        await eventually(lambda: coordinator.submitting, "the first is on its way")
        async with asyncio.timeout(10):
            assert (await gateway.get("/v1/jobs", headers={"x-api-key": quiet})).status == 200
            waiting = await gateway.post("/v1/jobs/wait", {"ids": [], "timeout": 0.01}, headers={"x-api-key": noisy})
            assert waiting.status == 200
            coordinator.hold.set()
            assert await asyncio.gather(*calls) == [200] * 10
    assert max(coordinator.submit_sizes) <= open_requests.BRIEF_AT_ONCE
