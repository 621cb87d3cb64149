"""What a job is found by and where it may run, as statements and values."""

import json
from typing import Any

from coordinator.changes import JobQueued

SELECT_JOB = "UPDATE job SET tags = ?, wanted = ?, retry_of = ?, asked = ? WHERE number = ?"


def selection_row(c: JobQueued) -> tuple[Any, ...]:
    """The parameters of `SELECT_JOB`."""
    tags = json.dumps(c.tags) if c.tags else ""
    return (tags, c.where, c.retry_of, c.asked or None, c.number)


def tags_of(text: str) -> dict[str, str]:
    """Read the tags column."""
    return {name: value for name, value in json.loads(text)} if text else {}
