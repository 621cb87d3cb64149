"""What is installed is no older than the snapshot of advisories allows."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

SNAPSHOT = tomllib.loads((Path(__file__).parent / "advisories.toml").read_text())
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def numbers(text: str) -> tuple[int, ...]:
    """A version as numbers; what is no number ends it."""
    found = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)


@pytest.mark.parametrize("name", SNAPSHOT["minimum"])
def test_what_is_installed_has_no_known_advisory(name: str) -> None:
    """Each minimum says why, and is kept."""
    wanted = SNAPSHOT["minimum"][name]
    assert wanted["why"]
    try:
        installed = version(name)
    except PackageNotFoundError:
        pytest.fail(f"{name} is not installed")
    assert numbers(installed) >= numbers(wanted["version"]), wanted["why"]


def test_the_project_asks_for_no_less() -> None:
    """A fresh installation cannot get an older one."""
    for dependency in PROJECT["dependencies"]:
        name = dependency.split(">=")[0].split("[")[0].strip()
        if name in SNAPSHOT["minimum"]:
            lowest = dependency.split(">=")[1].split(",")[0]
            assert numbers(lowest) >= numbers(SNAPSHOT["minimum"][name]["version"]), dependency


def test_versions_are_compared_as_numbers() -> None:
    """Not as texts."""
    assert numbers("3.14.3") > numbers("3.9.20") and numbers("50.0.2") > numbers("46.0.5")
    assert numbers("2026.10.19.post1") == (2026, 10, 19)
