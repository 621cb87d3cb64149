"""The language of selectors: what it means, what it prints, and that nothing but its own errors comes of any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.errors import HostlerError, InvalidRequest, TooLarge
from hostler.job_filters import FILTER_WORDS, parse_filter
from hostler.selectors import (
    DEPTH_MAX,
    TERMS_MAX,
    All,
    Any,
    Exists,
    Facts,
    Not,
    OneOf,
    Selector,
    Value,
    names,
    parse_selector,
)

NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(["zone", "gpu", "a b", "and", "in", 'q"', "\\"])
TEXTS = st.text(max_size=8) | st.sampled_from(["a", "b", "x y", "or", "*", "a*b", "'"])
WILD = st.text("ab*-", min_size=1, max_size=6).filter(lambda text: "*" in text)
VALUES = st.builds(Value, TEXTS, st.just(False)) | st.builds(Value, WILD, st.just(True))
LEAVES = st.builds(Exists, NAMES) | st.builds(OneOf, NAMES, st.lists(VALUES, min_size=1, max_size=3).map(tuple))


def _larger(inner: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(Not, inner) | st.builds(All, several) | st.builds(Any, several)


SELECTORS: st.SearchStrategy[Selector] = st.recursive(LEAVES, _larger, max_leaves=8)
FACTS = st.dictionaries(NAMES, TEXTS | st.tuples(TEXTS, TEXTS), max_size=5)
PIECES = st.sampled_from(
    ["zone", "a", "and", "or", "not", "in", "(", ")", ",", "=", "==", "!=", "!", '"', "'", "\\", "*", " ", "x*"]
)


@given(SELECTORS)
def test_what_is_printed_means_the_same(selector: Selector) -> None:
    """The text of a selector is read as that selector."""
    assert parse_selector(str(selector)) == selector


@given(st.text(max_size=60) | st.lists(PIECES, max_size=25).map("".join) | st.lists(PIECES, max_size=25).map(" ".join))
def test_any_text_is_a_selector_or_its_own_error(text: str) -> None:
    """Whatever somebody types; and what is a selector is printed and read again."""
    try:
        selector = parse_selector(text)
    except HostlerError as error:
        assert isinstance(error, InvalidRequest | TooLarge)
        assert error.field == "filter"
        return
    assert parse_selector(str(selector)) == selector


@given(SELECTORS, SELECTORS, FACTS)
def test_de_morgan(one: Selector, other: Selector, facts: Facts) -> None:
    """Not both is one of them not; not one of them is both not."""
    assert Not(All((one, other))).matches(facts) == Any((Not(one), Not(other))).matches(facts)
    assert Not(Any((one, other))).matches(facts) == All((Not(one), Not(other))).matches(facts)
    assert Not(Not(one)).matches(facts) == one.matches(facts)


@given(st.text("ab", max_size=12), st.text("ab*", max_size=8).filter(lambda text: "*" in text))
def test_a_wild_card_stands_for_any_characters(text: str, pattern: str) -> None:
    """As a regular expression says it."""
    import re

    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert Value(pattern, True).fits(text) == expected


FACTS_OF_ONE: Facts = {"zone": "a", "gpu": "yes", "name": "x y", "worker": ("w-1", "stable"), "star": "*"}


@pytest.mark.parametrize(
    "text",
    [
        "zone = a",
        "zone == a",
        "zone in (a, b)",
        "zone not in (b, c)",
        "zone != b",
        "spare != yes",
        "spare not in (yes)",
        "gpu",
        "not spare",
        'name = "x y"',
        "name = 'x y'",
        "name = x*",
        "name = *y and name = *",
        "zone = a, gpu",
        "spare or zone = a",
        "zone = b or zone = a and gpu",
        "not (zone = b or spare)",
        "worker = stable and worker = w-1",
        "worker in (other, sta*)",
        'star = "*" and zone != "*"',
        "zone=a,gpu=yes",
    ],
)
def test_these_hold(text: str) -> None:
    """One of each kind."""
    assert parse_selector(text).matches(FACTS_OF_ONE)


@pytest.mark.parametrize(
    "text",
    [
        "zone = b",
        "zone in (b, c)",
        "zone not in (a)",
        "zone != a",
        "spare",
        "spare = *",
        "not gpu",
        "name = x",
        "worker != stable",
        "zone = a and spare",
        "(zone = b or zone = a) and spare",
        "zone = A",
    ],
)
def test_these_do_not_hold(text: str) -> None:
    """A name that is not there equals nothing."""
    assert not parse_selector(text).matches(FACTS_OF_ONE)


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("", 1, "a name"),
        ("zone =", 7, "a value"),
        ("zone = and", 8, "a value"),
        ("zone in a", 9, "( and the values"),
        ("zone in (a b)", 12, ", or )"),
        ("(zone", 6, "and, or, or )"),
        ("zone)", 5, "and, or, or the end"),
        ("zone a", 6, "=, !=, in"),
        ("zone not a", 10, "in was expected"),
        ("zone ! a", 6, "!"),
        ("zone = 'a", 8, "not closed"),
        ("zo* = a", 1, "no *"),
        ("a and or b", 7, "a name"),
    ],
)
def test_an_error_names_its_place(text: str, place: int, expected: str) -> None:
    """And what was expected there."""
    with pytest.raises(InvalidRequest) as caught:
        parse_selector(text, field="where")
    assert caught.value.message.startswith(f"where, character {place}: ")
    assert expected in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "a" * 4001,
        "(" * (DEPTH_MAX + 1) + "a" + ")" * (DEPTH_MAX + 1),
        "not " * (DEPTH_MAX + 1) + "a",
        "a," * TERMS_MAX + "a",
        f"a in ({'b,' * TERMS_MAX}b)",
    ],
)
def test_a_selector_has_its_limits(text: str) -> None:
    """In length, depth and terms; and says which."""
    with pytest.raises(TooLarge):
        parse_selector(text)


def test_every_name_is_found() -> None:
    """Also below a not."""
    assert list(names(parse_selector("a and not (b = 1 or c) and a != 2"))) == ["a", "b", "c", "a"]


def test_a_filter_knows_its_states_and_outcomes() -> None:
    """A word that is none finds nothing for ever: it is refused, with those that there are."""
    for text in ("state = runing", "not outcome in (failed, los)"):
        with pytest.raises(InvalidRequest, match=r"there is no (state 'runing'|outcome 'los'); there are "):
            parse_filter(text)
    parse_filter("state in (queued, running) and outcome = *ed and tag = runing")
    assert "state" in FILTER_WORDS
