"""Signals to jobs, as a program sends them, and what it is answered."""

import asyncio

import pytest

from hostler.client import Client
from hostler.errors import InvalidRequest, JobNotFound, NotRunning, Unavailable
from hostler.lifecycle import State
from tests.support.builders import a_spec, an_id
from tests.support.fake_worker import FakeWorker
from tests.support.waiting import eventually


async def test_a_signal_reaches_the_worker(client: Client, worker: FakeWorker) -> None:
    """By number; a number that is none is refused, and a job that does not run takes none."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    with pytest.raises(NotRunning):
        await client.signal(job, 10)
    await worker.report_started(key)
    assert await client.wait_one(job, until=State.RUNNING, timeout_s=10)

    await client.signal(job, 10)
    for number in (0, -1, 32, 33, 65):
        with pytest.raises(InvalidRequest):
            await client.signal(job, number)

    assert [s.signal for message in worker.received for s in message.signals] == [10]

    await worker.report_ended(key, exit_code=4)
    assert await client.wait_one(job, timeout_s=10)
    with pytest.raises(NotRunning, match=rf"job {job} is over \(failed: exit status 4\), so it takes no signal"):
        await client.signal(job, 10)
    with pytest.raises(JobNotFound):
        await client.signal(an_id(99), 10)


async def test_a_signal_is_only_said_to_be_passed_on_when_its_worker_says_so(
    client: Client, worker: FakeWorker
) -> None:
    """An attempt may end, or its agent be killed, while the signal is on its way."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.report_started(key)
    assert await client.wait_one(job, until=State.RUNNING, timeout_s=10)

    worker.passes = False
    with pytest.raises(NotRunning, match="the signal was not passed on"):
        await client.signal(job, 10)

    worker.passes = None
    asking = asyncio.create_task(client.signal(job, 12))
    await eventually(lambda: any(s.signal == 12 for message in worker.received for s in message.signals))
    assert not asking.done()
    await worker.break_off()
    with pytest.raises(Unavailable, match="whether the signal has arrived is not known") as failed:
        await asking
    assert failed.value.field == "worker"
