"""Our own terminal while a job has it: every key goes to the job, and whatever happens it is put back as it was.

Limits: one at a time, on the descriptor of our standard input.
"""

import asyncio
import os
import signal
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from hostler.cli.failures import usage_failure
from hostler.cli.stdin import DESCRIPTOR, pieces

DETACH_KEYS = "ctrl-p,ctrl-q"
KEYS_MAX = 16
OFLAG = 1  # the place of what is done to output in what tcgetattr returns
INTERRUPT = b"\x03"  # Ctrl-C, where no key is a signal
_CONTROLLED = "@abcdefghijklmnopqrstuvwxyz[\\]^_"  # ctrl- and the n-th of them is the byte n


def read_keys(text: str) -> bytes:
    """Read keys such as ``ctrl-p,ctrl-q`` or ``a,b``; empty is none.

    Raises:
        Failure: a key is neither one character nor ``ctrl-`` and one.
    """
    keys = bytearray()
    for part in text.split(",") if text else ():
        kind, dash, letter = part.rpartition("-")
        if len(part) == 1 and part.isascii():
            keys += part.encode()
        elif dash and kind.lower() == "ctrl" and len(letter) == 1 and letter.lower() in _CONTROLLED:
            keys.append(_CONTROLLED.index(letter.lower()))
        else:
            raise usage_failure(
                f"{part!r} is no key for --detach-keys", hint="give for example ctrl-p,ctrl-q or ctrl-]"
            )
    if len(keys) > KEYS_MAX:
        raise usage_failure(f"--detach-keys has {len(keys)} keys; at most {KEYS_MAX}")
    return bytes(keys)


def keys_text(keys: bytes) -> str:
    """What people call keys that `read_keys` has read: ``Ctrl-P Ctrl-Q``."""
    return " ".join(f"Ctrl-{_CONTROLLED[key].upper()}" if key < len(_CONTROLLED) else chr(key) for key in keys)


class DetachKeys:
    """Finds the keys that detach among what is typed. What may be the beginning of them is held back."""

    def __init__(self, keys: bytes) -> None:
        """*keys* empty: nothing detaches."""
        self._keys = keys
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """Return what of *typed* is for the job, and whether the keys were pressed; what follows them is dropped."""
        if not self._keys:
            return typed, False
        passed = bytearray()
        for place in range(len(typed)):
            self._held += typed[place : place + 1]
            while not self._keys.startswith(self._held):
                passed += self._held[:1]
                self._held = self._held[1:]
            if self._held == self._keys:
                return bytes(passed), True
        return bytes(passed), False


class Keyboard:
    """Our terminal in raw mode: a context manager."""

    def __init__(self, keys: bytes) -> None:
        """*keys* detach, see `read_keys`."""
        self.detached = asyncio.Event()
        self.detaching = keys_text(keys)  # empty: no keys do
        self.leaving = " or ".join(filter(None, ("Ctrl-C", self.detaching)))  # what leaves when nobody gets the keys
        self._keys = DetachKeys(keys)
        self._before: list[Any] | None = None
        self._raw: list[Any] = []
        self._stopping: signal.Handlers | int | Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        # To put it back from the background must not stop us.
        self._stopping = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()
        signal.signal(signal.SIGTTOU, self._stopping)

    def take(self) -> None:
        """Have every key as a byte; nothing is shown, and no key is a signal."""
        if self._before is None:
            self._before = termios.tcgetattr(DESCRIPTOR)
            tty.setraw(DESCRIPTOR, termios.TCSADRAIN)
            self._raw = termios.tcgetattr(DESCRIPTOR)

    def give_back(self) -> None:
        """Put the terminal back as it was. Legal more than once."""
        before, self._before = self._before, None
        if before is not None:
            _set(before)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Give the terminal back for a moment, for what is not the job's."""
        was_ours = self._before is not None
        self.give_back()
        try:
            yield
        finally:
            if was_ours:
                self.take()

    @contextmanager
    def lines(self) -> Iterator[None]:
        """Begin a line anew where one ends, for text of ours; keys stay bytes of the job's and are not shown."""
        if self._before is None:
            yield
            return
        _set([*self._raw[:OFLAG], self._before[OFLAG], *self._raw[OFLAG + 1 :]])
        try:
            yield
        finally:
            _set(self._raw)

    async def typed(self) -> AsyncIterator[bytes]:
        """Yield what is typed, until the keys that detach are, or the terminal is gone."""
        async for piece in pieces():
            passed, detaches = self._keys.feed(piece)
            if passed:
                yield passed
            if detaches:
                self.detached.set()
                return

    async def dropped(self) -> None:
        """Take keys that nobody gets, until those that detach are typed, or Ctrl-C, which has no other meaning then."""
        async for passed in self.typed():
            if INTERRUPT in passed:
                self.detached.set()
                return


def _set(attributes: list[Any]) -> None:
    try:
        termios.tcsetattr(DESCRIPTOR, termios.TCSADRAIN, attributes)
    except termios.error:
        return  # it is gone, as when its window was closed


def has_terminal() -> bool:
    """Whether our standard input is a terminal."""
    return os.isatty(DESCRIPTOR)


def terminal_size() -> tuple[int, int]:
    """Rows and columns of our terminal; zeros when there is none."""
    for descriptor in (DESCRIPTOR, 1, 2):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return size.lines, size.columns
    return 0, 0
