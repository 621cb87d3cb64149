"""Starting, watching and ending programs, with small programs in the place of the real ones."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hostler.cli.parts import LOG_BYTES_MAX, Part, Parts, Stage

AT_MOST_S = 20.0

# Reads its settings as a real part does, notes that it runs, and notes when it ends and why.
PROGRAM = """
import json, os, select, signal, sys, time
settings = json.loads(sys.argv[2])
note = open(settings["notes"], "a", buffering=1)
def say(word):
    note.write(f"{settings['name']} {word} {time.monotonic()}\\n")
print("hello from", settings["name"], flush=True)
if "sentence" in settings:
    print("hostler part: " + settings["sentence"], file=sys.stderr)
if "exit" in settings:
    sys.exit(settings["exit"])
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN if settings.get("deaf") else lambda *_: os.write(wake_w, b"x"))
wake_r, wake_w = os.pipe()
say(f"started {os.getpid()}")
readable, _, _ = select.select([wake_r, settings["parent_fd"]], [], [])
time.sleep(settings.get("slow_s", 0))
say("told" if wake_r in readable else "orphaned")
"""


class Notes:
    """What the programs of a test wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def words(self, name: str) -> list[str]:
        """What one program noted, without times."""
        return [line.split()[1] for line in self._lines() if line.startswith(f"{name} ")]

    def pids(self, name: str) -> list[int]:
        """The process ids of every start of one program."""
        return [int(line.split()[2]) for line in self._lines() if line.startswith(f"{name} started")]

    def order(self) -> list[str]:
        """The names of those that ended, in the order of their ends."""
        return [line.split()[0] for line in self._lines() if line.split()[1] in ("told", "orphaned")]

    def _lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """An empty book of notes, and the program `fake_part` where `python -m` finds it."""
    (tmp_path / "fake_part.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    return Notes(tmp_path / "notes")


@pytest.fixture
def said() -> list[str]:
    """The lines for people."""
    return []


@pytest.fixture
async def parts(tmp_path: Path, said: list[str]) -> AsyncIterator[Parts]:
    """Parts that are ended with the test."""
    running = Parts(tmp_path / "logs", said.append)
    yield running
    running.kill()
    await running.end()


def a_part(notes: Notes, name: str, stage: Stage = Stage.WORKERS, **settings: object) -> Part:
    """A part that notes what happens to it."""
    given = {"name": name, "notes": str(notes.path), **settings}
    return Part(name=name, program="fake_part", settings=given, stage=stage)


async def eventually(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    """Wait for a condition, with an end."""
    deadline = time.monotonic() + AT_MOST_S
    while True:
        if holds():
            return
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(0.01)


async def test_a_part_that_dies_is_started_again_and_that_is_said(parts: Parts, notes: Notes, said: list[str]) -> None:
    """Also when it is killed."""
    parts.start(a_part(notes, "one"))
    await eventually(lambda: len(notes.pids("one")) == 1, lambda: said)
    parts.ready()

    os.kill(notes.pids("one")[0], signal.SIGKILL)

    await eventually(lambda: len(notes.pids("one")) == 2, lambda: said)
    assert parts.pid("one") == notes.pids("one")[1]
    assert "one was killed by SIGKILL; it is started again in 0.2 s" in said


async def test_parts_end_in_the_order_of_their_stages(parts: Parts, notes: Notes, said: list[str]) -> None:
    """Each stage has ended before the next is told."""
    for name, stage in (("c", Stage.COORDINATOR), ("w", Stage.WORKERS), ("g", Stage.GATEWAY)):
        parts.start(a_part(notes, name, stage, slow_s=0.1))
    await eventually(lambda: all(notes.pids(name) for name in "cwg"), lambda: said)

    await parts.end()

    assert notes.order() == ["g", "w", "c"]
    assert [notes.words(name)[-1] for name in "gwc"] == ["told"] * 3


async def test_a_part_that_does_not_end_is_killed(parts: Parts, notes: Notes, said: list[str]) -> None:
    """Every wait has an end."""
    parts.start(a_part(notes, "one", deaf=True))
    await eventually(lambda: len(notes.pids("one")) == 1, lambda: said)

    await parts.end(patience_s=0.2)

    assert "one has not ended within 0.2 s and is killed" in said
    assert parts.pid("one") == 0


async def test_a_part_that_cannot_work_as_configured_ends_the_attempt(
    parts: Parts, notes: Notes, said: list[str]
) -> None:
    """Exit status 2; its last line is the reason."""
    parts.start(a_part(notes, "one", exit=2, sentence="port 8080 is taken"))

    failure = await asyncio.wait_for(parts.gave_up, AT_MOST_S)

    assert (failure.message, failure.exit_code) == ("port 8080 is taken", 2)


@pytest.mark.parametrize(
    "sentence",
    [
        "port 8080 is taken\n  next: give another one",
        '\n{"error": {"code": "invalid_request", "message": "port 8080 is taken", "hint": "give another one"}}',
    ],
)
async def test_what_to_do_about_an_unusable_configuration_is_the_hint_of_its_failure(
    parts: Parts, notes: Notes, sentence: str
) -> None:
    """The programs say it in a second line, or in one object where their logs are JSON."""
    parts.start(a_part(notes, "one", exit=2, sentence=sentence))

    async with asyncio.timeout(AT_MOST_S):
        failure = await parts.gave_up
    assert (failure.message, failure.hint) == ("port 8080 is taken", "give another one")


async def test_a_part_that_keeps_failing_at_the_start_ends_the_attempt(
    parts: Parts, notes: Notes, said: list[str]
) -> None:
    """After three times; what it printed was shown."""
    parts.start(a_part(notes, "one", exit=5, sentence="no luck"))

    failure = await asyncio.wait_for(parts.gave_up, AT_MOST_S)

    assert "one ended with exit status 5, 3 times" in failure.message
    assert str(parts.log_path("one")) in failure.hint
    assert said.count("one: hostler part: no luck") == 3


async def test_once_it_has_worked_a_part_is_started_again_whatever_it_says(
    parts: Parts, notes: Notes, said: list[str]
) -> None:
    """Giving up would end everybody's jobs; it waits longer each time."""
    parts.ready()
    parts.start(a_part(notes, "one", exit=2, sentence="no"))

    await eventually(lambda: any("again in 0.4 s" in line for line in said), lambda: said)

    assert not parts.gave_up.done()


async def test_a_long_log_is_put_aside_at_the_start(parts: Parts, notes: Notes, said: list[str]) -> None:
    """Logs grow by append, and not for ever."""
    path = parts.log_path("one")
    with path.open("wb") as log:
        log.truncate(LOG_BYTES_MAX + 1)

    parts.start(a_part(notes, "one"))
    await eventually(lambda: bool(notes.pids("one")), lambda: said)

    assert path.read_text() == "hello from one\n"
    assert path.with_suffix(".log.1").stat().st_size == LOG_BYTES_MAX + 1


OWNER = """
import asyncio, json, sys
from pathlib import Path
from hostler.cli.parts import Part, Parts, Stage
async def main():
    parts = Parts(Path(sys.argv[1]), print)
    for number, name in enumerate("gwc"):
        settings = {"name": name, "notes": sys.argv[2], "slow_s": 0.2}
        parts.start(Part(name=name, program="fake_part", settings=settings, stage=Stage(number)))
    await asyncio.sleep(3600)
asyncio.run(main())
"""


async def test_parts_end_in_order_also_when_their_owner_is_killed(tmp_path: Path, notes: Notes) -> None:
    """Nobody is left to tell them, and still the coordinator outlasts the workers."""
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, str(tmp_path / "logs"), str(notes.path))
    try:
        await eventually(lambda: all(notes.pids(name) for name in "gwc"), lambda: notes.path)
    finally:
        owner.kill()
        await owner.wait()

    await eventually(lambda: len(notes.order()) == 3, notes.order)
    assert notes.order() == ["g", "w", "c"]
    assert [notes.words(name)[-1] for name in "gwc"] == ["orphaned"] * 3
