"""The pictures that documents show: they are there, small, and load nothing from elsewhere."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.architecture.sources import ROOT

PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
SHOWN = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
BYTES_MAX = 60_000


def test_the_readme_shows_pictures_that_are_there_and_says_what_is_on_them() -> None:
    """For those who do not see them."""
    shown = SHOWN.findall((ROOT / "README.md").read_text())
    assert len(shown) >= 2
    for text, path in shown:
        assert (ROOT / path) in PICTURES, path
        assert len(text) > 20, path


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_loads_nothing_from_elsewhere_and_runs_nothing(path: object) -> None:
    """It is an SVG whose references are within it, and has no fonts of its own."""
    content = (ROOT / str(path)).read_text()
    assert len(content.encode()) < BYTES_MAX
    root = ElementTree.fromstring(content)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not names & {"script", "image", "foreignObject", "use", "a"}
    for element in root.iter():
        for name, value in element.attrib.items():
            assert "href" not in name and not name.startswith("on"), name
            assert "url(" not in value or value.startswith("url(#"), value
    assert re.findall(r"@import|@font-face|url\((?!#)", content) == []
    assert re.findall(r"https?://(?!www\.w3\.org/)", content) == []
