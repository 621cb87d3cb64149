"""Results that an answer cannot show, or that are JSON of an odd kind: the job stays known, and nothing is a 500."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from hostler.jobs import Job, JobSpec, Stage, Work
from hostler.lifecycle import Outcome
from http_gateway import bodies, job_outputs, large_bodies, streamed_json
from http_gateway.batching import _size
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator, finished
from tests.gateway.test_pixyz import a_queued_job
from tests.support.waiting import eventually

HALF_A_PAIR = b'{"text": "a \\ud800", "images": ["\\udfff"], "sender": "\\ud800"}'
DEEP = b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b', "images": []}'
RATHER_DEEP = [b'{"images": ' + b"[" * depth + b"]" * depth + b"}" for depth in (300, 900, 960, 980, 990, 1000)]
GONE: dict[str, Any] = {"result_digest": "0" * 64, "result_bytes": 300_000}
HUGE: dict[str, Any] = {"result_digest": "0" * 64, "result_bytes": job_outputs.RESULT_BYTES_MAX + 1}
HELLO = [{"sender": "ada", "text": "hello", "image": None}]


def a_finished_job(coordinator: FakeCoordinator, family: str, **end: Any) -> Job:
    """A job of a family that has ended."""
    number = len(coordinator.jobs)
    job = finished(a_queued_job(number, family), Outcome.SUCCEEDED, **end)
    coordinator.jobs[job.id] = job
    return job


@pytest.mark.parametrize(("end", "why"), [(GONE, "expired"), (HUGE, "too_large")])
async def test_a_job_whose_result_cannot_be_shown_is_still_a_job(
    gateway: Caller, coordinator: FakeCoordinator, end: dict[str, Any], why: str
) -> None:
    """It is neither unknown (404) nor too large itself (413): a header says what is missing."""
    pixyz, altron = (a_finished_job(coordinator, family, **end) for family in ("pixyz", "altron"))

    details = await gateway.get(f"/jobs/{pixyz.id}/details")
    meta = await gateway.get(f"/backend/get_task_meta/{pixyz.id}")
    result = await gateway.get("/subprocess/job/get_result", params={"job_id": altron.id})

    assert [answer.status for answer in (details, meta, result)] == [200, 200, 200]
    assert [answer.headers["Hostler-Result"] for answer in (details, meta, result)] == [why, why, why]
    assert (details.json["status"], details.json["result"]) == ("SUCCESS", None)
    assert meta.json["result"]["result"] is None
    assert (result.json["status"], result.json["text"]) == ("completed", "")


async def test_a_reply_whose_result_cannot_be_shown_is_an_error_that_says_so(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Nothing else is the reply."""
    coordinator.on_submit = lambda job: finished(job, **HUGE)

    answer = await gateway.post("/discord/message", HELLO)

    assert answer.status == 500
    assert "left no usable result: it has 16777217 bytes" in answer.json["error"]


async def test_half_a_surrogate_pair_in_a_result_is_shown_as_it_was_written(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """It is JSON; that no text can hold it is nobody's fault here."""
    pixyz, altron = (a_finished_job(coordinator, family, result=HALF_A_PAIR) for family in ("pixyz", "altron"))
    coordinator.on_submit = lambda job: finished(job, result=HALF_A_PAIR)

    details = await gateway.get(f"/jobs/{pixyz.id}/details")
    meta = await gateway.get(f"/backend/get_task_meta/{pixyz.id}")
    result = await gateway.get("/subprocess/job/get_result", params={"job_id": altron.id})
    reply = await gateway.post("/discord/message", HELLO)

    value = json.loads(HALF_A_PAIR)
    assert [answer.status for answer in (details, meta, result, reply)] == [200, 200, 200, 200]
    assert details.json["result"] == meta.json["result"]["result"] == value
    assert (result.json["text"], result.json["images"]) == (value["text"], value["images"])
    assert (reply.json["text"], reply.json["sender"]) == (value["text"], value["sender"])


@pytest.mark.parametrize("result", [DEEP, *RATHER_DEEP], ids=len)
async def test_a_result_that_is_nested_deeply_is_no_fault_of_ours(
    gateway: Caller, coordinator: FakeCoordinator, result: bytes
) -> None:
    """It is shown as far as it can be read."""
    pixyz, altron = (a_finished_job(coordinator, family, result=result) for family in ("pixyz", "altron"))
    coordinator.on_submit = lambda job: finished(job, result=result)
    paths = (
        f"/jobs/{pixyz.id}/details",
        f"/backend/get_task_meta/{pixyz.id}",
        f"/subprocess/job/get_result?job_id={altron.id}",
        f"/v1/jobs/{pixyz.id}",
    )

    for path in paths:
        async with gateway.session.get(gateway.url + path) as response:
            assert response.status == 200, path
    async with gateway.session.post(gateway.url + "/discord/message", json=HELLO) as response:
        assert response.status == 200


async def test_the_head_of_a_long_answer_is_its_length_and_holds_nothing(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted while it is made."""
    held: list[int] = []
    added = streamed_json.StreamedJson.add

    async def watched(self: streamed_json.StreamedJson, piece: bytes) -> None:
        await added(self, piece)
        held.append(len(self._held))

    monkeypatch.setattr(streamed_json.StreamedJson, "add", watched)
    for number in range(2500):
        job = a_queued_job(number)
        coordinator.jobs[job.id] = job
    long = await gateway.session.get(gateway.url + "/jobs")
    body = await long.read()
    async with gateway.session.head(gateway.url + "/jobs") as response:
        length = response.headers["Content-Length"]

    assert len(json.loads(body)["jobs"]) == 2500
    assert (response.status, int(length)) == (200, len(body))
    assert max(held) <= streamed_json.WHOLE_BYTES_MAX


async def test_a_large_body_counts_until_its_request_is_over(
    gateway: Caller, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all families together: what is made of it is as large as itself."""
    monkeypatch.setattr(large_bodies, "LARGE_BODIES_MAX", 1)
    coordinator.hold.clear()
    large = {"jobs": [{"argv": ["true"], "params": "x" * 200_000}] * 6}
    assert len(json.dumps(large)) > bodies.BODY_BYTES_MAX
    async with asyncio.TaskGroup() as group:
        first = group.create_task(gateway.post("/v1/jobs", large))
        await eventually(lambda: coordinator.submitting)
        second = await gateway.post("/discord/message", [HELLO[0] | {"image": "A" * 2_000_000}])
        coordinator.hold.set()
    third = await gateway.post("/v1/jobs", large)

    assert (first.result().status, second.status, third.status) == (200, 429, 200)


def test_every_text_of_a_job_counts_in_the_size_of_a_call() -> None:
    """A call must not grow beyond what the coordinator takes, whatever a job is made of."""
    plain = JobSpec(work=Work(argv=("x",)))
    text = "y" * 1000
    fuller = [
        replace(plain, name=text),
        replace(plain, labels={"a": text}),
        replace(plain, labels={text: "a"}),
        replace(plain, stages=(Stage(workload=text),)),
        replace(plain, workload=text),
        replace(plain, key=text),
        replace(plain, owner=text),
        replace(plain, worker=text),
        replace(plain, work=Work(argv=("x",), cwd=text)),
        replace(plain, work=Work(argv=("x",), stdin_path=text)),
    ]

    assert all(_size(spec) >= _size(plain) + 1000 for spec in fuller)
