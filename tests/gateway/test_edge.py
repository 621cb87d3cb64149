"""The outermost layer: who may call, what is no HTTP, what no route takes, and what never ends."""

import asyncio
import json
import os
import socket as socketlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hostler.client import Client
from hostler.settings import load
from http_gateway import bodies, connections
from http_gateway.api import FIXED_HEADERS
from http_gateway.app import make_app, serve
from http_gateway.callers import UNSAID
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import WORKER, FakeCoordinator

GOOD = b'{"jobs":[{"argv":["true"]}]}'
ROUTES = (
    ("GET", "/health"),
    ("POST", "/start"),
    ("POST", "/scheduler/query"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/workers"),
    ("GET", "/v1/jobs/4c5ced1c-5ea9-40f8-90ce-63d09cea26f6/log"),
    ("GET", "/nowhere"),
    ("DELETE", "/start"),
)

Opened = Callable[..., AbstractAsyncContextManager[Caller]]


@pytest.fixture
def opened(coordinator: FakeCoordinator, tmp_path: Path) -> Opened:
    """Opens gateways with settings of their own."""

    @asynccontextmanager
    async def open_gateway(*, connections_max: int = 100, **options: Any) -> AsyncIterator[Caller]:
        async with (
            Client(coordinator.address, principal=UNSAID) as client,
            serve(
                make_app(client, load(data_dir=tmp_path), **options), "127.0.0.1", 0, connections_max=connections_max
            ) as url,
            aiohttp.ClientSession() as session,
        ):
            yield Caller(url, session)

    return open_gateway


def an_answer(raw: bytes) -> tuple[int, dict[str, str], Any]:
    """Take an answer apart; its body must be JSON."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert headers["content-type"] == "application/json", raw
    return int(first.split()[1]), headers, json.loads(body)


# Who may call


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80", "hostler.test:9", "hostler.test"],
)
async def test_a_host_header_that_names_this_host_is_served(gateway: Caller, host: str) -> None:
    """With any port, in any case; and the names of the setting allowed_hosts."""
    assert (await gateway.get("/v1/workers", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8080", "localhost.", "localhost.evil.example", "127.0.0.1.evil.example",
        "2130706433", "127.1", "0x7f.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1%25lo]", "user@localhost",
        "localhost:80:80", "localhost:x", "localhost/x", "", " ", "[::1", "::1", "127.0.0.1,localhost",
        "localhost#x", "localhost?x", "http://localhost", "%6cocalhost", "localhost%00", "\u217cocalhost", "[::1]x",
        "017700000001", "127.0.0.1:123456", "localhost:", "*", "[0:0:0:0:0:0:0:1%lo]",
    ],
)  # fmt: skip
async def test_a_host_header_that_names_another_host_is_421_on_every_route(gateway: Caller, host: str) -> None:
    """A foreign name that was made to point at this host must not reach it."""
    for method, path in ROUTES:
        request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        status, _, body = an_answer(await gateway.raw(request.encode()))
        assert status in (400, 421), (host, path)  # 400: it is no HTTP at all
        assert body["error"]


async def test_a_request_without_a_host_or_with_another_in_its_target_is_refused(gateway: Caller) -> None:
    """The target counts as much as the header."""
    for request in (
        "GET /v1/workers HTTP/1.0\r\n\r\n",
        "GET http://evil.example/v1/workers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET http://x@localhost/v1/workers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ):
        assert an_answer(await gateway.raw(request.encode()))[0] == 421
    request = "GET http://localhost/v1/workers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert an_answer(await gateway.raw(request.encode()))[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "Forwarded", "Via", "X-Forwarded-For", "x-forwarded-host", "X-FORWARDED-PROTO", "X-Forwarded", "X-Real-IP",
        "X-Client-IP", "Client-IP", "True-Client-IP", "CF-Connecting-IP", "X-Cluster-Client-IP",
    ],
)  # fmt: skip
async def test_a_forwarding_header_ends_the_trust(gateway: Caller, name: str) -> None:
    """What comes through a proxy comes from anybody."""
    for method, path in ROUTES:
        answer = await gateway.call(method, path, headers={name: "for=127.0.0.1"})
        assert answer.status == 401
        assert "proxy" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "nonsense"},
        {"Referer": "https://evil.example/page"},
        {"Referer": "nonsense"},
        {"Referer": "http://[::1"},
    ],
)
async def test_a_page_of_another_site_is_403_on_every_route_and_changes_nothing(
    gateway: Caller, coordinator: FakeCoordinator, headers: dict[str, str]
) -> None:
    """For every method: an allow-list, not a list of what is dangerous."""
    for method, path in ROUTES:
        answer = await gateway.call(method, path, headers=headers, data=GOOD if method == "POST" else None)
        assert answer.status == 403
        assert "site" in answer.text
    assert not coordinator.jobs


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", ""]
)
@pytest.mark.parametrize("sign", [{"Cookie": "a=b"}, {"Sec-Fetch-Mode": "no-cors"}, {"Sec-Fetch-Site": "none"}])
async def test_what_a_form_of_a_foreign_page_could_send_changes_nothing(
    gateway: Caller, coordinator: FakeCoordinator, kind: str, sign: dict[str, str]
) -> None:
    """Where a browser does not say which page it was, only JSON as application/json is taken: no form sends it."""
    for path in ("/v1/jobs", "/start", "/api/jobs", "/subprocess/job/create", "/jobs", "/v1/files"):
        answer = await gateway.call("POST", path, headers={"Content-Type": kind, **sign}, data=GOOD)
        assert (answer.status, "page" in answer.text) == (403, True)
    assert (await gateway.call("DELETE", "/v1/workloads/x", headers=sign)).status == 403
    assert not coordinator.jobs and not coordinator.files.stored
    as_json = {"Content-Type": "application/json; charset=utf-8", **sign}
    assert (await gateway.call("POST", "/v1/jobs", headers=as_json, data=GOOD)).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json", ""])
async def test_programs_and_pages_of_our_own_say_of_their_bodies_what_they_like(gateway: Caller, kind: str) -> None:
    """As curl does, which says that everything is a form."""
    for more in ({}, {"Origin": gateway.url}, {"Referer": gateway.url + "/x"}, {"Sec-Fetch-Site": "same-origin"}):
        answer = await gateway.call("POST", "/v1/jobs", headers={"Content-Type": kind, **more}, data=GOOD)
        assert answer.status == 200, (kind, more)


async def test_a_page_of_our_own_and_an_address_typed_by_a_person_are_served(gateway: Caller) -> None:
    """Same origin, or no site at all."""
    for headers in (
        {"Origin": gateway.url, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost", "Host": "localhost"},
    ):
        assert (await gateway.get("/v1/workers", headers=headers)).status == 200


async def test_another_users_connection_is_403_and_an_unknown_one_401(opened: Opened) -> None:
    """On every route, with a sentence that says what to do."""
    for owner, status in ((12345, 403), (None, 401)):
        async with opened(lookup=lambda peer, local, owner=owner: owner) as gateway:
            for method, path in ROUTES:
                answer = await gateway.call(method, path)
                assert (answer.status, "call" in answer.text) == (status, True)


async def test_root_is_served(opened: Opened) -> None:
    """It could do anything to us in any case."""
    async with opened(lookup=lambda peer, local: 0) as gateway:
        assert (await gateway.get("/v1/workers")).status == 200


async def test_the_kernel_is_asked_once_for_a_connection(opened: Opened) -> None:
    """And again for the next one."""
    asked: list[tuple[str, int]] = []

    def lookup(peer: tuple[str, int], local: tuple[str, int]) -> int:
        asked.append(peer)
        return os.getuid()

    async with opened(lookup=lookup) as gateway:
        for _ in range(5):
            await gateway.get("/v1/workers")
        await gateway.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    assert len(asked) == len(set(asked)) == 2


if os.getuid() == 0:

    async def test_a_connection_of_another_user_is_refused(gateway: Caller) -> None:
        """The real thing, by the kernel's word: only root can open a socket as somebody else."""
        os.seteuid(65534)
        try:
            socket = socketlib.socket()
        finally:
            os.seteuid(0)
        host, port = gateway.url.removeprefix("http://").split(":")
        await asyncio.to_thread(socket.connect, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=socket)
        writer.write(b"GET /v1/workers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status, _, body = an_answer(await reader.read())
        writer.close()

        assert (status, body["error"]["code"]) == (403, "permission_denied")


# What is no HTTP


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n" % (b"a" * 20_000),
        b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * 20_000),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (b"X: y\r\n" * 40_000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100,
    ],
)
async def test_what_is_no_http_is_400_in_json_without_an_echo_or_a_traceback(
    gateway: Caller, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """And the gateway goes on."""
    status, headers, body = an_answer(await gateway.raw(request_bytes))

    assert (status, body) == (400, {"error": "the request is not valid HTTP"})
    assert headers["x-content-type-options"] == "nosniff"
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]
    assert (await gateway.get("/health")).status == 200


# What no route takes


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/nowhere", {"error": str}),
        ("/scheduler/nowhere", {"error": str}),
        ("/start/", {"error": str}),
        ("/api/nowhere", {"error": str}),
        ("/jobs/x/y", {"detail": str}),
        ("/processes/x/y", {"detail": str}),
        ("/v1/nowhere", {"error": dict}),
    ],
)
async def test_an_unknown_path_is_404_in_the_form_of_its_family(
    gateway: Caller, path: str, body: dict[str, type]
) -> None:
    """Always JSON; the prefix of the path says which form."""
    for method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PROPFIND"):
        async with gateway.session.request(method, gateway.url + path) as response:
            assert (response.status, response.content_type) == (404, "application/json")
            if method != "HEAD":
                assert {name: type(value) for name, value in (await response.json()).items()} == body


async def test_a_wrong_method_is_405_and_says_which_are_right(gateway: Caller) -> None:
    """In the form of the family."""
    answer = await gateway.call("DELETE", "/v1/jobs")

    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert answer.json["error"]["code"] == "method_not_allowed"


async def test_an_expectation_other_than_100_continue_is_417_in_json(gateway: Caller) -> None:
    """And 100-continue is honoured, as curl wants it for long bodies."""
    head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\nExpect: %s\r\n\r\n"

    unknown = await gateway.raw((head % (len(GOOD), "miracles")).encode() + GOOD)
    known = await gateway.raw((head % (len(GOOD), "100-continue")).encode() + GOOD)

    assert an_answer(unknown)[0] == 417
    first, _, rest = known.partition(b"\r\n\r\n")
    assert first == b"HTTP/1.1 100 Continue"
    assert an_answer(rest)[0] == 200


async def test_every_answer_says_that_it_is_not_to_be_kept_or_guessed_at(gateway: Caller) -> None:
    """Those of errors too."""
    for method, path in ROUTES:
        answer = await gateway.call(method, path)
        for name, value in FIXED_HEADERS.items():
            assert answer.headers[name] == value
        assert "Strict-Transport-Security" not in answer.headers  # there is no TLS to insist on


async def test_a_get_changes_nothing(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Nor does HEAD."""
    for method, path in ROUTES:
        if method == "GET":
            await gateway.get(path)
            await gateway.session.head(gateway.url + path)

    assert not coordinator.jobs
    assert not coordinator.graces


# Bodies


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_compressed_body_is_refused_unread(gateway: Caller, encoding: str) -> None:
    """A few bytes could become gigabytes."""
    for path in ("/start", "/v1/jobs"):
        answer = await gateway.call("POST", path, data=b"x", headers={"Content-Encoding": encoding}, compress=None)
        assert answer.status == 415


async def test_a_body_with_a_wrong_frame_is_an_error_of_the_request(gateway: Caller) -> None:
    """Chunks that are no chunks."""
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"

    status, _, body = an_answer(await gateway.raw(head + b"zz\r\nabc\r\n"))

    assert status == 400
    assert body["error"]


async def test_a_chunked_body_is_read_and_capped(gateway: Caller) -> None:
    """Its length is not known before."""

    async def pieces(count: int) -> AsyncIterator[bytes]:
        yield b'{"worker_id": "%s", "command": "a", "path": "' % WORKER.encode()
        for _ in range(count):
            yield b"x" * 60_000
        yield b'"}'

    assert (await gateway.call("POST", "/start", data=pieces(1))).status == 201
    assert (await gateway.call("POST", "/start", data=pieces(20))).status == 413


async def test_a_body_that_does_not_come_ends_with_408(gateway: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 30 seconds; here, sooner."""
    monkeypatch.setattr(bodies, "BODY_S", 0.05)

    answer = await gateway.raw(b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{", until=b"}\n")

    status, _, body = an_answer(answer)
    assert (status, "did not arrive" in body["error"]) == (408, True)


# What never ends


async def test_a_head_that_does_not_end_closes_the_connection(gateway: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 10 seconds; here, sooner."""
    monkeypatch.setattr(connections, "HEAD_S", 0.1)

    assert await gateway.raw(b"GET /health HTTP/1.1\r\nHost: local") == b""


async def test_a_connection_may_be_idle_between_requests(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is that of a head that has begun, not of the next one, nor of a long answer."""
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(3):
        coordinator.hold.clear()
        writer.write(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(GOOD))
        await asyncio.sleep(0.01)
        writer.write(GOOD)
        # Twice the limit for a head has to pass, here and below: nothing happening is what is to be seen.
        await asyncio.sleep(0.1)
        coordinator.hold.set()
        async with asyncio.timeout(5):
            assert b" 200 OK" in await reader.readuntil(b"}\n")
        await asyncio.sleep(0.1)
    writer.close()


async def test_half_open_connections_do_not_slow_others(gateway: Caller) -> None:
    """A hundred of them, and the next caller is answered."""
    host, port = gateway.url.removeprefix("http://").split(":")
    half_open = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
    for _, writer in half_open:
        writer.write(b"POST /start HTTP/1.1\r\nHost: local")
    try:
        async with asyncio.timeout(5):
            assert (await gateway.get("/health")).status == 200
    finally:
        for _, writer in half_open:
            writer.close()


async def a_request_without_its_body(gateway: Caller) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that serves a request, until somebody sends `GOOD` over it."""
    reader, writer = await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":"))
    head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    writer.write((head % len(GOOD)).encode())
    async with asyncio.timeout(10):
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_too_many_connections_are_closed_at_once_when_all_serve(opened: Opened) -> None:
    """And those that are open go on."""
    async with opened(connections_max=3) as gateway:
        held = [await a_request_without_its_body(gateway) for _ in range(3)]
        reader, writer = await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":"))
        try:
            async with asyncio.timeout(5):
                assert await reader.read() == b""
                for of_held, into_held in held:
                    into_held.write(GOOD)
                    assert b" 200 OK" in await of_held.readuntil(b"}\n")
            assert (await gateway.get("/health")).status == 200
        finally:
            for _, each in (*held, (reader, writer)):
                each.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HTTP/1.1\r\nHost: local", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
async def test_who_holds_connections_and_asks_for_nothing_shuts_nobody_out(opened: Opened, sent: bytes) -> None:
    """The one that waited longest for a head makes room, also between two requests; those that serve never do."""
    async with opened(connections_max=20) as gateway:
        served = [await a_request_without_its_body(gateway) for _ in range(3)]
        address = gateway.url.removeprefix("http://").split(":")
        idle = []
        try:
            for number in range(300):
                idle.append(await asyncio.open_connection(*address))
                idle[-1][1].write(sent)
                if number % 25 == 0:
                    async with asyncio.timeout(5):
                        raw = await gateway.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    assert raw.startswith(b"HTTP/1.1 200 ")
            async with asyncio.timeout(5):
                for reader, _ in idle[:250]:  # let go
                    await reader.read()
                for reader, writer in served:
                    writer.write(GOOD)
                    assert b" 200 OK" in await reader.readuntil(b"}\n")
            assert (await gateway.get("/health")).status == 200
        finally:
            for _, writer in (*idle, *served):
                writer.close()


async def test_a_fault_of_ours_is_500_and_the_gateway_goes_on(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a traceback in the answer."""

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(Client, "workers", broken)
        native = await gateway.get("/v1/workers")
        documented = await gateway.post("/query", {"worker_id": WORKER, "job_id": "x"})

    assert (native.status, native.json["error"]["code"]) == (500, "internal")
    assert (documented.status, list(documented.json)) == (500, ["error"])
    assert "secret" not in native.text + documented.text
    assert (await gateway.get("/v1/workers")).status == 200
