"""Reads a program's progress file as it grows, and says how far the program has come.

Pure. The file is the program's: whatever stands in it, nothing here raises, and what is kept has a bound.
Each line is a JSON object (docs/scripts.md); a line that is none, or says nothing that is known, is ignored.
Times are seconds since the epoch.
"""

import json
import math
from collections import deque
from dataclasses import replace
from typing import Any

from hostler.jobs import DURATION_S_MAX, STEPS_MAX, Advance, Step

LINE_BYTES_MAX = 64 * 1024
STEP_CHARACTERS_MAX = 1000
STEPS_CHARACTERS_MAX = 128 * 1024  # of the steps kept, together: every running job's are in the coordinator's memory
NUMBER_MAX = 1e15


class AdvanceReader:
    """What one attempt has said so far. The newest steps are kept, and all of them count for the percentage."""

    def __init__(self) -> None:
        self._rest = b""  # a line whose end has not come
        self._dropping = False  # the line is too long, and ends somewhere in what is to come
        self._steps: deque[Step] = deque()
        self._characters = 0
        self._begun = 0
        self._begun_at_s: float | None = None  # of the current step; None: no step runs
        self._total = 0
        self._percent: int | None = None

    def feed(self, content: bytes, now_s: float) -> None:
        """Take what was appended to the file; *now_s* is the time of lines that do not say theirs."""
        *lines, rest = content.split(b"\n")
        if lines:
            lines[0] = self._rest + lines[0]
            if self._dropping:
                del lines[0]
            self._rest, self._dropping = b"", False
        for line in lines:
            if len(line) <= LINE_BYTES_MAX:
                self._take(line, now_s)
        if not self._dropping:
            self._rest += rest
            if len(self._rest) > LINE_BYTES_MAX:
                self._rest, self._dropping = b"", True

    def advance(self, now_s: float) -> Advance:
        """Say where the program is at *now_s*. The current step has no duration: it is -1, whatever the time."""
        return Advance(percent=self._percent, steps=tuple(self._steps))

    def finish(self, at_s: float, *, succeeded: bool) -> Advance:
        """Say where the program was when it ended at *at_s*; a last line without an end counts."""
        if self._rest:
            self.feed(b"\n", at_s)
        self._end_step(at_s)
        if succeeded:
            self._percent = 100
        return self.advance(at_s)

    def _take(self, line: bytes, now_s: float) -> None:
        said = _object(line)
        at_s = _number(said.get("at"))
        if at_s is None:
            at_s = now_s
        total, percent, text = _number(said.get("total")), _number(said.get("percent")), said.get("step")
        if total is not None and total >= 1:
            self._total = int(total)
            if self._begun or self._percent is None:
                self._count()
        if isinstance(text, str):
            self._end_step(at_s)
            self._begin_step(text, at_s)
            self._count()
        if said.get("stop") is True and self._begun_at_s is not None:
            self._end_step(at_s)
            self._count()
        if percent is not None:
            self._percent = int(min(100, max(0, percent)))

    def _count(self) -> None:
        """Work out the percentage from the steps; a percentage that was said holds until the next step."""
        if self._total:
            running = self._begun_at_s is not None
            over = max(0, self._begun - running)
            self._percent = min(99 if running else 100, int(over / self._total * 100))

    def _begin_step(self, text: str, at_s: float) -> None:
        # A lone surrogate is legal in JSON and in no message.
        text = text[:STEP_CHARACTERS_MAX].encode("utf-8", "replace").decode()
        self._steps.append(Step(text=text))
        self._characters += len(text)
        while len(self._steps) > STEPS_MAX or self._characters > STEPS_CHARACTERS_MAX:
            self._characters -= len(self._steps.popleft().text)
        self._begun += 1
        self._begun_at_s = at_s

    def _end_step(self, at_s: float) -> None:
        if self._begun_at_s is None:
            return
        # The clock may have been put back in between.
        duration_s = min(max(0.0, at_s - self._begun_at_s), DURATION_S_MAX)
        self._steps[-1] = replace(self._steps[-1], duration_s=duration_s)
        self._begun_at_s = None


def _object(line: bytes) -> dict[str, Any]:
    try:
        # Text first: given bytes, json would guess at UTF-16 and UTF-32.
        said = json.loads(line.decode())
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _number(value: object) -> float | None:
    """Return a finite number, or None; huge ones are cut."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(min(NUMBER_MAX, max(-NUMBER_MAX, value)))
