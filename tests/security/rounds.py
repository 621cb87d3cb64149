"""A run of either kind: how much of it is which corpus, and what is made of its figures."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from tests.security import http_corpus
from tests.security.http_cases import Case
from tests.security.http_run import HEALTH_S_MAX, HttpRun
from tests.security.outcomes import Outcome
from tests.security.protobuf_corpus import ProtobufCorpus
from tests.security.protobuf_run import ProtobufRun
from tests.security.schema_corpus import schema_cases

SCHEMA_SHARE = 10  # one in so many is wrong by the OpenAPI document: they take by far the longest to make
SCHEMA_FEW = 20  # in a short run
SHORT = 5000
FIXED_SHARE = 2  # of the others at most one in so many is written down, until all of those were sent


def http_cases(document: Any, *, count: int, seed: int) -> Iterator[Case]:
    """Yield *count* cases: by the document, those that are written down, and the rest by chance."""
    random = Random(seed)
    by_schema = min(count, SCHEMA_FEW) if count < SHORT else count // SCHEMA_SHARE
    # All before the first one: this takes long, and the fake coordinator is in this process.
    found = list(schema_cases(document, first_seed=seed, count=by_schema))
    known = list(http_corpus.fixed())
    random.shuffle(known)
    known = known[: (count - by_schema) // FIXED_SHARE]
    yield from found + known
    for _ in range(count - by_schema - len(known)):
        yield http_corpus.random_case(random)


async def run_http(data_dir: Path, *, count: int, seed: int, health: bool) -> Outcome:
    """Send bad requests to a gateway, and say what came of it; *health* holds /health to its limit."""
    run = HttpRun(data_dir)
    async with run.serving():
        cases = http_cases(run.document.value, count=count, seed=seed)
        first = next(cases)
        await run.run(chain((first,), cases), measure_health=health)
    if run.outcome.health_s_max > HEALTH_S_MAX:
        run.outcome.problems.append(f"/health took {run.outcome.health_s_max:.3f} s")
    return run.outcome


async def run_protobuf(data_dir: Path, *, count: int, seed: int) -> Outcome:
    """Send bad messages to a coordinator, and say what came of it."""
    run = ProtobufRun(data_dir)
    async with run.serving():
        corpus = ProtobufCorpus(Random(seed), ids=run.ids)
        await run.run(corpus.call(number) for number in range(count))
    return run.outcome
