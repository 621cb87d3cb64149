"""The start/stop/query document, statement by statement, in its order.

The JSON bodies of the document are the fixtures; what it leaves open follows, in the order of the
rulings on it: Go's error texts, the kill, a worker that is gone, the argument, the worker ids.
"""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from hostler.errors import Overloaded
from hostler.ids import is_uuid
from hostler.jobs import EndedProcess, Job, Receipt
from hostler.lifecycle import Outcome, State
from hostler.workers import WorkerState
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import (
    NOT_NOW,
    WORKER,
    FakeCoordinator,
    a_worker,
    an_end,
    finished,
    killed,
    not_started,
    running,
)

START = {"worker_id": WORKER, "command": "bash", "path": "worker/scripts/count.sh"}
UNKNOWN = "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"  # the document's job id, which nobody started
OTHER_WORKER = "d5feef60-3029-41e9-b210-000000000000"


async def started(gateway: Caller, **changes: Any) -> dict[str, str]:
    """Start a job and return the body for /stop and /query."""
    answer = await gateway.post("/start", {**START, **changes})
    assert answer.status == 201, answer.text
    return {"worker_id": WORKER, "job_id": answer.json["job_id"]}


async def query_text(gateway: Caller, coordinator: FakeCoordinator, job: Any) -> tuple[int, object]:
    """Start a job, let it become *job*, and query it."""
    body = await started(gateway)
    await coordinator.move(body["job_id"], job)
    answer = await gateway.post("/query", body)
    return answer.status, answer.json


# Start Job on Worker


async def test_start_answers_201_created_with_a_job_id(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """``201 Created {"job_id": uuid}``; the body has this key only."""
    answer = await gateway.post("/start", START)

    assert answer.status == 201
    assert list(answer.json) == ["job_id"]
    assert is_uuid(answer.json["job_id"])
    assert answer.text.endswith("}\n")
    spec = coordinator.jobs[answer.json["job_id"]].spec
    assert spec.work.argv == ("bash", "worker/scripts/count.sh")
    assert (spec.worker, spec.slots, spec.family, spec.work.grace_s) == (WORKER, 0, "scheduler", 0.0)
    assert coordinator.principals == {"local"}


async def test_start_on_an_unknown_worker_is_500_worker_not_found(gateway: Caller) -> None:
    """``500 {"error": "worker not found"}``, whether the id is a uuid or not."""
    for worker in (OTHER_WORKER, "nobody", "", "\x00", "ü" * 5000):
        answer = await gateway.post("/start", {**START, "worker_id": worker})

        assert answer.status == 500
        assert answer.json == {"error": "worker not found"}


# Stop Job on Worker


async def test_stop_answers_200_success_when_nothing_is_left(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """``200 OK {"success": true}``; the stop is a SIGKILL at once."""
    body = await started(gateway)

    answer = await gateway.post("/stop", body)

    assert (answer.status, answer.json) == (200, {"success": True})
    assert coordinator.graces == [0.0]
    assert coordinator.jobs[body["job_id"]].state is State.FINISHED


async def test_stop_on_an_unknown_worker_is_500_worker_not_found(gateway: Caller) -> None:
    """Also for a job that exists on another one."""
    body = await started(gateway)

    answer = await gateway.post("/stop", {**body, "worker_id": OTHER_WORKER})

    assert (answer.status, answer.json) == (500, {"error": "worker not found"})


# Query Job on Worker


async def test_query_after_a_stop_says_done_error_and_signal_killed(gateway: Caller) -> None:
    """``200 OK {"done": true, "error": true, "error_text": "signal: killed"}``."""
    body = await started(gateway)
    await gateway.post("/stop", body)

    answer = await gateway.post("/query", body)

    assert (answer.status, answer.json) == (200, {"done": True, "error": True, "error_text": "signal: killed"})


async def test_query_on_an_unknown_worker_is_500_worker_not_found(gateway: Caller) -> None:
    """As for the others."""
    answer = await gateway.post("/query", {"worker_id": OTHER_WORKER, "job_id": UNKNOWN})

    assert (answer.status, answer.json) == (500, {"error": "worker not found"})


@pytest.mark.parametrize("state", [State.QUEUED, State.ASSIGNED, State.RUNNING, State.STOPPING])
async def test_query_of_a_job_that_is_not_over_is_false_false_and_an_empty_text(
    gateway: Caller, coordinator: FakeCoordinator, state: State
) -> None:
    """All three keys are always there."""
    answer = await query_text(gateway, coordinator, lambda job: replace(job, state=state))

    assert answer == (200, {"done": False, "error": False, "error_text": ""})


def _failed(**changes: Any) -> Any:
    return lambda job: finished(job, Outcome.FAILED, **changes)


@pytest.mark.parametrize(
    ("becomes", "text"),
    [
        (finished, ""),
        (_failed(exit_code=3), "exit status 3"),
        (_failed(exit_code=127), "exit status 127"),
        (_failed(exit_code=None, signal="SIGTERM", cause="signal"), "signal: terminated"),
        (_failed(exit_code=None, signal="SIGKILL", cause="signal"), "signal: killed"),
        (_failed(exit_code=None, signal="SIGSEGV", core_dumped=True), "signal: segmentation fault (core dumped)"),
        (_failed(exit_code=None, signal="SIGABRT"), "signal: aborted"),
        (_failed(exit_code=None, signal="SIG34"), "signal: signal 34"),
        (lambda job: killed(job, "SIGKILL", Outcome.TIMED_OUT), "signal: killed"),
        (lambda job: killed(job, "SIGTERM"), "signal: terminated"),
        (lambda job: finished(job, Outcome.STOPPED, exit_code=0, cause="stop"), "signal: killed"),
        (lambda job: replace(finished(job, Outcome.STOPPED), end=None), "signal: killed"),
        (not_started, 'exec: "bash": executable file not found in $PATH'),
        (
            lambda job: finished(job, Outcome.REJECTED, exit_code=None, evidence="the worker refused it: no"),
            "the worker refused it: no",
        ),
    ],
)
async def test_query_of_a_job_that_is_over_says_how_it_ended_in_gos_words(
    gateway: Caller, coordinator: FakeCoordinator, becomes: Any, text: str
) -> None:
    """``error`` is true whenever there is a text."""
    answer = await query_text(gateway, coordinator, becomes)

    assert answer == (200, {"done": True, "error": bool(text), "error_text": text})


async def test_query_of_a_lost_job_is_500_worker_not_found(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """How it ended is not known; the document has this error for it."""
    answer = await query_text(gateway, coordinator, lambda job: finished(job, Outcome.LOST, cause="worker_lost"))

    assert answer == (500, {"error": "worker not found"})


# API Data Structures


async def test_keys_match_in_any_case_and_unknown_keys_and_nulls_are_passed_over(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """As encoding/json reads them; of two spellings the last one wins."""
    body = {"WORKER_ID": WORKER, "Command": "no", "COMMAND": "sh", "path": None, "shell": True, "x": [1]}

    answer = await gateway.post("/start", body)

    assert answer.status == 201
    assert coordinator.jobs[answer.json["job_id"]].spec.work.argv == ("sh", "")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"]
)
async def test_the_content_type_is_ignored(gateway: Caller, content_type: str) -> None:
    """``curl -d`` says something else than JSON."""
    body = b'{"worker_id": "%s", "command": "true"}' % WORKER.encode()

    answer = await gateway.call("POST", "/start", data=body, headers={"Content-Type": content_type})

    assert answer.status == 201


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "unexpected end of JSON input"),
        (b"  \n", "unexpected end of JSON input"),
        (b"{", "unexpected end of JSON input"),
        (b'{"command', "unexpected end of JSON input"),
        (b'{"command"', "unexpected end of JSON input"),
        (b'{"command":"a"', "unexpected end of JSON input"),
        (b"tru", "unexpected end of JSON input"),
        (b"{nope}", "invalid character 'n' looking for beginning of object key string"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"not json", "invalid character 'o' in literal null (expecting 'u')"),
        (b"hello", "invalid character 'h' looking for beginning of value"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b'{"a":[1] 2}', "invalid character '2' after object key:value pair"),
        (b"{} x", "invalid character 'x' after top-level value"),
        (b'{"a":"\n"}', "invalid character '\\n' in string literal"),
        (b'{"a":"\\x"}', "invalid character 'x' in string escape code"),
        (b'{"a":"\\u12g4"}', "invalid character 'g' in \\u hexadecimal character escape"),
        (b'{"a":-}', "invalid character '}' in numeric literal"),
        (b"'", "invalid character '\\'' looking for beginning of value"),
        ("ä".encode(), "invalid character 'Ã' looking for beginning of value"),
        (b"[]", "json: cannot unmarshal array into Go value of type main.apiStartJobReq"),
        (b"1", "json: cannot unmarshal number into Go value of type main.apiStartJobReq"),
        (b'"x"', "json: cannot unmarshal string into Go value of type main.apiStartJobReq"),
        (b"true", "json: cannot unmarshal bool into Go value of type main.apiStartJobReq"),
        (
            b'{"command": 1}',
            "json: cannot unmarshal number into Go struct field apiStartJobReq.command of type string",
        ),
        (b'{"PATH": {}}', "json: cannot unmarshal object into Go struct field apiStartJobReq.path of type string"),
        (
            b'{"worker_id": []}',
            "json: cannot unmarshal array into Go struct field apiStartJobReq.worker_id of type string",
        ),
        (b"{}", "worker not found"),
        (b"null", "worker not found"),
    ],
)
async def test_a_bad_body_is_500_in_gos_words_and_the_gateway_goes_on(gateway: Caller, body: bytes, text: str) -> None:
    """Ruling G2: the document lists only 500."""
    answer = await gateway.call("POST", "/start", data=body)

    assert (answer.status, answer.json) == (500, {"error": text})
    assert (await gateway.post("/start", START)).status == 201


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":%s}' % (b"1" * 5000),
        b"[" * 65 + b"]" * 65,
        b"[" * 100_000,
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b'{"command":"a","command":"b"}',
        b'{"command":"\\ud800"}',
        b'{"\\udfff":1}',
    ],
)
async def test_a_body_that_could_be_read_in_two_ways_is_refused_with_a_sentence(gateway: Caller, body: bytes) -> None:
    """The document says nothing about them; 500 is its answer to every bad body."""
    answer = await gateway.call("POST", "/start", data=body)

    assert answer.status == 500
    assert list(answer.json) == ["error"]
    assert len(answer.json["error"]) < 200


async def test_structures_are_named_in_the_errors_of_stop_and_query(gateway: Caller) -> None:
    """The name is that of the document's type."""
    for path, struct in (("/stop", "apiStopJobReq"), ("/query", "apiQueryJobReq")):
        answer = await gateway.post(path, {"job_id": 5})

        text = f"json: cannot unmarshal number into Go struct field {struct}.job_id of type string"
        assert (answer.status, answer.json) == (500, {"error": text})


# Where the document says nothing


async def test_a_program_that_is_not_there_is_an_error_of_start(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Ruling G1: the text without a prefix."""
    coordinator.on_submit = not_started

    answer = await gateway.post("/start", {**START, "command": "x"})

    assert (answer.status, answer.json) == (500, {"error": 'exec: "x": executable file not found in $PATH'})


async def test_what_a_worker_refuses_is_an_error_of_start_with_its_rule(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Whoever started it learns which rule it was."""
    text = "refused by the worker's policy, rule programs: the program 'bash' is not in the list"
    coordinator.on_submit = lambda job: finished(job, Outcome.REJECTED, exit_code=None, cause="refused", error=text)

    answer = await gateway.post("/start", START)

    assert (answer.status, answer.json) == (500, {"error": text})


async def test_a_start_that_fails_a_little_later_is_an_error_of_start_too(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The answer waits for the start."""
    coordinator.on_submit = lambda job: job

    async def fail_it() -> None:
        await coordinator.move(await coordinator.accepted.get(), not_started)

    async with asyncio.TaskGroup() as group:
        call = group.create_task(gateway.post("/start", START))
        group.create_task(fail_it())

    assert call.result().status == 500


async def test_a_start_that_takes_long_is_accepted(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """After two seconds the job's id is the answer: it is durable and may still start."""
    coordinator.on_submit = lambda job: job

    assert (await gateway.post("/start", START)).status == 201


async def test_a_missing_or_empty_command_is_500_exec_no_command(gateway: Caller) -> None:
    """Go's words; the worker is looked for first."""
    for body in ({"worker_id": WORKER}, {**START, "command": ""}):
        answer = await gateway.post("/start", body)

        assert (answer.status, answer.json) == (500, {"error": "exec: no command"})
    assert (await gateway.post("/start", {"worker_id": OTHER_WORKER})).json == {"error": "worker not found"}


async def test_the_path_is_exactly_one_argument(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Ruling G5: with blanks it stays one, and an empty or missing one is an empty argument."""
    for changes, argv in (
        ({"path": "a b 'c'"}, ("bash", "a b 'c'")),
        ({"path": ""}, ("bash", "")),
        ({"path": None}, ("bash", "")),
    ):
        body = await started(gateway, **changes)
        assert coordinator.jobs[body["job_id"]].spec.work.argv == argv


async def test_what_cannot_be_an_argument_is_500(gateway: Caller) -> None:
    """A NUL character, or more than the kernel takes."""
    for path in ("a\x00b", "x" * 200_000):
        answer = await gateway.post("/start", {**START, "path": path})

        assert answer.status in (413, 500)
        assert answer.json["error"]


async def test_stopping_twice_and_stopping_a_job_that_is_over_succeed(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """A stop is idempotent."""
    stopped, over = await started(gateway), await started(gateway)
    await coordinator.move(over["job_id"], finished)

    for body in (stopped, stopped, over, over):
        assert (await gateway.post("/stop", body)).json == {"success": True}
    assert (await gateway.post("/query", over)).json == {"done": True, "error": False, "error_text": ""}


async def test_a_stop_that_cannot_be_proved_is_no_success_and_names_who_lives(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Ruling G3: success means that the whole tree is gone."""
    body = await started(gateway)
    coordinator.on_stop = lambda job: replace(job, state=State.STOPPING)
    waiting = await gateway.post("/stop", body)

    receipt = Receipt(survivors=(EndedProcess(pid=17, name="d"), EndedProcess(pid=99, name="e")))
    coordinator.on_stop = lambda job: replace(
        job, state=State.STOPPING, phase="unkillable", end=an_end(exit_code=None, receipt=receipt)
    )
    unkillable = await gateway.post("/stop", body)

    assert (waiting.status, unkillable.status) == (500, 500)
    assert "has not ended yet" in waiting.json["error"]
    assert "17, 99" in unkillable.json["error"]


async def test_a_lost_job_is_not_called_stopped_until_it_is_proved_gone(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The receipt that a worker adds later is the proof; a host that restarted is one too."""
    body = await started(gateway)

    def lost(**changes: Any) -> Any:
        return lambda job: finished(job, Outcome.LOST, exit_code=None, **changes)

    await coordinator.move(body["job_id"], lost(cause="worker_lost", receipt=Receipt()))
    assert (await gateway.post("/stop", body)).json == {"error": "worker not found"}
    await coordinator.move(body["job_id"], lost(cause="worker_lost"))
    assert (await gateway.post("/stop", body)).json == {"success": True}
    await coordinator.move(body["job_id"], lost(cause="host_restarted", receipt=Receipt()))
    assert (await gateway.post("/stop", body)).json == {"success": True}


@pytest.mark.parametrize("state", [WorkerState.UNREACHABLE, WorkerState.GONE])
async def test_a_worker_that_is_gone_is_not_found(
    gateway: Caller, coordinator: FakeCoordinator, state: WorkerState
) -> None:
    """Ruling G4: as soon as its stream is lost, also for jobs that existed."""
    body = await started(gateway)
    coordinator.workers = [a_worker(state=state)]

    for path in ("/stop", "/query"):
        answer = await gateway.post(path, body)
        assert (answer.status, answer.json) == (500, {"error": "worker not found"})


@pytest.mark.parametrize("state", WorkerState)
async def test_a_waiting_job_is_there(gateway: Caller, coordinator: FakeCoordinator, state: WorkerState) -> None:
    """A stop that needed the worker's return would come after its start. A drained worker has its other jobs, too."""
    waiting, over = await started(gateway), await started(gateway)
    await coordinator.move(waiting["job_id"], lambda job: replace(job, state=State.QUEUED))
    await coordinator.move(over["job_id"], finished)
    coordinator.workers = [a_worker(state=state)]

    assert (await gateway.post("/query", waiting)).json == {"done": False, "error": False, "error_text": ""}
    assert (await gateway.post("/stop", waiting)).json == {"success": True}
    assert coordinator.jobs[waiting["job_id"]].state is State.FINISHED
    assert (await gateway.post("/query", over)).status == (200 if state.startswith(("connected", "drain")) else 500)


async def test_an_unknown_job_is_500_job_not_found(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Unknown are also another worker's job, another family's, and what is no job id at all."""
    other = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"], "worker": WORKER}]})
    body = await started(gateway)
    coordinator.workers = [a_worker(), a_worker(id=OTHER_WORKER)]

    for path in ("/stop", "/query"):
        for asked in (
            {"worker_id": WORKER, "job_id": UNKNOWN},
            {"worker_id": WORKER, "job_id": "../../etc"},
            {"worker_id": WORKER},
            {"worker_id": WORKER, "job_id": other.json["jobs"][0]["id"]},
            {**body, "worker_id": OTHER_WORKER},
        ):
            answer = await gateway.post(path, asked)
            assert (answer.status, answer.json) == (500, {"error": "job not found"})


async def test_the_family_is_also_under_scheduler(gateway: Caller) -> None:
    """The prefix is an alias."""
    answer = await gateway.post("/scheduler/start", START)
    body = {"worker_id": WORKER, "job_id": answer.json["job_id"]}

    assert answer.status == 201
    assert (await gateway.post("/scheduler/stop", body)).json == {"success": True}
    assert (await gateway.post("/scheduler/query", body)).json["error_text"] == "signal: killed"


@pytest.mark.parametrize("path", ["/start", "/stop", "/query", "/scheduler/start"])
async def test_another_method_is_405_in_json_and_says_what_is_allowed(gateway: Caller, path: str) -> None:
    """Only POST is there."""
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = await gateway.call(method, path)

        assert answer.status == 405
        assert answer.headers["Allow"] == "POST"
        assert list(answer.json) == ["error"]


async def test_a_coordinator_that_cannot_serve_is_503_and_says_when_to_come_back(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """And one that is full is 429: "not now" is no error of the request."""
    coordinator.refuse = NOT_NOW
    unavailable = await gateway.post("/start", START)
    coordinator.refuse = Overloaded("too many jobs wait")
    full = await gateway.post("/start", START)

    assert (unavailable.status, full.status) == (503, 429)
    assert int(unavailable.headers["Retry-After"]) >= 1
    assert int(full.headers["Retry-After"]) >= 1
    assert list(unavailable.json) == ["error"]


async def test_a_start_that_was_accepted_is_answered_with_its_id_whatever_comes_then(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """A coordinator that goes away while the start is awaited does not hide a durable job."""

    def accepted(job: Job) -> Job:
        coordinator.refuse = NOT_NOW
        return running(job)

    coordinator.on_submit = accepted

    assert (await gateway.post("/start", START)).status == 201
