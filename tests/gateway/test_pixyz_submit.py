"""POST /jobs of the PiXYZ document: the form, what becomes of it, and every way in which it can be wrong."""

import asyncio
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from hostler.errors import Unavailable
from hostler.jobs import File, PythonScript
from hostler.workloads import Workload
from http_gateway import uploads
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import NOT_NOW, FakeCoordinator
from tests.gateway.fake_files import digest_of
from tests.gateway.pixyz_calls import (
    BOUNDARY,
    SCRIPT,
    SLEEP,
    Field,
    envelope,
    multipart,
    open_gateway,
    post_form,
    the_job,
)
from tests.support.waiting import eventually

SCRIPT_FILE: Field = ("script", SCRIPT, "00_sleep.py")
HEAD = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"


def stored(path: str, content: bytes) -> File:
    """The file of a job whose bytes are stored."""
    return File(path=path, digest=digest_of(content), size_bytes=len(content))


def bad(details: str) -> dict[str, Any]:
    """The envelope of 400."""
    return envelope(400, "Bad Request", details)


@pytest.fixture(autouse=True)
def a_process(coordinator: FakeCoordinator) -> None:
    """There is one process."""
    coordinator.workloads.add(SLEEP)
    coordinator.on_submit = lambda job: job


# What is accepted


async def test_post_jobs_is_exactly_200_with_the_status_sent(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """`process` and `params` and `name`: a named process, whose own definition rules."""
    answer = await post_form(
        gateway, ("process", b"sleep"), ("params", b' {"duration": 1} '), ("name", "mine \u00fc".encode())
    )

    job = the_job(coordinator)
    assert answer.status == 200
    assert answer.json == {"uuid": job.id, "name": "mine \u00fc", "status": "SENT", "progress": None, "error": None}
    spec = job.spec
    assert (spec.workload, spec.family, spec.name, spec.params) == (
        "sleep",
        "pixyz",
        "mine \u00fc",
        ' {"duration": 1} ',
    )
    assert (spec.work.files, spec.work.env, spec.work.timeout_s, spec.labels, spec.retries) == ((), {}, 0.0, {}, None)
    assert coordinator.principals == {"local"}


async def test_a_custom_job_is_its_script_with_the_defaults_of_the_service(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`script` without `process`: stored, run in a workspace, one hour, one retry."""
    answer = await post_form(gateway, SCRIPT_FILE)

    assert answer.status == 200, answer.text
    spec = the_job(coordinator).spec
    assert spec.work.files == (stored("script/00_sleep.py", SCRIPT),)
    assert coordinator.files.stored[digest_of(SCRIPT)] == SCRIPT
    assert spec.work.python == PythonScript(path="script/00_sleep.py", entrypoint="main")
    assert (spec.work.workspace, spec.work.timeout_s, spec.retries, spec.params) == (True, 3600.0, 1, "{}")
    assert (spec.workload, spec.family, answer.json["name"]) == ("", "pixyz", None)


async def test_the_six_parts_of_the_real_client_with_the_unused_ones_empty(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Empty parts count as absent, with a file name or without, for every field."""
    for empty in ((b"",), (b"", ""), (b"", "x.py")):
        fields: list[Field] = [(name, *empty) for name in ("file", "script", "params", "name", "config")]
        answer = await post_form(gateway, ("process", b"sleep"), *fields)
        assert answer.status == 200, answer.text
    for job in coordinator.jobs.values():
        assert (job.spec.params, job.spec.name, job.spec.work.files, job.spec.labels) == ("{}", "", (), {})
    answer = await post_form(gateway, ("process", b""), ("script", SCRIPT, ""))
    assert answer.status == 200


async def test_files_become_inputs_under_their_base_names_whatever_the_order_of_the_fields(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`file` may come several times; one of a name that was there replaces it. A script of one name is elsewhere."""
    await post_form(
        gateway,
        ("file", b"one", "C:\\\\dir\\\\a.step"),
        ("file", b"two", "../../b \u00fc.step"),
        ("file", b"old", "same.py"),
        ("file", b"new", "x/same.py"),
        ("script", SCRIPT, "same.py"),
        ("file", b"text without a name"),
        ("file", b"dots", ".."),
        ("process", b"custom"),
    )

    assert the_job(coordinator).spec.work.files == (
        stored("script/same.py", SCRIPT),
        stored("inputs/a.step", b"one"),
        stored("inputs/b \u00fc.step", b"two"),
        stored("inputs/same.py", b"new"),
        stored("inputs/input", b"dots"),
    )


async def test_a_file_that_is_text_becomes_the_input_called_input(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`file` is binary or string; also in a url-encoded form, where a script can be text too."""
    await post_form(gateway, ("process", b"sleep"), ("file", b"some text"))
    assert the_job(coordinator).spec.work.files == (stored("inputs/input", b"some text"),)

    coordinator.jobs.clear()
    form = {"file": "some text", "script": SCRIPT.decode(), "params": '{"a": 1}', "name": "", "x": "y"}
    answer = await gateway.call("POST", "/jobs", data=form)
    assert answer.status == 200, answer.text
    spec = the_job(coordinator).spec
    assert spec.work.files == (stored("script/script.py", SCRIPT), stored("inputs/input", b"some text"))
    assert spec.params == '{"a": 1}'


async def test_of_a_repeated_field_the_last_counts_and_unknown_ones_are_thrown_away(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """However large those are."""
    await post_form(
        gateway,
        ("process", b"nobody"),
        ("unknown", b"x" * 3_000_000, "x.bin"),
        ("process", b"sleep"),
        ("name", b"a"),
        ("name", b"b"),
        ("task_id", b"4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"),
    )

    assert (the_job(coordinator).spec.name, coordinator.files.stored) == ("b", {})


async def test_a_script_gets_the_ending_of_its_language(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Python imports no other."""
    await post_form(gateway, ("script", SCRIPT, "run"))
    assert the_job(coordinator).spec.work.files[0].path == "script/run.py"


# config


CONFIG = {
    "entrypoint": "other",
    "queue": "gpu",
    "time_limit": 12.5,
    "root_file": "cad/scene.step",
    "compute_only": True,
    "retries": 3,
}
IGNORED = {"script": "x", "data": "y", "shadow": 1, "uuid": "z", "task_id": "t", "name": None, "nonsense": []}
OTHER = b"def main(pc, params): ...\ndef other(pc, params): ...\n"


async def test_config_says_how_a_script_runs(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """`config`: entry point, queue, time limit, root file, compute only; unknown keys and nulls count for nothing."""
    async with open_gateway(coordinator, tmp_path, pixyz_queues={"gpu": {"gpu": "yes", "zone": "a"}}) as gateway:
        config = json.dumps(CONFIG | IGNORED).encode()
        answer = await post_form(gateway, ("script", OTHER, "s.py"), ("config", config))
        assert answer.status == 200, answer.text
    spec = the_job(coordinator).spec
    assert spec.work.python == PythonScript(path="script/s.py", entrypoint="other")
    assert spec.labels == {"gpu": "yes", "zone": "a"}
    assert (spec.work.timeout_s, spec.retries, spec.key) == (12.5, 3, "")
    assert spec.work.env == {"HOSTLER_ROOT_FILE": "cad/scene.step", "HOSTLER_COMPUTE_ONLY": "1"}


async def test_a_named_process_runs_also_when_a_script_comes_along(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The form has both fields, and the real service takes them; the script is neither run nor kept."""
    answer = await post_form(gateway, ("process", b"sleep"), SCRIPT_FILE)

    spec = the_job(coordinator).spec
    assert (answer.status, spec.workload, spec.work.python, spec.work.files) == (200, "sleep", None, ())


async def test_config_lies_above_the_definition_of_a_named_process(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Nulls do not; a queue without an entry in the settings means any worker."""
    async with open_gateway(coordinator, tmp_path, pixyz_queues={"gpu": {"gpu": "yes"}}) as gateway:
        for config in (CONFIG, dict.fromkeys(CONFIG), {"queue": "cpu", "time_limit": 5}, {"compute_only": False}):
            answer = await post_form(gateway, ("process", b"sleep"), ("config", json.dumps(config).encode()))
            assert answer.status == 200, answer.text
    found = [
        (j.spec.labels, j.spec.work.timeout_s, j.spec.retries, len(j.spec.work.env)) for j in coordinator.jobs.values()
    ]
    assert found == [({"gpu": "yes"}, 12.5, 3, 2), ({}, 0.0, None, 0), ({}, 5.0, None, 0), ({}, 0.0, None, 0)]
    assert all(job.spec.work.python is None for job in coordinator.jobs.values())


@pytest.mark.parametrize(
    ("decorator", "config", "labels", "timeout_s"),
    [
        ('queue="gpu", time_limit=60', {}, {"q": "gpu"}, 60.0),
        ('queue="gpu", time_limit=60', {"queue": "cpu", "time_limit": 5}, {"q": "cpu"}, 5.0),
        ('queue="gpu", time_limit=60', {"queue": None, "time_limit": None}, {"q": "gpu"}, 60.0),
        ("timeout=30", {}, {}, 30.0),
        ("timeout=30, time_limit=20", {}, {}, 20.0),
        ("wait=True", {}, {"q": "control"}, 3600.0),
        ("wait=True", {"queue": "cpu"}, {"q": "cpu"}, 3600.0),
        ("wait=False, queue=some_name()", {}, {}, 3600.0),
    ],
)
async def test_the_decorator_of_a_script_gives_defaults_below_the_config(
    coordinator: FakeCoordinator, tmp_path: Path, decorator: str, config: dict[str, Any], labels: Any, timeout_s: float
) -> None:
    """`@pixyz_schedule(...)`, as far as it is literal."""
    source = f"@pixyz_schedule({decorator})\ndef main(pc, params): ...\n".encode()
    queues = {name: {"q": name} for name in ("cpu", "gpu", "control")}
    async with open_gateway(coordinator, tmp_path, pixyz_queues=queues) as gateway:
        answer = await post_form(gateway, ("script", source, "s.py"), ("config", json.dumps(config).encode()))
        assert answer.status == 200, answer.text
    assert (the_job(coordinator).spec.labels, the_job(coordinator).spec.work.timeout_s) == (labels, timeout_s)


# What is 400


@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ((), "'custom' process requires a 'script' file"),
        ((("process", b"custom"), ("file", b"x", "x.step")), "'custom' process requires a 'script' file"),
        ((("process", b"nobody"),), "Invalid process 'nobody'"),
        ((("process", b"inner"),), "Invalid process 'inner'"),
        ((("process", b"../x"),), "Invalid process '../x'"),
        ((("process", b"sleep"), ("params", b"{")), "Invalid JSON string for 'params': *"),
        ((("process", b"sleep"), ("params", b'{"a":NaN}')), "Invalid JSON string for 'params': *"),
        ((("process", b"sleep"), ("params", b"[" * 500)), "Invalid JSON string for 'params': *"),
        ((("process", b"sleep"), ("config", b"x")), "Invalid JSON string for 'config': *"),
        ((("process", b"sleep"), ("config", b"[]")), "Invalid JSON string for 'config': it must be an object"),
        ((("process", b"sleep"), ("config", b"1")), "Invalid JSON string for 'config': it must be an object"),
        ((("process", b"sleep"), ("name", b"x" * 201)), "name has more than 200 characters"),
        ((("process", b"sleep"), ("name", b"\xff")), "name is not UTF-8"),
        ((("process", b"sleep"), ("file", b"x", "x" * 300)), "the file name *"),
        (
            (SCRIPT_FILE, ("config", b'{"entrypoint":"other"}')),
            "The script file does not have the function other",
        ),
        ((("script", b"def main(:", "x.py"),), "The script file is not Python: *"),
        ((("script", b"\xff\xfe\0", "x.py"),), "The script file is not Python: *"),
    ],
)
async def test_a_form_that_cannot_be_meant_is_400_and_makes_no_job(
    gateway: Caller, coordinator: FakeCoordinator, fields: tuple[Field, ...], details: str
) -> None:
    """With the texts of the real service."""
    coordinator.workloads.add(Workload(name="inner", external=False))

    answer = await post_form(gateway, *fields)

    assert answer.status == 400
    found = answer.json["detail"]
    assert (found["code"], found["message"]) == (400, "Bad Request")
    assert found["details"] == details or (details.endswith("*") and found["details"].startswith(details[:-1]))
    assert not coordinator.jobs


BAD_CONFIGS: tuple[dict[str, Any], ...] = (
    {"time_limit": 0}, {"time_limit": -1}, {"time_limit": "60"}, {"time_limit": True}, {"time_limit": 1e300},
    {"retries": -1}, {"retries": 1.5}, {"retries": 1000}, {"retries": True}, {"queue": 1}, {"entrypoint": []},
    {"compute_only": "yes"}, {"root_file": "../x"}, {"root_file": "/x"}, {"root_file": 7}, {"root_file": "a\0"},
    {"queue": "x" * 5000},
)  # fmt: skip


async def test_a_value_of_config_that_cannot_be_meant_is_400(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It names the key."""
    for config in BAD_CONFIGS:
        for field in (("process", b"sleep"), SCRIPT_FILE):
            answer = await post_form(gateway, field, ("config", json.dumps(config).encode()))
            assert answer.status == 400
            assert answer.json["detail"]["details"].startswith(f"Invalid 'config': {next(iter(config))} ")
    assert not coordinator.jobs


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"process": "sleep"}'),
        ("text/plain", b"process=sleep"),
        ("", b"process=sleep"),
        ("multipart/mixed; boundary=b", b"--b--"),
        ("application/x-www-form-urlencoded", b""),
        (f"multipart/form-data; boundary={BOUNDARY}", b""),
    ],
)
async def test_without_any_form_it_is_422(gateway: Caller, kind: str, body: bytes) -> None:
    """No body, or one of another kind; a form that is there and wrong is 400."""
    answer = await gateway.call("POST", "/jobs", data=body, headers={"Content-Type": kind})

    text = "the body is no form: send multipart/form-data, or a url-encoded form"
    assert (answer.status, answer.json) == (422, envelope(422, "Validation Error", text))
    assert (await gateway.call("POST", "/jobs")).status == 422


async def test_a_form_with_nothing_in_it_lacks_its_script(gateway: Caller) -> None:
    """It is there, and wrong."""
    for answer in (await post_form(gateway), await gateway.call("POST", "/jobs", data={"x": ""})):
        assert (answer.status, answer.json) == (400, bad("'custom' process requires a 'script' file"))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", multipart(("process", b"sleep"))),
        ("multipart/form-data; boundary=", multipart(("process", b"sleep"))),
        ("multipart/form-data; boundary=" + "x" * 300, multipart(("process", b"sleep"))),
        ("multipart/form-data; boundary=other", multipart(("process", b"sleep"))),
        (f"multipart/form-data; boundary={BOUNDARY}", multipart(("process", b"sleep"))[:-6]),
        (f"multipart/form-data; boundary={BOUNDARY}", multipart(*[("x", b"")] * 101)),
        ('multipart/form-data; boundary="', b"x"),
        ("application/x-www-form-urlencoded", b"a=1&" * 101),
        ("application/x-www-form-urlencoded", b"name=%ff"),
        ("application/x-www-form-urlencoded", b"name=\xff"),
    ],
)
async def test_a_malformed_form_is_400_and_makes_no_job(
    gateway: Caller, coordinator: FakeCoordinator, kind: str, body: bytes
) -> None:
    """tests/gateway/test_multipart.py has the whole corpus."""
    answer = await gateway.call("POST", "/jobs", data=body, headers={"Content-Type": kind})

    assert (answer.status, answer.json["detail"]["message"]) == (400, "Bad Request"), answer.text
    assert not coordinator.jobs


async def test_a_process_that_is_removed_meanwhile_is_400(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """And what the coordinator finds wrong with the params too; a coordinator that is away is 503."""
    coordinator.refuse = NOT_NOW
    answer = await post_form(gateway, ("process", b"sleep"))
    assert (answer.status, answer.json) == (503, {"detail": "Service not available: the coordinator's disk is full"})


# Limits, and uploads that break off


async def test_what_is_too_large_is_413(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """A text, a script, a body by its length, a body in chunks; nothing of it stays."""
    async with open_gateway(coordinator, tmp_path, upload_bytes_max=4_000_000) as gateway:
        big = ("file", b"x" * 5_000_000, "x.bin")
        for fields in ([("name", b"x" * 300_000)], [("script", b"#" * 1_100_000, "x.py")], [big]):
            answer = await post_form(gateway, ("process", b"sleep"), *fields)
            assert (answer.status, type(answer.json["detail"])) == (413, str)

        async def chunks() -> Any:
            body = multipart(("process", b"sleep"), big)
            for start in range(0, len(body), 65536):
                yield body[start : start + 65536]

        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        answer = await gateway.call("POST", "/jobs", data=chunks(), headers=headers)
        assert answer.status == 413
        body = b"name=" + b"x" * 300_000
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await gateway.call("POST", "/jobs", data=body, headers=headers)).status == 413
    assert not coordinator.jobs and not coordinator.files.stored
    await eventually(lambda: coordinator.files.open == 0)


async def test_a_file_at_the_end_of_a_large_body_is_stored_whole(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Byte for byte, whatever the pieces."""
    content = os.urandom(3_333_333)

    answer = await post_form(gateway, ("file", content, "x.bin"), ("process", b"sleep"))

    assert answer.status == 200
    assert coordinator.files.stored == {digest_of(content): content}


async def test_an_upload_that_the_client_breaks_off_leaves_nothing_and_makes_no_job(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """In the middle of the file."""
    body = multipart(("process", b"sleep"), ("file", b"x" * 4_000_000, "x.bin"))
    host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body[:3_000_000])
    await writer.drain()
    await eventually(lambda: coordinator.files.open == 1)

    writer.close()

    await eventually(lambda: coordinator.files.aborted == 1)
    assert not coordinator.files.stored and not coordinator.jobs
    assert (await gateway.get("/jobs")).json == {"jobs": []}


async def test_an_upload_that_stops_arriving_is_408(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it for ever."""
    monkeypatch.setattr(uploads, "STALLED_S", 0.3)
    body = multipart(("file", b"x" * 4_000_000, "x.bin"))
    head = f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode()
    raw = await gateway.raw(head + body[:1_000_000], until=b"\r\n\r\n")

    assert raw.startswith(b"HTTP/1.1 408 ")
    await eventually(lambda: coordinator.files.aborted == 1)


async def test_an_upload_that_the_coordinator_refuses_is_answered_with_its_reason(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """In the middle of it."""
    coordinator.files.refuse = Unavailable("the coordinator's disk is full", retry_after_s=7.0)

    answer = await post_form(gateway, ("file", b"x" * 4_000_000, "x.bin"), ("process", b"sleep"))

    assert (answer.status, answer.json) == (503, {"detail": "Service not available: the coordinator's disk is full"})
    assert not coordinator.jobs


async def test_the_key_is_looked_at_before_the_body(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """Nothing of the body is asked for; a client that sends it all sees the 401 nevertheless."""
    async with open_gateway(coordinator, tmp_path, secured=True) as gateway:
        body = multipart(("process", b"sleep"), ("file", b"x" * 20_000_000, "x.bin"))
        for more in ("", "Expect: 100-continue\r\n"):
            head = f"{HEAD}{more}Content-Length: {len(body)}\r\n\r\n".encode()
            raw = await gateway.raw(head, until=b"\r\n\r\n")
            assert raw.startswith(b"HTTP/1.1 401 ")
            assert b"WWW-Authenticate: x-api-key" in raw
        answer = await gateway.call("POST", "/jobs", data=io.BytesIO(body), headers={"x-api-key": "wrong"})
        assert (answer.status, answer.json) == (401, {"detail": "Invalid token"})
    assert not coordinator.files.stored and not coordinator.files.aborted


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on_or_not(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """`Expect: 100-continue`: as curl does for large files; another expectation is 417."""
    async with open_gateway(coordinator, tmp_path, upload_bytes_max=1_000_000) as gateway:
        body = multipart(("process", b"sleep"), ("file", b"x" * 100_000, "x.bin"))
        head = f"{HEAD}Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write((head % len(body)).encode())
        async with asyncio.timeout(20):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        raw = await gateway.raw((head % 2_000_000).encode(), until=b"\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 413 ")
        raw = await gateway.raw(f"{HEAD}Expect: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        assert raw.startswith(b"HTTP/1.1 417 ") and b'{"detail":' in raw


async def test_a_compressed_form_is_415(gateway: Caller) -> None:
    """Bombs are not opened."""
    answer = await post_form(gateway, ("process", b"sleep"), **{"Content-Encoding": "gzip"})

    assert (answer.status, type(answer.json["detail"])) == (415, str)


async def test_many_uploads_at_once_are_kept_apart(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Each job has its own bytes."""
    contents = [os.urandom(300_000) for _ in range(8)]
    answers = await asyncio.gather(
        *(post_form(gateway, ("file", content, "x.bin"), ("process", b"sleep")) for content in contents)
    )

    for content, answer in zip(contents, answers, strict=True):
        assert coordinator.jobs[answer.json["uuid"]].spec.work.files == (stored("inputs/x.bin", content),)
