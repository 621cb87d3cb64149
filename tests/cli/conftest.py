"""A fake cluster in a short directory, and the command line called as a person calls it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hostler.cli.main import call
from tests.cli.fake_cluster import FakeCluster


class Answer(NamedTuple):
    """What a command gave back."""

    code: int
    out: str
    err: str


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="hostler-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def fake(place: Path) -> Iterator[FakeCluster]:
    """A fake cluster that answers."""
    with FakeCluster(place) as cluster:
        yield cluster


@pytest.fixture
def hostler(fake: FakeCluster, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Call ``hostler ...`` in this process, against the fake cluster; its streams are read from the descriptors."""

    def run(*arguments: str) -> Answer:
        code = call(["--coordinator", fake.address, *arguments])
        return Answer(code, *capfd.readouterr())

    return run
