"""Files that only their owner may read, whole or not at all."""

from pathlib import Path

import pytest

from hostler.private_files import write_private


def test_a_private_file_is_its_owners_alone_whatever_the_umask_and_the_file_before(tmp_path: Path) -> None:
    """Also in place of one that others could read."""
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)

    write_private(path, b"new")

    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """And is not written through, whatever it is."""
    other = tmp_path / "other"
    other.write_bytes(b"kept")
    (tmp_path / "key.new").symlink_to(other)

    write_private(tmp_path / "key", b"new")

    assert (tmp_path / "key").read_bytes() == b"new" and other.read_bytes() == b"kept"


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    """The writer hears of it."""
    (tmp_path / "key").mkdir()

    with pytest.raises(OSError, match="key"):
        write_private(tmp_path / "key", b"new")
    assert (tmp_path / "key").is_dir()
