"""The examples of docs/workloads.md are right as they stand there."""

import re
from pathlib import Path

import pytest

from hostler.expansion import check_workload
from hostler.workload_files import CONTAINER_KINDS, KINDS, NOT_STORED, SERVICE_KINDS, read_directory, with_script

PAGE = (Path(__file__).parents[2] / "docs/workloads.md").read_text()
NAMED_BLOCK = re.compile(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_example_can_be_applied(tmp_path: Path) -> None:
    """With the scripts that stand beside them."""
    for name, text in NAMED_BLOCK.findall(PAGE):
        (tmp_path / name).write_text(text)

    definitions = read_directory(tmp_path)

    names = ["caption", "forecast", "names", "summarise", "thumbnails", "translate", "words"]
    assert [one.workload.name for one in definitions] == names
    assert [check_workload(with_script(one, NOT_STORED)) for one in definitions] == [None] * len(names)
    assert definitions[-1].workload.documentation.startswith("Count the words")


@pytest.mark.parametrize(
    ("first", "last", "kinds"),
    [
        ("## The file", "## Parameters", KINDS),
        ("## Containers", "## Services", CONTAINER_KINDS),
        ("## Services", "## Examples", SERVICE_KINDS),
    ],
)
def test_the_tables_have_every_key(first: str, last: str, kinds: dict[str, object]) -> None:
    """In the order of the code."""
    table = PAGE[PAGE.index(first) : PAGE.index(last)]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(kinds)
