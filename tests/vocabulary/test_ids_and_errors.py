"""Names and errors: one form each, and every error has a word, a status and a class."""

import re
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler import errors
from hostler.errors import BY_CODE, TO_GRPC, TO_HTTP, ErrorCode, HostlerError, InternalError, from_code
from hostler.ids import AttemptKey, JobId, is_uuid, new_uuid
from hostler.wire.errors import error_from_proto, error_to_proto, status_of, trailers_of

PYTHON_DOCUMENT = Path(__file__).parents[2] / "docs" / "python.md"
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HostlerError)]


@given(st.binary(min_size=16, max_size=16))
def test_a_new_id_is_a_uuid4(random: bytes) -> None:
    """With its version and variant, in the one form we write."""
    made = new_uuid(random)

    assert is_uuid(made)
    assert made[14] == "4" and made[19] in "89ab"


def test_different_randomness_gives_different_ids() -> None:
    """Two bits of the variant are all that may be lost."""
    assert new_uuid(bytes(16)) != new_uuid(bytes(15) + b"\1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{6ba7b810-9dad-41d1-80b4-00c04fd430c8}",
        "6BA7B810-9DAD-41D1-80B4-00C04FD430C8",
        "6ba7b8109dad41d180b400c04fd430c8",
        "6ba7b810-9dad-41d1-80b4-00c04fd430c8\n",
        "6ba7b810-9dad-41d1-80b4-00c04fd430c8.0",
    ],
)
def test_another_form_is_no_id(text: str) -> None:
    """One job has one name: nothing is found under two spellings."""
    assert not is_uuid(text)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 1 << 31), st.integers(0, 1 << 31))
def test_the_text_of_an_attempt_is_read_back(random: bytes, stage: int, attempt: int) -> None:
    """It is what people, logs and the worker's journal hold."""
    key = AttemptKey(JobId(new_uuid(random)), stage, attempt)

    assert AttemptKey.parse(str(key)) == key


@pytest.mark.parametrize("tail", ["", ".", ".0", ".0.", ".0.x", ".-1.1", ".0.1.2", ". 0.1", ".0.1 "])
def test_a_text_that_names_no_attempt_is_refused(tail: str) -> None:
    """With the form it should have."""
    with pytest.raises(errors.InvalidRequest, match=r"JOB\.STAGE\.ATTEMPT"):
        AttemptKey.parse("6ba7b810-9dad-41d1-80b4-00c04fd430c8" + tail)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_class_and_two_statuses(code: ErrorCode) -> None:
    """The tables are complete, and their statuses exist."""
    assert BY_CODE[code].code is code
    assert 400 <= TO_HTTP[code] <= 599
    assert grpc.StatusCode[TO_GRPC[code]] is status_of(BY_CODE[code]("x"))


def test_the_tables_hold_nothing_else() -> None:
    """A code that was removed leaves nothing behind, and no class is without a code of its own."""
    assert set(TO_HTTP) == set(TO_GRPC) == set(BY_CODE) == set(ErrorCode)
    assert sorted(kind.__name__ for kind in KINDS if kind is not HostlerError) == sorted(
        kind.__name__ for kind in BY_CODE.values()
    )


@pytest.mark.parametrize("code", ErrorCode)
def test_programs_can_read_what_to_do_about_every_error(code: ErrorCode) -> None:
    """In the table of their document."""
    assert re.search(rf"(?m)^\|[^|]*`{BY_CODE[code].__name__}`[^|]*\| \w", PYTHON_DOCUMENT.read_text())


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_survives_the_wire(code: ErrorCode) -> None:
    """As an item of an answer, and as the end of a call."""
    error = BY_CODE[code]("what to do next", field="argv")

    found = error_from_proto(error_to_proto(error))

    assert (type(found), found.message, found.field) == (type(error), error.message, "argv")
    assert dict(trailers_of(error)) == {"hostler-code": code.value, "hostler-field": "argv"}


def test_a_code_of_a_newer_coordinator_is_an_internal_error() -> None:
    """Its text is shown; nothing is guessed."""
    found = from_code("a_new_word", "its text")

    assert isinstance(found, InternalError)
    assert found.message == "its text"
