"""What a person at a terminal sees meanwhile, and that a pipe gets nothing of it."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hostler.cli.progress import StatusLine, Transfers, advance_text, progress_text
from hostler.jobs import Advance, Job, JobSpec, Step, Work
from hostler.lifecycle import State
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import FakeCluster, exited, out

Hostler = Callable[..., Answer]
CLEAR = "\r\x1b[K"
ADVANCE = Advance(percent=40, steps=(Step(text="read", duration_s=1.0), Step(text="mesh\x1b[2J")))


def test_the_line_steps_aside_for_output(capsys: pytest.CaptureFixture[str]) -> None:
    """It comes back below whole lines, and not inside one."""
    line = StatusLine(True)
    line.show("40 %")
    with line.aside(b"\n"):
        sys.stderr.write("output\n")
    with line.aside(b"t"):
        sys.stderr.write("half")
    line.show("50 %")
    with line.aside(b"\n"):
        sys.stderr.write(" whole\n")
    line.close()
    line.show("60 %")

    expected = f"{CLEAR}40 %{CLEAR}output\n{CLEAR}40 %{CLEAR}half whole\n{CLEAR}50 %{CLEAR}"
    assert capsys.readouterr().err == expected


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a line nor a bar."""
    line = StatusLine(False)
    line.show("40 %")
    with line.aside(), Transfers(False).file("a", 10) as advanced:
        advanced(10)
    line.close()

    assert capsys.readouterr().err == ""


def test_progress_in_a_few_words() -> None:
    """Percent and the step that is under way, or why there is none."""
    job = Job(id="x", spec=JobSpec(work=Work()), state=State.RUNNING)

    assert advance_text(ADVANCE) == "40 %, step 2: mesh\x1b[2J"
    assert progress_text(job) == ""
    assert progress_text(replace(job, state=State.QUEUED)) == "waits"
    assert progress_text(replace(job, state=State.QUEUED, retried=1)) == "waits for attempt 2"


def in_terminal(address: str, *arguments: str, at_most_s: float = 40.0) -> tuple[int, str, str]:
    """Call the command line with a terminal as its standard error; return code, standard output and what it drew."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hostler.cli.main", "--coordinator", address, *arguments]
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        drawn = b""
        try:
            while piece := os.read(ours, 65536):
                drawn += piece
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(ours)
        printed = process.communicate(timeout=at_most_s)[0]
    return process.returncode, printed.decode(), drawn.decode()


def test_a_person_sees_bars_and_progress(fake: FakeCluster, tmp_path: Path) -> None:
    """And standard output has the job's alone."""
    (tmp_path / "scene.step").write_bytes(b"x" * 100_000)
    fake.begin = lambda _: (None, out(b"hello\n"))
    looks = 0

    def look(job: Job) -> Job:
        nonlocal looks
        looks += 1
        if looks == 3:
            fake.end(job.id, exited(0))
        return replace(fake.jobs[job.id], advance=ADVANCE)

    fake.on_get = look

    code, printed, drawn = in_terminal(
        fake.address, *("submit", "-f", "--file", str(tmp_path / "scene.step"), "--", "x")
    )

    assert (code, printed) == (0, "hello\n")
    assert "scene.step" in drawn and "100%" not in printed
    assert "40 %, step 2: mesh\\x1b[2J" in drawn
