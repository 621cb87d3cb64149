"""Names say what a thing is; some words say nothing, or mean something else to each reader."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.sources import ROOT, Source, all_sources

# Refused in any place of a name, also in the plural.
NOWHERE = frozenset({"task", "manager", "helper", "util", "common"})
# Refused as what the thing is; in front of another word they can be the field's own: a data directory.
NOT_AS_THE_NOUN = frozenset({"info", "data"})
# Work that is put off belongs in an issue. Put together here, so that this file does not name them.
PUT_OFF = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b")
TEXT_SUFFIXES = frozenset({".py", ".proto", ".sql", ".toml", ".js", ".css", ".html", ".sh", ""})
TEXT_FOLDERS = (
    "protos",
    "hostler",
    "coordinator",
    "worker_agent",
    "http_gateway",
    "tests",
    "scripts",
    "benchmarks",
    ".ci",
)


def refused_word(name: str) -> str | None:
    """Return the word for which *name* (snake_case or CamelCase) is refused, or None."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    words = [word.removesuffix("s") for word in spaced.lower().split("_") if word]
    for word in words:
        if word in NOWHERE:
            return word
    return words[-1] if words and words[-1] in NOT_AS_THE_NOUN else None


@pytest.mark.parametrize(
    "name", ["utils", "JobManager", "task_runner", "TaskRunner", "info", "JobInfo", "common", "job_data"]
)
def test_a_name_that_says_nothing_is_refused(name: str) -> None:
    """Alone, in front or behind, in either spelling."""
    assert refused_word(name) is not None


@pytest.mark.parametrize(
    "name", ["jobs", "DataDirectory", "metadata", "HTTPServer", "__init__", "information", "attempts"]
)
def test_a_name_that_says_something_is_accepted(name: str) -> None:
    """A word inside a word is not that word."""
    assert refused_word(name) is None


def test_no_module_or_class_has_a_name_that_says_nothing() -> None:
    """Nothing is called task, manager, helper, util, common, info or data."""
    named = (pair for source in all_sources() for pair in _names(source))

    assert [f"{where}: {name}" for where, name in named if refused_word(name) is not None] == []


def test_nothing_is_put_off_in_a_comment() -> None:
    """What is left to do is said in an issue, where somebody will look for it."""
    found: list[str] = []
    for folder in TEXT_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in TEXT_SUFFIXES and path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                found.extend(f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if PUT_OFF.search(line))

    assert found == []


def _names(source: Source) -> Iterator[tuple[str, str]]:
    for part in source.module.split("."):
        yield source.where, part
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef):
            yield f"{source.where}:{node.lineno}", node.name
