"""JSON is read as everybody reads it, or refused; nothing else can happen, whatever the bytes are."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from http_gateway import bodies, go_text

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(SCALARS | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)
# Pieces of JSON in any order come closer to the parser's corners than any bytes do.
PIECES = st.lists(
    st.sampled_from([*'{}[]:,"\\ -0123456789.eEu\n', "null", "tru", '"a"', "NaN", "\\u12", "\\ud800", "ä", "[" * 40]),
    max_size=30,
).map("".join)


@given(VALUES)
@settings(deadline=None)
def test_what_json_dumps_wrote_is_read_as_it_was(value: Any) -> None:
    """With and without escapes."""
    for ascii_only in (True, False):
        assert bodies.parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(PIECES.map(str.encode) | st.binary())
@example(b"[" * 100_000)
@example(b'"\\ud800"')
@example(b'["' + b"]" * 60 + b'"' + b"[" * 100 + b"]" * 100 + b"]")
@example(b"\xef\xbb\xbf{}")
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_as_the_library_reads_them_or_refused(raw: bytes) -> None:
    """A refusal for bad syntax has words of Go, and they have one line."""
    try:
        value = bodies.parse(raw)
    except bodies.NotJson as error:
        assert error.message
        if error.syntax is not None:
            text = go_text.syntax_text(error.syntax)
            assert text == go_text.END_OF_INPUT or text.startswith("invalid character '")
            assert "\n" not in text
        return
    assert value == json.loads(raw)


def test_depth_counts_brackets_outside_of_texts_only() -> None:
    """64 levels are read, 65 are not; a text full of brackets is a text."""
    assert bodies.parse(b"[" * 64 + b"]" * 64)
    assert bodies.parse(json.dumps(["[" * 1000, '\\"[' * 100]).encode()) == ["[" * 1000, '\\"[' * 100]
    hidden = b'["' + b"]" * 200 + b'",' + b"[" * 65 + b"]" * 65 + b"]"
    stepwise = b'[[[["]]]]"' + b',[[[["]]]]"' * 20 + b"]" * 84
    for deep in (b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65, hidden, stepwise):
        try:
            bodies.parse(deep)
        except bodies.NotJson as error:
            assert "64" in error.message
        else:
            raise AssertionError("it was read")


@pytest.mark.parametrize("raw", [b"", b" \r\n"])
def test_an_empty_body_is_called_so(raw: bytes) -> None:
    """Instead of where in it a value is missing; to the APIs with words of their own it is a fault of syntax."""
    with pytest.raises(bodies.NotJson, match=r"\Athe body is empty; JSON is expected\Z") as caught:
        bodies.parse(raw)
    assert caught.value.syntax is not None


def test_numbers_that_nobody_can_hold_are_refused() -> None:
    """Those that fit are read."""
    for text in (b"1e400", b"-1e400", b"9" * 310, b"-" + b"9" * 310, b"[" + b"9" * 5000 + b"]", b"Infinity", b"NaN"):
        try:
            value = bodies.parse(text)
        except bodies.NotJson:
            continue
        raise AssertionError(f"{text[:10]!r} was read as {value!r}")
    assert bodies.parse(b"1e-400") == 0.0
    assert math.isfinite(float(str(bodies.parse(b"1e308"))))
    assert bodies.parse(b"[" + b"9" * 309 + b",-" + b"9" * 309 + b"]") == [10**309 - 1, 1 - 10**309]


ESCAPES = st.lists(
    st.sampled_from(["\\ud83d", "\\uDE00", "\\uD83D\\ude00", "\\\\", "\\\\u", "ud800", "\\n", "a", "\\ue000", '\\"']),
    max_size=12,
).map("".join)


@given(ESCAPES, ESCAPES)
@example("\\ud83d\\\\", "\\ude00")
@example("\\ud83d", "\\ude00")
@settings(max_examples=300, deadline=None)
def test_half_of_a_pair_is_seen_wherever_it_stands(first: str, second: str) -> None:
    """A text that UTF-8 cannot hold is refused, and no other."""
    raw = f'["{first}", "{second}"]'.encode()
    value = json.loads(raw)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        with pytest.raises(bodies.NotJson, match="surrogate"):
            bodies.parse(raw)
    else:
        assert bodies.parse(raw) == value


def test_objects_keys_and_texts_have_their_limits() -> None:
    """What is as long as that is read, one more is refused."""
    at_most = bodies.TEXT_BYTES_MAX
    assert bodies.parse(json.dumps({str(n): n for n in range(bodies.KEYS_MAX)}).encode())
    assert bodies.parse(json.dumps({"k" * bodies.KEY_CHARACTERS_MAX: 1}).encode())
    assert bodies.parse(json.dumps([["x" * at_most], {"a": "y" * 100}]).encode())
    for value in (
        {str(n): n for n in range(bodies.KEYS_MAX + 1)},
        [{"k" * (bodies.KEY_CHARACTERS_MAX + 1): 1}],
        [{"a": [1, "x" * (at_most + 1)]}],
    ):
        with pytest.raises(bodies.NotJson):
            bodies.parse(json.dumps(value).encode())


MIB = 1024 * 1024
MANY = {
    "numbers": b"[" + b"1," * 6_000_000 + b"1]",
    "lists": b"[" + b"[]," * 4_000_000 + b"1]",
    "objects": b"[" + b"{}," * 4_000_000 + b"1]",
    "keys": b"{" + b",".join(b'"%d":1' % number for number in range(500_000)) + b"}",
    "texts": b"[" + b"[]," * 100_000 + b'"' * (8 * MIB) + b"]",
    "a text without its end": b"[" + b"[]," * 100_000 + b'"' + b'\\"' * (4 * MIB),
    "a backslash at the end": b"[" + b"[]," * 100_000 + b'"' + b"\\\\" * (4 * MIB) + b"\\",
    "brackets": b"[" * (8 * MIB),
}


@pytest.mark.parametrize("kind", MANY)
def test_very_much_in_one_body_is_refused_at_little_cost(kind: str) -> None:
    """Before it is made: one such body kept the gateway busy for ten seconds, and everybody else waiting."""
    began = time.thread_time()
    with pytest.raises(bodies.NotJson):
        bodies.parse(MANY[kind])

    assert time.thread_time() - began < 4


ODD = {
    "escapes": b'["' + b"\\n" * (7 * MIB) + b'"]',
    "numbers of many digits": b"[" + b",".join([b"9" * 4000] * 3500) + b"]",
    "floats with a pair": b"[" + b"1.2345678," * 900_000 + b'"\\ud83d\\ude00"]',
    "a text of two bytes each": '["{}"]'.format("\u00e9" * (7 * MIB)).encode(),
    "lists in lists": b"[" + b"[]," * 490_000 + b"1]",
}


@pytest.mark.parametrize("kind", ODD)
def test_no_step_holds_the_others_up_for_long(kind: str) -> None:
    """Parsing has a thread, and yet one long call of the library stops all others: /health waited for 700 ms."""
    raw = ODD[kind]
    for step in (bodies._needs_look, bodies._may_hold_long_text, bodies._SURROGATE.search):
        costs_s = []
        for _ in range(3):
            began_s = time.thread_time()
            step(raw)
            costs_s.append(time.thread_time() - began_s)
        assert min(costs_s) < 0.15, step


def test_what_is_inside_of_texts_is_not_counted() -> None:
    """A large table is one text, and a long list of numbers is a list."""
    table = "1,2;[3]{4}" * 300_000
    numbers = list(range(900_000))

    assert bodies.parse(json.dumps({"table": table}).encode()) == {"table": table}
    assert bodies.parse(json.dumps(numbers).encode()) == numbers


def test_a_text_is_as_long_as_it_is_however_it_is_written() -> None:
    """The cheap look never misses one that is too long."""
    longest = bodies.TEXT_BYTES_MAX
    for raw in (b'["' + b"a" * (longest + 1) + b'"]', b'[1,"x","' + b"a" * (longest + 9) + b'"]'):
        with pytest.raises(bodies.NotJson, match="longer"):
            bodies.parse(raw)
    assert bodies.parse(b'["' + b"a" * longest + b'"]')
    assert bodies.parse(b'["' + b'\\"' * 7_000_000 + b'"]')
