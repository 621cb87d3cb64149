"""Every requirement is kept by a test that is there, and the document says the same."""

import re
from pathlib import Path

from tests.security.requirements import REQUIREMENTS

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/security.md"


def exists(test: str) -> bool:
    """Whether there is a test of this name in this file."""
    file, _, name = test.partition("::")
    path = TESTS / file
    return path.is_file() and re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE) is not None


def test_every_requirement_is_listed_once_and_in_full() -> None:
    """R1 to R50, and R29b."""
    assert set(REQUIREMENTS) == {f"R{number}" for number in range(1, 51)} | {"R29b"}


def test_every_requirement_has_a_test_that_exists_or_a_reason() -> None:
    """A test that was renamed or removed is missed here."""
    missing = [
        f"{name}: {test}"
        for name, requirement in REQUIREMENTS.items()
        for test in requirement.tests
        if not exists(test)
    ]
    assert missing == []
    assert [
        name for name, requirement in REQUIREMENTS.items() if not requirement.tests and not requirement.reason
    ] == []


def test_the_page_names_every_requirement_and_only_tests_that_exist() -> None:
    """docs/security.md: the table of requirements, and the tests beside what each actor gets."""
    text = PAGE.read_text()
    for name, requirement in REQUIREMENTS.items():
        start = f"| {name} | {requirement.text} |"
        (row,) = [line for line in text.splitlines() if line.startswith(start)]
        shown = ", ".join(f"`{test}`" for test in requirement.tests)
        said = f". {requirement.reason}" if shown and requirement.reason else requirement.reason
        assert row == f"{start} {shown}{said} |", name
    named = set(re.findall(r"`([a-z_]+/test_[a-z_]+\.py::test_\w+)`", text))
    assert named and [test for test in sorted(named) if not exists(test)] == []
