"""Which keys detach, and what of the typing reaches the job."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.cli.failures import Failure
from hostler.cli.keyboard import DetachKeys, keys_text, read_keys
from tests.support.typist import Typist

KEYS = st.binary(min_size=1, max_size=4).map(lambda keys: bytes(key % 3 for key in keys))
SAYS_SOMETHING = """
import os
from hostler.cli.keyboard import Keyboard
with Keyboard(b"") as keyboard:
    with keyboard.lines():
        print("one\\ntwo", flush=True)
        typed = os.read(0, 1)
    print(typed, end="\\n.", flush=True)
"""
TYPED = st.lists(st.binary(max_size=5).map(lambda typed: bytes(key % 3 for key in typed)), max_size=8)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("Ctrl-P", b"\x10"),
        ("ctrl-],q", b"\x1dq"),
        ("ctrl-@,ctrl-_,ctrl-[", b"\x00\x1f\x1b"),
        ("a,-,~", b"a-~"),
        ("", b""),
    ],
)
def test_keys_are_read(text: str, keys: bytes) -> None:
    """One character, or ctrl- and one."""
    assert read_keys(text) == keys


@pytest.mark.parametrize(("keys", "text"), [(b"\x10\x11", "Ctrl-P Ctrl-Q"), (b"\x1dq", "Ctrl-] q"), (b"", "")])
def test_keys_are_called_as_people_call_them(keys: bytes, text: str) -> None:
    """For who is told how to leave."""
    assert keys_text(keys) == text


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pq", "alt-p", "ctrl-é", "ab", "ctrl-p,", "é", ",".join("a" * 17)])
def test_what_is_no_key_is_refused(text: str) -> None:
    """In a sentence that shows what a key is."""
    with pytest.raises(Failure):
        read_keys(text)


@given(keys=KEYS, typed=TYPED)
def test_keys_are_found_and_nothing_else_is_lost(keys: bytes, typed: list[bytes]) -> None:
    """However typing is cut into pieces: all before the keys is the job's, but for what may be their beginning."""
    whole = b"".join(typed)
    found, passed, detached = DetachKeys(keys), b"", False
    for piece in typed:
        more, detached = found.feed(piece)
        passed += more
        if detached:
            break

    place = whole.find(keys)
    assert detached == (place >= 0)
    if detached:
        assert passed == whole[:place]
    else:
        assert whole.startswith(passed) and keys.startswith(whole[len(passed) :])


def test_without_keys_everything_is_the_jobs() -> None:
    """As in a private cluster, which one cannot leave."""
    assert DetachKeys(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


def test_a_key_pressed_while_we_say_something_is_a_key_like_any_other() -> None:
    """It is not shown, waits for no end of a line, and is no signal; our text has its lines all the same."""
    with Typist([sys.executable, "-c", SAYS_SOMETHING]) as person:
        assert person.sees(b"two\r\n") == b"one\r\ntwo\r\n"
        person.type(b"\x03")
        assert person.sees(b"\n.") == rb"b'\x03'" + b"\n."
        assert person.ends() == 0 and person.is_cooked()
