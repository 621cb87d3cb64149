"""Altron's replies to Discord messages."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hostler.client import Client
from hostler.frames import ERR, OUT
from hostler.jobs import Failure, Job, LogStatus
from hostler.lifecycle import Outcome
from hostler.settings import load
from hostler.workloads import Workload
from http_gateway.app import make_app, serve
from http_gateway.callers import UNSAID
from tests.gateway.conftest import Answer, Caller
from tests.gateway.fake_coordinator import FakeCoordinator, finished
from tests.support.waiting import eventually

HELLO = [{"sender": "ada", "text": "hello", "image": None}]


def ends_with(result: object) -> Callable[[Job], Job]:
    """What becomes of a job whose program leaves a result."""
    return lambda job: finished(job, result=json.dumps(result).encode())


@pytest.mark.parametrize(
    "body",
    [
        HELLO,
        {"messages": HELLO},
        [{"message": HELLO[0]}],
        {"messages": [{"messaage": HELLO[0]}]},
        [{"sender": "ada", "text": "hello"}],
    ],
)
async def test_messages_are_answered_in_every_form_that_the_document_allows(
    gateway: Caller, coordinator: FakeCoordinator, body: object
) -> None:
    """The reply workload gets a plain list; its object is the answer, with what it leaves out filled in."""
    coordinator.on_submit = ends_with({"text": "hi"})

    answer = await gateway.post("/discord/message", body)

    (job,) = coordinator.jobs.values()
    assert (answer.status, answer.json) == (200, {"sender": "Altron", "text": "hi", "image": None})
    assert (job.spec.workload, job.spec.family, json.loads(job.spec.params)) == ("altron_reply", "altron", HELLO)


async def test_a_reply_may_have_a_sender_and_an_image(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Texts only; anything else counts as not said."""
    coordinator.on_submit = ends_with({"text": "", "sender": "Bot", "image": "AAA"})
    full = await gateway.post("/altron/discord/message", HELLO)
    coordinator.on_submit = ends_with({"text": "x", "sender": 7, "image": []})
    odd = await gateway.post("/altron/discord/message", HELLO)

    assert full.json == {"sender": "Bot", "text": "", "image": "AAA"}
    assert odd.json == {"sender": "Altron", "text": "x", "image": None}


async def _answered_when(gateway: Caller, coordinator: FakeCoordinator, *steps: Any) -> Answer:
    """Post messages and do *steps* with the job that answers them."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(gateway.post("/discord/message", HELLO))
        job = await asyncio.wait_for(coordinator.accepted.get(), 10)
        for step in steps:
            await step(job)
        return await asking


async def test_a_program_may_just_write_its_reply(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Without a result the text is its standard output."""
    answer = await _answered_when(
        gateway,
        coordinator,
        lambda job: coordinator.write(job, (OUT, b"written")),
        lambda job: coordinator.move(job, finished),
    )

    assert answer.json == {"sender": "Altron", "text": "written", "image": None}
    assert answer.headers["Hostler-Log-Status"] == "complete"


async def test_of_more_than_a_mebibyte_the_reply_is_the_first_and_says_that_it_is_cut(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """As the text of a job is; a reply that is a result has no such header, for it is all there."""
    cut = await _answered_when(
        gateway,
        coordinator,
        lambda job: coordinator.write(job, *[(OUT, b"x" * 60_000)] * 20),
        lambda job: coordinator.move(job, finished),
    )
    coordinator.on_submit = ends_with({"text": "x"})
    whole = await gateway.post("/discord/message", HELLO)

    assert (cut.status, len(cut.json["text"]), cut.headers["Hostler-Log-Status"]) == (200, 1024 * 1024, "cut")
    assert "Hostler-Log-Status" not in whole.headers


async def test_a_program_that_fails_is_500_with_what_it_said_last(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """How it ended and the last line of its standard error; a script's exception instead of both."""
    failed = await _answered_when(
        gateway,
        coordinator,
        lambda job: coordinator.write(job, (ERR, b"Traceback\n"), (OUT, b"x"), (ERR, b"no model\n\n")),
        lambda job: coordinator.move(job, lambda j: finished(j, Outcome.FAILED, exit_code=3, err_bytes=20)),
    )
    raised = await _answered_when(
        gateway,
        coordinator,
        lambda job: coordinator.move(
            job,
            lambda j: finished(
                j, Outcome.FAILED, exit_code=1, failure=Failure(type="KeyError", module="builtins", message="'text'")
            ),
        ),
    )

    assert failed.status == raised.status == 500
    assert failed.json == {"error": "the reply workload 'altron_reply' failed: exit status 3: no model"}
    assert raised.json == {"error": "the reply workload 'altron_reply' failed: KeyError: 'text'"}


async def test_what_a_program_said_last_is_told_of_what_is_held_of_its_log(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The end of a long one was lost with its worker."""

    def lost(job: Job) -> Job:
        ended = finished(job, Outcome.FAILED, exit_code=3, err_bytes=2_000_000, ledger_bytes=2_000_000)
        return replace(ended, log_status=LogStatus.LOST)

    answer = await _answered_when(
        gateway,
        coordinator,
        lambda job: coordinator.write(job, (ERR, b"Traceback\n"), (ERR, b"no model\n")),
        lambda job: coordinator.move(job, lost),
    )

    assert answer.json == {"error": "the reply workload 'altron_reply' failed: exit status 3: no model"}


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"messages": []},
        {"messages": {}},
        "hello",
        [7],
        [{"sender": "a"}],
        [{"text": "a"}],
        [{"sender": 1, "text": "a"}],
        [{"sender": "a", "text": None}],
        [{"sender": "a", "text": "b", "image": 7}],
        [HELLO],
        [{"message": HELLO[0], "messaage": HELLO[0]}],
        HELLO * 201,
    ],
)
async def test_what_is_no_list_of_messages_is_400(gateway: Caller, coordinator: FakeCoordinator, body: object) -> None:
    """And an empty one has nothing to answer."""
    answer = await gateway.post("/discord/message", body)

    assert (answer.status, list(answer.json)) == (400, ["error"])
    assert not coordinator.jobs


async def test_a_message_in_both_spellings_is_told_so(gateway: Caller) -> None:
    """Neither of them counts; nothing of it is missing."""
    answer = await gateway.post("/discord/message", [HELLO[0], {"message": HELLO[0], "messaage": HELLO[0]}])

    assert answer.json == {"error": "messages[1]: message and messaage are the same, and both are there"}


async def test_many_messages_are_stored_and_are_the_parameters_all_the_same(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """A picture in a message is text that is handed on."""
    coordinator.on_submit = ends_with({"text": "large"})
    messages = [{"sender": "ada", "text": "look", "image": "A" * 2_000_000}]

    answer = await gateway.post("/discord/message", messages)

    (job,) = coordinator.jobs.values()
    (file,) = job.spec.work.files
    assert (answer.status, answer.json["text"]) == (200, "large")
    assert (job.spec.params, file.path, job.spec.work.stdin_path) == ("", "params.json", "")
    assert json.loads(coordinator.files.stored[file.digest]) == messages


async def test_more_than_sixteen_mebibytes_are_413(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Before they are read."""
    headers = {"Content-Length": str(16 * 1024 * 1024 + 1)}
    raw = b"".join(
        (
            b"POST /discord/message HTTP/1.1\r\nHost: localhost\r\n",
            *(f"{k}: {v}\r\n".encode() for k, v in headers.items()),
        )
    )

    assert b" 413 " in await gateway.raw(raw + b"\r\n", until=b"\r\n")
    assert not coordinator.jobs


class Gate(asyncio.Event):
    """Holds submissions, and says when one has come."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self) -> Any:
        """Say so, and wait."""
        self.reached.set()
        return await super().wait()


async def test_a_caller_who_hangs_up_ends_the_reply(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Nobody waits for it any more."""
    asking = asyncio.create_task(gateway.post("/discord/message", HELLO))
    job = await asyncio.wait_for(coordinator.accepted.get(), 10)

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    await eventually(lambda: coordinator.jobs[job].outcome is Outcome.STOPPED)


async def test_a_caller_who_hangs_up_before_the_job_is_accepted_ends_it_too(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The submission cannot be taken back, so its id is waited for."""
    gate = coordinator.hold = Gate()
    asking = asyncio.create_task(gateway.post("/discord/message", HELLO))
    await asyncio.wait_for(gate.reached.wait(), 10)

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    gate.set()
    job = await asyncio.wait_for(coordinator.accepted.get(), 10)

    await eventually(lambda: coordinator.jobs[job].outcome is Outcome.STOPPED)


async def test_a_reply_that_takes_too_long_is_500_and_its_job_is_stopped(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """The setting says how long is too long."""
    settings = load(data_dir=tmp_path, altron_reply_wait_s=0.2)
    async with (
        Client(coordinator.address, principal=UNSAID) as client,
        serve(make_app(client, settings), "127.0.0.1", 0) as url,
        aiohttp.ClientSession() as session,
    ):
        answer = await Caller(url, session).post("/discord/message", HELLO)

    (job,) = coordinator.jobs.values()
    assert answer.status == 500
    assert "deadline of 0.2 s" in answer.json["error"]
    assert job.outcome is Outcome.STOPPED


@pytest.mark.parametrize(("own_s", "limit_s"), [(0.0, 35.0), (60.0, 35.0), (7.0, 7.0)])
async def test_a_reply_ends_by_itself_should_no_gateway_be_left_to_stop_it(
    gateway: Caller, coordinator: FakeCoordinator, own_s: float, limit_s: float
) -> None:
    """A while after the gateway would have, so that it tells what is late; the workload's own limit may be earlier."""
    coordinator.workloads.add(Workload(name="altron_reply", timeout_s=own_s))
    coordinator.on_submit = ends_with({"text": "hi"})

    await gateway.post("/discord/message", HELLO)

    (job,) = coordinator.jobs.values()
    assert (job.spec.start_within_s, job.spec.work.timeout_s) == (35.0, limit_s)
