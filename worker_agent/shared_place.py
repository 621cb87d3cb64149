"""The place of a root worker that its jobs' users may pass through: workspaces, and what scripts need.

A worker's data directory is closed to everybody else. So what other users have to reach lies in a directory of its
own, in which they can list and write nothing: each workspace below it is closed to all but its own user.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from hostler.errors import InvalidRequest

PASSABLE: Final = 0o711


def make_shared(work_dir: Path, directory: Path) -> Path:
    """Make the place below *work_dir* for the worker whose data directory is *directory*, and return it.

    Raises:
        InvalidRequest: it cannot be made, others could change what is in it, or users could not get there.
    """
    digest = hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:8]
    place = work_dir / f"{directory.name}-{digest}"
    try:
        for each in (place, place / "work"):
            each.mkdir(parents=True, exist_ok=True)
        for each in (work_dir, place, place / "work"):
            if each.stat().st_uid == os.getuid():
                each.chmod(PASSABLE)
        for each in (place / "work", place, *place.parents):
            _check(each, each.stat())
    except OSError as error:
        raise InvalidRequest(f"work_dir {work_dir} cannot be used: {error.strerror}", field="work_dir") from error
    return place


def _check(path: Path, found: os.stat_result) -> None:
    wrong = ""
    if found.st_uid not in (0, os.getuid()) or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
        wrong = "others can change what is in it"
    elif not found.st_mode & stat.S_IXOTH:
        wrong = "the users of jobs cannot pass through it"
    if wrong:
        raise InvalidRequest(f"work_dir: {path}: {wrong}; choose another work_dir in the policy", field="work_dir")
