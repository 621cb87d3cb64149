"""What an attempt's program left as its result: in its result file, or on its standard output.

A result is one JSON value of at most 64 MiB. One that is larger than a message takes is checked without building its
values, which could take twenty times its size.
Limits: pure but for the reading of files, which blocks.
"""

import json
from typing import Final, NamedTuple, NoReturn, Protocol

import msgspec

from hostler import frames
from hostler.jobs import INLINE_BYTES_MAX, Failure
from worker_agent.output_files import reason_of
from worker_agent.workspace import RESULT, Workspace

RESULT_BYTES_MAX: Final = 64 * 1024 * 1024
READ_BYTES: Final = 512 * 1024  # of a ledger at once
_BLANKS: Final = b" \t\r\n"


class Result(NamedTuple):
    """A result, or why there is none; all empty: the program left none."""

    content: bytes = b""
    missing: str = ""  # "result.json: reason"
    failure: Failure | None = None


class ReadLedger(Protocol):
    """Reads whole frames of an attempt's ledger; empty at its end."""

    def __call__(self, key: str, position: int, max_bytes: int) -> bytes: ...


class Stdout:
    """The standard output of an attempt, gathered from its ledger."""

    def __init__(self) -> None:
        self._content = bytearray()
        self.position = 0  # of the ledger, up to which it was read
        self.dropped = 0

    def feed(self, ledger: bytes) -> bool:
        """Take further frames; False: it is over, or no longer of use."""
        for frame in frames.iter_frames(ledger):
            if frame.kind == frames.OUT:
                self._content += frame.payload
            elif frame.kind == frames.GAP:
                self.dropped += frames.parse_gap(frame.payload)[0]
        self.position += len(ledger)
        return bool(ledger) and not self.dropped and len(self._content) <= RESULT_BYTES_MAX

    def result(self) -> Result:
        """Return what it says."""
        if self.dropped:
            return _invalid("a part of it was dropped, by the job's output_bytes_max or a full disk")
        if len(self._content) > RESULT_BYTES_MAX:
            return _invalid(f"it is longer than {RESULT_BYTES_MAX} bytes")
        content = bytes(self._content.strip(_BLANKS))
        problem = problem_of(content) if content else "it is empty"
        return _invalid(problem) if problem else Result(content)


def size_of_file(workspace: Workspace) -> int:
    """Return how large a result file is; 0 when there is none that could be read."""
    try:
        return workspace.size_of(RESULT)
    except (OSError, ValueError):
        return 0


def read_file(workspace: Workspace) -> Result:
    """Read the result file; blanks around the value are no part of it."""
    try:
        content = workspace.read(RESULT, RESULT_BYTES_MAX).strip(_BLANKS)
    except FileNotFoundError:
        return Result()
    except OSError as error:
        return Result(missing=f"{RESULT}: {reason_of(error)}")
    except ValueError as error:
        return Result(missing=f"{RESULT}: {error}")
    problem = problem_of(content) if content else ""
    return Result(missing=f"{RESULT}: {problem}") if problem else Result(content)


def problem_of(content: bytes) -> str:
    """Say why some bytes are not one JSON value, or nothing."""
    try:
        if len(content) <= INLINE_BYTES_MAX:
            json.loads(content.decode(), parse_constant=_refuse)
        else:
            content.decode()
            msgspec.json.decode(content, type=msgspec.Raw)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        return str(error)
    return ""


def _invalid(reason: str) -> Result:
    message = f"the program's standard output is not JSON: {reason}"
    return Result(failure=Failure(type="InvalidOutput", module="hostler", message=message))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
