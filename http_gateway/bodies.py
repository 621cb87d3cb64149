"""Request bodies: read with caps and a deadline, and JSON that means one thing only.

The caps of JSON bodies are here; uploads have theirs in `http_gateway.uploads`. JSON is refused when
programs could read it in two ways (duplicate keys, NaN, lone surrogates), and when it is deeper, or its
objects, keys, texts or numbers are longer, or it holds more values, than anything we are asked for.
"""

import asyncio
import json
import re
from itertools import accumulate
from typing import NoReturn

from aiohttp import web

from hostler.errors import InvalidRequest, TooLarge
from http_gateway.api import HttpRefused

BODY_BYTES_MAX = 1024 * 1024
BATCH_BYTES_MAX = 16 * 1024 * 1024
BODY_S = 30.0  # for the whole body to arrive
DEPTH_MAX = 64
KEYS_MAX = 10_000  # of one object
KEY_CHARACTERS_MAX = 64 * 1024
TEXT_BYTES_MAX = 12 * 1024 * 1024
VALUES_MAX = 1_000_000  # and lists and objects, of one body
LOOK_VALUES = 200_000  # above it they are counted before they are made
DIGITS_MAX = 309  # of an integer: those of the largest double. Texts of digits and integers cost their length squared
THREAD_BYTES = 256 * 1024  # above it parsing leaves the event loop; no step of it may hold the others up for long

_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(b for b in range(256) if b not in _BRACKETS)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
# A text without its end reaches to the end of all, and nothing is ever tried twice: the time is that of the length.
_MARKS = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)|[\[{,\]}]', re.DOTALL)
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape, unless its backslash is escaped itself
_SURROGATE_BYTES = len(rb"\ud800")


class NotJson(InvalidRequest):
    """The body is no acceptable JSON; `syntax` is set when it is none at all."""

    def __init__(self, message: str, *, syntax: json.JSONDecodeError | None = None) -> None:
        super().__init__(message)
        self.syntax = syntax


def refuse_compressed(request: web.Request) -> None:
    """Raise HttpRefused (415) when the body is compressed: what it holds is known only when it is taken apart."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise HttpRefused(415, "unsupported_encoding", "send the body as it is, without Content-Encoding")


async def read_json(request: web.Request, *, bytes_max: int = BODY_BYTES_MAX) -> object:
    """Read the request's body as JSON, whatever its Content-Type says.

    Raises:
        NotJson: it is no acceptable JSON.
        TooLarge: it is longer than *bytes_max*.
        HttpRefused: it is compressed, or it did not arrive in time.
    """
    return await parse_apart(await read(request, bytes_max=bytes_max))


async def parse_apart(raw: bytes) -> object:
    """Parse JSON, outside of the event loop when that takes long. Raises as `parse` does."""
    if len(raw) > THREAD_BYTES:
        return await asyncio.to_thread(parse, raw)
    return parse(raw)


async def read(request: web.Request, *, bytes_max: int) -> bytes:
    """Read the request's body as bytes. Raises as `read_json` does."""
    refuse_compressed(request)
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    if request.content.is_eof():  # it came together with its head: no timer is needed
        raw = request.content.read_nowait()
        if len(raw) > bytes_max:
            raise _too_large(bytes_max)
        return raw
    try:
        async with asyncio.timeout(BODY_S):
            return await _collect(request, bytes_max)
    except TimeoutError:
        raise HttpRefused(
            408, "body_timeout", f"the body did not arrive within {BODY_S:.0f} s", headers={"Connection": "close"}
        ) from None
    except web.RequestPayloadError as error:
        raise InvalidRequest("the body broke off or its framing is wrong") from error


async def _collect(request: web.Request, bytes_max: int) -> bytes:
    body = bytearray()
    while piece := await request.content.readany():
        body += piece
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
    return bytes(body)


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the body is longer than {bytes_max} bytes; send less at once")


def parse(raw: bytes) -> object:
    """Parse JSON.

    Raises:
        NotJson: no JSON, not UTF-8, too deep, a key twice, a number nobody can hold, a lone surrogate, an object
            with too many keys, or a key or a text that is too long.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise NotJson("the body is not UTF-8") from None
    if _needs_look(raw):
        _look(text)
    try:
        value: object = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        said = f"the body is not JSON: {error}" if text.strip() else "the body is empty; JSON is expected"
        raise NotJson(said, syntax=error) from None
    except RecursionError:
        raise NotJson(f"the JSON is nested deeper than {DEPTH_MAX} levels") from None
    if _may_hold_long_text(raw) and _longest_text(value) > TEXT_BYTES_MAX:
        raise NotJson(f"a text in the JSON is longer than {TEXT_BYTES_MAX} characters")
    if _holds_half_a_pair(raw):
        raise NotJson("a text in the JSON holds half of a surrogate pair")
    return value


def _needs_look(raw: bytes) -> bool:
    # Brackets and commas inside of texts count first, which is why the answer is "may be": ordinary bodies end with
    # no, at a hundredth of the cost of an exact look. Depth is told without the texts, which may hide it.
    brackets = raw.translate(None, delete=_NOT_BRACKETS)
    if len(brackets) + raw.count(b",") > LOOK_VALUES or raw.count(b'"') > 4 * LOOK_VALUES:
        return True
    if len(brackets) <= DEPTH_MAX:
        return False
    bare = _TEXT.sub(b"", raw).translate(None, delete=_NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, bare)), default=0) > DEPTH_MAX


def _look(text: str) -> None:
    """Raise NotJson when there is too much of anything. The decoder would not let others run meanwhile; this does."""
    values = texts = 0
    commas: list[int] = []  # of each object around the place; of a list it goes so far down that it is never too many
    for match in _MARKS.finditer(text):
        mark = match[0][0]
        if mark == '"':
            texts += 1
            if texts > 2 * VALUES_MAX:  # a key and a value, each
                raise NotJson(f"the JSON has more than {VALUES_MAX} values")
            continue
        if mark in "]}":
            if commas:
                commas.pop()
            continue
        values += 1
        if values > VALUES_MAX:
            raise NotJson(f"the JSON has more than {VALUES_MAX} values")
        if mark != ",":
            commas.append(0 if mark == "{" else -VALUES_MAX)
            if len(commas) > DEPTH_MAX:
                raise NotJson(f"the JSON is nested deeper than {DEPTH_MAX} levels")
        elif commas:
            commas[-1] += 1
            if commas[-1] >= KEYS_MAX:
                raise NotJson(f"an object in the JSON has more than {KEYS_MAX} keys")


def _holds_half_a_pair(raw: bytes) -> bool:
    # In what was parsed, so a backslash begins an escape. UTF-8 has no surrogates but those that are escaped.
    seen = 0  # the end of the last match
    high_ends = -1  # the end of a first half that waits for its second
    for match in _SURROGATE.finditer(raw):
        between = raw[seen : match.start()]
        seen = match.start() + _SURROGATE_BYTES
        if (len(between) - len(between.rstrip(b"\\"))) % 2:
            continue
        if raw[match.end() - 1] in b"89abAB":
            if high_ends >= 0:
                return True
            high_ends = seen
        elif match.start() == high_ends:
            high_ends = -1
        else:
            return True
    return high_ends >= 0


def _may_hold_long_text(raw: bytes) -> bool:
    # A text of that length has an opening quote in front of the middle, and no quote in it but escaped ones.
    start = len(raw) - TEXT_BYTES_MAX
    if start <= 0 or b'"' not in raw[:start]:
        return False
    place = raw.find(b'"', start, TEXT_BYTES_MAX)
    while place >= 0 and raw[place - 1] == ord("\\"):
        place = raw.find(b'"', place + 1, TEXT_BYTES_MAX)
    return place < 0


def _longest_text(value: object) -> int:
    # As deep as the JSON, which was checked.
    if isinstance(value, str):
        return len(value)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max(map(_longest_text, children), default=0)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(pairs) > KEYS_MAX:
        raise NotJson(f"an object in the JSON has {len(pairs)} keys; at most {KEYS_MAX}")
    found = dict(pairs)
    for name in found:
        if len(name) > KEY_CHARACTERS_MAX:
            raise NotJson(f"a key in the JSON is longer than {KEY_CHARACTERS_MAX} characters")
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise NotJson(f"the key {name[:100]!r} appears twice in one JSON object")
            seen.add(name)
    return found


def _number(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise NotJson("a number in the JSON is too large")
    return number


def _integer(text: str) -> int:
    # Being Python, it also lets other threads run between the numbers of a long list.
    if len(text) > DIGITS_MAX + text.startswith("-"):
        raise NotJson(f"a number in the JSON has more than {DIGITS_MAX} digits")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise NotJson(f"{text} is not a JSON value")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_int=_integer, parse_constant=_constant
)
