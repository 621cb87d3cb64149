"""A patient client goes on when its coordinator has been away; one without patience says so at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coordinator.app import Coordinator
from coordinator.rpc.auditing import READING
from coordinator.rpc.jobs_service import JobsService
from hostler import patience
from hostler.client import Client, LogChunk, connect
from hostler.endpoint import coordinator_socket
from hostler.errors import DeadlineExceeded, InvalidRequest, JobNotFound, NotRunning, Unavailable
from hostler.jobs import JobEvent, JobQuery, Progress
from hostler.patience import Absence
from hostler.repeating import REPEATED
from hostler.settings import Settings
from hostler.v1 import access_pb2, files_pb2, jobs_pb2, workloads_pb2
from tests.support.builders import a_spec, some_frames
from tests.support.fake_worker import RUNNING, FakeWorker
from tests.support.waiting import eventually

ONE, TWO = (some_frames(text) for text in (b"one\n", b"two\n"))


@pytest.fixture
async def patient(settings: Settings) -> AsyncIterator[Client]:
    """A patient client of the cluster of this data directory, which need not run yet."""
    async with connect(data_dir=settings.data_dir) as made:
        yield made


class Restarts:
    """One coordinator after the other on one data directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: Coordinator | None = None

    async def start(self) -> None:
        """Start one."""
        self._running = await Coordinator(self._settings).__aenter__()

    async def end(self) -> None:
        """End it."""
        if self._running is not None:
            running, self._running = self._running, None
            await running.__aexit__(None, None, None)


@pytest.fixture
async def restarts(settings: Settings) -> AsyncIterator[Restarts]:
    """Nothing runs at first."""
    made = Restarts(settings)
    yield made
    await made.end()


async def test_a_call_waits_for_a_coordinator_that_is_still_to_come(patient: Client, restarts: Restarts) -> None:
    """Submit too: every job that a patient client submits has a key, so asking again makes no second one."""
    submitted = asyncio.create_task(patient.submit([a_spec(), a_spec()]))
    await asyncio.sleep(0)  # it is on its way
    await restarts.start()

    found = await submitted

    assert len(set(map(str, found))) == 2
    assert len((await patient.find(JobQuery())).jobs) == 2
    assert all(job.spec.key for job in (await patient.find(JobQuery())).jobs)


async def test_a_job_whose_answer_was_lost_is_not_made_twice(
    patient: Client, restarts: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator goes after the commit and before the answer: the same submission finds its job."""
    answered, calls = JobsService.submit, list[Any]()

    async def dies_once(self: Any, *call: Any) -> Any:
        calls.append(call)
        answer = await answered(self, *call)
        if len(calls) == 1:
            raise Unavailable("gone")
        return answer

    monkeypatch.setattr(JobsService, "submit", dies_once)
    await restarts.start()

    job = await patient.submit_one(a_spec())

    assert len(calls) == 2
    assert [one.id for one in (await patient.find(JobQuery())).jobs] == [job]


async def test_a_call_that_is_cancelled_ends_at_the_coordinator_too(
    patient: Client, restarts: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop may wait for a month: nobody is left waiting there for a client that has gone."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def lasts(*_: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(JobsService, "stop", lasts)
    await restarts.start()

    stopping = asyncio.create_task(patient.stop("00000000-0000-4000-8000-000000000000"))
    await asyncio.wait_for(begun.wait(), 10)
    stopping.cancel()

    await asyncio.wait_for(ended.wait(), 10)
    with pytest.raises(asyncio.CancelledError):
        await stopping


async def test_a_wait_goes_on_for_those_that_are_not_over(
    patient: Client, restarts: Restarts, settings: Settings
) -> None:
    """Each job is told once, those from before the restart and those from after it."""
    await restarts.start()
    first, second = [str(one) for one in await patient.submit([a_spec(), a_spec()])]
    told: list[Progress] = []

    async def wait() -> None:
        async for progress in patient.wait([first, second]):
            told.append(progress)

    waiting = asyncio.create_task(wait())
    await patient.stop(first)
    await eventually(lambda: len(told) == 1, "the first end")
    await restarts.end()
    await restarts.start()
    await patient.stop(second)
    await asyncio.wait_for(waiting, 20)

    assert [progress.id for progress in told] == [first, second]


async def test_a_watch_goes_on_without_a_gap_or_a_double(patient: Client, restarts: Restarts) -> None:
    """By the number of the last event."""
    await restarts.start()
    job = await patient.submit_one(a_spec())
    seen: list[JobEvent] = []

    async def watch() -> None:
        async for event in patient.watch([job]):
            seen.append(event)

    watching = asyncio.create_task(watch())
    await eventually(lambda: bool(seen), "the first event")
    await restarts.end()
    await restarts.start()
    await patient.stop(job)
    await eventually(lambda: seen[-1].kind == "ended", "the last event")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    numbers = [event.number for event in seen]
    assert numbers == sorted(set(numbers))
    assert [event.kind for event in seen] == [event.kind async for event in _all(patient, job)]


async def _all(client: Client, job: str) -> AsyncIterator[JobEvent]:
    async for event in client.watch([job]):
        yield event
        if event.kind == "ended":
            return


async def test_a_log_goes_on_at_its_position_and_into_the_next_attempt(
    patient: Client, restarts: Restarts, settings: Settings
) -> None:
    """What was read is not read again, and a reader of no particular attempt still goes on with the one after it."""
    await restarts.start()
    job = await patient.submit_one(a_spec(retries=1))
    worker = FakeWorker(f"unix:{coordinator_socket(settings.data_dir)}")
    chunks: list[LogChunk] = []

    async def read() -> None:
        async for chunk in patient.read_log(job, follow=True):
            chunks.append(chunk)

    reading = asyncio.create_task(read())
    try:
        await worker.connect()
        (key,) = await worker.takes()
        await worker.report_started(key)
        await worker.open_push()
        await worker.push(key, 0, ONE)
        await worker.stored(key, len(ONE))
        await eventually(lambda: bool(chunks), "the first piece")
        await restarts.end()
        await restarts.start()
        await worker.connect([(key, RUNNING)])
        await worker.open_push()
        await worker.push(key, len(ONE), TWO)
        await worker.stored(key, len(ONE + TWO))
        await worker.report_ended(key, exit_code=1, cause="exit", ledger_bytes=len(ONE + TWO))
        again = (await worker.takes(2))[-1]
        await worker.report_started(again)
        await worker.push(again, 0, TWO)
        await worker.stored(again, len(TWO))
        await worker.report_ended(again, ledger_bytes=len(TWO))
        await asyncio.wait_for(reading, 20)
    finally:
        reading.cancel()
        await worker.close()

    held = {1: b"", 2: b""}
    for chunk in chunks:
        held[chunk.attempt] += chunk.frames
    assert held == {1: ONE + TWO, 2: TWO}


async def test_what_cannot_become_better_is_said_at_once(patient: Client, restarts: Restarts) -> None:
    """A refusal is one also for a patient client."""
    await restarts.start()
    with pytest.raises(JobNotFound):
        await asyncio.wait_for(patient.get("00000000-0000-4000-8000-000000000000"), 10)
    job = await patient.submit_one(a_spec())
    with pytest.raises(NotRunning):
        await asyncio.wait_for(patient.signal(job, 15), 10)


def test_every_call_that_only_reads_is_made_again() -> None:
    """Of those with one answer; streams are resumed. What gateways report is noted anew each time."""
    services = [
        service
        for file in (jobs_pb2.DESCRIPTOR, workloads_pb2.DESCRIPTOR, access_pb2.DESCRIPTOR, files_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
    ]
    unary = {
        f"{service.name}/{method.name}"
        for service in services
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    }
    reading = unary & READING - {"Access/NoteRefusals"}
    assert len(reading) > 10
    assert {f"/hostler.v1.{name}" for name in reading} <= REPEATED


async def test_patience_has_an_end(settings: Settings) -> None:
    """The last failure is told; without patience it is the first."""
    for patience_s in (0.0, 0.3):
        async with connect(data_dir=settings.data_dir, patience_s=patience_s) as client:
            with pytest.raises(Unavailable, match="cannot be reached"):
                await asyncio.wait_for(client.workers(), 10)
            with pytest.raises(Unavailable):
                async for _ in client.wait(["00000000-0000-4000-8000-000000000000"]):
                    pass


async def test_an_absence_is_counted_from_the_last_answer() -> None:
    """Many short ones are borne as long as each is."""
    absence = Absence(0.4)
    for _ in range(6):
        await absence.bear(Unavailable("away"))
        absence.heard()
    with pytest.raises(Unavailable, match="still"):
        while True:
            await absence.bear(Unavailable("still"))


async def test_a_call_that_lasted_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows a silent job is told nothing between two restarts, and outlasts both; a call that hangs counts."""
    monkeypatch.setattr(patience, "LASTING_S", 0.2)
    absence = Absence(0.4)
    for _ in range(4):
        await absence.bear(Unavailable("away"))
        await asyncio.sleep(0.25)  # a stream that is open
    with pytest.raises(DeadlineExceeded):
        for _ in range(4):
            await absence.bear(DeadlineExceeded("hangs"))
            await asyncio.sleep(0.25)


async def test_the_address_may_be_given(settings: Settings, restarts: Restarts) -> None:
    """And a wrong setting is said as one."""
    await restarts.start()
    async with connect(f"unix:{coordinator_socket(settings.data_dir)}") as client:
        assert await client.workers() == []
    with pytest.raises(InvalidRequest, match="key_file"):
        connect("192.0.2.1:7070")
