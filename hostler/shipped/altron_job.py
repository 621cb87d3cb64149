"""The workload ``altron_job``: acknowledges a job and shows what is in its description.

It is what runs until an operator puts a program of their own in its place, and it says so.
"""

import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hostler.script import Context

KEYWORDS_MAX = 8
ITEMS_MAX = 100
BULLET = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])?\s*(?:\[[ xX]\])?\s*")
WORD = re.compile(r"[^\W\d_][\w'-]*")
STOP_WORDS = frozenset(
    WORD.findall("""
    a about after all also an and any are as at be been before but by can could did do does each every for from had has
    have how if in into is it its just like make may more most must no not of on one only or our out over own please
    should so some than that the their them then there these they this to up us use was we were what when where which
    who will with would you your
    """)
)
NOTE = (
    "This is hostler's default program for Altron jobs. It has read the description and done nothing else: put your "
    "own program in its place with the setting altron_workload."
)


def main(ctx: "Context", params: dict[str, Any]) -> dict[str, Any]:
    """Acknowledge a job: its words, its keywords, and a checklist of its lines."""
    ctx.total(2)
    ctx.step("reading the description")
    title, description, priority = params["title"], params["description"], params["priority"]
    words = WORD.findall(description)
    found = keywords(title, words)
    items = checklist(description)
    ctx.step("writing the plan")
    text = plan(title, priority, words=len(words), found=found, items=items, at=datetime.now(UTC))
    print(text)
    ctx.done()
    return {"text": text, "words": len(words), "keywords": found, "checklist": items}


def plan(title: str, priority: int, *, words: int, found: list[str], items: list[str], at: datetime) -> str:
    """Put everything into one text."""
    lines = [
        f"Job: {title or '(no title)'}",
        f"Received: {at:%Y-%m-%d %H:%M:%S} UTC, priority {priority}",
        f"Description: {words} {'word' if words == 1 else 'words'}",
    ]
    if found:
        lines.append(f"Keywords: {', '.join(found)}")
    lines += ["", "Checklist:"]
    lines += [f"[ ] {number}. {item}" for number, item in enumerate(items, 1)] or ["(the description is empty)"]
    return "\n".join([*lines, "", NOTE])


def keywords(title: str, words: list[str]) -> list[str]:
    """The words that say most: often used, in the title, long; never the small ones of every sentence."""
    named = {word.casefold() for word in WORD.findall(title)}
    counts = Counter(word.casefold() for word in words)
    counts.update(named & counts.keys())
    said = [word for word in counts if word not in STOP_WORDS and len(word) > 2]
    return sorted(said, key=lambda word: (-counts[word], -len(word), word))[:KEYWORDS_MAX]


def checklist(description: str) -> list[str]:
    """One item for each line; a text of one line gives one for each sentence."""
    lines = [line for line in description.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = re.split(r"(?<=[.!?;])\s+", lines[0])
    items = [BULLET.sub("", line, count=1).strip() for line in lines]
    return [item for item in items if item][:ITEMS_MAX]
