"""The times of output files are whatever a program makes of them; what is told of them must travel."""

import pytest

from hostler.jobs import OutputFile
from hostler.wire.ends import output_to_proto
from worker_agent.output_files import MODIFIED_US_MAX, modified_us


@pytest.mark.parametrize(("at_ns", "told"), [(-1, 0), (-(10**18), 0), (0, 0), (1_999, 1), (1 << 80, MODIFIED_US_MAX)])
def test_any_time_of_a_file_can_be_told(at_ns: int, told: int) -> None:
    """What a program dated before 1970, or beyond every calendar, may not stop its worker."""
    assert modified_us(at_ns) == told
    file = OutputFile(path="x", size_bytes=1, modified_at_us=modified_us(at_ns))
    assert output_to_proto(file).modified_at_us == told
