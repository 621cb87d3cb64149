"""The workload ``sleep``: a job that takes time."""

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hostler.script import Context


def main(ctx: "Context", params: dict[str, Any]) -> dict[str, float]:
    """Sleep for ``duration`` seconds."""
    duration_s = params.get("duration", 0.1)
    time.sleep(duration_s)
    return {"sleep": duration_s}
