"""``/v1``: storing files, and what jobs have put out. Workloads have a file of their own."""

import asyncio
import io
import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hostler.errors import Unavailable
from hostler.lifecycle import Outcome
from http_gateway import uploads
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator, finished, killed, running
from tests.gateway.fake_files import digest_of
from tests.gateway.pixyz_calls import open_gateway
from tests.gateway.test_native import UNKNOWN, submitted
from tests.support.waiting import eventually

CONTENT = bytes(range(256)) * 4
OUTPUTS = {"b.bin": CONTENT, "a/deep/x.txt": b"deep", "empty": b"", "\u00fc \u20ac'\".txt": b"name"}
TAG = f'"{digest_of(CONTENT)}"'
HEAD = "POST /v1/files HTTP/1.1\r\nHost: localhost\r\n"


async def with_outputs(gateway: Caller, coordinator: FakeCoordinator, becomes: Any = finished) -> str:
    """A job that has put something out."""
    job = await submitted(gateway)
    await coordinator.move(job, becomes)
    coordinator.outputs[job] = dict(OUTPUTS)
    return job


async def fetch(gateway: Caller, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """Call and return status, headers and body."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with gateway.session.request(method, gateway.url + path, headers=headers) as answer:
        return answer.status, answer.headers, await answer.read()


async def raw_answer(gateway: Caller, target: bytes, method: bytes = b"GET") -> tuple[int, bytes]:
    """Ask for exactly this target and return status and body."""
    raw = await gateway.raw(method + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return int(raw.split()[1]), raw.partition(b"\r\n\r\n")[2]


def the_error(answer: Any, status: int, code: str, field: str | None = None) -> str:
    """Check an error's form and return its message."""
    assert answer.status == status, answer.text
    error = answer.json["error"]
    assert (error["code"], error["field"]) == (code, field), answer.text
    message: str = error["message"]
    return message


# POST /v1/files


@pytest.mark.parametrize("content", [b"", b"\0", CONTENT, os.urandom(3_000_000)])
async def test_a_body_is_stored_as_it_is_and_named_by_its_digest(
    gateway: Caller, coordinator: FakeCoordinator, content: bytes
) -> None:
    """Whatever its Content-Type says, also an empty one."""
    for headers in ({}, {"Content-Type": "application/json"}, {"Content-Type": "multipart/form-data"}):
        answer = await gateway.call("POST", "/v1/files", data=io.BytesIO(content), headers=headers)

        assert answer.status == 201
        assert answer.json == {"digest": digest_of(content), "size_bytes": len(content)}
    assert coordinator.files.stored == {digest_of(content): content}


async def test_a_body_without_a_length_is_stored_too(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """In chunks, as curl sends what it reads from a pipe."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 50_000

    answer = await gateway.call("POST", "/v1/files", data=chunks())

    assert answer.json == {"digest": digest_of(b"x" * 1_000_000), "size_bytes": 1_000_000}
    assert list(coordinator.files.sizes.values()) == [1_000_000]


async def test_an_upload_over_the_limit_is_413_and_nothing_is_stored(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Before its first byte when it says its length, otherwise in the middle; the limit itself fits."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100_000

    async with open_gateway(coordinator, tmp_path, upload_bytes_max=1_000_000) as gateway:
        fits = await gateway.call("POST", "/v1/files", data=io.BytesIO(b"x" * 1_000_000))
        assert fits.status == 201
        over = await gateway.call("POST", "/v1/files", data=io.BytesIO(b"x" * 1_000_001))
        assert "1000000" in the_error(over, 413, "too_large")
        assert coordinator.files.aborted == 0
        over = await gateway.call("POST", "/v1/files", data=chunks())
        assert "1000000" in the_error(over, 413, "too_large")
        await eventually(lambda: coordinator.files.aborted == 1)
        assert len(coordinator.files.stored) == 1
    async with open_gateway(coordinator, tmp_path, upload_bytes_max=0) as gateway:
        assert (await gateway.call("POST", "/v1/files", data=io.BytesIO(b"y" * 1_000_001))).status == 201


async def test_an_upload_that_breaks_off_leaves_nothing(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """With a length and in chunks."""
    host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
    for count, body in enumerate(
        (b"Content-Length: 4000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"), 1
    ):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(HEAD.encode() + body + b"x" * 1_000_000)
        await writer.drain()
        await eventually(lambda: coordinator.files.open == 1)
        writer.close()
        await eventually(lambda count=count: coordinator.files.aborted == count)  # type: ignore[misc]

    assert coordinator.files.open == 0
    assert not coordinator.files.stored


async def test_a_body_whose_framing_turns_out_to_be_wrong_is_given_up(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of it: nothing more of it can be read, and nothing is stored."""
    monkeypatch.setattr(uploads, "STALLED_S", 0.3)
    host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".encode())
        await eventually(lambda: coordinator.files.open == 1)
        writer.write(b"zz\r\n")
        async with asyncio.timeout(20):
            raw = await reader.readuntil(b"}\n")
    finally:
        writer.close()

    assert raw.split()[1] in (b"400", b"408")
    await eventually(lambda: coordinator.files.aborted == 1)
    assert not coordinator.files.stored


async def test_an_upload_that_stops_arriving_is_408(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its connection is not used again."""
    monkeypatch.setattr(uploads, "STALLED_S", 0.3)

    raw = await gateway.raw(f"{HEAD}Content-Length: 4000000\r\n\r\n".encode() + b"x" * 100_000, until=b"}\n")

    assert raw.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in raw
    assert b'"code":"body_timeout"' in raw
    await eventually(lambda: coordinator.files.aborted == 1)


async def test_a_compressed_upload_is_415(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It is not known whether the bytes or what they unpack to are meant; identity says nothing."""
    for encoding in ("gzip", "br", "deflate", "gzip, identity", "x"):
        headers = {"Content-Encoding": encoding}
        the_error(await gateway.call("POST", "/v1/files", data=b"x", headers=headers), 415, "unsupported_encoding")
    headers = {"Content-Encoding": "Identity"}
    assert (await gateway.call("POST", "/v1/files", data=b"x", headers=headers)).status == 201
    assert list(coordinator.files.stored) == [digest_of(b"x")]


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on_or_not(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """`Expect: 100-continue`, as curl does: what is refused is not sent at all."""
    async with open_gateway(coordinator, tmp_path, upload_bytes_max=1_000_000) as gateway:
        head = f"{HEAD}Expect: 100-continue\r\n"
        host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{head}Content-Length: 10\r\n\r\n".encode())
        async with asyncio.timeout(20):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"0123456789")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201 ")
        writer.close()
        for more, status in (("Content-Length: 2000000", 413), ("Content-Encoding: gzip\r\nContent-Length: 10", 415)):
            raw = await gateway.raw(f"{head}{more}\r\n\r\n".encode(), until=b"\r\n\r\n")
            assert raw.startswith(b"HTTP/1.1 %d " % status)
        raw = await gateway.raw(f"{HEAD}Expect: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        assert raw.startswith(b"HTTP/1.1 417 ") and b'{"error":{' in raw


async def test_what_the_coordinator_refuses_is_answered_with_its_reason(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """With when to come back."""
    coordinator.files.refuse = Unavailable("the coordinator's disk is full", retry_after_s=7.0)

    answer = await gateway.call("POST", "/v1/files", data=io.BytesIO(b"x" * 3_000_000))

    assert the_error(answer, 503, "unavailable") == "the coordinator's disk is full"
    assert int(answer.headers["Retry-After"]) >= 1


# GET /v1/jobs/{id}/outputs


async def test_outputs_are_listed_with_size_time_and_digest(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """By path, also those in folders; what could not be kept is named."""
    job = await with_outputs(
        gateway, coordinator, lambda j: finished(j, Outcome.FAILED, outputs_missing=("socket: it is no file",))
    )

    answer = await gateway.get(f"/v1/jobs/{job}/outputs")

    assert answer.status == 200
    assert list(answer.json) == ["files", "live", "expired", "missing"]
    assert [file["path"] for file in answer.json["files"]] == sorted(OUTPUTS)
    assert answer.json["files"][1] == {
        "path": "b.bin",
        "size_bytes": 1024,
        "modified": "2026-09-21T14:13:20.500000Z",
        "digest": digest_of(CONTENT),
    }
    assert (answer.json["live"], answer.json["expired"]) == (False, False)
    assert answer.json["missing"] == ["socket: it is no file"]


async def test_outputs_of_a_job_that_is_not_over_are_those_of_now(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Without digests; of one that waits there are none."""
    runs = await with_outputs(gateway, coordinator, running)
    coordinator.on_submit = lambda job: job
    waits = await submitted(gateway)

    live = (await gateway.get(f"/v1/jobs/{runs}/outputs")).json
    none = (await gateway.get(f"/v1/jobs/{waits}/outputs")).json

    assert live["live"] is True
    assert {file["digest"] for file in live["files"]} == {None}
    assert none == {"files": [], "live": True, "expired": False, "missing": []}


async def test_files_whose_time_is_over_are_404_and_the_list_says_so(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The job itself is still known."""
    job = await with_outputs(gateway, coordinator)
    coordinator.expired.add(job)

    assert (await gateway.get(f"/v1/jobs/{job}/outputs")).json == {
        "files": [], "live": False, "expired": True, "missing": [],
    }  # fmt: skip
    the_error(await gateway.get(f"/v1/jobs/{job}/outputs/files/b.bin"), 404, "file_not_found")
    assert "time was over" in the_error(await gateway.get(f"/v1/jobs/{job}/outputs/archive"), 404, "file_not_found")


async def test_outputs_of_an_unknown_job_are_404(gateway: Caller) -> None:
    """Whether it is a uuid or not."""
    for name in (UNKNOWN, "x", "%ff", "%00", UNKNOWN.upper(), f"{UNKNOWN}%2f"):
        for rest in ("", "/archive", "/files/b.bin"):
            the_error(await gateway.get(f"/v1/jobs/{name}/outputs{rest}"), 404, "job_not_found")


# GET /v1/jobs/{id}/outputs/archive


@pytest.mark.parametrize("becomes", [finished, killed, lambda job: finished(job, Outcome.TIMED_OUT)])
async def test_an_archive_is_a_zip_of_every_file_however_the_job_ended(
    gateway: Caller, coordinator: FakeCoordinator, becomes: Any
) -> None:
    """With its length, named after the job; HEAD tells as much; no files make an empty zip."""
    job = await with_outputs(gateway, coordinator, becomes)

    status, headers, body = await fetch(gateway, f"/v1/jobs/{job}/outputs/archive", Accept_Encoding="gzip")

    assert (status, headers["Content-Length"]) == (200, str(len(body)))
    assert headers["Content-Disposition"] == f'attachment; filename="{job}.zip"'
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == OUTPUTS
    head = await fetch(gateway, f"/v1/jobs/{job}/outputs/archive", "HEAD")
    assert (head[0], head[1]["Content-Length"], head[2]) == (200, str(len(body)), b"")
    coordinator.outputs[job] = {}
    with zipfile.ZipFile(io.BytesIO((await fetch(gateway, f"/v1/jobs/{job}/outputs/archive"))[2])) as archive:
        assert archive.namelist() == []


async def test_an_archive_of_a_job_that_is_not_finished_is_425(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Whether it runs or waits."""
    for becomes in (running, lambda job: job):
        job = await with_outputs(gateway, coordinator, becomes)
        the_error(await gateway.get(f"/v1/jobs/{job}/outputs/archive"), 425, "not_finished")
        assert (await fetch(gateway, f"/v1/jobs/{job}/outputs/archive", "HEAD"))[0] == 425


# GET /v1/jobs/{id}/outputs/files/{path}


async def test_a_file_comes_with_its_length_its_name_and_a_tag(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """In folders too; a running job's has no tag, for nobody knows what it will be."""
    for becomes in (finished, running):
        job = await with_outputs(gateway, coordinator, becomes)
        for path, content in OUTPUTS.items():
            status, headers, body = await fetch(gateway, f"/v1/jobs/{job}/outputs/files/{path}")
            assert (status, body, headers["Content-Length"]) == (200, content, str(len(content)))
            assert headers["Content-Type"] == "application/octet-stream"
            assert headers["Content-Disposition"].startswith("attachment; filename=")
            assert headers.get("ETag") == (f'"{digest_of(content)}"' if becomes is finished else None)


async def test_head_of_a_file_tells_its_length_and_sends_nothing(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """And 404 without words."""
    job = await with_outputs(gateway, coordinator)

    status, headers, body = await fetch(gateway, f"/v1/jobs/{job}/outputs/files/b.bin", "HEAD")

    assert (status, headers["Content-Length"], headers["ETag"], body) == (200, "1024", TAG, b"")
    assert (await fetch(gateway, f"/v1/jobs/{job}/outputs/files/none", "HEAD"))[0] == 404


async def test_a_part_of_a_file_is_206_and_one_outside_of_it_416(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """With the size in words and in the header; what is known is 304."""
    job = await with_outputs(gateway, coordinator)
    path = f"/v1/jobs/{job}/outputs/files/b.bin"

    status, headers, body = await fetch(gateway, path, Range="bytes=1000-")
    outside = await gateway.get(path, headers={"Range": "bytes=1024-"})

    assert (status, body, headers["Content-Range"]) == (206, CONTENT[1000:], "bytes 1000-1023/1024")
    assert "1024 bytes" in the_error(outside, 416, "range_not_satisfiable")
    assert outside.headers["Content-Range"] == "bytes */1024"
    assert (await fetch(gateway, path, If_None_Match=TAG))[::2] == (304, b"")
    assert (await fetch(gateway, path, Range="bytes=0-1", If_Range='"other"'))[::2] == (200, CONTENT)


IMPOSSIBLE = (
    b"..", b"../x", b"a/../b.bin", b"%2e%2e/x", b"%2e%2e%2fx", b".%2e/x", b"./b.bin", b"a/./x", b"/etc/passwd",
    b"%2fetc%2fpasswd", b"a//x", b"a/", b"b.bin%00", b"%00", b"%ff", b"%c3%28", b"a/%ed%a0%80", b"x" * 300, b"x/" * 700,
)  # fmt: skip
MISSING = (b"none", b"a", b"a/deep", b"b.bin/x", b"B.BIN", b"b.bin%20", b"%252e%252e", b"..%5cx", b"%25ff", b"archive")


async def test_a_path_that_no_output_can_have_is_400(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """In every spelling; the coordinator is not asked, of which job ever."""
    for becomes in (finished, running):
        job = await with_outputs(gateway, coordinator, becomes)
        coordinator.outputs[job] = dict.fromkeys(("../x", "%ff", "a//x", "%C3%28"), b"never")
        for path in IMPOSSIBLE:
            status, body = await raw_answer(gateway, f"/v1/jobs/{job}/outputs/files/".encode() + path)
            assert (status, b'"field":"path"' in body) == (400, True), (path, body)
            assert (await raw_answer(gateway, f"/v1/jobs/{job}/outputs/files/".encode() + path, b"HEAD"))[0] == 400


async def test_a_path_that_is_no_file_of_the_job_is_404(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Folders, other spellings, and names that only look like a trick."""
    job = await with_outputs(gateway, coordinator)
    for path in MISSING:
        status, body = await raw_answer(gateway, f"/v1/jobs/{job}/outputs/files/".encode() + path)
        assert (status, b'"code":"file_not_found"' in body) == (404, True), path
    status, body = await raw_answer(gateway, f"/v1/jobs/{job}/outputs/files/".encode())
    assert (status, b'"code":"not_found"' in body) == (404, True)


async def test_a_file_with_a_strange_name_is_served_under_exactly_that_name(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """As the job gave it."""
    job = await with_outputs(gateway, coordinator)
    names = {
        "a\\..\\b": b"a%5c..%5cb", "%2e%2e": b"%252e%252e", "%ff": b"%25ff", "a?b#c": b"a%3fb%23c", "\n": b"%0a",
        "...": b"...", "archive": b"archive", "a\ufffdb": b"a%EF%BF%BDb", "a/b": b"a%2fb", "+ ": b"+%20",
    }  # fmt: skip
    coordinator.outputs[job] = {name: name.encode() for name in names}
    for name, spelled in names.items():
        target = f"/v1/jobs/{job}/outputs/files/".encode() + spelled
        assert await raw_answer(gateway, target) == (200, name.encode())


async def test_parameters_that_are_not_known_are_400(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """An option without effect would be taken for one that had it."""
    job = await with_outputs(gateway, coordinator)
    for method, path in (
        ("POST", "/v1/files"),
        ("GET", f"/v1/jobs/{job}/outputs"),
        ("GET", f"/v1/jobs/{job}/outputs/archive"),
        ("GET", f"/v1/jobs/{job}/outputs/files/b.bin"),
        ("GET", "/v1/workloads"),
        ("POST", "/v1/workloads"),
        ("GET", "/v1/workloads/x"),
        ("DELETE", "/v1/workloads/x"),
        ("POST", f"/v1/jobs/{job}/stop"),
        ("POST", f"/v1/jobs/{job}/signal"),
        ("POST", "/v1/jobs/wait"),
        ("GET", "/v1/workers"),
        ("GET", "/v1/cluster"),
    ):
        answer = await gateway.call(method, f"{path}?nme=1")
        assert "no parameter 'nme'" in the_error(answer, 400, "invalid_request", "nme"), path
        assert (await gateway.call(method, f"{path}?%ff=1&%00")).status == 400
    assert not coordinator.files.stored
