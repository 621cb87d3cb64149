"""The escape zoo: after an acknowledged stop an outside scan finds nothing of what a nasty program had begun.

The quick suite has each program once on either start path in the host's own containment; the others have all
combinations. ``python -m tests.zoo`` prints the same as a table.
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.expected import wrong_of
from tests.zoo.keeper import START_PATHS, a_cage
from tests.zoo.programs import FULL, PROGRAMS, SMALL, Scale
from tests.zoo.surroundings import a_small_disk
from worker_agent.cgroups import Containment


@pytest.fixture
def cage_place() -> Iterator[Path]:
    """A directory with a short path and a small disk in it."""
    place = Path(tempfile.mkdtemp(prefix="hz-"))
    with a_small_disk(place / "disk"):
        yield place
    shutil.rmtree(place)


async def stop_all(place: Path, containment: Containment, start_path: str, scale: Scale, times: int = 1) -> list[str]:
    """Stop every program and say what was wrong."""
    wrong = []
    async with a_cage(place, uuid.uuid4().hex[:12], containment) as cage:
        for program in PROGRAMS * times:
            finding = await cage.stop_one(program, start_path, scale)
            wrong += [f"{program.name}: {each}" for each in wrong_of(program, finding)]
        if not cage.canary_is_well():
            wrong.append("symlink racer: it reached a file outside its outputs")
    return wrong


@pytest.mark.parametrize("start_path", START_PATHS)
async def test_nothing_of_a_nasty_program_is_left_after_its_stop(cage_place: Path, start_path: str) -> None:
    """No process, zombie, member of a cgroup, namespace, mount, descriptor or directory."""
    assert await stop_all(cage_place, Containment.AUTO, start_path, SMALL) == []


@pytest.mark.ci
@pytest.mark.timeout(300)
@pytest.mark.parametrize("start_path", START_PATHS)
@pytest.mark.parametrize("containment", list(Containment))
async def test_nothing_is_left_in_any_containment(cage_place: Path, containment: Containment, start_path: str) -> None:
    """The same with hundreds of forks, thousands of orphans, and a gigabyte."""
    assert await stop_all(cage_place, containment, start_path, FULL) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start_path", START_PATHS)
@pytest.mark.parametrize("containment", list(Containment))
async def test_nothing_is_left_twenty_times(cage_place: Path, containment: Containment, start_path: str) -> None:
    """Rare interleavings need many stops."""
    assert await stop_all(cage_place, containment, start_path, FULL, times=20) == []
