"""The workload ``text-clean``: tidies a text up and cuts it into sentences. Standard library alone."""

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hostler.script import Context

# What is written in many ways becomes what everybody can type.
PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201a": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "\u00ab": '"',
        "\u00bb": '"',
        "\u2013": "-",
        "\u2014": "-",
        "\u2026": "...",
    }
)
LINE_ENDS = re.compile(r"\r\n?|[\u2028\u0085\x0b\x0c]")
PARAGRAPH_ENDS = re.compile(r"\n\s*\n|\u2029")
SPACES = re.compile(r"\s+")
SENTENCE_ENDS = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[^a-z\s])|(?<=[\u3002\uff01\uff1f])\s*")
JOINERS = "\u200c\u200d"  # not seen either, but scripts and emoji are spelled with them
# A full stop behind these ends no sentence.
ABBREVIATIONS = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "cf", "no", "fig", "al", "approx"}
)


def main(ctx: "Context", params: Any) -> dict[str, Any]:
    """Tidy a text up."""
    paragraphs = [paragraph for text in texts_of(params) for paragraph in paragraphs_of(text)]
    result = {
        "text": "\n\n".join(paragraphs),
        "paragraphs": len(paragraphs),
        "sentences": [sentence for paragraph in paragraphs for sentence in sentences_of(paragraph)],
    }
    print(json.dumps(result))
    return result


def texts_of(value: Any) -> Iterator[str]:
    """Yield the text that is meant, or else every text in a JSON value, in order; names of fields are none."""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        yield value["text"]
        return
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict | list):
            waiting.extend(reversed(list(one.values()) if isinstance(one, dict) else one))


def paragraphs_of(text: str) -> list[str]:
    """Cut a text where a line is empty; in a paragraph there is one space between two words and no line end."""
    lines = LINE_ENDS.sub("\n", text)
    cleaned = (clean(part) for part in PARAGRAPH_ENDS.split(lines))
    return [paragraph for paragraph in cleaned if paragraph]


def clean(text: str) -> str:
    """Write a text with composed characters, plain quotes and single spaces; what cannot be seen is left out."""
    plain = unicodedata.normalize("NFC", text).translate(PLAIN)
    # Control characters, half surrogates, zero-width spaces and the like; tabs and line ends are spaces.
    seen = "".join(each for each in plain if each.isspace() or each in JOINERS or unicodedata.category(each)[0] != "C")
    return SPACES.sub(" ", seen).strip()


def sentences_of(paragraph: str) -> list[str]:
    """Cut a paragraph into sentences, where a mark that ends one is followed by the beginning of another."""
    found: list[str] = []
    start = 0
    for match in SENTENCE_ENDS.finditer(paragraph):
        if not is_abbreviation(paragraph, start, match.start()):
            found.append(paragraph[start : match.end()].strip())  # closing quotes and brackets are its own
            start = match.end()
    rest = paragraph[start:].strip()
    return [*found, rest] if rest else found


def is_abbreviation(paragraph: str, start: int, end: int) -> bool:
    """Whether the full stop before *end* is that of an abbreviation or of an initial."""
    word = paragraph[max(start, paragraph.rfind(" ", start, end) + 1) : end]
    if not word.endswith("."):
        return False
    word = word[:-1].lstrip("(\"'").lower()
    return word in ABBREVIATIONS or (len(word) == 1 and word.isalpha())
