"""When an idle worker speaks."""

import pytest

from worker_agent.link import BEATS_TOGETHER, beat_in_s


@pytest.mark.parametrize("heartbeat_s", [0.3, 2.0, 60.0])
@pytest.mark.parametrize("wall_s", [0.0, 0.01, 1.999, 1_700_000_000.123, 1_700_000_001.75])
def test_heartbeats_fall_on_shared_moments(heartbeat_s: float, wall_s: float) -> None:
    """Those of all workers come together, and none comes later than it was asked for."""
    wait_s = beat_in_s(heartbeat_s, wall_s)
    parts = (wall_s + wait_s) / (heartbeat_s / BEATS_TOGETHER)

    assert 7 / 8 * heartbeat_s - 1e-6 <= wait_s <= heartbeat_s
    assert parts == pytest.approx(round(parts), rel=0, abs=1e-5)
