"""``hostler explain``: why a job is as it is, in sentences."""

import asyncio
from collections.abc import Iterable, Sequence

from hostler.cli.connect import cluster, resolve_job
from hostler.cli.failures import OK
from hostler.cli.options import Place
from hostler.cli.render import print_json, print_sentence, work_text
from hostler.explanation import Attempt, Explanation, explain, explanation_shape
from hostler.jobs import Job
from hostler.state_text import state_text

ATTEMPTS_SHOWN_MAX = 20
TURNS_SHOWN_MAX = 60  # sentences of how it came to run


def explain_job(place: Place, text: str) -> int:
    """Print what is known of a job, as sentences."""

    async def act() -> int:
        async with cluster(place) as client:
            number = await resolve_job(client, text)
            known = await client.explanations.of(number)
        if place.as_json:
            print_json(explanation_shape(known))
        else:
            for line in _lines(known.job, explain(known)):
                print_sentence(line)
        return OK

    return asyncio.run(act())


def _lines(job: Job, told: Explanation) -> Iterable[str]:
    yield f"job {job.id} is {state_text(job)}"
    yield ""
    yield "What was asked"
    yield f"  To run {work_text(job.spec)}"
    yield from (f"  {sentence}" for sentence in told.asked)
    yield ""
    yield "How it came to run"
    yield from (f"  {sentence}" for sentence in _shortened(told.waited))
    if len(told.attempts) > ATTEMPTS_SHOWN_MAX:
        yield ""
        yield f"{len(told.attempts) - ATTEMPTS_SHOWN_MAX} attempts before these are left out; --json tells all"
    for each in told.attempts[-ATTEMPTS_SHOWN_MAX:]:
        yield ""
        yield _heading(job, each)
        yield from (f"  {sentence}" for sentence in each.sentences)
        if each.again:
            yield f"  {each.again}"
    yield ""
    yield "What happens next"
    yield from (f"  {sentence}" for sentence in told.next)


def _heading(job: Job, each: Attempt) -> str:
    stage = f", stage {each.stage} ({job.spec.stages[each.stage].workload})" if job.spec.stages else ""
    where = f" on worker {each.worker}" if each.worker else ""
    if not each.attempt:
        return f"While it waited{stage}: {each.outcome.word.replace('_', ' ')}"
    outcome = f": {each.outcome.word.replace('_', ' ')}" if each.outcome.word else ""
    return f"Attempt {each.attempt}{stage}{where}{outcome}"


def _shortened(sentences: Sequence[str]) -> Iterable[str]:
    """The first one, and the newest."""
    if len(sentences) <= TURNS_SHOWN_MAX:
        return sentences
    dropped = len(sentences) - TURNS_SHOWN_MAX + 1
    return (sentences[0], f"({dropped} sentences are left out; --json tells all)", *sentences[-TURNS_SHOWN_MAX + 2 :])
