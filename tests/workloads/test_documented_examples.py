"""The examples of docs/workloads.md are right as they stand there."""

import re
from pathlib import Path

from hostler.expansion import check_workload
from hostler.workload_files import KINDS, NOT_STORED, read_directory, with_script

PAGE = (Path(__file__).parents[2] / "docs/workloads.md").read_text()
NAMED_BLOCK = re.compile(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_example_can_be_applied(tmp_path: Path) -> None:
    """With the scripts that stand beside them."""
    for name, text in NAMED_BLOCK.findall(PAGE):
        (tmp_path / name).write_text(text)

    definitions = read_directory(tmp_path)

    assert [one.workload.name for one in definitions] == ["forecast", "thumbnails", "words"]
    assert [check_workload(with_script(one, NOT_STORED)) for one in definitions] == [None] * 3
    assert definitions[2].workload.documentation.startswith("Count the words")


def test_the_table_has_every_key() -> None:
    """In the order of the code."""
    table = PAGE[PAGE.index("## The file") : PAGE.index("## Parameters")]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(KINDS)
