"""The two workloads that ship for the Infernet API: a text is tidied up, and then counted."""

import json
import runpy
import time
from pathlib import Path
from typing import Any

import pytest

from tests.shipped.test_shipped import SHIPPED, Workspace

STORY = (
    "Dr. Smith\u2019s  horse\tran.\r\nIt ran \u201cvery fast!\u201d  Did it stop?\r\n\r\n"
    "No. 5 came first... and J. Doe cheered.\u200b\x07"
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty one."""
    return Workspace(tmp_path / "workspace")


def run(workspace: Workspace, name: str, params: Any) -> Any:
    """Run a sample; it prints what it returns."""
    ended = workspace.shipped(name, params)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out) == ended.result
    return ended.result


def test_a_text_is_tidied_up(workspace: Workspace) -> None:
    """One kind of spaces, quotes and line ends; abbreviations end no sentence."""
    assert run(workspace, "text_clean", {"text": STORY}) == {
        "text": 'Dr. Smith\'s horse ran. It ran "very fast!" Did it stop?\n\nNo. 5 came first... and J. Doe cheered.',
        "paragraphs": 2,
        "sentences": [
            "Dr. Smith's horse ran.",
            'It ran "very fast!"',
            "Did it stop?",
            "No. 5 came first... and J. Doe cheered.",
        ],
    }


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({}, ""),
        (None, ""),
        ("one", "one"),
        (["one", {"a": "two", "b": [3, "four"]}], "one\n\ntwo\n\nfour"),
        ({"output": {"caption": "A horse."}}, "A horse."),
        ({"text": "this", "other": "not this"}, "this"),
        ({"text": 5, "other": "this"}, "this"),
        ({"text": "e\u0301 \ud800x \u4f60\u597d\u3002\u518d\u89c1"}, "\u00e9 x \u4f60\u597d\u3002\u518d\u89c1"),
    ],
)
def test_any_json_has_its_texts(workspace: Workspace, params: Any, text: str) -> None:
    """In order; a text that is called so is the one that is meant."""
    assert run(workspace, "text_clean", params)["text"] == text


def test_a_chain_of_both_counts_what_was_tidied_up(workspace: Workspace) -> None:
    """The second takes what the first returns."""
    cleaned = run(workspace, "text_clean", {"text": "The horse ran. The horse slept.\n\nA cat\u2019s nap, 20 minutes."})

    assert run(workspace, "text_stats", cleaned) == {
        "characters": 57,
        "words": 11,
        "distinct_words": 9,
        "sentences": 3,
        "paragraphs": 2,
        "words_per_sentence": 3.7,
        "reading_time_s": 2.9,
        "keywords": [
            {"word": "horse", "count": 2},
            {"word": "cat's", "count": 1},
            {"word": "minutes", "count": 1},
            {"word": "nap", "count": 1},
            {"word": "ran", "count": 1},
            {"word": "slept", "count": 1},
        ],
    }


@pytest.mark.parametrize(
    ("params", "words", "sentences"),
    [({}, 0, 0), ("no end", 2, 1), (["One. Two!", {"a": "Three?"}], 3, 3), ({"text": "", "sentences": []}, 0, 0)],
)
def test_any_json_is_counted(workspace: Workspace, params: Any, words: int, sentences: int) -> None:
    """Also where nothing was tidied up before."""
    result = run(workspace, "text_stats", params)

    assert (result["words"], result["sentences"]) == (words, sentences)


@pytest.mark.parametrize("piece", ["A. ", "a.)", "\n ", "x", "\u3002", ". ", "-"])
def test_no_text_takes_long(piece: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a megabyte of what could be read in many ways."""
    clean, count = (runpy.run_path(str(SHIPPED / f"{name}.py"))["main"] for name in ("text_clean", "text_stats"))
    began = time.process_time()

    count(None, clean(None, {"text": piece * (500_000 // len(piece))}))

    assert time.process_time() - began < 20
    assert capsys.readouterr().out
