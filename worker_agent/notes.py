"""How attempts with a workspace get on: what is to be said of it, and what was said on the stream that is up.

Pure. Nothing here is kept: after a new stream everything is said again.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from hostler.jobs import Advance, OutputFile

CHARACTERS_PER_MESSAGE: Final = 2_000_000  # but for the last note
_NOTHING: Final = Advance()


class Note(NamedTuple):
    """What is said of one attempt; the list of its outputs only when it has changed since the last note."""

    key: str
    phase: str  # "preparing", "collecting" or empty
    advance: Advance
    outputs: tuple[OutputFile, ...] | None


@dataclass(slots=True)
class _Noted:
    phase: str = ""
    advance: Advance = _NOTHING
    outputs: tuple[OutputFile, ...] = ()
    said_phase: str | None = ""  # None: nothing was said on this stream
    said_advance: Advance | None = _NOTHING
    said_outputs: tuple[OutputFile, ...] | None = ()


class Notes:
    """The notes of every attempt that has a workspace."""

    def __init__(self) -> None:
        self._noted: dict[str, _Noted] = {}
        self._changed: dict[str, None] = {}  # in order

    def __bool__(self) -> bool:
        """Whether anything is to be said."""
        return bool(self._changed)

    def phase(self, key: str, phase: str) -> None:
        """Note where an attempt is inside its state."""
        self._noted.setdefault(key, _Noted()).phase = phase
        self._changed[key] = None

    def advance(self, key: str, advance: Advance) -> None:
        """Note how far a program has come."""
        self._noted.setdefault(key, _Noted()).advance = advance
        self._changed[key] = None

    def outputs(self, key: str, outputs: tuple[OutputFile, ...]) -> bool:
        """Note what is in an output directory; whether that is news."""
        noted = self._noted.setdefault(key, _Noted())
        if noted.outputs == outputs:
            return False
        noted.outputs = outputs
        self._changed[key] = None
        return True

    def drop(self, key: str) -> None:
        """Nothing more is to be said of an attempt."""
        self._noted.pop(key, None)
        self._changed.pop(key, None)

    def connected(self) -> None:
        """A new stream is up: everything is said again."""
        for key, noted in self._noted.items():
            noted.said_phase = noted.said_advance = noted.said_outputs = None
            self._changed[key] = None

    def take(self) -> list[Note]:
        """Take what is to be said in one message; it counts as said on the stream that is up."""
        found: list[Note] = []
        characters = 0
        while self._changed and characters < CHARACTERS_PER_MESSAGE:
            key = next(iter(self._changed))
            del self._changed[key]
            noted = self._noted[key]
            now = (noted.phase, noted.advance, noted.outputs)
            if now == (noted.said_phase, noted.said_advance, noted.said_outputs):
                continue
            outputs = noted.outputs if noted.outputs != noted.said_outputs else None
            noted.said_phase, noted.said_advance, noted.said_outputs = now
            characters += 200 + sum(50 + len(step.text) for step in noted.advance.steps)
            characters += sum(200 + len(file.path) for file in outputs or ())
            found.append(Note(key, noted.phase, noted.advance, outputs))
        return found
