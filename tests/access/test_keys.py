"""The text of keys and invitations."""

import os

import pytest

from hostler.keys import INVITATION_PREFIX, RANDOM_BYTES, is_key, make_key, read_key


def test_a_key_is_read_back_as_it_was_made() -> None:
    """With blanks around it, as files and terminals have them."""
    made = make_key(os.urandom(RANDOM_BYTES))

    assert read_key(f" {made.text}\n") == made
    assert is_key(made, made.hash)


def test_another_secret_with_the_same_id_is_another_key() -> None:
    """The id names it, the secret proves it."""
    random = os.urandom(RANDOM_BYTES)
    made, other = make_key(random), make_key(random[:6] + os.urandom(32))

    assert made.id == other.id
    assert not is_key(other, made.hash)


def test_a_secret_is_in_no_repr() -> None:
    """Tracebacks and logs show reprs."""
    made = make_key(os.urandom(RANDOM_BYTES))

    assert made.secret not in repr(made) and made.secret not in f"{(made,)}"


@pytest.mark.parametrize(
    "text", ["", "hst_", "hst_0123456789ab_short", "hsj_0123456789ab_" + "a" * 43, "HST_0123456789ab_" + "a" * 43]
)
def test_what_is_no_key_is_none(text: str) -> None:
    """An invitation is none either."""
    assert read_key(text) is None


def test_an_invitation_is_no_key() -> None:
    """They open different doors."""
    made = make_key(os.urandom(RANDOM_BYTES), INVITATION_PREFIX)

    assert read_key(made.text) is None
    assert read_key(made.text, INVITATION_PREFIX) == made
