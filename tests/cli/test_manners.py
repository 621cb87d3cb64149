"""What all commands have in common: help, JSON, no escapes in pipes, and errors that say what to do next."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from hostler.cli.failures import failure_of
from hostler.cli.main import app, call
from hostler.errors import ErrorCode, from_code
from hostler.jobs import JobSpec, OutputFile, Outputs, Work
from hostler.workers import WorkerState
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import NOON_US, WORKER, FakeCluster, exited, killed

ROOT = Path(__file__).parents[2]
A_SPEC = JobSpec(work=Work(argv=("sleep", "\x1b[31m" + "w" * 300), cwd="/"), name="two \x1b words")
OVER = "00000000-0000-4000-8000-00000000000a"
RUNS = "00000000-0000-4000-8000-00000000000b"

# Of each command a call that succeeds; those that do not end, and those that another service answers, have none.
CALLS: dict[str, tuple[str, ...]] = {
    "submit": ("submit", "--", "ls"),
    "run": ("run", "--", "ls"),
    "jobs": ("jobs",),
    "show": ("show", OVER),
    "explain": ("explain", OVER),
    "logs": ("logs", OVER),
    "stop": ("stop", RUNS),
    "wait": ("wait", OVER),
    "retry": ("retry", OVER),
    "signal": ("signal", RUNS, "INT"),
    "top": ("top",),
    "completion": ("completion", "bash"),
    "workers": ("workers",),
    "workers drain": ("workers", "drain", "stable"),
    "workers resume": ("workers", "resume", "stable"),
    "workers release": ("workers", "release", "stable"),
    "workloads list": ("workloads", "list"),
    "outputs ls": ("outputs", "ls", OVER),
}
OTHERS = {
    *("up", "coordinator", "worker", "gateway"),  # they go on
    *("attach", "result", "complete", "workloads", "keys", "outputs"),  # of a terminal, a chain, a shell; groups
    *("workers invite", "workers revoke", "keys create", "keys list", "keys revoke", "audit", "audit verify"),
    *("workloads apply", "workloads show", "workloads remove", "outputs get"),
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its name."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield " ".join((*path, name)), inner
            yield from walk(inner, (*path, name))

    return walk(typer.main.get_command(app), ())


COMMANDS = dict(commands())


@pytest.fixture
def known(fake: FakeCluster) -> FakeCluster:
    """A fake cluster with a job that runs and one that is over, with names that no terminal should see as they are."""
    fake.add(exited(3), spec=A_SPEC, job=OVER)
    fake.add(spec=A_SPEC, job=RUNS)
    fake.outputs[OVER] = Outputs(files=(OutputFile(path="a\x1b[2J", size_bytes=1, modified_at_us=NOON_US, digest="d"),))
    return fake


def test_every_command_is_looked_at_here() -> None:
    """A new one is given a call, or named among those that have none."""
    assert CALLS.keys() | OTHERS == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_fits_the_width(
    name: str, columns: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every command, without an escape in a pipe."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERMINAL_WIDTH", str(columns))
    assert call([*name.split(), "--help"]) == 0
    out = capfd.readouterr().out
    assert "Usage" in out and "\x1b" not in out
    assert max(len(line) for line in out.splitlines()) <= columns


@pytest.mark.parametrize("name", COMMANDS)
def test_help_on_a_narrow_terminal_cuts_no_word(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it wants to type what is there: each option is whole."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERMINAL_WIDTH", "40")
    assert call([*name.split(), "--help"]) == 0
    shown = capfd.readouterr().out
    assert "\u2026" not in shown
    options = [one for one in COMMANDS[name].params if one.param_type_name == "option" and not one.hidden]
    assert all(max(option.opts, key=len) in shown.split() for option in options)


@pytest.mark.parametrize("name", CALLS)
def test_answers_in_a_pipe_have_no_escape_and_json_can_be_read(
    name: str, known: FakeCluster, hostler: Callable[..., Answer]
) -> None:
    """Whatever jobs are called: each line of an answer with --json is JSON, and so is each line of ours beside it."""
    answer = hostler(*CALLS[name])
    assert "\x1b" not in answer.out + answer.err
    again = hostler("--json", *CALLS[name])
    assert "\x1b" not in again.out + again.err
    lines = again.out.splitlines() + (again.err.splitlines() if name == "run" else [])
    for line in lines:
        json.loads(line)
    assert lines or name == "logs"


def test_the_keys_of_json_are_those_of_the_documentation(known: FakeCluster, hostler: Callable[..., Answer]) -> None:
    """Each key of a job, of a worker and of `top` stands in docs/cli.md, in code."""
    text = (ROOT / "docs" / "cli.md").read_text().partition("\n## JSON\n")[2]

    def keys(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield key
                yield from keys(inner) if key in ("cluster", "log", "usage", "times", "outputs") else ()
        elif isinstance(value, list):
            for one in value:
                yield from keys(one)

    job = json.loads(hostler("--json", "show", OVER).out)
    worker = json.loads(hostler("--json", "workers").out)["workers"]
    shown = json.loads(hostler("--json", "top").out)
    found = {*keys(job), *keys(worker), *keys(shown), *(key for part in shown.values() for key in keys(part))}
    assert {key for key in found if f"`{key}`" not in text} == set()


MISTAKES: tuple[tuple[int, str], ...] = (
    (3, "show nosuch"),
    (2, "show ab"),
    (2, "show 0000"),
    (2, "show"),
    (2, "show x y"),
    (2, "show --wrong x"),
    (2, "nosuch"),
    (2, "workers nosuch"),
    (2, "stop"),
    (2, "stop last:0"),
    (2, "stop --filter a="),
    (2, "jobs --filter ((a"),
    (2, "jobs --state nope"),
    (2, "jobs --after 3"),
    (2, "jobs --limit 0"),
    (3, "explain nosuch"),
    (3, "logs nosuch"),
    (3, f"logs --stage 3 {OVER}"),
    (3, "result nosuch"),
    (3, "wait nosuch"),
    (3, "retry nosuch"),
    (1, f"signal {OVER} INT"),
    (2, f"signal {RUNS} NOPE"),
    (3, "attach nosuch"),
    (2, "submit"),
    (3, "submit --worker nosuch -- ls"),
    (3, "submit --file /nosuch -- ls"),
    (2, "submit --file / -- ls"),
    (2, "submit --param x --workload report"),
    (3, "submit --params @/nosuch --workload report"),
    (2, "submit --label x -- ls"),
    (2, "submit --memory lots -- ls"),
    (2, "submit --timeout soon -- ls"),
    (2, "run"),
    (2, "run --group -- ls"),
    (2, "run --all (( -- ls"),
    (3, "run --all zone=nosuch -- ls"),
    (3, "run --retry-failed nosuch"),
    (3, "outputs ls nosuch"),
    (3, f"outputs get {OVER} nosuch"),
    (3, "workers drain nosuch"),
    (2, "workers drain stable --deadline soon"),
    (3, "workloads apply /nosuch"),
    (2, "workloads apply /etc/hostname"),
    (2, "top --sort nope"),
    (2, "completion tcsh"),
    (2, "--config /nosuch.toml jobs"),
    (2, "--coordinator nonsense jobs"),
    (4, "--coordinator unix:/nosuch/socket jobs"),
)


@pytest.mark.parametrize(("code", "line"), MISTAKES, ids=[line for _, line in MISTAKES])
def test_a_mistake_is_one_line_and_what_to_do_next(
    code: int, line: str, known: FakeCluster, hostler: Callable[..., Answer]
) -> None:
    """Two lines on standard error, nothing on standard output; the same as JSON, in one."""
    answer = hostler(*line.split())
    assert (answer.code, answer.out) == (code, "")
    said, after = answer.err.splitlines()
    assert said.startswith("hostler: ") and len(said) > len("hostler: ")
    assert after.startswith("  next: ") and len(after) > len("  next: ")
    error = json.loads(hostler("--json", *line.split()).err)["error"]
    assert error["message"] and error["hint"] and error["code"]


@pytest.mark.parametrize("code", [code for code in ErrorCode if code is not ErrorCode.INVALID_REQUEST])
def test_every_error_of_the_cluster_has_a_next_step(code: ErrorCode) -> None:
    """Also those that are hard to cause: no permission, a full queue, a coordinator that is away."""
    failure = failure_of(from_code(code.value, "said by the coordinator"))
    assert failure.hint and failure.exit_code and failure.code == code.value


@pytest.mark.parametrize("columns", [40, 79, 200])
def test_lists_on_a_terminal_keep_to_its_width(columns: int, known: FakeCluster) -> None:
    """No line of a table is broken, whatever is in it; without colours when those are not wanted."""
    known.add(spec=replace(A_SPEC, name="n" * 200))
    for arguments in (["jobs"], ["top", "--once"]):
        plain = on_a_terminal_of(columns, known, *arguments)
        assert "RUNNING" in plain.upper()
        assert all(len(line) <= columns for line in plain.splitlines()), plain


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_lists_on_a_narrow_terminal_leave_columns_out_before_they_cut_what_is_short(
    columns: int, known: FakeCluster
) -> None:
    """Ids have eight characters, names and states can be read, and only texts of any length end in an ellipsis."""
    named = known.add(spec=replace(A_SPEC, name="a-name-that-is-long"), job="1" * 8 + OVER[8:])
    jobs = on_a_terminal_of(columns, known, "jobs").splitlines()
    workers = on_a_terminal_of(columns, known, "workers").splitlines()

    assert jobs[0].split()[:2] == ["ID", "STATE"] and "NAME" in jobs[0]
    (line,) = [line for line in jobs if line.startswith(named[:8])]
    assert line.split()[:2] == [named[:8], "running"] and "a-name" in line
    for row in jobs[1:]:
        rest = row[: jobs[0].index("NAME")]
        assert "\u2026" not in rest and row.split()[0] == row[:8], jobs
    assert workers[0].split()[:3] == ["ID", "NAME", "STATE"]
    assert workers[1].split()[:3] == [WORKER.id[:8], WORKER.name, WORKER.state.value]


@pytest.mark.parametrize("columns", [21, 25, 30, 40, 45])
def test_an_id_or_a_state_is_never_cut(columns: int, known: FakeCluster) -> None:
    """Other columns go first, and then what a state says behind its colon: `stopped` of `stopped: SIGKILL`."""
    for end in (killed("SIGKILL", "stop"), killed("SIGTERM", "timeout"), exited(127)):
        known.add(end, spec=A_SPEC)
    texts = {"stopped: SIGKILL", "timed out: SIGTERM", "failed: exit status 127", "failed: exit status 3", "running"}
    words = {text.partition(":")[0] for text in texts} | {state.value for state in WorkerState}
    for arguments in (["jobs"], ["workers"], ["top", "--once"]):
        starts = dict[str, int]()
        for row in on_a_terminal_of(columns, known, *arguments).splitlines():
            if row.isupper() or not row.strip():  # the head of a table, or the end of one
                starts = {found[0]: found.start() for found in re.finditer(r"[A-Z]+", row)}
            elif "ID" in starts:
                cells = {name: re.split("  +", row[start:])[0].strip() for name, start in starts.items()}
                assert len(cells["ID"]) == 8 and "\u2026" not in cells["ID"], row
                assert cells.get("STATE", "running") in texts | words, row
                assert cells.get("OUTCOME", "running") in texts | words, row


@pytest.mark.parametrize("columns", [40, 80])
def test_what_is_known_and_what_went_wrong_is_broken_at_blanks_on_a_terminal(columns: int, known: FakeCluster) -> None:
    """To its width, and goes on as far in as it began; in a pipe each is one line."""
    words = JobSpec(work=Work(argv=("echo", *(["word"] * 60)), cwd="/"))
    job = known.add(exited(0), spec=words)
    plain = on_a_terminal_of(columns, known, "show", job)
    lines = plain.splitlines()
    assert all(len(line) <= columns for line in lines), plain
    first = next(number for number, line in enumerate(lines) if line.startswith("command"))
    assert lines[first + 1].startswith(" " * 11 + "word word")
    assert plain.count("word") == 60 and "wor\r" not in plain

    failed = on_a_terminal_of(columns, known, "outputs", "get", job, "a", "b/c", code=3).splitlines()
    assert all(len(line) <= columns for line in failed), failed
    assert failed[0].startswith("hostler: job") and failed[1].startswith("  ")
    assert " ".join(line.strip() for line in failed).endswith("next: hostler outputs ls ID shows what there is")


def test_what_a_command_says_beside_its_answer_is_broken_at_blanks_on_a_terminal(known: FakeCluster) -> None:
    """As an error is, and with no word cut."""
    known.workers = []

    said = on_a_terminal_of(40, known, "workers").splitlines()

    assert said == ["hostler: no workers; start one with:", "  hostler worker"]


def on_a_terminal_of(columns: int, known: FakeCluster, *arguments: str, code: int = 0) -> str:
    """What a command shows there, without colours: they are not wanted."""
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "24", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "hostler.cli.main", "--coordinator", known.address, *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT)
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:
        pass  # its side is closed
    os.close(ours)
    assert process.wait(timeout=30) == code
    text = seen.decode()
    assert "\x1b[3" not in text
    return re.sub("\x1b\\[[0-9;]*m", "", text)
