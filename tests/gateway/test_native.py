"""``/v1`` as docs/http-api.md describes it, in its order; submissions and the log have files of their own."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from hostler.errors import KeyConflict, Unavailable
from hostler.jobs import Advance, EndedProcess, Failure, Job, LogStatus, Receipt, SentSignal, Step, Usage
from hostler.lifecycle import Outcome, State
from tests.gateway.conftest import Answer, Caller
from tests.gateway.fake_coordinator import (
    NOW_US,
    WORKER,
    FakeCoordinator,
    an_end,
    finished,
    killed,
    not_started,
    running,
)

UNKNOWN = "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"


async def submitted(gateway: Caller, **item: Any) -> str:
    """Submit one job and return its id."""
    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"], **item}]})
    assert answer.status == 200, answer.text
    job: str = answer.json["jobs"][0]["id"]
    return job


# GET /v1/jobs


async def test_the_list_is_filtered_and_comes_in_pages(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Oldest first; ``next`` is what ``after`` takes, and null at the end; empty parameters do not filter."""
    ids = [await submitted(gateway, name="n") for _ in range(5)]
    await coordinator.move(ids[0], finished)

    first = await gateway.get("/v1/jobs?state=running,stopping&name=n&limit=3&after=&owner=")
    second = await gateway.get("/v1/jobs", params={"state": "running", "limit": "3", "after": first.json["next"]})

    assert [job["id"] for job in first.json["jobs"]] == ids[1:4]
    assert first.json["next"]
    assert second.json["next"] is None
    assert (await gateway.get("/v1/jobs?name=other")).json == {"jobs": [], "next": None}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=done", "state"), ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"),
        ("stat=1", "stat"), ("order=up", "order"), ("order=NEWEST", "order"), ("limit=" + "9" * 5000, "limit"),
    ],
)  # fmt: skip
async def test_a_list_parameter_that_means_nothing_is_400(gateway: Caller, query: str, field: str) -> None:
    """A misspelt filter that shows everything would be worse."""
    answer = await gateway.get(f"/v1/jobs?{query}")

    assert (answer.status, answer.json["error"]["field"]) == (400, field)


async def test_the_newest_come_first_when_that_is_asked_for(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """In pages as well; an empty order is the oldest first."""
    ids = [await submitted(gateway, workload=f"w{n % 2}", argv=[]) for n in range(5)]

    first = await gateway.get("/v1/jobs?order=newest&limit=3")
    second = await gateway.get("/v1/jobs", params={"order": "newest", "limit": "3", "after": first.json["next"]})
    oldest = await gateway.get("/v1/jobs?order=&workload=")
    filtered = await gateway.get("/v1/jobs?workload=w1&order=newest")

    assert [job["id"] for job in first.json["jobs"] + second.json["jobs"]] == ids[::-1]
    assert second.json["next"] is None
    assert [job["id"] for job in oldest.json["jobs"]] == ids
    assert [job["id"] for job in filtered.json["jobs"]] == [ids[3], ids[1]]
    assert filtered.json["jobs"][0]["workload"] == "w1"


# GET /v1/jobs/{id}


async def test_a_waiting_job_says_why_it_waits_and_has_nulls_for_what_is_not_there(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Every key is always there."""
    coordinator.on_submit = lambda job: replace(job, pending_reasons=("1 worker lacks the label gpu=yes",))
    job = await submitted(gateway, name="n", labels={"gpu": "yes"}, cwd="/tmp", priority=3)

    answer = await gateway.get(f"/v1/jobs/{job}")

    assert answer.json == {
        "id": job,
        "name": "n",
        "state": "queued",
        "outcome": None,
        "phase": None,
        "exit_code": None,
        "signal": None,
        "worker": None,
        "stage": 0,
        "attempt": 0,
        "cause": None,
        "receipt": None,
        "log": {"bytes": 0, "status": "arriving", "dropped_bytes": 0, "lost_bytes": 0},
        "usage": None,
        "times": {"queued": "2026-09-21T14:13:20.000001Z", "assigned": None, "started": None, "finished": None},
        "owner": "local",
        "family": "native",
        "labels": {"gpu": "yes"},
        "where": None,
        "tags": {},
        "retry_of": None,
        "priority": 3,
        "argv": ["true"],
        "cwd": "/tmp",
        "pending": ["1 worker lacks the label gpu=yes"],
        "workload": None,
        "workload_version": None,
        "progress": None,
        "result": None,
        "result_bytes": 0,
        "failure": None,
        "retried": 0,
        "retries": 0,
        "start_within": 0,
        "limits": None,
        "merge": False,
        "loss_policy": None,
        "on_lost": None,
        "lost_after": None,
        "crash_limit": 0,
        **dict.fromkeys(("worker_asked", "key", "start_path", "stdin_path", "terminal", "python")),
        **dict.fromkeys(("output_stop", "stdin", "workspace"), False),
        "retry_on": [],
        "slots": 1,
        "timeout": 0,
        "grace": 10,
        "output_bytes_max": 0,
        "leftovers": "kill",
        "inputs": 0,
        "variables": [],
        "secrets": {},
        "due": None,
        "outputs": None,
        "stages": None,
    }


async def test_a_job_that_is_over_shows_how_it_ended_with_cause_and_receipt(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The receipt names signals, what ended, and what is left: nothing."""
    receipt = Receipt(
        signals=(SentSignal(signal="SIGTERM", at_us=NOW_US, processes=3),),
        ended=(EndedProcess(pid=7, name="sh"),),
        verified_by="wait+cgroup",
        verified_at_us=NOW_US + 1,
    )
    usage = Usage(cpu_user_s=0.5, cpu_system_s=0.25, memory_bytes_max=1 << 20, processes=3)
    job = await submitted(gateway)
    await coordinator.move(
        job,
        lambda j: replace(
            finished(
                j,
                Outcome.STOPPED,
                exit_code=None,
                signal="SIGTERM",
                cause="stop",
                receipt=receipt,
                usage=usage,
                evidence="somebody asked for it",
                dropped_bytes=9,
            ),
            log_bytes=12,
        ),
    )

    answer = (await gateway.get(f"/v1/jobs/{job}")).json

    assert (answer["state"], answer["outcome"], answer["exit_code"]) == ("finished", "stopped", None)
    assert (answer["signal"], answer["worker"], answer["attempt"]) == ("SIGTERM", WORKER, 1)
    assert answer["cause"] == {"label": "stop", "evidence": "somebody asked for it"}
    assert answer["receipt"] == {
        "signals": [{"signal": "SIGTERM", "at": "2026-09-21T14:13:20.000000Z", "processes": 3}],
        "ended": [{"pid": 7, "name": "sh"}],
        "survivors": [],
        "verified_by": "wait+cgroup",
        "verified_at": "2026-09-21T14:13:20.000001Z",
    }
    assert answer["log"] == {"bytes": 12, "status": "complete", "dropped_bytes": 9, "lost_bytes": 0}
    assert answer["usage"] == {
        "cpu_user_s": 0.5, "cpu_system_s": 0.25, "memory_bytes_max": 1 << 20, "processes": 3,
    }  # fmt: skip
    assert answer["pending"] == []


async def test_a_program_that_could_not_be_started_says_so_in_its_cause(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The evidence is the text of the failure."""
    coordinator.on_submit = not_started

    answer = (await gateway.get(f"/v1/jobs/{await submitted(gateway)}")).json

    assert answer["cause"]["label"] == "not_started"
    assert "executable file not found" in answer["cause"]["evidence"]


async def test_an_unknown_job_is_404_on_every_route_that_names_one(gateway: Caller) -> None:
    """Whether it is a uuid or not."""
    for name in (UNKNOWN, "x", "%ff", "wait", UNKNOWN.upper()):
        for method, rest in (("GET", ""), ("GET", "/log"), ("POST", "/stop"), ("POST", "/signal")):
            body: object = {"signal": 2} if rest == "/signal" else {}
            answer = await gateway.call(method, f"/v1/jobs/{name}{rest}", json=body)
            assert (answer.status, answer.json["error"]["code"]) == (404, "job_not_found"), (method, name, rest)


async def test_wait_answers_as_soon_as_the_job_is_over(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """And after the time, with the job as it stands."""
    job = await submitted(gateway)

    early = await gateway.get(f"/v1/jobs/{job}?wait=0.05")
    call = asyncio.create_task(gateway.get(f"/v1/jobs/{job}?wait=60"))
    await asyncio.sleep(0)
    await coordinator.move(job, finished)

    assert early.json["state"] == "running"
    assert (await call).json["state"] == "finished"
    assert (await gateway.get(f"/v1/jobs/{job}?wait=60")).json["state"] == "finished"
    for wait in ("x", "-1", "nan", "60.5", "1e9"):
        answer = await gateway.get(f"/v1/jobs/{job}?wait={wait}")
        assert (answer.status, answer.json["error"]["field"]) == (400, "wait")
        assert answer.json["error"]["message"] == "wait is a number of seconds from 0 to 60"


async def test_a_job_shows_its_progress_its_result_and_why_it_failed(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """While it runs, while it waits for another attempt, and afterwards."""
    job = await submitted(gateway, workload="w", argv=[], retries=2)
    steps = (Step(text="cut", duration_s=1.5), Step(text="glue"))
    await coordinator.move(job, lambda j: replace(j, phase="preparing", advance=Advance(percent=40, steps=steps)))
    runs = (await gateway.get(f"/v1/jobs/{job}")).json
    await coordinator.move(job, lambda j: replace(j, state=State.QUEUED, retried=1, due_at_us=NOW_US))
    waits = (await gateway.get(f"/v1/jobs/{job}")).json
    failure = Failure(type="ValueError", module="builtins", message="no", traceback="Traceback ...")
    end = {"result": b'{"n": [1]}', "failure": failure, "outputs": 2, "outputs_missing": ("x: too large",)}
    await coordinator.move(job, lambda j: finished(j, Outcome.FAILED, exit_code=1, **end))
    over = (await gateway.get(f"/v1/jobs/{job}")).json

    assert (runs["phase"], runs["workload"], runs["result"], runs["outputs"]) == ("preparing", "w", None, None)
    assert runs["progress"] == {
        "percent": 40, "steps": [{"text": "cut", "duration_s": 1.5}, {"text": "glue", "duration_s": None}],
    }  # fmt: skip
    assert (waits["state"], waits["retried"], waits["retries"]) == ("queued", 1, 2)
    assert waits["due"] == "2026-09-21T14:13:20.000000Z"
    assert over["result"] == {"n": [1]}
    assert over["failure"] == {
        "type": "ValueError", "module": "builtins", "message": "no", "traceback": "Traceback ...",
    }  # fmt: skip
    assert over["outputs"] == {"files": 2, "missing": ["x: too large"]}


# GET /v1/jobs/{id}/explain


async def test_a_waiting_job_is_explained(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Each reason with its code, the nearest worker, and who comes before; the same JSON as the command line's."""
    coordinator.on_submit = lambda job: job
    job = await submitted(gateway)

    answer = await gateway.get(f"/v1/jobs/{job}/explain")

    assert answer.status == 200
    assert (answer.json["id"], answer.json["state"], answer.json["attempts"]) == (job, "queued", [])
    assert answer.json["pending"] == {
        "reasons": [{"code": "no_free_slot", "text": "1 worker has no free slot", "workers": 1}],
        "nearest": {"worker": WORKER, "name": "here", "missing": ["has 0 of 4 slots free"]},
        "before": 2,
        "before_more": False,
    }


async def test_a_finished_job_is_explained(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """With its attempts and their evidence; nothing is pending."""
    coordinator.on_submit = finished
    job = await submitted(gateway)

    answer = await gateway.get(f"/v1/jobs/{job}/explain")

    assert answer.json["pending"] is None
    assert answer.json["next"][0] == "Nothing: it is over, and its outcome never changes."
    (attempt,) = answer.json["attempts"]
    assert (attempt["outcome"], attempt["evidence"]) == ("succeeded", "it exited by itself")


async def test_no_unknown_job_is_explained(gateway: Caller) -> None:
    """404, and 400 for a parameter that nobody knows."""
    assert (await gateway.get("/v1/jobs/aaaabbbb-1111-4111-8111-111111111111/explain")).status == 404
    job = await submitted(gateway)
    assert (await gateway.get(f"/v1/jobs/{job}/explain?wait=1")).status == 400


# POST /v1/jobs/wait


async def test_many_jobs_are_waited_for_in_one_call(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Those that are over come with their end, the others are pending."""
    ids = [await submitted(gateway) for _ in range(3)]
    await coordinator.move(ids[0], lambda job: finished(job, Outcome.FAILED, exit_code=3))
    await coordinator.move(ids[1], killed)

    answer = await gateway.post("/v1/jobs/wait", {"ids": [*ids, ids[0]], "timeout": 0.1})

    assert answer.json == {
        "jobs": [
            {"id": ids[0], "state": "finished", "outcome": "failed", "exit_code": 3, "signal": None},
            {"id": ids[1], "state": "finished", "outcome": "stopped", "exit_code": None, "signal": "SIGKILL"},
        ],
        "pending": [ids[2]],
    }
    assert (await gateway.post("/v1/jobs/wait", {"ids": []})).json == {"jobs": [], "pending": []}
    assert (await gateway.post("/v1/jobs/wait", {"ids": ids, "timeout": 0})).json["pending"] == [ids[2]]
    assert (await gateway.post("/v1/jobs/wait", {"ids": ["x"]})).status == 404
    assert (await gateway.post("/v1/jobs/wait", {"id": ids})).status == 400
    assert (await gateway.post("/v1/jobs/wait", {"ids": ["x"] * 10_001})).status == 413
    for timeout, words in (
        (600.5, "timeout must be 600 or less"),
        (1e9, "timeout must be 600 or less"),
        (-1, "timeout must be 0 or more"),
        ("1", "timeout must be a number"),
    ):
        over = await gateway.post("/v1/jobs/wait", {"ids": ids, "timeout": timeout})
        assert (over.status, over.json["error"]["field"]) == (400, "timeout")
        assert over.json["error"]["message"] == words


# POST /v1/jobs/{id}/stop


async def test_a_stop_answers_with_the_receipt_once_it_is_verified(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The grace is the job's own unless the body says otherwise; the body may be empty."""
    ids = [await submitted(gateway) for _ in range(4)]

    answer = await gateway.post(f"/v1/jobs/{ids[0]}/stop", {"grace": 1.5})
    await gateway.call("POST", f"/v1/jobs/{ids[1]}/stop")
    await gateway.post(f"/v1/jobs/{ids[2]}/stop", {})
    await gateway.post(f"/v1/jobs/{ids[3]}/stop", {"grace": 0})

    assert (answer.status, answer.json["outcome"]) == (200, "stopped")
    assert answer.json["receipt"]["verified_by"] == "wait"
    assert coordinator.graces == [1.5, None, None, 0.0]
    wrong: tuple[object, ...] = ({"grace": -1}, {"grace": "1"}, {"gracee": 1}, [])
    for body in wrong:
        assert (await gateway.post(f"/v1/jobs/{ids[0]}/stop", body)).status == 400


async def test_a_stop_that_is_not_verified_in_time_is_202_and_says_who_lives(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """200 would say that nothing is left."""
    receipt = Receipt(survivors=(EndedProcess(pid=17, name="d"),))
    coordinator.on_stop = lambda job: replace(
        job, state=State.STOPPING, phase="unkillable", end=an_end(exit_code=None, receipt=receipt)
    )

    answer = await gateway.post(f"/v1/jobs/{await submitted(gateway)}/stop")

    assert (answer.status, answer.json["state"], answer.json["phase"]) == (202, "stopping", "unkillable")
    assert answer.json["receipt"]["survivors"] == [{"pid": 17, "name": "d"}]


# POST /v1/jobs/{id}/signal


async def test_a_signal_is_a_name_or_a_number(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Of a job that does not run it is 409."""
    job = await submitted(gateway)

    for asked in ("SIGINT", "int", 15):
        assert (await gateway.post(f"/v1/jobs/{job}/signal", {"signal": asked})).json["id"] == job
    wrong: object
    for wrong in ("SIGNOPE", "", 0, 65, -1, 10**40, 1.5, True, None, [], {}):
        answer = await gateway.post(f"/v1/jobs/{job}/signal", {"signal": wrong})
        assert answer.status == 400, wrong
        assert answer.json["error"] == {
            "code": "invalid_request",
            "message": "signal is a name such as SIGINT, or a number from 1 to 64",
            "field": "signal",
        }
    assert (await gateway.post(f"/v1/jobs/{job}/signal", {})).json["error"]["message"] == "signal is missing"
    await coordinator.move(job, finished)
    over = await gateway.post(f"/v1/jobs/{job}/signal", {"signal": 2})

    assert coordinator.signals == [2, 2, 15]
    assert (over.status, over.json["error"]["code"]) == (409, "not_running")


# GET /v1/workers, /v1/cluster, /health


async def test_workers_are_listed(gateway: Caller) -> None:
    """With the fields of the reference."""
    (worker,) = (await gateway.get("/v1/workers")).json["workers"]

    assert worker["id"] == WORKER
    assert {name: worker[name] for name in ("name", "state", "slots", "labels", "version")} == {
        "name": "here", "state": "connected", "slots": 4, "labels": {"zone": "a"}, "version": "0.1.0",
    }  # fmt: skip


async def test_the_cluster_says_how_it_fares(gateway: Caller) -> None:
    """From the coordinator's memory."""
    await submitted(gateway)

    answer = (await gateway.get("/v1/cluster")).json

    assert (answer["version"], answer["workers"], answer["queued"], answer["running"]) == ("0.1.0", 1, 0, 1)


async def _health(gateway: Caller, status: int) -> Answer:
    async with asyncio.timeout(15):
        while (answer := await gateway.get("/health")).status != status:  # noqa: ASYNC110  # only asking tells
            await asyncio.sleep(0.05)
    return answer


async def test_health_is_ok_while_the_coordinator_answers_and_503_while_it_does_not(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """And ok again when it is back: the gateway survives its restart."""
    before = await gateway.get("/health")
    await coordinator.stop()
    gone = await _health(gateway, 503)
    refused = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}]})
    await coordinator.start()
    back = await _health(gateway, 200)

    assert before.json == {"status": "healthy", "workers": 1, "queued": 0, "running": 0, "version": "0.1.0"}
    assert (gone.status, gone.json["status"]) == (503, "unavailable")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert back.json == before.json
    assert await submitted(gateway)


async def test_an_error_of_the_coordinator_keeps_its_code(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """The table to HTTP is that of hostler.errors."""
    coordinator.refuse = KeyConflict("the key was used before", field="key")
    conflict = await gateway.get(f"/v1/jobs/{UNKNOWN}")
    coordinator.refuse = Unavailable("stopping")
    gone = await gateway.get("/v1/workers")

    assert (conflict.status, conflict.json["error"]) == (
        409,
        {"code": "key_conflict", "message": "the key was used before", "field": "key"},
    )
    assert gone.status == 503


async def test_jobs_of_every_family_are_seen(gateway: Caller) -> None:
    """The native API is the one that sees all."""
    started = await gateway.post("/start", {"worker_id": WORKER, "command": "true"})

    answer = await gateway.get(f"/v1/jobs/{started.json['job_id']}")

    assert answer.json["family"] == "scheduler"


async def test_texts_of_any_kind_come_back_as_they_went(gateway: Caller) -> None:
    """Quotes, line ends, controls and the whole of Unicode."""
    name = "\"\\\n\t\x01\u2028é\U0001f40e'</script>"

    job = await submitted(gateway, name=name)

    assert (await gateway.get(f"/v1/jobs/{job}")).json["name"] == name
    assert json.loads((await gateway.get("/v1/jobs", params={"name": name})).text)["jobs"][0]["id"] == job


async def test_a_job_shows_the_log_it_lost(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Loss is never silent."""

    def lost(job: Job) -> Job:
        return replace(running(job), log_status=LogStatus.LOST, log_lost_bytes=10)

    job = await submitted(gateway)
    await coordinator.move(job, lost)

    assert (await gateway.get(f"/v1/jobs/{job}")).json["log"] == {
        "bytes": 0, "status": "lost", "dropped_bytes": 0, "lost_bytes": 10,
    }  # fmt: skip
