"""The Altron API: the document's exchanges, and what docs/apis/altron.md settles."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hostler.errors import Overloaded, TooLarge, Unavailable, WorkloadNotFound
from hostler.frames import ERR, OUT
from hostler.jobs import EndedProcess, Job, LogStatus, Receipt
from hostler.lifecycle import Outcome, State
from hostler.workloads import Workload
from tests.gateway.conftest import Answer, Caller
from tests.gateway.fake_coordinator import FakeCoordinator, an_end, finished, killed
from tests.support.waiting import eventually

WRONG_PRIORITIES: list[object] = [True, "7", 1.5, None, [1], 1001, -1001, 10**400]
WRONG_TEXTS: list[object] = [1, None, ["a"], {}]
UNKNOWN = "00000000-0000-4000-8000-000000000000"
JOB: dict[str, object] = {"title": "Report", "description": "Sum it up", "priority": 3}
HELLO = [{"sender": "ada", "text": "hello", "image": None}]


async def created(gateway: Caller, **changes: object) -> str:
    """Create a job and return its id."""
    answer = await gateway.post("/subprocess/job/create", JOB | changes)
    assert answer.status == 200, answer.text
    return str(answer.json["id"])


async def result_of(gateway: Caller, job: str) -> Any:
    """Ask for a job's result."""
    answer = await gateway.get("/subprocess/job/get_result", params={"job_id": job})
    assert answer.status == 200, answer.text
    return answer.json


def ends_with(result: object, outcome: Outcome = Outcome.SUCCEEDED, **changes: Any) -> Callable[[Job], Job]:
    """What becomes of a job whose program leaves a result."""
    return lambda job: finished(job, outcome, result=json.dumps(result).encode(), **changes)


# POST /subprocess/job/create


@pytest.mark.parametrize("prefix", ["", "/altron"])
@pytest.mark.parametrize("body", [JOB, {"job": JOB}])
async def test_a_job_is_created_and_said_back(
    gateway: Caller, coordinator: FakeCoordinator, prefix: str, body: object
) -> None:
    """Bare or below `job`, at the root or below /altron; what runs is the workload of the settings."""
    answer = await gateway.post(prefix + "/subprocess/job/create", body)

    (job,) = coordinator.jobs.values()
    created_at = datetime.fromisoformat(answer.json.pop("created_at"))
    assert (answer.status, answer.json) == (200, {"id": job.id, **JOB})
    assert abs(datetime.now(UTC) - created_at) < timedelta(minutes=1)
    assert (job.spec.workload, job.spec.family, job.spec.name) == ("altron_job", "altron", "Report")
    assert (job.spec.priority, json.loads(job.spec.params)) == (3, JOB)
    assert job.spec.work.argv == ()


async def test_a_whole_number_is_a_whole_number_however_it_is_written(gateway: Caller) -> None:
    """JSON has one kind of number."""
    answer = await gateway.post("/subprocess/job/create", JOB | {"priority": 7.0})

    assert '"priority":7,' in answer.text


@pytest.mark.parametrize("priority", [-1000, 0, 1000])
async def test_priorities_go_from_minus_a_thousand_to_a_thousand(gateway: Caller, priority: int) -> None:
    """Higher runs first."""
    assert await created(gateway, priority=priority)


@pytest.mark.parametrize(
    "body",
    [
        *({name: value for name, value in JOB.items() if name != left_out} for left_out in JOB),
        *(JOB | {"priority": wrong} for wrong in WRONG_PRIORITIES),
        *(JOB | {name: wrong} for name in ("title", "description", "workload") for wrong in WRONG_TEXTS),
        {"job": []},
        {"job": None},
        [],
        [JOB],
        "job",
        7,
    ],
)
async def test_what_is_no_job_is_400_and_nothing_runs(
    gateway: Caller, coordinator: FakeCoordinator, body: object
) -> None:
    """With the sentence in `error`, and nothing else."""
    answer = await gateway.post("/subprocess/job/create", body)

    assert (answer.status, list(answer.json)) == (400, ["error"])
    assert not coordinator.jobs


async def test_what_is_no_json_is_400(gateway: Caller) -> None:
    """Also an empty body."""
    for raw in (b"", b"{", b"\xff", b'{"title": NaN}', b'{"title":"a","title":"b"}'):
        answer = await gateway.call("POST", "/subprocess/job/create", data=raw)
        assert (answer.status, list(answer.json)) == (400, ["error"])


async def test_another_workload_is_named_when_it_is_shown_to_this_api(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """One that is hidden from it is as unknown as one that is not there; a command is never taken."""
    coordinator.workloads.add(
        Workload(name="mine", families=("altron",)),
        Workload(name="pixyz_only", families=("pixyz",)),
        Workload(name="internal", external=False),
    )

    job = await created(gateway, workload="mine", command="rm", argv=["rm"])
    refused = [
        await gateway.post("/subprocess/job/create", JOB | {"workload": name})
        for name in ("pixyz_only", "internal", "nothing")
    ]

    assert coordinator.jobs[job].spec.workload == "mine"
    assert coordinator.jobs[job].spec.work.argv == ()
    assert [answer.status for answer in refused] == [400, 400, 400]
    assert len(coordinator.jobs) == 1


async def test_a_missing_default_workload_is_our_fault(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """500, and it says which setting's workload is missing."""
    coordinator.refuse = WorkloadNotFound("no such workload")

    answer = await gateway.post("/subprocess/job/create", JOB)

    assert answer.status == 500
    assert "altron_job" in answer.json["error"]


async def test_a_long_title_is_cut_in_the_jobs_name_only(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """The name has a limit, the parameters keep all; a large job goes in a call of its own."""
    job = await created(gateway, title="t" * 500, description="d" * 100_000)

    assert coordinator.jobs[job].spec.name == "t" * 200
    assert json.loads(coordinator.jobs[job].spec.params)["title"] == "t" * 500


@pytest.mark.parametrize(
    ("error", "status"), [(Overloaded("full"), 429), (Unavailable("gone"), 503), (TooLarge("too much"), 413)]
)
async def test_not_now_and_too_large_keep_their_codes(
    gateway: Caller, coordinator: FakeCoordinator, error: Any, status: int
) -> None:
    """The document has only 400 and 500, but these are not the document's business."""
    coordinator.refuse = error

    answer = await gateway.post("/subprocess/job/create", JOB)

    assert (answer.status, list(answer.json)) == (status, ["error"])


# GET /subprocess/job/get_status


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda job: job, "pending"),
        (lambda job: replace(job, state=State.ASSIGNED), "pending"),
        (lambda job: replace(job, state=State.RUNNING), "running"),
        (lambda job: replace(job, state=State.STOPPING), "running"),
        (lambda job: finished(job), "completed"),
        (lambda job: finished(job, Outcome.FAILED, exit_code=3), "failed"),
        (lambda job: finished(job, Outcome.TIMED_OUT), "failed"),
        (lambda job: finished(job, Outcome.LOST), "failed"),
        (lambda job: finished(job, Outcome.REJECTED), "failed"),
        (lambda job: killed(job), "terminated"),
    ],
)
async def test_the_status_is_one_of_five_words(
    gateway: Caller, coordinator: FakeCoordinator, change: Callable[[Job], Job], word: str
) -> None:
    """As the table of the four APIs says."""
    coordinator.on_submit = change
    job = await created(gateway)

    for name in ("job_id", "id"):
        answer = await gateway.get("/altron/subprocess/job/get_status", params={name: job})
        assert (answer.status, answer.json) == (200, {"id": job, "status": word})


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "get_status"), ("GET", "get_result"), ("DELETE", "terminate")],
)
async def test_no_id_is_400_and_an_unknown_one_404(
    gateway: Caller, coordinator: FakeCoordinator, method: str, path: str
) -> None:
    """A job of another family is unknown here."""
    other = (await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}]})).json["jobs"][0]["id"]

    async def ask(query: str) -> Answer:
        return await gateway.call(method, f"/subprocess/job/{path}{query}")

    missing = [await ask(query) for query in ("", "?job_id=", "?job=" + other)]
    unknown = [await ask("?job_id=" + name) for name in (UNKNOWN, UNKNOWN.upper(), "7", "%00", "%ff", "../x")]

    assert [answer.status for answer in missing] == [400] * 3
    assert [answer.status for answer in unknown] == [404] * 6
    assert all(list(answer.json) == ["error"] for answer in missing + unknown)
    if method == "GET":
        assert (await ask("?job_id=" + other)).status == 404


# GET /subprocess/job/get_result


async def test_before_the_end_the_result_is_empty_and_nothing_waits(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Also when the job has written something."""
    job = await created(gateway)
    await coordinator.write(job, (OUT, b"half"))

    assert await result_of(gateway, job) == {"id": job, "status": "running", "text": "", "images": []}


async def test_the_text_is_what_the_program_wrote(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Its standard output alone, whatever its outcome; bytes that are no text are replaced."""
    job = await created(gateway)
    await coordinator.write(job, (OUT, b"one \xff "), (ERR, b"oops"), (OUT, "zwölf\n".encode()))
    await coordinator.move(job, lambda j: finished(j, Outcome.FAILED, exit_code=1))

    answer = await gateway.get("/subprocess/job/get_result", params={"job_id": job})

    assert answer.json == {"id": job, "status": "failed", "text": "one \ufffd zwölf\n", "images": []}
    assert answer.headers["Hostler-Log-Status"] == "complete"


async def test_the_text_has_a_limit(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """A mebibyte, and the character that it would cut in two is left out."""
    job = await created(gateway)
    await coordinator.write(job, *[(OUT, b"x" + "ä".encode() * 32_767)] * 20)
    await coordinator.move(job, finished)

    text = (await result_of(gateway, job))["text"]

    assert 1024 * 1024 - 1 <= len(text.encode()) <= 1024 * 1024
    assert "\ufffd" not in text


async def test_a_log_that_still_arrives_is_waited_for_a_moment_only(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The text that is there is answered, and the header says that it is not all."""
    job = await created(gateway)
    await coordinator.write(job, (OUT, b"half"))
    await coordinator.move(job, lambda j: replace(finished(j), log_status=LogStatus.ARRIVING))

    answer = await gateway.get("/subprocess/job/get_result", params={"job_id": job})

    assert answer.json["text"] == "half"
    assert answer.headers["Hostler-Log-Status"] == "arriving"
    await eventually(lambda: coordinator.readers == 0)


async def test_a_result_with_text_and_images_is_the_result(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It goes before what the program wrote; what has another type does not count."""
    image = "data:image/png;base64,AA=="
    whole = await created(gateway)
    await coordinator.write(whole, (OUT, b"noise"))
    await coordinator.move(whole, ends_with({"text": "Done", "images": [image]}))
    other = await created(gateway)
    await coordinator.write(other, (OUT, b"written"))
    await coordinator.move(other, ends_with({"text": 7, "images": "x"}))

    assert await result_of(gateway, whole) == {"id": whole, "status": "completed", "text": "Done", "images": [image]}
    assert await result_of(gateway, other) == {"id": other, "status": "completed", "text": "written", "images": []}


async def test_pictures_among_the_outputs_are_images(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """By their names, in the order of their paths, as data URIs; those that do not fit are left out."""
    job = await created(gateway)
    coordinator.outputs[job] = {
        "a.PNG": b"\x89PNG",
        "b.txt": b"no picture",
        "big.jpg": bytes(4 * 1024 * 1024),
        "c/d.jpeg": b"jpeg",
    } | {f"x{number:02}.webp": b"w" for number in range(20)}
    await coordinator.move(job, ends_with({"text": "see"}, outputs=24))

    images = (await result_of(gateway, job))["images"]

    assert images[:3] == [
        "data:image/png;base64,iVBORw==",
        "data:image/jpeg;base64,anBlZw==",
        "data:image/webp;base64,dw==",
    ]
    assert len(images) == 10


# DELETE /subprocess/job/terminate


@pytest.mark.parametrize("form", ["query", "query_id", "body", "body_id"])
async def test_a_job_is_terminated_politely_and_proved(
    gateway: Caller, coordinator: FakeCoordinator, form: str
) -> None:
    """Its own grace, then SIGKILL; the id is in the query or in a JSON body. A second time changes nothing."""
    job = await created(gateway)
    forms: dict[str, dict[str, Any]] = {
        "query": {"params": {"job_id": job}},
        "query_id": {"params": {"id": job}, "data": b"{no json"},
        "body": {"data": json.dumps({"job_id": job})},
        "body_id": {"data": json.dumps({"id": job})},
    }

    answers = [await gateway.call("DELETE", "/subprocess/job/terminate", **forms[form]) for _ in range(2)]

    assert [(answer.status, answer.json) for answer in answers] == [(200, {"id": job, "status": "terminated"})] * 2
    assert coordinator.graces == [None, None]


async def test_a_finished_job_keeps_its_word_when_it_is_terminated(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """An outcome never changes."""
    job = await created(gateway)
    await coordinator.move(job, finished)

    answer = await gateway.call("DELETE", "/subprocess/job/terminate", params={"job_id": job})

    assert (answer.status, answer.json) == (200, {"id": job, "status": "completed"})


async def test_an_end_without_proof_is_not_called_terminated(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """500, with the processes that live."""
    receipt = Receipt(survivors=(EndedProcess(pid=17, name="d"),))
    coordinator.on_stop = lambda job: replace(job, state=State.STOPPING, end=an_end(exit_code=None, receipt=receipt))
    job = await created(gateway)

    answer = await gateway.call("DELETE", "/subprocess/job/terminate", params={"job_id": job})

    assert answer.status == 500
    assert "17" in answer.json["error"]


async def test_a_body_that_names_no_job_is_400(gateway: Caller) -> None:
    """Wrong JSON too."""
    for raw in (b"{", b"[]", b"{}", b'{"job_id": 7}', b'"x"'):
        answer = await gateway.call("DELETE", "/subprocess/job/terminate", data=raw)
        assert (answer.status, list(answer.json)) == (400, ["error"])


# The rest


async def test_ping_is_pong(gateway: Caller) -> None:
    """A JSON string."""
    assert (await gateway.get("/discord/ping")).json == "pong"


async def test_unknown_paths_and_methods_have_this_familys_errors(gateway: Caller) -> None:
    """`error` and a text."""
    for method, path, status in (
        ("GET", "/subprocess/job/list", 404),
        ("GET", "/subprocess/job/create", 405),
        ("PUT", "/discord/message", 405),
        ("GET", "/altron/nothing", 404),
    ):
        answer = await gateway.call(method, path)
        assert (answer.status, list(answer.json)) == (status, ["error"])
