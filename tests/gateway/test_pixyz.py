"""The PiXYZ document, endpoint by endpoint and status by status, in its order. Submissions and files have
files of their own: test_pixyz_submit.py and test_pixyz_files.py."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hostler.errors import InternalError, Overloaded
from hostler.ids import new_uuid
from hostler.jobs import Advance, Failure, Job, JobSpec, Step, Work
from hostler.lifecycle import Outcome, State
from hostler.workloads import Workload
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import NOT_NOW, NOW_US, FakeCoordinator, finished, killed, not_started, running
from tests.gateway.pixyz_calls import SLEEP, UNKNOWN, a_job, envelope, open_gateway

UUID_PATHS = (
    "/jobs/{}",
    "/jobs/{}/details",
    "/jobs/{}/outputs",
    "/jobs/{}/outputs/archive",
    "/jobs/{}/outputs/a.txt",
    "/backend/get_task_meta/{}",
)
ADVANCE = Advance(percent=33, steps=(Step(text="load", duration_s=1.5), Step(text="save")))
BOOM = Failure(
    type="ValueError", module="builtins", message="no faces", traceback="Traceback ...\nValueError: no faces"
)


def failed(**changes: Any) -> Any:
    """What becomes of a job that fails."""
    return lambda job: finished(job, Outcome.FAILED, **changes)


def a_queued_job(number: int, family: str = "pixyz") -> Job:
    """A job that waits."""
    spec = JobSpec(work=Work(argv=("x",)), workload="sleep", family=family, name=f"job {number}")
    return Job(id=new_uuid(number.to_bytes(16)), spec=spec, state=State.QUEUED, queued_at_us=NOW_US)


# Root


async def test_get_root_is_200_and_the_welcome_line(
    gateway: Caller, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """`GET /`: as text, with the document's version or that of the settings."""
    for path in ("/", "/pixyz", "/pixyz/"):
        async with gateway.session.get(gateway.url + path) as answer:
            assert (answer.status, answer.content_type) == (200, "text/plain")
            assert await answer.text() == "Welcome to PiXYZ API v1.0.5!"
    async with (
        open_gateway(coordinator, tmp_path, pixyz_version="1.0.7") as other,
        other.session.get(other.url) as answer,
    ):
        assert await answer.text() == "Welcome to PiXYZ API v1.0.7!"


# Processes


async def test_get_processes_is_200_and_the_list_of_all_available_processes(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`GET /processes`: workloads that this family shows."""
    assert (await gateway.get("/processes")).json == {"processes": []}
    coordinator.workloads.add(
        SLEEP,
        Workload(name="api_test", families=("pixyz", "altron")),
        Workload(name="others", families=("infernet",)),
        Workload(name="inner", external=False),
    )

    answer = await gateway.get("/processes")

    assert (answer.status, answer.json) == (200, {"processes": ["api_test", "sleep"]})


async def test_get_process_is_200_and_its_documentation(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """`GET /processes/{process_name}`: under a line that names it."""
    coordinator.workloads.add(SLEEP)

    answer = await gateway.get("/processes/sleep")

    assert (answer.status, answer.json) == (200, {"doc": "Process 'sleep' documentation:\n\nSleep for a while."})


@pytest.mark.parametrize("name", ["nobody", "inner", "..", "%2e%2e%2fx", "a'b", "%FF", "x" * 500, "%00"])
async def test_get_an_unknown_process_is_404(gateway: Caller, coordinator: FakeCoordinator, name: str) -> None:
    """Also one that is not shown to this family, and what can be the name of none."""
    coordinator.workloads.add(Workload(name="inner", external=False, documentation="x"))

    raw = await gateway.raw(f"GET /processes/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())

    assert raw.startswith(b"HTTP/1.1 404 ")
    assert b'"code":404,"message":"Not Found","details":"Invalid process ' in raw


async def test_get_a_process_without_documentation_is_404(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It is there, its documentation is not."""
    coordinator.workloads.add(Workload(name="silent"))

    answer = await gateway.get("/processes/silent")

    assert (answer.status, answer.json) == (404, envelope(404, "Not Found", "Process 'silent' has no documentation"))


# Jobs


async def test_get_jobs_is_200_and_the_statuses_of_all_registered_jobs(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`GET /jobs`: of this family, newest last, queued ones too."""
    assert (await gateway.get("/jobs")).text == '{"jobs":[]}\n'
    first = await a_job(gateway, coordinator, name="one")
    second = await a_job(gateway, coordinator, finished)
    await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}]})

    answer = await gateway.get("/jobs")

    assert answer.status == 200
    assert answer.json == {
        "jobs": [
            {"uuid": first, "name": "one", "status": "PENDING", "progress": None, "error": None},
            {"uuid": second, "name": None, "status": "SUCCESS", "progress": 100, "error": None},
        ]
    }


async def test_get_jobs_lists_1000_queued_jobs_in_well_under_a_second_and_all_of_2500(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """In order, whatever the pages of the coordinator; HEAD has no body."""
    for count in (1000, 2500):
        coordinator.jobs = {job.id: job for job in map(a_queued_job, range(count))}
        began = time.monotonic()
        answer = await gateway.get("/jobs")
        assert time.monotonic() - began < 5  # about 0.1 s for a thousand; this is for a busy machine
        assert [job["name"] for job in answer.json["jobs"]] == [f"job {number}" for number in range(count)]
        async with gateway.session.head(gateway.url + "/jobs") as head:
            assert (head.status, await head.read()) == (200, b"")


@pytest.mark.parametrize(
    ("becomes", "status", "progress", "error"),
    [
        (lambda job: job, "PENDING", None, None),
        (lambda job: replace(job, retried=1, advance=ADVANCE), "RETRY", None, None),
        (lambda job: replace(job, state=State.ASSIGNED), "STARTED", None, None),
        (running, "RUNNING", None, None),
        (lambda job: replace(running(job), advance=ADVANCE), "RUNNING", 33, None),
        (lambda job: replace(running(job), state=State.STOPPING), "RUNNING", None, None),
        (finished, "SUCCESS", 100, None),
        (failed(exit_code=1, failure=BOOM, advance=ADVANCE), "FAILURE", None, "Internal error"),
        (failed(exit_code=3), "FAILURE", None, "Task process exited with error"),
        (failed(exit_code=None, signal="SIGSEGV"), "FAILURE", None, "Task process exited with error"),
        (not_started, "FAILURE", None, "Internal error"),
        (lambda job: killed(job, outcome=Outcome.TIMED_OUT), "FAILURE", None, "Task process timeout"),
        (lambda job: finished(job, Outcome.LOST, exit_code=None), "FAILURE", None, "Internal error"),
        (lambda job: finished(job, Outcome.REJECTED, exit_code=None), "FAILURE", None, "Internal error"),
        (killed, "REVOKED", None, None),
        (lambda job: replace(finished(job, Outcome.STOPPED), end=None), "REVOKED", None, None),
    ],
)
async def test_get_job_is_200_and_its_status(
    gateway: Caller, coordinator: FakeCoordinator, becomes: Any, status: str, progress: int | None, error: str | None
) -> None:
    """`GET /jobs/{job_uuid}`: all keys are always there, and progress is a whole number or null."""
    coordinator.workloads.add(replace(SLEEP, name="sleep"))
    uuid = await a_job(
        gateway, coordinator, lambda job: becomes(replace(job, spec=replace(job.spec, work=Work(argv=("x",)))))
    )

    answer = await gateway.get(f"/jobs/{uuid}")

    assert answer.status == 200
    assert answer.json == {"uuid": uuid, "name": None, "status": status, "progress": progress, "error": error}


async def test_get_details_of_a_finished_job_are_200_with_times_steps_retry_and_result(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`GET /jobs/{job_uuid}/details`: the times in the forms that clients know."""
    result = b'{"output": "Hello World!", "params": {"n": 12345678901234567890123, "f": 1.10}}'
    uuid = await a_job(
        gateway,
        coordinator,
        lambda job: replace(finished(job, result=result, advance=ADVANCE), retried=1, queued_at_us=NOW_US),
        name="mine",
    )

    answer = await gateway.get(f"/jobs/{uuid}/details")

    assert answer.status == 200
    assert answer.json == {
        "uuid": uuid,
        "name": "mine",
        "status": "SUCCESS",
        "progress": 100,
        "error": None,
        "time_info": {
            "request": "2026-09-21T14:13:20.000000",
            "started": "2026-09-21T14:13:20.000005+00:00",
            "stopped": "2026-09-21T14:13:21.000000+00:00",
        },
        "steps": [{"duration": 1.5, "info": "load"}, {"duration": -1, "info": "save"}],
        "retry": 1,
        "result": {"output": "Hello World!", "params": {"n": 12345678901234567890123, "f": 1.1}},
    }
    assert "12345678901234567890123" in answer.text


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (b"", None),
        (b"null", None),
        (b"1", 1),
        (b'"x"', "x"),
        (b"[]", []),
        (b"{} ", {}),
        (b"no json \xff", "no json \ufffd"),
    ],
)
async def test_the_result_is_any_json_that_the_program_left(
    gateway: Caller, coordinator: FakeCoordinator, result: bytes, shown: object
) -> None:
    """Nothing is null; what is no JSON is a text."""
    uuid = await a_job(gateway, coordinator, lambda job: finished(job, result=result))

    for path in (f"/jobs/{uuid}/details", f"/backend/get_task_meta/{uuid}"):
        answer = await gateway.get(path)
        found = answer.json["result"] if "details" in path else answer.json["result"]["result"]
        assert found == shown


async def test_get_details_of_a_job_that_is_not_over(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Running: an empty object as result, the steps so far. Waiting: neither."""
    uuid = await a_job(gateway, coordinator, lambda job: replace(running(job), advance=ADVANCE))
    details = (await gateway.get(f"/jobs/{uuid}/details")).json
    assert (details["status"], details["result"], details["retry"], len(details["steps"])) == ("RUNNING", {}, 0, 2)
    assert details["time_info"]["started"] and details["time_info"]["stopped"] is None

    uuid = await a_job(gateway, coordinator)
    details = (await gateway.get(f"/jobs/{uuid}/details")).json
    assert (details["status"], details["result"], details["steps"]) == ("PENDING", None, None)
    assert details["time_info"]["started"] is None


@pytest.mark.parametrize(
    ("becomes", "error", "result"),
    [
        (failed(exit_code=1, failure=BOOM), BOOM.traceback, "no faces"),
        (failed(exit_code=3, evidence="it exited with 3"), "it exited with 3", "it exited with 3"),
        (failed(exit_code=None, cause="not_started", error="no such file"), "no such file", "no such file"),
        (lambda job: replace(finished(job, Outcome.LOST), end=None), "Internal error", "Internal error"),
    ],
)
async def test_get_details_of_a_failed_job_have_its_traceback_and_the_text_of_its_exception(
    gateway: Caller, coordinator: FakeCoordinator, becomes: Any, error: str, result: str
) -> None:
    """Without an exception, the evidence of its end."""
    uuid = await a_job(gateway, coordinator, becomes)

    details = (await gateway.get(f"/jobs/{uuid}/details")).json

    assert (details["status"], details["progress"], details["error"], details["result"]) == (
        "FAILURE", None, error, result,
    )  # fmt: skip


# Backend


async def test_get_task_meta_is_200_and_what_a_result_back_end_stores(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`GET /backend/get_task_meta/{job_uuid}` of a finished job: its result is the whole record."""
    uuid = await a_job(
        gateway, coordinator, lambda job: replace(finished(job, result=b"1", advance=ADVANCE), retried=1), name="mine"
    )

    answer = await gateway.get(f"/backend/get_task_meta/{uuid}")

    assert answer.status == 200
    record = answer.json["result"]
    assert {name: answer.json[name] for name in answer.json if name != "result"} == {
        "status": "SUCCESS",
        "traceback": None,
        "children": [],
        "parent_id": None,
        "task_id": uuid,
        "date_done": "2026-09-21T14:13:21.000000+00:00",
    }
    assert (record["shadow_name"], record["progress"], record["result"], record["retry"]) == ("mine", 100, 1, 1)
    assert len(record["steps"]) == 2 and set(record["time_info"]) == {"request", "started", "stopped"}


@pytest.mark.parametrize(
    ("becomes", "status", "result", "traceback"),
    [
        (lambda job: job, "PENDING", None, None),
        (
            failed(exit_code=1, failure=BOOM),
            "FAILURE",
            {"exc_type": "ValueError", "exc_message": ["no faces"], "exc_module": "builtins"},
            BOOM.traceback,
        ),
        (
            failed(exit_code=3, evidence="it exited with 3"),
            "FAILURE",
            {"exc_type": "RuntimeError", "exc_message": ["it exited with 3"], "exc_module": "builtins"},
            None,
        ),
        (
            killed,
            "REVOKED",
            {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"},
            None,
        ),
    ],
)
async def test_get_task_meta_of_a_job_that_did_not_succeed_is_200(
    gateway: Caller, coordinator: FakeCoordinator, becomes: Any, status: str, result: object, traceback: str | None
) -> None:
    """An exception is stored as its type, message and module."""
    uuid = await a_job(gateway, coordinator, becomes)

    meta = (await gateway.get(f"/backend/get_task_meta/{uuid}")).json

    assert (meta["status"], meta["result"], meta["traceback"]) == (status, result, traceback)
    assert (meta["children"], meta["task_id"]) == ([], uuid)


# Errors of everything that names a job


@pytest.mark.parametrize("path", UUID_PATHS)
async def test_an_unknown_job_is_404(gateway: Caller, path: str) -> None:
    """In the envelope; a job of another family is unknown here."""
    foreign = (await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}]})).json["jobs"][0]["id"]
    for uuid in (UNKNOWN, foreign):
        answer = await gateway.get(path.format(uuid))

        details = f"Job '{uuid}' does not exist"
        assert answer.status == 404
        assert answer.json == envelope(
            404, "Not Found", f"SharePathNotFoundError: {details}" if "outputs" in path else details
        )


@pytest.mark.parametrize("path", UUID_PATHS)
@pytest.mark.parametrize("uuid", ["x", "1", UNKNOWN[:-1], UNKNOWN + "0", "%00", "g" * 32, UNKNOWN.replace("-", "_")])
async def test_a_malformed_uuid_is_422(gateway: Caller, path: str, uuid: str) -> None:
    """With `detail`."""
    answer = await gateway.get(path.format(uuid))

    assert answer.status == 422
    assert answer.json == envelope(422, "Validation Error", "job_uuid is no valid UUID")


async def test_a_uuid_in_capitals_or_without_hyphens_is_the_same(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """As a program may write it."""
    uuid = await a_job(gateway, coordinator)
    for spelled in (uuid.upper(), uuid.replace("-", "")):
        assert (await gateway.get(f"/jobs/{spelled}")).json["uuid"] == uuid


async def test_a_fault_is_500_and_a_coordinator_that_is_away_503(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """In the forms of the real service; what is full is 429."""
    for refusal, status, detail in (
        (InternalError("x"), 500, {"code": 500, "message": "Internal Server Error", "details": "x"}),
        (NOT_NOW, 503, "Service not available: the coordinator's disk is full"),
        (Overloaded("too many"), 429, "too many"),
    ):
        coordinator.refuse = refusal
        for path in ("/jobs", f"/jobs/{UNKNOWN}", f"/jobs/{UNKNOWN}/details", f"/backend/get_task_meta/{UNKNOWN}"):
            answer = await gateway.get(path)
            assert (answer.status, answer.json) == (status, {"detail": detail})


# Development


async def test_post_callback_is_200_null_and_prints_the_object(gateway: Caller) -> None:
    """`POST /dev/callback`: any JSON object."""
    with capture_logs() as lines:
        answer = await gateway.post("/dev/callback", {"status": "SUCCESS", "n": [1]})

    assert (answer.status, answer.text) == (200, "null\n")
    assert {"event": "callback.received", "log_level": "info", "infos": {"status": "SUCCESS", "n": [1]}} in lines


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"null", b'"x"', b"{", b"\xff", b'{"a":1,"a":2}', b'{"a":NaN}'])
async def test_post_callback_of_what_is_no_object_is_422(gateway: Caller, body: bytes) -> None:
    """And prints nothing; a body without end is 413."""
    with capture_logs() as lines:
        answer = await gateway.call("POST", "/dev/callback", data=body)
    assert (answer.status, answer.json["detail"]["code"], lines) == (422, 422, [])
    assert (await gateway.post("/dev/callback", {"x": "y" * 100_000})).status == 413


# Paths and methods


@pytest.mark.parametrize(
    "path", ["/jobs/x/y", f"/jobs/{UNKNOWN}/nowhere", "/backend", "/backend/x", "/dev", "/dev/x", "/pixyz/nowhere",
             "/processes/a/b", "/pixyz/start", "/backend/get_task_meta"]
)  # fmt: skip
async def test_an_unknown_path_is_404_not_found(gateway: Caller, path: str) -> None:
    """In the form of the family."""
    answer = await gateway.get(path)

    assert (answer.status, answer.json) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/jobs"), ("DELETE", f"/jobs/{UNKNOWN}"), ("POST", "/processes"), ("GET", "/dev/callback"),
     ("PUT", "/pixyz/jobs"), ("POST", f"/jobs/{UNKNOWN}/outputs/a")],
)  # fmt: skip
async def test_a_wrong_method_is_405_method_not_allowed(gateway: Caller, method: str, path: str) -> None:
    """It says which are right."""
    answer = await gateway.call(method, path)

    assert (answer.status, answer.json) == (405, {"detail": "Method Not Allowed"})
    assert answer.headers["Allow"]


async def test_every_path_is_served_with_a_slash_at_its_end_and_below_pixyz(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Without a redirection."""
    uuid = await a_job(gateway, coordinator, finished)
    coordinator.outputs[uuid] = {"a.txt": b"x"}
    for path in ("/processes", "/processes/sleep", "/jobs", *(p.format(uuid) for p in UUID_PATHS if "a.txt" not in p)):
        bodies = set()
        for spelled in (path, path + "/", "/pixyz" + path, "/pixyz" + path + "/"):
            async with gateway.session.get(gateway.url + spelled, allow_redirects=False) as answer:
                assert answer.status == 200, spelled
                bodies.add(await answer.read())
        assert len(bodies) == 1
