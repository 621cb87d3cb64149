"""What may be removed of finished jobs: the last look before it is.

Pure. Retention chose from what was committed a moment ago; the live set knows better.
"""

from collections.abc import Sequence
from typing import Any

from coordinator.changes import FilesExpired, JobExpired, LogsExpired
from coordinator.decisions import Decision
from coordinator.effects import Answer
from coordinator.live import Live

Expiry = FilesExpired | LogsExpired | JobExpired


def on_expire(live: Live, expiries: Sequence[Expiry], reply: Any) -> Decision:
    """Remove what belongs to no live job and, of logs and rows, to no log that still arrives."""
    arriving = {log.number for log in live.trailing.values()}
    kept = live.jobs.keys()
    changes = [
        change
        for change in expiries
        if change.number not in kept and (isinstance(change, FilesExpired) or change.number not in arriving)
    ]
    return Decision([*changes], [Answer(reply, len(changes))])
