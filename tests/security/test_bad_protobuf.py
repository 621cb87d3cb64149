"""Bad messages by the hundred and by the thousand over every RPC: each ends with a documented status.

What the runs have found stands below, each by itself.
"""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.security.protobuf_corpus import ProtobufCorpus, methods
from tests.security.protobuf_run import end_of
from tests.security.rounds import run_protobuf
from tests.security.test_bad_http import assert_good

COUNTS = [
    pytest.param(500, id="quick", marks=pytest.mark.timeout(120)),
    pytest.param(5_000, id="ci", marks=(pytest.mark.ci, pytest.mark.timeout(900))),
    pytest.param(50_000, id="full", marks=(pytest.mark.long, pytest.mark.timeout(7200))),
]


@pytest.mark.parametrize("count", COUNTS)
async def test_bad_messages_end_with_a_documented_status_and_the_coordinator_goes_on(
    data_dir: Path, count: int
) -> None:
    """Never unknown or internal; no fault in its log, no memory."""
    outcome = await run_protobuf(data_dir, count=count, seed=count)

    assert_good(outcome, count)


def test_every_method_of_the_policy_is_called() -> None:
    """The corpus takes them from the contract, and checks that they are those of the policy."""
    assert len(methods()) >= 38


# Found


async def test_a_push_that_breaks_off_while_a_mark_is_being_sent_is_no_fault(
    channel: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The first mark carried the metadata along; a call that ended in that moment sent it twice, a fault of gRPC."""
    corpus = ProtobufCorpus(Random(1), only="Workers/PushLog")
    for first in range(0, 320, 16):
        await asyncio.gather(*(end_of(channel, corpus.call(first + number)) for number in range(16)))

    assert not [record for record in caplog.records if record.name.startswith("grpc")]
