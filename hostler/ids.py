"""Names of jobs, workers and attempts: make, parse, print.

Pure: the random bytes are given by the caller.
"""

import re
from typing import NamedTuple, NewType, Self

from hostler.errors import InvalidRequest

JobId = NewType("JobId", str)
"""A job's public name: a uuid4 in lower case with hyphens."""

WorkerId = NewType("WorkerId", str)
"""A worker's name in the cluster, of the same form. It is no secret and proves nothing."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_uuid(text: str) -> bool:
    """Say whether *text* is a uuid in the one form we write."""
    return _UUID.fullmatch(text) is not None


def new_uuid(random: bytes) -> str:
    """Make a uuid4 text out of 16 random bytes."""
    h = random.hex()
    variant = "89ab"[random[8] & 3]
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{variant}{h[17:20]}-{h[20:]}"


class AttemptKey(NamedTuple):
    """One try to execute one stage of one job: the subject of every message about running things."""

    job: JobId
    stage: int  # starts at 0
    attempt: int  # starts at 1

    def __str__(self) -> str:
        return f"{self.job}.{self.stage}.{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form ``JOB.STAGE.ATTEMPT``.

        Raises:
            InvalidRequest: the text has another form.
        """
        job, _, rest = text.partition(".")
        stage, _, attempt = rest.partition(".")
        if not (is_uuid(job) and stage.isdecimal() and attempt.isdecimal()):
            raise InvalidRequest(f"{text!r} does not name an attempt; the form is JOB.STAGE.ATTEMPT")
        return cls(JobId(job), int(stage), int(attempt))
