"""A value that must not be seen: of secrets, on their way through our own processes.

Whoever needs the text asks for it with `Sealed.reveal`, at the place where it leaves for the program that gets it.
"""

import hmac
from typing import NoReturn

MASK = "[secret]"


class Sealed:
    """A text whose every accidental form (repr, str, format, pickle) is masked."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, form: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sealed):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealed value is not written anywhere")
