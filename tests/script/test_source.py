"""hostler.script_source: what a script says of itself, without running it."""

import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.errors import InvalidRequest
from hostler.script_source import SOURCE_BYTES_MAX, ScriptFacts, read_script

CHANGED = '''
from pixyz_worker import script
from pixyz_worker.script import *
SIZE = 3

@script.pixyz_schedule(queue="gpu", timeout=-1.5, tags=["a", ("b",)], size=SIZE, late=time.time(), **more)
@other(queue="no")
async def main(pc, params):
    """First line.

        Indented.

    Last.
    """
'''


def facts(source: str, entrypoint: str = "main") -> ScriptFacts:
    """What *source* says."""
    return read_script(textwrap.dedent(source).encode(), entrypoint)


def refusal(source: bytes, entrypoint: str = "main") -> str:
    """The text with which *source* is refused."""
    with pytest.raises(InvalidRequest) as refused:
        read_script(source, entrypoint)
    refused.value.message.encode()  # goes into a message
    return refused.value.message


def test_documentation_and_literal_settings_are_found() -> None:
    """Settings that are no literals, and those of other decorators, are not."""
    assert facts(CHANGED) == ScriptFacts(
        documentation="First line.\n\n    Indented.\n\nLast.",
        defaults={"queue": "gpu", "timeout": -1.5, "tags": ["a", ("b",)]},
    )


@pytest.mark.parametrize(
    ("decorator", "defaults"),
    [
        ("@pixyz_schedule", {}),
        ("@pixyz_schedule()", {}),
        ("@pixyz_schedule(wait=True)", {"wait": True, "queue": "control"}),
        ("@pixyz_schedule(wait=True, queue=None)", {"wait": True, "queue": "control"}),
        ("@pixyz_schedule(wait=True, queue='cpu')", {"wait": True, "queue": "cpu"}),
        ("@pixyz_schedule(wait=1)", {"wait": 1}),
        ("@a.b.pixyz_schedule(time_limit=9)", {"time_limit": 9}),
        ("@pixyz_schedule(x={[]: 1}, y={**{}}, z=1)", {"z": 1}),
        ("@(lambda f: f)", {}),
    ],
)
def test_settings_of_the_decorator(decorator: str, defaults: dict[str, object]) -> None:
    """Waiting for others without a queue means the queue for that."""
    assert facts(f"{decorator}\ndef main(pc, params): pass").defaults == defaults


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def other(): pass",
        "class A:\n    def main(self): pass",
        "if 1:\n    def main(): pass",
        "main = lambda: 0",
        "def f():\n    def main(): pass",
    ],
)
def test_only_a_function_at_the_top_counts(source: str) -> None:
    """The text is the documented one."""
    assert refusal(source.encode()) == "The script file does not have the function main"


def test_the_last_definition_counts() -> None:
    """It is the one that Python would call."""
    assert facts('def go():\n    "old"\ndef go():\n    "new"', "go").documentation == "new"
    assert facts("def main(): pass").documentation is None


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (b"def main()\n  pass", "expected ':', line 1"),
        (b"\n\ndef main(:\n", "line 3"),
        (b"x = 1\n\0", "it holds a NUL character, line 2"),
        (b"x = 1\n\ny = '\xff'\ndef main(): pass", "can't decode byte 0xff in position 12: invalid start byte, line 3"),
        (b"# coding: nothing-known\ndef main(): pass", "line"),
        (b"# coding: rot13\ndef main(): pass", "line"),
        (b"# coding: punycode\n" + b"ab9" * 300_000, "punycode is no encoding for a script, line 1"),
        (b"# coding: hex\ndef main(): pass", "line"),
        ("def main(): pass".encode("utf-16"), "line 1"),
        (b"\x89PNG\r\n\x1a\n", "line"),
        (b"x = " + b"9" * 5000, "line"),
        (b"#" * (SOURCE_BYTES_MAX + 1), "it has 1048577 bytes; at most 1048576"),
        (b"a\n" * 200_001, "more than 200000 words and signs"),
        (b"\n".join(b" " * depth + b"if 1:" for depth in range(200)), "too many levels of indentation"),
    ],
)
def test_what_is_not_python_is_refused_with_its_line(source: bytes, text: str) -> None:
    """One sentence, never an exception of the parser's."""
    said = refusal(source)

    assert said.startswith("The script file is not Python: ")
    assert text in said


NESTS = [
    b"-",
    b"~",
    b"not ",
    b"lambda:",
    b"x if y else ",
    b"(",
    b"[",
    b"{",
    b"f(",
    b"a.",
    b"1+",
    b"2**",
    b"(a:=",
    b'f"{',
]


@pytest.mark.parametrize("nest", NESTS, ids=bytes.decode)
def test_nesting_that_a_parser_gives_up_on_is_refused_in_bounded_time(nest: bytes) -> None:
    """As much of it as the limits let through."""
    words = 2 if nest in (b"a.", b"1+") else len(nest.split()) + nest.count(b"(") + nest.count(b":") + 2
    begun = time.process_time()

    assert refusal(nest * (199_000 // words) + b"1").startswith("The script file is not Python: ")

    assert time.process_time() - begun < 30


def test_coding_lines_are_honoured() -> None:
    """PEP 263, with and without a byte order mark."""
    source = '# -*- coding: latin-1 -*-\ndef main():\n    "é"'

    assert read_script(source.encode("latin-1"), "main").documentation == "é"
    assert read_script(b"\xef\xbb\xbfdef main():\n    '\xc3\xa9'", "main").documentation == "é"


def test_large_and_odd_sources_that_are_python_are_read() -> None:
    """A megabyte of comments or of one string; warnings of the compiler are not ours to raise."""
    function = b"def main():\n    '\\d \\ud800'\n"

    assert read_script(function + b"# padding of comments\n" * 40_000, "main").documentation == "\\d ?"
    assert read_script(function + b"x = '" + b"a" * 1_000_000 + b"'\n", "main").documentation == "\\d ?"
    assert read_script(function.replace(b"\n", b"\r\n") + b"1 is 1", "main").documentation == "\\d ?"


def test_nothing_of_the_source_is_run(tmp_path: Path) -> None:
    """Neither at the top nor in decorators and defaults."""
    mark = tmp_path / "mark"
    source = f"""
    open({str(mark)!r}, "w")
    @pixyz_schedule(queue=open({str(mark)!r}, "w"))
    def main(a=open({str(mark)!r}, "w")): pass
    """
    assert facts(source).defaults == {}
    assert not mark.exists()


WORDS = [b"def main(", b"):", b"\n", b"    ", b"@pixyz_schedule(", b"queue=", b"'", b'"""', b"\\", b"\0", b"\xff", b"#"]
SIGNS = [b"{", b"1", b",", b")", b"async ", b"\t", b"\r", b"\x0c", b"class A:", b"f'{", b"}", b"\\N{a}"]
PIECES = st.sampled_from([*WORDS, *SIGNS, b"# coding: utf-7\n"])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=40).map(b"".join)))
def test_any_bytes_give_facts_or_one_refusal(source: bytes) -> None:
    """No other exception, and what is said can be sent."""
    try:
        found = read_script(source, "main")
    except InvalidRequest as refused:
        refused.message.encode()
    else:
        (found.documentation or "").encode()
        assert all(isinstance(name, str) for name in found.defaults)


LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(LITERALS, st.text(st.characters(exclude_categories=["Cs"])))
def test_every_literal_comes_back_as_it_was_written(value: object, text: str) -> None:
    """And a docstring that Python would give comes back as Python would give it."""
    found = read_script(
        f"@pixyz_schedule(value={value!r})\ndef main():\n    {text!r}".encode("utf-8", "backslashreplace"), "main"
    )

    assert found.defaults == {"value": value}
    namespace: dict[str, object] = {}
    exec(f"import inspect\ndef main():\n    {text!r}\nfound = inspect.getdoc(main)", namespace)
    assert found.documentation == namespace["found"]
