"""worker_agent.advances: what a program's progress file means."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hostler.jobs import STEPS_MAX, Advance, Step
from worker_agent.advances import LINE_BYTES_MAX, STEP_CHARACTERS_MAX, STEPS_CHARACTERS_MAX, AdvanceReader


def lines(*said: dict[str, Any]) -> bytes:
    """The file's bytes for what was said."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in said)


def read(*said: dict[str, Any], now_s: float = 100.0) -> Advance:
    """Where the program is after it has said that."""
    reader = AdvanceReader()
    reader.feed(lines(*said), now_s)
    return reader.advance(now_s)


def test_steps_have_durations_and_the_current_one_has_none() -> None:
    """By the times in the lines, else by the time of reading."""
    reader = AdvanceReader()
    reader.feed(lines({"total": 3, "at": 10}, {"step": "a", "at": 10.5}, {"step": "b", "at": 12}), 99.0)

    assert reader.advance(99.0) == Advance(percent=33, steps=(Step(text="a", duration_s=1.5), Step(text="b")))
    reader.feed(lines({"stop": True}), 20.0)
    assert reader.advance(20.0) == Advance(
        percent=66, steps=(Step(text="a", duration_s=1.5), Step(text="b", duration_s=8.0))
    )
    assert reader.finish(30.0, succeeded=True).percent == 100


@pytest.mark.parametrize(
    ("said", "percent"),
    [
        ([], None),
        ([{"step": "a"}], None),
        ([{"total": 4}], 0),
        ([{"total": 4}, {"step": "a"}], 0),
        ([{"total": 4}, {"step": "a"}, {"step": "b"}], 25),
        ([{"step": "a"}, {"step": "b"}, {"total": 4}], 25),
        ([{"total": 2}, *[{"step": "a"}] * 5], 99),
        ([{"total": 2}, {"step": "a"}, {"step": "b"}, {"stop": True}], 100),
        ([{"total": 2}, {"step": "a"}, {"stop": True}, {"stop": True}], 50),
        ([{"total": 2}, {"step": "a"}, {"stop": True}, {"step": "b"}], 50),
        ([{"percent": 40}], 40),
        ([{"percent": 40.9}, {"total": 2}], 40),
        ([{"percent": -3}], 0),
        ([{"percent": 10**400}], 100),
        ([{"percent": 7}, {"total": 2}, {"step": "a"}, {"step": "b"}], 50),
        ([{"total": 2}, {"step": "a"}, {"percent": 7}], 7),
        ([{"total": 0}, {"step": "a"}], None),
        ([{"percent": True}, {"percent": "3"}, {"percent": None}, {"total": False}], None),
        ([{"total": 2, "step": "a", "percent": 3}], 3),
    ],
)
def test_the_percentage(said: list[dict[str, Any]], percent: int | None) -> None:
    """From the steps that are over; what was said outright holds until the next step."""
    assert read(*said).percent == percent


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"x", b"3", b"[1]", b"null", b'"step"', b"{", b"{}", b"\xff\xfe{\0}\0", b"[" * 60_000, b'{"step": 3}'),
        *(b'{"percent": NaN}', b'{"percent": Infinity}', b'{"percent": ' + b"9" * 5000 + b"}", b'{"stop": 1}'),
        b'{"other": 1}',
    ],
)
def test_a_line_that_says_nothing_known_is_ignored(line: bytes) -> None:
    """The lines around it count."""
    reader = AdvanceReader()
    reader.feed(lines({"percent": 5}) + line + b"\n" + lines({"step": "after"}), 1.0)

    assert reader.advance(1.0) == Advance(percent=5, steps=(Step(text="after"),))


def test_a_line_counts_when_its_end_has_come_or_the_program_has_ended() -> None:
    """A shell's printf may forget the end of its line."""
    reader = AdvanceReader()
    reader.feed(b'{"perc', 1.0)
    reader.feed(b'ent": 41}', 1.0)
    assert reader.advance(1.0).percent is None

    assert reader.finish(2.0, succeeded=False).percent == 41
    assert reader.finish(2.0, succeeded=False).percent == 41


def test_a_line_that_is_too_long_is_dropped_as_a_whole() -> None:
    """In one piece or in many, and nothing of it is kept meanwhile."""
    long = b'{"percent": 5, "x": "' + b"y" * LINE_BYTES_MAX + b'"}'
    for size in (7, 1000, len(long) + 1):
        reader = AdvanceReader()
        content = lines({"step": "a"}) + long + b"\n" + lines({"step": "b"})
        for start in range(0, len(content), size):
            reader.feed(content[start : start + size], 1.0)

        assert [step.text for step in reader.advance(1.0).steps] == ["a", "b"]
        assert reader.advance(1.0).percent is None


def test_the_newest_steps_are_kept_and_all_of_them_count() -> None:
    """At most 1,000 of them, of at most 1,000 characters, and with a bound together."""
    many = read({"total": 4000}, *[{"step": f"{number}"} for number in range(2001)])
    long = read(*[{"step": "é" * 5000}] * 500)

    assert (len(many.steps), many.steps[0].text, many.steps[-1].text) == (STEPS_MAX, "1001", "2000")
    assert many.percent == 50
    assert {len(step.text) for step in long.steps} == {STEP_CHARACTERS_MAX}
    assert len(long.steps) == STEPS_CHARACTERS_MAX // STEP_CHARACTERS_MAX


def test_a_clock_that_is_put_back_gives_no_negative_duration() -> None:
    """The step took no time, then."""
    reader = AdvanceReader()
    reader.feed(lines({"step": "a", "at": 50}, {"step": "b", "at": 40}), 30.0)

    assert reader.finish(20.0, succeeded=False).steps == (
        Step(text="a", duration_s=0.0),
        Step(text="b", duration_s=0.0),
    )


ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
SAID = st.dictionaries(st.sampled_from(["percent", "total", "step", "stop", "at", "x"]), ODD, max_size=4)
PART = (
    SAID.map(lambda said: lines(said))
    | st.binary(max_size=20)
    | st.sampled_from([b"\n", b"{", b'{"step": "\\ud800"}\n'])
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PART, st.floats(0, 1e10))), st.booleans())
@example([(b'{"total": 1e308}\n{"step": "a", "at": -1e308}\n{"step": "b", "at": 1e308}\n', 0.0)], True)
def test_whatever_is_fed_what_comes_out_keeps_its_promises(parts: list[tuple[bytes, float]], succeeded: bool) -> None:
    """No exception; percent in 0..100; only the newest step may run; texts can be sent."""
    reader = AdvanceReader()
    for content, now_s in parts:
        reader.feed(content, now_s)
        check(reader.advance(now_s))
    end = reader.finish(5.0, succeeded=succeeded)

    check(end)
    assert all(step.duration_s >= 0 for step in end.steps)
    assert end.percent == 100 or not succeeded


def check(advance: Advance) -> None:
    """What holds for every advance."""
    assert advance.percent is None or 0 <= advance.percent <= 100
    assert isinstance(advance.percent, int | None)
    assert all(step.duration_s >= 0 for step in advance.steps[:-1])
    for step in advance.steps:
        step.text.encode()


@settings(max_examples=200, deadline=None)
@given(st.lists(PART, max_size=8).map(b"".join), st.lists(st.integers(0, 200), max_size=6))
def test_where_the_pieces_are_cut_makes_no_difference(content: bytes, cuts: list[int]) -> None:
    """A file read in pieces says what it says read at once."""
    whole, pieces = AdvanceReader(), AdvanceReader()
    whole.feed(content, 1.0)
    borders = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    for start, end in pairwise(borders):
        pieces.feed(content[start:end], 1.0)

    assert pieces.advance(1.0) == whole.advance(1.0)
    assert pieces.finish(2.0, succeeded=False) == whole.finish(2.0, succeeded=False)
