"""A cluster of real processes for each test; afterwards nothing of it is left."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.real_cluster import RealCluster, until

SHOWN_CHARACTERS = 6000  # of each part's log


def _show_logs(directory: Path) -> None:
    """What is printed is shown when the test has failed."""
    for log in sorted(directory.glob("*.log")):
        print(f"== {log.name}\n{log.read_text(errors='replace')[-SHOWN_CHARACTERS:]}")


def _below(directory: Path) -> list[str]:
    """The processes that speak of a directory in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(directory) in command:
                found.append(f"{entry.name} {command[:200]}")
    return found


@pytest.fixture
async def cluster() -> AsyncIterator[RealCluster]:
    """A cluster that is not started yet; the test says `await cluster.up(...)`."""
    directory = Path(tempfile.mkdtemp(prefix="hc-"))
    made = RealCluster(directory)
    try:
        yield made
    finally:
        await made.down()
        _show_logs(directory)

        async def nothing_left() -> bool:
            return not _below(directory)

        await until(nothing_left, "the end of every process of the cluster", 90.0)
        shutil.rmtree(directory)
