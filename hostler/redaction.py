"""Takes secrets out of texts: registered values, and keys and invitations by their form.

Best effort, and said so in docs/security.md: a value that a program changes (in base64, one letter a line) passes.
Values shorter than `BYTES_MIN` are not looked for: they would be found everywhere. Standard library only, because
shims redact what their programs put out.
"""

import json
import re
from collections.abc import Iterable

BYTES_MIN = 6
VALUES_MAX = 1_000  # registered in one process; those go that were registered longest ago
MASK = b"[redacted]"
_KEY_TEXT = re.compile(rb"(hst|hsj)_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_KEY_MASKED = rb"\1_\2_" + MASK


class Values:
    """The values that are looked for in texts of this process, in the forms in which a log would show them."""

    def __init__(self) -> None:
        self._forms: dict[bytes, None] = {}
        self._pattern: re.Pattern[bytes] | None = None

    def register(self, values: Iterable[str]) -> None:
        """Look for these, too."""
        forms = dict.fromkeys(form for value in values for form in _forms(value))
        is_known = self._forms.keys() >= forms.keys()
        for form in forms:
            self._forms.pop(form, None)  # to the end: what is registered again and again is in use, and stays
        self._forms |= forms
        if is_known:
            return
        while len(self._forms) > VALUES_MAX:
            del self._forms[next(iter(self._forms))]
        self._pattern = pattern_of(self._forms)

    def redacted(self, text: str) -> str:
        """The text without them, and without the secret parts of keys and invitations."""
        found = text.encode(errors="surrogatepass")
        cleaned = _KEY_TEXT.sub(_KEY_MASKED, found)
        if self._pattern is not None:
            cleaned = self._pattern.sub(MASK, cleaned)
        return text if cleaned is found or cleaned == found else cleaned.decode(errors="replace")


def pattern_of(values: Iterable[bytes]) -> "re.Pattern[bytes] | None":
    """What finds any of these values, the longest where several begin; None: there are none."""
    wanted = sorted({value for value in values if len(value) >= BYTES_MIN}, key=lambda value: (-len(value), value))
    return re.compile(b"|".join(map(re.escape, wanted))) if wanted else None


class StreamRedactor:
    """Takes values out of one stream of bytes that comes in pieces cut anywhere.

    What may be the beginning of a value is held back until the next piece, or the end of the stream, tells.
    """

    def __init__(self, values: Iterable[bytes]) -> None:
        known = {value for value in values if len(value) >= BYTES_MIN}
        self._pattern = pattern_of(known)
        self._known = tuple(known)
        self._longest = max(map(len, known), default=0)
        self._lasts = {value[i] for value in known for i in range(len(value) - 1)}
        self._held = b""

    def feed(self, content: bytes) -> bytes:
        """The next piece of what may be seen."""
        if self._pattern is None:
            return content
        content = self._held + content
        cleaned, done = [], 0
        held_from = len(content) - self._beginning(content)
        for match in self._pattern.finditer(content):
            if match.start() >= held_from:
                break  # it may be the beginning of a longer one
            cleaned += [content[done : match.start()], MASK]
            done = match.end()
        if done > held_from:
            held_from = len(content) - self._beginning(content[done:])
        self._held = content[held_from:]
        cleaned.append(content[done:held_from])
        return b"".join(cleaned)

    def rest(self) -> bytes:
        """What was held back: the stream is over."""
        held, self._held = self._held, b""
        return self._pattern.sub(MASK, held) if self._pattern is not None else held

    def _beginning(self, left: bytes) -> int:
        """How many of the last bytes may be the beginning of a value."""
        if not left or left[-1] not in self._lasts:
            return 0
        for length in range(min(self._longest - 1, len(left)), 0, -1):
            tail = left[-length:]
            if any(value.startswith(tail) for value in self._known):
                return length
        return 0


def _forms(value: str) -> list[bytes]:
    plain = value.encode(errors="surrogatepass")
    if len(plain) < BYTES_MIN:
        return []
    escaped = json.dumps(value)[1:-1].encode()
    unescaped = json.dumps(value, ensure_ascii=False)[1:-1].encode(errors="surrogatepass")
    python = repr(value)[1:-1].encode(errors="surrogatepass")
    lines = [line for line in plain.split(b"\n") if len(line) >= 16] if b"\n" in plain else []
    return [plain, escaped, unescaped, python, *lines]
