"""Which scopes an item of a submission needs, from what it says."""

import pytest

from coordinator.rpc.submissions import denial_of
from hostler.policy import LOCAL, ROLES, Principal
from hostler.v1 import types_pb2

SUBMITTER = Principal(name="ada", scopes=ROLES["submitter"])
VIEWER = Principal(name="eve", scopes=ROLES["viewer"])


def an_item(**env: str) -> types_pb2.JobSpec:
    """A job of a workload with these variables."""
    return types_pb2.JobSpec(workload="report", work=types_pb2.Work(env=env))


def test_a_workload_needs_no_more_than_submitting() -> None:
    """And not even that is anybody's."""
    assert denial_of(an_item(), SUBMITTER) is None
    refused = denial_of(an_item(), VIEWER)
    assert refused is not None and "jobs:submit" in refused.message


def test_what_a_gateway_sets_for_a_job_needs_no_scope_of_its_own() -> None:
    """PiXYZ's root_file and compute_only: no job can do harm with them."""
    assert denial_of(an_item(HOSTLER_ROOT_FILE="a.step", HOSTLER_COMPUTE_ONLY="1"), SUBMITTER) is None


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "PYTHONPATH", "HOSTLER_ROOT_FILES"])
def test_a_variable_of_ones_own_can_make_another_program_of_a_workload(name: str) -> None:
    """So it needs what any command needs."""
    refused = denial_of(an_item(**{name: "x"}), SUBMITTER)
    assert refused is not None and "jobs:arbitrary-command" in refused.message
    assert denial_of(an_item(**{name: "x"}), LOCAL) is None
