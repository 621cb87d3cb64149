"""A store on a file of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.storage.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of this test is."""
    return tmp_path / "hostler.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """An empty store, closed after the test."""
    opened = await SqliteStore.open(path)
    yield opened
    await opened.close()
