"""What PiXYZ jobs put out: the list, one file, all of them, and the paths that lead nowhere."""

import asyncio
import io
import os
import zipfile
from typing import Any

import pytest

from hostler.lifecycle import Outcome
from http_gateway.file_answers import attachment
from http_gateway.pixyz_shapes import leaves_folder
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator, finished, killed, running
from tests.gateway.fake_files import digest_of
from tests.gateway.pixyz_calls import a_job, envelope

CONTENT = bytes(range(256)) * 4
OUTPUTS = {"b.bin": CONTENT, "a/deep/x.txt": b"deep", "a/y.txt": b"y", "empty": b"", "\u00fc \u20ac'\".txt": b"name"}
TAG = f'"{digest_of(CONTENT)}"'


async def with_outputs(gateway: Caller, coordinator: FakeCoordinator, becomes: Any = finished) -> str:
    """A job that has put something out."""
    uuid = await a_job(gateway, coordinator, becomes)
    coordinator.outputs[uuid] = dict(OUTPUTS)
    return uuid


async def fetch(gateway: Caller, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """Call and return status, headers and body."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with gateway.session.request(method, gateway.url + path, headers=headers) as answer:
        return answer.status, answer.headers, await answer.read()


async def raw_status(gateway: Caller, target: bytes, method: bytes = b"GET") -> tuple[int, bytes]:
    """Ask for exactly this target and return status and body."""
    raw = await gateway.raw(method + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return int(raw.split()[1]), raw.partition(b"\r\n\r\n")[2]


# GET /jobs/{job_uuid}/outputs


async def test_get_outputs_is_200_and_one_level_of_names_with_folders_in_order(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """An empty list when there are none; while it runs, what is there by now."""
    for becomes in (finished, running, killed):
        uuid = await with_outputs(gateway, coordinator, becomes)
        answer = await gateway.get(f"/jobs/{uuid}/outputs")
        assert (answer.status, answer.json) == (200, {"outputs": ["a", "b.bin", "empty", "\u00fc \u20ac'\".txt"]})
    uuid = await a_job(gateway, coordinator)
    assert (await gateway.get(f"/jobs/{uuid}/outputs")).json == {"outputs": []}


# GET /jobs/{job_uuid}/outputs/archive


@pytest.mark.parametrize(
    "becomes",
    [finished, killed, lambda job: finished(job, Outcome.FAILED), lambda job: finished(job, Outcome.TIMED_OUT)],
)
async def test_get_archive_is_200_and_a_zip_of_every_output_file_however_the_job_ended(
    gateway: Caller, coordinator: FakeCoordinator, becomes: Any
) -> None:
    """At once, with its length, named after the job."""
    uuid = await with_outputs(gateway, coordinator, becomes)

    status, headers, body = await fetch(gateway, f"/jobs/{uuid}/outputs/archive")

    assert (status, headers["Content-Type"], headers["Content-Length"]) == (
        200, "application/octet-stream", str(len(body)),
    )  # fmt: skip
    assert headers["Content-Disposition"] == f'attachment; filename="{uuid}.zip"'
    assert "Content-Encoding" not in headers and "Transfer-Encoding" not in headers
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == OUTPUTS
    head = await fetch(gateway, f"/jobs/{uuid}/outputs/archive", "HEAD")
    assert (head[0], head[1]["Content-Length"], head[2]) == (200, str(len(body)), b"")


async def test_get_archive_of_a_job_that_is_not_finished_is_425_too_early(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Whether it runs or waits."""
    for becomes in (running, lambda job: job):
        uuid = await with_outputs(gateway, coordinator, becomes)
        answer = await gateway.get(f"/jobs/{uuid}/outputs/archive")
        assert answer.status == 425
        assert answer.json == envelope(425, "Too Early", f"TaskNotCompletedError: Job '{uuid}' is not finished yet")


# GET /jobs/{job_uuid}/outputs/{file_path}


async def test_get_output_is_200_and_the_file_with_its_length_and_name(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """In folders too; never compressed, never in chunks."""
    uuid = await with_outputs(gateway, coordinator)
    for path, content in OUTPUTS.items():
        status, headers, body = await fetch(gateway, f"/jobs/{uuid}/outputs/{path}", Accept_Encoding="gzip")
        assert (status, body, headers["Content-Length"]) == (200, content, str(len(content)))
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["Content-Disposition"] == attachment(path.rpartition("/")[2])
        assert (headers["ETag"], headers["Accept-Ranges"]) == (f'"{digest_of(content)}"', "bytes")
        assert "Content-Encoding" not in headers and "Transfer-Encoding" not in headers


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("x.txt", 'attachment; filename="x.txt"'),
        ("a b;c=d.txt", 'attachment; filename="a b;c=d.txt"'),
        ('a"b\\c', "attachment; filename=\"a_b_c\"; filename*=UTF-8''a%22b%5Cc"),
        ("\u00fc%", "attachment; filename=\"__\"; filename*=UTF-8''%C3%BC%25"),
        ("a\r\nb", "attachment; filename=\"a__b\"; filename*=UTF-8''a%0D%0Ab"),
    ],
)
def test_the_name_of_a_file_is_told_in_both_forms(name: str, header: str) -> None:
    """Plain where that is enough, and so that no name can break a header."""
    assert attachment(name) == header


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=10-", 10, 1024),
        ("bytes=-5", 1019, 1024),
        ("bytes=-5000", 0, 1024),
        ("bytes=1000-5000", 1000, 1024),
        ("bytes=1023-1023", 1023, 1024),
        ("BYTES= 0-0", 0, 1),
        ("bytes=1000-" + "9" * 40, 1000, 1024),
        ("bytes=-" + "9" * 40, 0, 1024),
    ],
)
async def test_get_a_range_is_206(
    gateway: Caller, coordinator: FakeCoordinator, asked: str, start: int, end: int
) -> None:
    """A single one, from the start or from the end; also of a running job's file."""
    for becomes in (finished, running):
        uuid = await with_outputs(gateway, coordinator, becomes)
        status, headers, body = await fetch(gateway, f"/jobs/{uuid}/outputs/b.bin", Range=asked)
        assert (status, body) == (206, CONTENT[start:end])
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/1024"
        assert headers["Content-Length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=-0", f"bytes={'9' * 23}-"])
async def test_get_a_range_outside_of_the_file_is_416(
    gateway: Caller, coordinator: FakeCoordinator, asked: str
) -> None:
    """With the size of the file."""
    uuid = await with_outputs(gateway, coordinator)
    answer = await gateway.get(f"/jobs/{uuid}/outputs/b.bin", headers={"Range": asked})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */1024")
    assert answer.json == {"detail": "the file has 1024 bytes"}
    assert (await gateway.get(f"/jobs/{uuid}/outputs/empty", headers={"Range": "bytes=0-"})).status == 416


@pytest.mark.parametrize(
    "asked",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,5-6", "lines=0-1", "bytes=a-b"),
        pytest.param("bytes=0-" + "9" * 4001, id="too long to be read"),
    ],
)
async def test_what_is_no_single_range_is_the_whole_file(
    gateway: Caller, coordinator: FakeCoordinator, asked: str
) -> None:
    """As the standard allows."""
    uuid = await with_outputs(gateway, coordinator)
    assert (await fetch(gateway, f"/jobs/{uuid}/outputs/b.bin", Range=asked))[::2] == (200, CONTENT)


async def test_a_file_that_is_known_is_304_and_a_download_goes_on_only_in_the_same_file(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """If-None-Match and If-Range, by the digest."""
    uuid = await with_outputs(gateway, coordinator)
    path = f"/jobs/{uuid}/outputs/b.bin"
    for known in (TAG, f"W/{TAG}", f'"x", {TAG}', "*"):
        for method in ("GET", "HEAD"):
            status, headers, body = await fetch(gateway, path, method, If_None_Match=known)
            assert (status, headers["ETag"], body) == (304, TAG, b"")
    assert (await fetch(gateway, path, If_None_Match='"x"'))[::2] == (200, CONTENT)
    assert (await fetch(gateway, path, Range="bytes=0-1", If_Range=TAG))[::2] == (206, CONTENT[:2])
    for other in ('"x"', f"W/{TAG}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert (await fetch(gateway, path, Range="bytes=0-1", If_Range=other))[::2] == (200, CONTENT)


async def test_head_of_a_file_is_200_with_its_length_and_no_body(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Whatever range is asked for."""
    uuid = await with_outputs(gateway, coordinator)
    status, headers, body = await fetch(gateway, f"/jobs/{uuid}/outputs/b.bin", "HEAD", Range="bytes=0-1")
    assert (status, headers["Content-Length"], headers["ETag"], body) == (200, "1024", TAG, b"")
    assert (await fetch(gateway, f"/jobs/{uuid}/outputs/none", "HEAD"))[0] == 404


async def test_a_running_jobs_file_is_served_as_it_is_without_a_tag(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Nobody knows yet what it will be."""
    uuid = await with_outputs(gateway, coordinator, running)
    status, headers, body = await fetch(gateway, f"/jobs/{uuid}/outputs/b.bin", If_None_Match="*")
    assert (status, body, "ETag" in headers) == (200, CONTENT, False)
    assert (await fetch(gateway, f"/jobs/{uuid}/outputs/b.bin", Range="bytes=0-1", If_Range=TAG))[0] == 200


async def test_a_file_that_shrinks_while_it_is_sent_breaks_off(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It is never taken for the whole."""
    uuid = await with_outputs(gateway, coordinator, running)
    big = os.urandom(3 << 20)
    coordinator.outputs[uuid] = {"x": big}
    read = coordinator.ReadOutput

    async def shorter(request: Any, context: Any) -> Any:
        pieces = 0
        async for chunk in read(request, context):
            pieces += 1
            if pieces < 4:
                yield chunk

    coordinator.ReadOutput = shorter  # type: ignore[method-assign]
    await coordinator.stop()
    await coordinator.start()
    raw = await gateway.raw(f"GET /jobs/{uuid}/outputs/x HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    head, _, body = raw.partition(b"\r\n\r\n")
    assert f"content-length: {len(big)}".encode() in head.lower()
    assert len(body) < len(big) and big.startswith(body)


async def test_a_large_file_arrives_as_it_is_also_when_the_reader_is_slow(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Piece by piece."""
    uuid = await with_outputs(gateway, coordinator)
    big = os.urandom(9 << 20)
    coordinator.outputs[uuid] = {"x": big}
    async with gateway.session.get(f"{gateway.url}/jobs/{uuid}/outputs/x") as answer:
        await asyncio.sleep(0.1)
        assert await answer.read() == big
    assert (await fetch(gateway, f"/jobs/{uuid}/outputs/x", Range="bytes=1048570-5000000"))[2] == big[1048570:5000001]


# Paths


LEAVING = (
    b"../inputs/x", b"..", b"../", b"a/../../inputs/x", b"a/../b.bin", b"/etc/passwd", b"//etc/passwd",
    b"%2e%2e/inputs/x", b"%2e%2e%2finputs%2fx", b"..%2finputs", b"%2fetc%2fpasswd", b".%2e/x", b"..%5cinputs",
    b"..\\inputs\\x", b"\\etc\\passwd", b"a\\..\\..\\x", b"%252e%252e%252fx", b"%255c..%255cx", b"b.bin%00", b"%00",
    b"b.bin%2500.txt", b"a/%2e%2e/%2e%2e/x", b"%2e%2e%00", b"..%00/x",
)  # fmt: skip
MISSING = (
    b"none", b"a", b"a/", b"a/deep", b"b.bin/", b"b.bin/x", b"a//y.txt", b"./b.bin", b"a/./y.txt", b"B.BIN",
    b"b.bin%20",
    b"...", b"..b.bin", b"%FF", b"%C3%28", b"a%5cy.txt", b"x" * 3000, b"x/" * 700, b"%20", b"*", b"~root",
    b"file:b.bin", b"archive/x", b"%u002e", b"b.bin;x", b"%EF%BC%8E%EF%BC%8E/x", b"con", b"%c3%bc",
)  # fmt: skip


async def test_a_path_that_tries_to_leave_the_outputs_is_400(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """In every spelling, with GET and with HEAD."""
    uuid = await with_outputs(gateway, coordinator)
    for path in LEAVING:
        status, body = await raw_status(gateway, f"/jobs/{uuid}/outputs/".encode() + path)

        assert status == 400, path
        assert b'"code":400,"message":"Bad Request","details":"SharePathInvalidError: Invalid file path ' in body
        assert (await raw_status(gateway, f"/jobs/{uuid}/outputs/".encode() + path, b"HEAD"))[0] == 400


async def test_a_path_that_is_no_output_file_is_404(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Directories, other spellings of a name, and bytes that are no text."""
    uuid = await with_outputs(gateway, coordinator)
    for path in MISSING:
        status, body = await raw_status(gateway, f"/jobs/{uuid}/outputs/".encode() + path)

        assert status == 404, path
        assert b'"code":404,"message":"Not Found","details":"SharePathNotFoundError: File ' in body
        assert (await raw_status(gateway, f"/jobs/{uuid}/outputs/".encode() + path, b"HEAD"))[0] == 404


async def test_a_listed_file_with_a_strange_name_is_served(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It is exactly the name that the job gave it."""
    uuid = await with_outputs(gateway, coordinator)
    names = {
        "a\\..\\b": b"a%5c..%5cb",
        "%2e%2e": b"%252e%252e",
        "a?b#c": b"a%3fb%23c",
        "archive.d/archive": b"archive.d/archive",
        "\n": b"%0a",
        "...": b"...",
    }
    coordinator.outputs[uuid] = {name: name.encode() for name in names}
    for name, spelled in names.items():
        assert await raw_status(gateway, f"/jobs/{uuid}/outputs/".encode() + spelled) == (200, name.encode())


def test_a_path_inside_is_not_taken_for_one_that_leaves() -> None:
    """Dots alone are no crime."""
    assert not any(map(leaves_folder, ("a", "a/b", "..a", "a..", "...", "a/...", "50%", "%", "a b")))
