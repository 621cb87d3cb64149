"""``hostler explain``: why a job is as it is, in sentences."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from hostler.cli.connect import cluster, resolve_job
from hostler.cli.failures import OK
from hostler.cli.options import Place
from hostler.cli.render import print_json, print_line, receipt_text, state_text, work_text
from hostler.client import Client
from hostler.explanation import Explanation, ends_of, explain, explanation_shape
from hostler.jobs import Job, JobEvent

EVENT_S = 2.0  # for the first event; every job has one
MORE_EVENTS_S = 0.3  # for each further one: there is no end of them that could be waited for
EVENTS_S = 10.0  # for all of them: a job that is tried again and again has ever more


def explain_job(place: Place, text: str) -> int:
    """Print what is known of a job, as sentences."""

    async def act() -> int:
        async with cluster(place) as client:
            number = await resolve_job(client, text)
            job = await client.get(number)
            events = await _events(client, number)
            names = {worker.id: worker.name for worker in await client.workers()}
        receipts = {place: receipt_text(end) for place, end in enumerate(ends_of(job)) if end is not None}
        told = explain(job, events, names, receipts)
        if place.as_json:
            print_json(explanation_shape(job, told))
        else:
            for line in _lines(job, told):
                print_line(line)
        return OK

    return asyncio.run(act())


async def _events(client: Client, job: str) -> list[JobEvent]:
    """What has happened to a job until now."""
    found: list[JobEvent] = []
    events = client.watch([job])
    with suppress(TimeoutError, StopAsyncIteration):
        async with asyncio.timeout(EVENTS_S):
            while True:
                async with asyncio.timeout(MORE_EVENTS_S if found else EVENT_S):
                    found.append(await anext(events))
    return found


def _lines(job: Job, told: Explanation) -> Iterable[str]:
    yield f"job {job.id} is {state_text(job)}"
    yield ""
    yield "What was asked"
    yield f"  To run {work_text(job.spec)}"
    yield from (f"  {sentence}" for sentence in told.asked)
    yield ""
    yield "How it came to run"
    yield from (f"  {sentence}" for sentence in told.waited)
    for each in told.attempts:
        yield ""
        stage = f", stage {each.stage} ({job.spec.stages[each.stage].workload})" if job.spec.stages else ""
        where = f" on worker {each.worker}" if each.worker else ""
        outcome = f": {each.outcome.word.replace('_', ' ')}" if each.outcome.word else ""
        yield f"Attempt {each.attempt}{stage}{where}{outcome}"
        yield from (f"  {sentence}" for sentence in each.sentences)
        if each.again:
            yield f"  {each.again}"
    yield ""
    yield "What happens next"
    yield from (f"  {sentence}" for sentence in told.next)
