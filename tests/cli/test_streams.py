"""Standard streams that are closed, or whose reader has gone, under every kind of command."""

import json
import subprocess
import sys

import pytest

from hostler.jobs import JobSpec, Work
from tests.cli.fake_cluster import FakeCluster, exited, out

A_SPEC = JobSpec(work=Work(argv=("ls",), cwd="/"))
MANY_LINES = out(b"line\n" * 5_000) * 20
HOSTLER = f"{sys.executable} -m hostler.cli.main"

READERS: tuple[str, ...] = (
    *("logs {big}", "logs --json {big}", "jobs --watch --after 0", "jobs --json", "jobs", "show {big}", "--help"),
    *("--version", "run -- ls", "attach --all-output {big}", "show nosuch 2>&1"),
)


@pytest.mark.parametrize("line", READERS)
def test_a_command_whose_reader_has_gone_ends_as_by_its_signal(line: str, fake: FakeCluster) -> None:
    """Every command, with the status 141 and no error: `hostler logs ID | head -1` is no failure."""
    big = fake.add(exited(0), MANY_LINES, spec=A_SPEC)
    fake.begin = lambda _: (exited(0), MANY_LINES)
    for _ in range(50):
        fake.happen(big, "queued")
    command = f"{HOSTLER} --coordinator {fake.address} {line.format(big=big)}"

    ran = in_a_shell(f"({command}; echo $? >&3) 3>&2 | true")

    said = ran.stderr.splitlines()
    assert said[-1] == "141"
    assert [text for text in said[:-1] if not text.endswith("(succeeded)")] == []  # as `attach` says of a job


@pytest.mark.parametrize("closed", ["stdin", "stderr"])
def test_a_command_without_input_or_errors_still_answers(closed: str, fake: FakeCluster) -> None:
    """What is closed is not taken by a file or a connection of ours either."""
    job = fake.add(spec=A_SPEC)
    ran = in_a_shell(f"{HOSTLER} --coordinator {fake.address} jobs {'<&-' if closed == 'stdin' else '2>&-'}")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert job in ran.stdout


@pytest.mark.parametrize("line", ["submit -- ls", "run -- ls", "logs {job}", "jobs", "stop {job}", "--version"])
def test_without_a_standard_output_nothing_is_done(line: str, fake: FakeCluster) -> None:
    """A submit whose id nobody can read is half done: it is refused first, with what to do."""
    line = line.format(job=fake.add(spec=A_SPEC))
    jobs = dict(fake.jobs)
    for before in ("", "--json"):
        ran = in_a_shell(f"{HOSTLER} {before} --coordinator {fake.address} {line} >&-")
        assert ran.returncode == (125 if line.startswith("run") else 1)
        assert "standard output is closed" in ran.stderr and "/dev/null" in ran.stderr
        assert json.loads(ran.stderr)["error"]["hint"] if before else len(ran.stderr.splitlines()) == 2
    assert (fake.jobs, fake.heard) == (jobs, [])


def in_a_shell(line: str) -> "subprocess.CompletedProcess[str]":
    """Run a line as a shell does, with nothing as its input."""
    return subprocess.run(
        ["bash", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
