"""``POST /v1/jobs``: many jobs in one call, each answered in its place."""

import asyncio
import json
from typing import Any

import pytest

from hostler.jobs import NO_LIMITS, File, JobSpec, Limits, PythonScript, Terminal
from http_gateway.native_bodies import JobItem
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import NOT_NOW, WORKER, FakeCoordinator
from tests.gateway.test_native import UNKNOWN, submitted


async def test_every_field_of_an_item_reaches_the_coordinator(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Those of the reference, with their defaults."""
    full = {
        "argv": ["sh", "-c", "exit 3"],
        "env": {"A": "ä"},
        "cwd": "/tmp",
        "worker": WORKER,
        "labels": {"zone": "a"},
        "priority": -5,
        "timeout": 1.5,
        "grace": 0,
        "key": "k",
        "name": "n",
        "owner": "o",
        "slots": 2,
        "output_bytes_max": 1000,
        "leftovers": "wait",
    }

    spec = coordinator.jobs[await submitted(gateway, **full)].spec
    plain = coordinator.jobs[await submitted(gateway)].spec

    assert (spec.work.argv, spec.work.env, spec.work.cwd) == (("sh", "-c", "exit 3"), {"A": "ä"}, "/tmp")
    assert (spec.worker, spec.labels, spec.priority, spec.slots) == (WORKER, {"zone": "a"}, -5, 2)
    assert (spec.work.timeout_s, spec.work.grace_s, spec.work.output_bytes_max) == (1.5, 0.0, 1000)
    assert (spec.key, spec.name, spec.owner, spec.work.leftovers_wait) == ("k", "n", "o", True)
    assert (plain.slots, plain.work.grace_s, plain.work.leftovers_wait, plain.family) == (1, 10.0, False, "native")


async def test_others_are_served_while_jobs_are_made_of_a_large_call(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand at once held everybody up for a third of a second."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    seen: list[int] = []
    make = JobItem.spec

    def noting(item: JobItem, principal: str) -> JobSpec:
        seen.append(turns)
        return make(item, principal)

    monkeypatch.setattr(JobItem, "spec", noting)
    others = asyncio.create_task(take_turns())
    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}] * 3000})
    others.cancel()

    assert len(coordinator.jobs) == len(answer.json["jobs"]) == len(seen) == 3000
    assert max(seen.count(turn) for turn in set(seen)) <= 500


async def test_limits_losses_and_the_start_deadline_reach_the_coordinator(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Under the names of the contract; what is left out is not said."""
    full = {
        "argv": ["x"],
        "limits": {"memory_bytes": 1 << 29, "cpus": 1.5, "pids": 100},
        "merge": True,
        "output_bytes_max": 1000,
        "output_stop": True,
        "start_path": "hardened",
        "terminal": {"rows": 30, "columns": 90, "term": "xterm"},
        "start_within": 30,
        "loss_policy": "stop",
        "on_lost": "retry",
        "lost_after": -1,
        "crash_limit": 5,
    }

    name = await submitted(gateway, **full)
    spec = coordinator.jobs[name].spec
    plain = coordinator.jobs[await submitted(gateway)].spec
    shown = (await gateway.get(f"/v1/jobs/{name}")).json

    assert spec.work.limits == Limits(memory_bytes=1 << 29, cpus=1.5, pids=100)
    assert (spec.work.merge, spec.work.output_stop, spec.work.start_path) == (True, True, "hardened")
    assert spec.work.terminal == Terminal(rows=30, columns=90, term="xterm")
    assert (spec.work.loss_policy, spec.on_lost, spec.lost_after_s, spec.crash_limit) == ("stop", "retry", -1.0, 5)
    assert spec.start_within_s == 30.0
    assert (plain.work.limits, plain.work.merge, plain.work.loss_policy) == (NO_LIMITS, False, "")
    assert plain.work.terminal is None
    assert (plain.on_lost, plain.lost_after_s, plain.crash_limit, plain.start_within_s) == ("", None, 0, 0.0)
    assert {key: shown[key] for key in full} == full


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"argv": ["true"], "start_within": -1}, "start_within"),
        ({"argv": ["true"], "limits": {"memory": 1}}, "limits.memory"),
        ({"argv": ["true"], "limits": {"memory_bytes": 1}}, "memory"),
        ({"argv": ["true"], "loss_policy": "hope"}, "loss_policy"),
        ({"argv": ["true"], "on_lost": "retry"}, "on_lost"),
        ({"argv": ["true"], "output_stop": True}, "output_stop"),
        ({"argv": ["true"], "crash_limit": 101}, "crash_limit"),
        ({}, "argv"),
        ({"argv": []}, "argv"),
        ({"argv": "true"}, "argv"),
        ({"argv": ["a", 1]}, "argv.1"),
        ({"argv": ["a\x00"]}, "argv"),
        ({"argv": ["true"], "timeout": "1"}, "timeout"),
        ({"argv": ["true"], "timeout": -1}, "timeout"),
        ({"argv": ["true"], "priority": 1001}, "priority"),
        ({"argv": ["true"], "priority": True}, "priority"),
        ({"argv": ["true"], "slots": 2000}, "slots"),
        ({"argv": ["true"], "output_bytes_max": 10**30}, "output_bytes_max"),
        ({"argv": ["true"], "leftovers": "keep"}, "leftovers"),
        ({"argv": ["true"], "env": {"A": 1}}, "env.A"),
        ({"argv": ["true"], "comand": "x"}, "comand"),
        ({"argv": ["true"], "worker": UNKNOWN}, "worker"),
        ([], None),
        (None, None),
        (5, None),
    ],
)
async def test_a_bad_item_is_an_error_in_its_place_and_the_rest_run(gateway: Caller, item: Any, field: Any) -> None:
    """The error names the field; the order is that of the request."""
    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["a"]}, item, {"argv": ["b"]}]})

    first, bad, last = answer.json["jobs"]
    assert answer.status == 200
    assert list(first) == list(last) == ["id"]
    assert list(bad) == ["error"]
    assert set(bad["error"]) == {"code", "message", "field"}
    assert bad["error"]["field"] == field


async def test_an_item_that_names_an_unknown_worker_has_the_coordinators_code(gateway: Caller) -> None:
    """Codes are the stable words of hostler.errors."""
    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["a"], "worker": UNKNOWN}]})

    assert answer.json["jobs"][0]["error"]["code"] == "worker_not_found"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"nope", None),
        (b"[]", None),
        (b"null", None),
        (b"{}", "jobs"),
        (b'{"jobs": {}}', "jobs"),
        (b'{"jobs": [], "job": 1}', "job"),
        (b'{"jobs": [{"argv": ["\\ud800"]}]}', None),
        (b'{"jobs": [{"argv": ["a"], "timeout": NaN}]}', None),
        (b'{"jobs": [{"argv": ["a"], "argv": ["b"]}]}', None),
        (b'{"jobs": %s}' % (b"[" * 70 + b"]" * 70), None),
    ],
)
async def test_a_body_of_another_form_is_400_and_nothing_is_done(
    gateway: Caller, coordinator: FakeCoordinator, body: bytes, field: str | None
) -> None:
    """The error has the form of the family."""
    answer = await gateway.call("POST", "/v1/jobs", data=body)

    assert answer.status == 400
    assert answer.json["error"]["code"] == "invalid_request"
    assert answer.json["error"]["field"] == field
    assert answer.json["error"]["message"]
    assert not coordinator.jobs


async def test_ten_thousand_jobs_in_one_call_have_an_id_each(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """The coordinator gets them in calls of at most 500."""
    items = [{"argv": ["true", str(n)]} for n in range(10_000)]

    answer = await gateway.post("/v1/jobs", {"jobs": items})

    ids = [item["id"] for item in answer.json["jobs"]]
    assert len(set(ids)) == 10_000
    assert [coordinator.jobs[i].spec.work.argv[1] for i in ids] == [str(n) for n in range(10_000)]
    assert max(coordinator.submit_sizes) <= 500
    too_many = await gateway.post("/v1/jobs", {"jobs": [*items, items[0]]})
    assert (too_many.status, too_many.json["error"]["code"]) == (413, "too_large")


async def test_a_submission_may_have_16_mib_and_other_bodies_one(gateway: Caller) -> None:
    """Above that the answer is 413, before the body is read to its end."""
    word = "x" * 100_000
    fits = await gateway.post("/v1/jobs", {"jobs": [{"argv": [word]} for _ in range(160)]})
    over = await gateway.post("/v1/jobs", {"jobs": [{"argv": [word]} for _ in range(170)]})
    other = await gateway.post("/v1/jobs/wait", {"ids": [word] * 11})

    assert (fits.status, len(fits.json["jobs"])) == (200, 160)
    assert (over.status, other.status) == (413, 413)
    assert over.json["error"]["code"] == "too_large"


async def test_the_header_idempotency_key_is_the_key_of_a_single_job(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """With several jobs, or another key in the item, it is an error."""
    header = {"Idempotency-Key": "abc"}
    one = {"jobs": [{"argv": ["true"]}]}

    answer = await gateway.post("/v1/jobs", one, headers=header)
    differs = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"], "key": "x"}]}, headers=header)
    several = await gateway.post("/v1/jobs", {"jobs": one["jobs"] * 2}, headers=header)

    assert coordinator.jobs[answer.json["jobs"][0]["id"]].spec.key == "abc"
    assert differs.json["jobs"][0]["error"]["field"] == "key"
    assert (several.status, several.json["error"]["field"]) == (400, "key")


async def test_when_nothing_can_be_accepted_now_the_whole_answer_is_503(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """With Retry-After, so that a client repeats the call."""
    coordinator.refuse = NOT_NOW

    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}] * 3})

    assert (answer.status, answer.json["error"]["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_no_jobs_are_no_error(gateway: Caller) -> None:
    """An empty list has an empty answer."""
    assert (await gateway.post("/v1/jobs", {"jobs": []})).json == {"jobs": []}


# Workloads, files, parameters and retries


async def put(gateway: Caller, content: bytes) -> dict[str, Any]:
    """Store bytes and return what names them."""
    answer = await gateway.call("POST", "/v1/files", data=content)
    assert answer.status == 201
    stored: dict[str, Any] = answer.json
    return stored


async def refused(gateway: Caller, item: object, field: str | None, code: str = "invalid_request") -> str:
    """Submit an item between good ones; return the message of its error, and check that it spoils no other."""
    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["a"]}, item, {"argv": ["b"]}]})
    assert answer.status == 200, answer.text
    first, bad, last = answer.json["jobs"]
    assert list(first) == list(last) == ["id"]
    assert list(bad) == ["error"], item
    assert (bad["error"]["code"], bad["error"]["field"]) == (code, field), (item, bad)
    message: str = bad["error"]["message"]
    return message


async def test_a_job_has_files_parameters_a_script_and_retries(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Stored bytes as they were named, or a text; a text may be empty."""
    stored = await put(gateway, b"\0bytes")

    spec = coordinator.jobs[
        await submitted(
            gateway,
            argv=[],
            python={"path": "script/x.py", "entrypoint": "run", "interpreter": "/opt/py"},
            files=[
                {"path": "inputs/a", **stored},
                {"path": "inputs/b", "digest": stored["digest"]},
                {"path": "script/x.py", "text": "def run(ctx, params): ...\n# \u00e4"},
                {"path": "inputs/empty", "text": ""},
            ],
            params={"n": 1.0, "t": "\u00e4\n", "l": [None, True]},
            stdin_path="inputs/a",
            workspace=True,
            retries=0,
            retry_on=["exit"],
        )
    ].spec
    plain = coordinator.jobs[await submitted(gateway)].spec

    digest = stored["digest"]
    assert spec.work.files == (
        File(path="inputs/a", digest=digest, size_bytes=6),
        File(path="inputs/b", digest=digest),
        File(path="script/x.py", content="def run(ctx, params): ...\n# \u00e4".encode()),
        File(path="inputs/empty"),
    )
    assert spec.work.python == PythonScript(path="script/x.py", entrypoint="run", interpreter="/opt/py")
    assert spec.params == '{"n":1.0,"t":"\u00e4\\n","l":[null,true]}'
    assert (spec.work.stdin_path, spec.work.workspace, spec.retries, spec.retry_on) == ("inputs/a", True, 0, ("exit",))
    assert (plain.params, plain.work.files, plain.work.python, plain.retries) == ("", (), None, None)
    assert (plain.work.workspace, plain.work.stdin_path, plain.retry_on, plain.workload) == (False, "", (), "")


async def test_a_job_names_a_workload_and_its_version(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Then it needs no argv."""
    answer = await gateway.post("/v1/jobs", {"jobs": [{"workload": "w", "workload_version": 3, "params": None}]})

    spec = coordinator.jobs[answer.json["jobs"][0]["id"]].spec
    assert (spec.workload, spec.workload_version, spec.params, spec.work.argv) == ("w", 3, "", ())


@pytest.mark.parametrize("params", [0, False, "", [], {}, "text", 10**30, -0.5, {"a": {"b": [1]}}])
async def test_parameters_are_any_json(gateway: Caller, coordinator: FakeCoordinator, params: Any) -> None:
    """They come to the coordinator with the value they had; only null is none."""
    spec = coordinator.jobs[await submitted(gateway, params=params)].spec

    assert json.loads(spec.params) == params


async def test_parameters_that_are_too_many_are_an_error_in_their_place(gateway: Caller) -> None:
    """256 KiB fit."""
    assert await submitted(gateway, params="x" * (256 * 1024 - 2))
    message = await refused(gateway, {"argv": ["a"], "params": "x" * (256 * 1024 - 1)}, "params", "too_large")
    assert "262144" in message
    message = await refused(gateway, {"argv": ["a"], "params": {"x": ["y" * 1000] * 5000}}, "params", "too_large")


@pytest.mark.parametrize(
    "params", [b"NaN", b"-Infinity", b"1e999", b'{"a":1,"a":2}', b"[" * 70 + b"]" * 70, b"9" * 5000]
)
async def test_parameters_that_are_no_json_are_400_like_every_such_body(
    gateway: Caller, coordinator: FakeCoordinator, params: bytes
) -> None:
    """Nobody can say where such an item ends."""
    answer = await gateway.call("POST", "/v1/jobs", data=b'{"jobs":[{"argv":["a"],"params":' + params + b"}]}")

    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_request")
    assert not coordinator.jobs


WRONG: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"files": [{"path": "inputs/a"}]}, "files.0", "files.0 must have a digest, which names stored bytes, or a text"),
    ({"files": [{"path": "inputs/a", "digest": "0" * 64, "text": ""}]}, "files.0", "one of them"),
    ({"files": [{"text": "x"}]}, "files.0.path", "files.0.path is missing"),
    ({"files": [{"path": "inputs/a", "content": "x"}]}, "files.0.content", "files.0.content is not a known field"),
    ({"files": [{"path": "inputs/a", "text": 1}]}, "files.0.text", "files.0.text must be a text"),
    ({"files": [{"path": "../a", "text": "x"}]}, "files", "'../a' cannot be a file's path"),
    ({"files": [{"path": "/a", "text": "x"}]}, "files", "'/a' cannot be a file's path"),
    ({"files": [{"path": "a\0", "text": "x"}]}, "files", "cannot be a file's path"),
    ({"files": [{"path": "a", "text": "x"}] * 2}, "files", "same path"),
    ({"files": [{"path": "a", "digest": "A" * 64}]}, "files.0.digest", "SHA-256"),
    ({"files": [{"path": "a", "digest": ""}]}, "files.0.digest", "SHA-256"),
    ({"files": [{"path": "a", "digest": "0" * 64, "size_bytes": -1}]}, "files.0.size_bytes", "must be 0 or more"),
    ({"files": {}}, "files", "files must be a list"),
    ({"files": ["a"]}, "files.0", "files.0 must be an object"),
    ({"python": "x.py"}, "python", "python must be an object"),
    ({"python": {"path": "x.py"}}, "python", "argv or python, not both"),
    ({"argv": [], "python": {"path": "x.py"}}, "python", "none of the files"),
    ({"argv": [], "python": {"entrypoint": "x"}}, "python.path", "python.path is missing"),
    ({"stdin_path": "inputs/a"}, "stdin_path", "none of the files"),
    ({"workspace": 1}, "workspace", "workspace must be true or false"),
    ({"workload": 1}, "workload", "workload must be a text"),
    ({"workload_version": 1}, "workload_version", "needs the name of a workload"),
    ({"workload": "w", "workload_version": -1}, "workload_version", "must be 0 or more"),
    ({"workload": "w", "workload_version": 1 << 31}, "workload_version", "must be less than 2147483648"),
    ({"retries": -1}, "retries", "retries must be 0 or more"),
    ({"retries": 101}, "retries", "retries must be 100 or less"),
    ({"retries": 1.5}, "retries", "retries must be a whole number"),
    ({"retries": True}, "retries", "retries must be a whole number"),
    ({"retry_on": "exit"}, "retry_on", "retry_on must be a list"),
    ({"retry_on": ["lost"]}, "retry_on", "exit, signal, timeout, not_started"),
    ({"retry_on": [1]}, "retry_on.0", "retry_on.0 must be a text"),
    ({"leftovers": "keep"}, "leftovers", "leftovers must be 'kill' or 'wait'"),
    ({"timeout": 1e300}, "timeout", "timeout must be 315360000 or less"),
    ({"slots": 10**300}, "slots", "slots must be 1024 or less"),
    ({"env": []}, "env", "env must be an object"),
    ({"x" * 5000: 1}, "x" * 200, "is not a known field"),
)


async def test_what_is_wrong_with_an_item_is_said_in_plain_words(gateway: Caller) -> None:
    """With the field, and the item alone is refused."""
    for wrong, field, words in WRONG:
        message = await refused(gateway, {"argv": ["a"], **wrong}, field)
        assert words in message, message
        assert not any(word in message for word in ("should", "valid ", "dictionary", "integer", "string", "instance"))


async def test_bytes_that_are_not_stored_are_an_error_in_their_place(gateway: Caller) -> None:
    """The item can be sent again when they are."""
    await refused(gateway, {"argv": ["a"], "files": [{"path": "a", "digest": "0" * 64}]}, "files", "file_not_found")


async def test_a_text_may_have_256_kib_and_what_is_larger_is_stored(gateway: Caller) -> None:
    """All texts of a job together."""
    assert await submitted(gateway, files=[{"path": "a", "text": "x" * 256 * 1024}])
    files = [{"path": "a", "text": "x" * 256 * 1024}, {"path": "b", "text": "x"}]
    assert "store" in await refused(gateway, {"argv": ["a"], "files": files}, "files", "too_large")


@pytest.mark.parametrize("wait", ["60.001", "61", "1e9", "inf", "-1", "nan", "x", "1,5"])
async def test_a_wait_over_the_limit_is_400_and_nothing_is_submitted(
    gateway: Caller, coordinator: FakeCoordinator, wait: str
) -> None:
    """Whoever asks for more is told the limit, instead of an answer that comes sooner than it looks."""
    answer = await gateway.post(f"/v1/jobs?wait={wait}", {"jobs": [{"argv": ["true"]}]})

    assert answer.status == 400
    assert answer.json["error"]["field"] == "wait"
    assert answer.json["error"]["message"] == "wait is a number of seconds from 0 to 60"
    assert not coordinator.jobs
