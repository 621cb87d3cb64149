"""The workload ``text-stats``: counts what is in a text. Standard library alone."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hostler.script import Context

WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|[\u3002\uff01\uff1f]")
PARAGRAPH_END = re.compile(r"\n\s*\n")
WORDS_PER_MINUTE = 230  # of somebody who reads silently
KEYWORDS_MAX = 10
KEYWORD_CHARACTERS_MIN = 3
# Words that are in every text and tell nothing of it.
COMMON_WORDS = (
    "a about above after again against all also am an and any are aren't as at be because been before being below"
    " between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each even"
    " few for from further get got had hadn't has hasn't have haven't having he he's her here hers herself him himself"
    " his how however i i'd i'll i'm i've if in into is isn't it it's its itself just let's like many may me might more"
    " most much must my myself no nor not now of off often on once one only or other our ours ourselves out over own"
    " same shall she she's should shouldn't so some such than that that's the their theirs them themselves then there"
    " these they they're this those through to too two under until up upon us very was wasn't we we'll we're we've were"
    " weren't what when where which while who whom whose why will with within without won't would wouldn't yet you"
    " you'll you're your yours yourself yourselves"
)
COMMON = frozenset(COMMON_WORDS.split())


def main(ctx: "Context", params: Any) -> dict[str, Any]:
    """Count what is in a text."""
    text = "\n\n".join(texts_of(params))
    words = [word.lower().replace("\u2019", "'") for word in WORD.findall(text)]
    sentences = count_of_sentences(params, text)
    result = {
        "characters": len(text),
        "words": len(words),
        "distinct_words": len(set(words)),
        "sentences": sentences,
        "paragraphs": sum(bool(part.strip()) for part in PARAGRAPH_END.split(text)),
        "words_per_sentence": round(len(words) / sentences, 1) if sentences else 0.0,
        "reading_time_s": round(60 * len(words) / WORDS_PER_MINUTE, 1),
        "keywords": [{"word": word, "count": count} for word, count in keywords_of(words)],
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


def count_of_sentences(params: Any, text: str) -> int:
    """How many sentences there are: as they were found before, else as their marks say; a text has at least one."""
    found = params.get("sentences") if isinstance(params, dict) and isinstance(params.get("text"), str) else None
    if isinstance(found, list):
        return len(found)
    return max(len(SENTENCE_END.findall(text)), 1 if text.strip() else 0)


def keywords_of(words: list[str]) -> list[tuple[str, int]]:
    """The words that tell most of a text: the most frequent ones, those that every text has left out."""
    telling = Counter(
        word for word in words if len(word) >= KEYWORD_CHARACTERS_MIN and word not in COMMON and not word.isdecimal()
    )
    # Words that are equally frequent come by the alphabet: the same text gives the same answer.
    return sorted(telling.items(), key=lambda one: (-one[1], one[0]))[:KEYWORDS_MAX]
