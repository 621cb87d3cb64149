"""Numbers, durations and sizes as people type them: ``1.5``, ``30s``, ``10m``; ``512M``. Pure but for typer's error."""

import math
import re
from collections.abc import Callable

import typer

NEVER_S = -1.0
NUMBER_MAX = 2**31 - 1  # of most whole numbers in messages
POSITION_MAX = 2**63 - 1  # of positions in logs, and of numbers of events
SHOWN_CHARACTERS_MAX = 50
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})([a-z]*)")
_FACTORS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str | float) -> float:
    """Read a duration as seconds: a number, with ms, s, m, h or d behind it.

    Raises:
        typer.BadParameter: it is none.
    """
    if isinstance(text, int | float) and math.isfinite(text):  # a default, which typer reads too
        return float(text)
    match = _DURATION.fullmatch(str(text).strip())
    if match is None or match[2] not in _FACTORS:
        raise typer.BadParameter(f"{text!r} is no duration; give seconds, or a text such as 30s, 10m or 2h")
    return float(match[1]) * _FACTORS[match[2]]


def duration_or_never(text: str | float) -> float:
    """Read a duration as `duration` does; ``never`` is a negative number."""
    return NEVER_S if text in ("never", NEVER_S) else duration(text)


def size(text: str | int) -> int:
    """Read bytes: a number, with K, M, G or T behind it, which are powers of 1024.

    Raises:
        typer.BadParameter: it is none.
    """
    if isinstance(text, int):
        return text
    from hostler.container_checks import read_size  # here: most calls of the command line name no size

    try:
        return read_size(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no size; give bytes, or a text such as 512M or 2G") from None


def number(text: str | float) -> float:
    """Read a number, not below zero.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        read = float(text)
    except ValueError:
        read = math.nan
    if not math.isfinite(read):
        raise typer.BadParameter(f"{_shown(text)} is no number; give one such as 2 or 1.5")
    if read < 0:
        raise typer.BadParameter(f"{_shown(text)} is too small; give 0 or more")
    return read


def whole(least: int = 0, most: int = NUMBER_MAX) -> Callable[[str | int], int]:
    """A reader of whole numbers from *least* to *most*; it raises typer.BadParameter for anything else."""

    def read(text: str | int) -> int:
        try:
            value = int(text)
        except ValueError:
            raise typer.BadParameter(f"{_shown(text)} is no whole number; give one such as {max(least, 1)}") from None
        if value < least:
            raise typer.BadParameter(f"{_shown(text)} is too small; give {least} or more")
        if value > most:
            raise typer.BadParameter(f"{_shown(text)} is too large; give {most} or less")
        return value

    return read


def _shown(text: str | float) -> str:
    return repr(str(text)[:SHOWN_CHARACTERS_MAX])
