"""Secrets are taken out of what is logged, and a sealed value shows itself nowhere."""

import hashlib
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.secrets_file import Secrets
from hostler.keys import INVITATION_PREFIX, RANDOM_BYTES, make_key
from hostler.redaction import BYTES_MIN, MASK, VALUES_MAX, StreamRedactor, Values
from hostler.sealed import MASK as SEALED
from hostler.sealed import Sealed

SECRET = 'pa55"word\\with\nlines-é'


@given(st.data())
def test_a_value_is_found_wherever_a_stream_is_cut(data: st.DataObject) -> None:
    """In any pieces the stream reads as if it had come in one, and no value is in it."""
    values = data.draw(st.lists(st.binary(min_size=BYTES_MIN, max_size=9), min_size=1, max_size=3))
    noise = st.sampled_from([*values, *(value[:4] for value in values), b"a", b"\n", b""])
    whole = b"".join(data.draw(st.lists(noise, max_size=8)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    redactor = StreamRedactor(values)
    seen = b"".join([*(redactor.feed(piece) for piece in pieces), redactor.rest()])
    at_once = StreamRedactor(values)
    assert seen == at_once.feed(whole) + at_once.rest()
    assert not any(value in part for part in seen.split(MASK) for value in values)


def test_a_stream_without_values_passes_as_it_is() -> None:
    """Also values that are too short to be looked for."""
    redactor = StreamRedactor([b"abc"])
    assert redactor.feed(b"abcabc") == b"abcabc"


def test_nothing_but_the_beginning_of_a_value_is_held_back() -> None:
    """A prompt is seen at once, unless its end may be the beginning of a secret."""
    redactor = StreamRedactor([b"secret-one"])
    assert redactor.feed(b"password: ") == b"password: "
    assert redactor.feed(b"a sec") == b"a "
    assert redactor.feed(b"ond") == b"second"
    assert redactor.feed(b"secret-") == b""
    assert redactor.feed(b"one!") == MASK + b"!"
    assert redactor.feed(b"secre") == b""
    assert redactor.rest() == b"secre"


def test_of_two_values_of_which_one_begins_the_other_the_longer_goes() -> None:
    """Cut right behind the shorter one."""
    redactor = StreamRedactor([b"abcdef", b"abcdefgh"])
    assert redactor.feed(b"abcdef") + redactor.feed(b"gh.") == MASK + b"."
    assert redactor.feed(b"abcdef") + redactor.rest() == MASK


def test_redacting_a_stream_takes_little_time() -> None:
    """10 MiB in pieces of 64 KiB, with ten secrets: no more CPU time than a hundred hashes of it."""
    piece = (b"2026-01-01 some line of a program that says what it does\n" * 1200)[:65536]
    redactor = StreamRedactor([b"secret-%d-abcdefghij" % n for n in range(10)])
    began = time.process_time()
    for _ in range(160):
        redactor.feed(piece)
    took = time.process_time() - began
    began = time.process_time()
    for _ in range(160):
        hashlib.sha256(piece).digest()
    assert took < 100 * (time.process_time() - began)


def test_registered_values_are_found_in_every_form_of_a_log_line() -> None:
    """As it is, as JSON writes it, as Python shows it, and each of its lines when they are long."""
    values = Values()
    long_lines = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\n-----END KEY-----"
    values.register([SECRET, long_lines, "short"])
    for text in (SECRET, json.dumps({"a": SECRET}), json.dumps(SECRET, ensure_ascii=False), repr({"env": SECRET})):
        assert "pa55" not in values.redacted(text)
        assert "[redacted]" in values.redacted(text)
    assert "MIIEvQIBADANBgkqhkiG9w0BAQEF" not in values.redacted(f"line 2: {long_lines.splitlines()[1]}")
    assert values.redacted("a short one \ud800") == "a short one \ud800"


def test_keys_and_invitations_are_found_by_their_form() -> None:
    """Their public part stays, so a line still says which one it is about."""
    values = Values()
    for prefix in ("hst", INVITATION_PREFIX):
        key = make_key(bytes(range(RANDOM_BYTES)), prefix)
        assert values.redacted(f"authorization: Bearer {key.text}!") == (
            f"authorization: Bearer {prefix}_{key.id}_[redacted]!"
        )


def test_what_is_registered_is_bounded() -> None:
    """The oldest values go."""
    values = Values()
    values.register([f"value-{n:06}" for n in range(VALUES_MAX + 100)])
    assert len(values._forms) == VALUES_MAX
    assert values.redacted(f"value-{VALUES_MAX + 99:06}") == "[redacted]"


def test_a_value_that_is_registered_again_is_none_of_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in use: others may come and go as often as they like."""
    monkeypatch.setattr("hostler.redaction.VALUES_MAX", 10)
    values = Values()
    for number in range(30):
        values.register(["in-use-all-the-time"])
        values.register([f"value-{number:06}"])
        assert values.redacted("in-use-all-the-time") == "[redacted]"
    assert len(values._forms) == 10


def test_a_sealed_value_shows_itself_only_to_who_asks() -> None:
    """Not by repr, str, format, pickle or JSON."""
    sealed = Sealed("canary")
    assert f"{sealed} {sealed!r} {sealed!s} {sealed:>30} {[sealed]} { ({'a': sealed}) }".count("canary") == 0
    assert repr(sealed) == SEALED
    with pytest.raises(TypeError):
        pickle.dumps(sealed)
    with pytest.raises(TypeError):
        json.dumps(sealed)
    assert sealed.reveal() == "canary"
    assert sealed == Sealed("canary") and sealed != Sealed("other") and sealed != "canary"


def test_the_secrets_of_a_data_directory_are_sealed(tmp_path: Path) -> None:
    """Neither the store of secrets nor what it gives shows a value."""
    path = tmp_path / "secrets.toml"
    path.write_text('token = "canary-123"\n')
    path.chmod(0o600)
    secrets = Secrets(tmp_path)
    found = secrets.values((("TOKEN", "token"),))
    assert "canary" not in repr((secrets, found, vars(secrets)))
    assert secrets.revealed((("TOKEN", "token"),)) == {"TOKEN": "canary-123"}


PROGRAM = """
import logging
from hostler import logs
logs.configure(level="info", form={form!r}, program="test")
logs.register_secrets(["canary-123\\n-abc"])
try:
    raise ValueError("it was canary-123\\n-abc")
except ValueError as error:
    logs.get().error("request.failed", method="x", exc_info=error)
logs.get().info("coordinator.started", socket="canary-123\\n-abc", key="hst_0123456789ab_" + "c" * 43)
logging.getLogger("library").warning("with %s", "canary-123\\n-abc")
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_line_of_a_process_shows_what_was_registered(form: str) -> None:
    """Fields, exceptions, and libraries that use the standard logging."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(form=form)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "canary" not in ended.stderr + ended.stdout
    assert "ccccc" not in ended.stderr
    assert ended.stderr.count("[redacted]") >= 4
