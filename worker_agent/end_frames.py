"""What an exit frame holds: the end of an attempt as JSON, in short for the plain ones.

Limits: standard library only; no clock, no IO.
"""

from json.encoder import encode_basestring_ascii
from typing import Any, Final, Protocol

from hostler import frames
from hostler.jobs import Receipt
from worker_agent.attempts import Ended
from worker_agent.output_pipes import OutputPipes
from worker_agent.spent import Spent

# The fields of `Exited`. A test reads it back and compares every field.
_EXITED: Final = '[%s,%d,%d,%d,%.6f,%.6f,%d,%d,%d,%d,%d,"%s",%d,%d]'


class Supervised(Protocol):
    """An attempt that is over."""

    key: str
    started_at_us: int
    segment_name: str
    ledger_offset: int
    output: OutputPipes
    spent: Spent

    @property
    def position(self) -> int:
        """The length of the ledger, in bytes."""


def ended_of(attempt: Supervised, ended_at_us: int, receipt: Receipt, how: dict[str, Any]) -> Ended:
    """Return an end; *how* has its cause, evidence, error, exit code, signal and core flag."""
    return Ended(
        **how,
        key=attempt.key,
        started_at_us=attempt.started_at_us,
        ended_at_us=ended_at_us,
        receipt=receipt,
        usage=attempt.spent.usage(),
        out_bytes=attempt.output.kept[frames.OUT],
        err_bytes=attempt.output.kept[frames.ERR],
        dropped_bytes=attempt.output.dropped,
        segment=attempt.segment_name,
        ledger_offset=attempt.ledger_offset,
        ledger_bytes=attempt.position,
    )


def plain_exit_json(attempt: Supervised, exit_code: int, ended_at_us: int) -> str:
    """Return the JSON of an `Exited`, for an exit nobody had a hand in."""
    spent, output = attempt.spent, attempt.output
    return _EXITED % (
        encode_basestring_ascii(attempt.key),
        attempt.started_at_us,
        ended_at_us,
        exit_code,
        spent.cpu_user_s,
        spent.cpu_system_s,
        spent.memory_bytes_max(),
        spent.processes,
        output.kept[frames.OUT],
        output.kept[frames.ERR],
        output.dropped,
        attempt.segment_name,
        attempt.ledger_offset,
        attempt.position,
    )
