"""Numbers and lists as sentences have them. Pure."""

from collections.abc import Sequence

NAMES_MAX = 10  # of a list in a sentence


def times(count: int) -> str:
    """How often: ``once``, ``3 times``."""
    return "once" if count == 1 else f"{count} times"


def counted(number: float, one: str, many: str) -> str:
    """A number of things: ``1 slot``, ``1.5 processors``."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {one if number == 1 else many}"


def listed(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more:,} more" if more > 0 else "")


def beyond_log_text(position: int, stage: int, attempt: int, held: int) -> str:
    """What to say of a position behind the end of what is held of an attempt's log."""
    if not attempt:
        return f"there is nothing from position {position} on: no attempt has begun"
    at_stage = f" of stage {stage}" if stage else ""
    return f"there is nothing from position {position} on: the log of attempt {attempt}{at_stage} ends at {held}"


def not_yet_text(number: int, newest: int) -> str:
    """What to say of the number of an event that there has not been, as after a restore of older data."""
    return (
        f"there has been no event {number} here: the newest has the number {newest};"
        " go on after that one, or leave the number out for what happens from now on"
    )
