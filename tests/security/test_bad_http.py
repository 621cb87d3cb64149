"""Bad requests by the hundred and by the thousand: each gets its family's refusal, and the gateway goes on.

What the runs have found has its own tests, with those of the part that was mended.
"""

from collections import Counter
from pathlib import Path

import pytest

from tests.security import http_corpus
from tests.security.outcomes import Outcome
from tests.security.rounds import run_http

COUNTS = [
    pytest.param(400, False, id="quick", marks=pytest.mark.timeout(120)),
    pytest.param(5_000, False, id="ci", marks=(pytest.mark.ci, pytest.mark.timeout(900))),
    pytest.param(50_000, True, id="full", marks=(pytest.mark.long, pytest.mark.timeout(7200))),
]


@pytest.mark.parametrize(("count", "health"), COUNTS)
async def test_bad_requests_are_refused_in_their_familys_form_and_the_gateway_goes_on(
    data_dir: Path, count: int, health: bool
) -> None:
    """No fault of ours, at most one line of log for each, no memory; only the full run holds /health to its limit."""
    outcome = await run_http(data_dir, count=count, seed=count, health=health)

    assert_good(outcome, count)


def assert_good(outcome: Outcome, count: int) -> None:
    """Everything was sent, and nothing was wrong."""
    print(outcome.summary("bad input"), f"seed {count}")
    assert not outcome.problems, "\n".join(outcome.problems[:5])
    assert outcome.cases == count


def test_the_corpus_is_as_large_as_it_must_be() -> None:
    """200 ways of framing and more, 200 paths by place, and every kind of body."""
    kinds = Counter(case.kind for case in http_corpus.fixed())

    assert kinds["framing"] >= 200
    assert kinds["path"] >= 200 * 5
    assert len(http_corpus.PATHS) >= 90
    assert min(kinds["json"], kinds["header"]) >= 500
    assert kinds["form"] >= 100
