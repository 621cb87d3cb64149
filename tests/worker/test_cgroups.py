"""Cgroups, as far as a plain directory can stand for one."""

import errno
import os
from pathlib import Path

import pytest

from worker_agent.cgroups import Cgroup


def test_a_cgroup_is_removed_though_the_last_inside_is_not_out_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lists who is dead no more, and says for a moment longer that the directory is busy."""
    directory = tmp_path / "group"
    directory.mkdir()
    busy, rmdir = [OSError(errno.EBUSY, "busy")] * 3, os.rmdir

    def remove(path: str) -> None:
        if busy:
            raise busy.pop()
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", remove)

    assert not Cgroup(str(directory), freezer=False).remove()
    assert Cgroup(str(directory), freezer=False).remove_emptied()
    assert not directory.exists()


def test_what_stays_busy_is_left_after_a_while(tmp_path: Path) -> None:
    """Nobody waits for it without end."""
    (tmp_path / "file").touch()

    assert not Cgroup(str(tmp_path), freezer=False).remove_emptied()
    assert tmp_path.exists()
