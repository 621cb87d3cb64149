"""`hostler run --all`: one command on many workers. Output can be told apart, and what failed can be tried again."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster.real_cluster import processes_of

WITHIN_S = 60
CALL = [sys.executable, "-c", "from hostler.cli.main import main; main()"]
WORKERS = {"a": ["--label", "zone=east"], "b": ["--label", "zone=east"], "c": []}


class Answer(NamedTuple):
    """What a command gave back."""

    code: int
    out: str
    err: str


Hostler = Callable[..., Answer]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """The directory of a cluster of three workers, of which two have a label."""
    directory = Path(tempfile.mkdtemp(prefix="hc-"))
    parts: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> None:
        with (directory / f"{len(parts)}.log").open("wb") as log:
            parts.append(subprocess.Popen([*CALL, "--data-dir", str(directory), *arguments], stdout=log, stderr=log))

    try:
        start("coordinator", "--grpc", "127.0.0.1:0")
        for name, labels in WORKERS.items():
            start("worker", "--name", name, "--allow-root", "--stop-jobs", *labels)
        deadline = time.monotonic() + WITHIN_S
        while [one["state"] for one in _workers(directory)] != ["connected"] * len(WORKERS):
            assert time.monotonic() < deadline, "the workers did not connect"
            time.sleep(0.1)
        yield directory
    finally:
        for part in reversed(parts):
            part.terminate()
            part.wait(WITHIN_S)
        shutil.rmtree(directory)


def _workers(directory: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*CALL, "--data-dir", str(directory), "--json", "workers"], capture_output=True, text=True, timeout=WITHIN_S
    )
    return json.loads(done.stdout)["workers"] if done.returncode == 0 else []


@pytest.fixture
def hostler(place: Path) -> Hostler:
    """The command line, against that cluster."""

    def run(*arguments: str) -> Answer:
        done = subprocess.run(
            [*CALL, "--data-dir", str(place), *arguments], capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


def _jobs(hostler: Hostler, *arguments: str) -> list[dict[str, Any]]:
    return json.loads(hostler("--json", "jobs", "--all", *arguments).out)["jobs"]  # type: ignore[no-any-return]


def test_every_worker_that_matches_runs_it_once_and_its_lines_say_whose_they_are(hostler: Hostler) -> None:
    """Streams apart, lines whole although many are written at once, and a line for each worker at the end."""
    script = "for n in $(seq 500); do echo line $n; done; echo oops >&2; printf 'no end'"

    code, out, err = hostler("run", "--all", "zone=east", "--", "sh", "-c", script)

    assert code == 0
    lines = out.splitlines()
    assert {line.split(" | ")[0] for line in lines} == {"a", "b"}
    for worker in "ab":
        own = [line.removeprefix(f"{worker} | ") for line in lines if line.startswith(f"{worker} | ")]
        assert own == [*(f"line {n}" for n in range(1, 501)), "no end"]
    assert sorted(line for line in err.splitlines() if " | " in line) == ["a | oops", "b | oops"]
    assert re.search(r"(?m)^a +succeeded", err) and re.search(r"(?m)^b +succeeded", err)
    assert "2 of 2 succeeded" in err


def test_with_group_the_output_of_a_worker_is_in_one_piece(hostler: Hostler) -> None:
    """Under a line with its name."""
    code, out, _ = hostler("run", "--all", "*", "--group", "--", "sh", "-c", "echo 1; sleep 0.2; echo 2")

    assert code == 0
    assert sorted(re.findall(r"== (.)\n1\n2\n", out)) == ["a", "b", "c"]


def test_what_has_failed_is_run_again_where_it_has_failed(hostler: Hostler, place: Path) -> None:
    """And only there; of each worker the newest job counts, so what succeeded then is not run a third time."""
    code, _, err = hostler("run", "--all", "zone=east", "--", "false")
    assert code == 1
    (name,) = re.findall(r"hostler run --retry-failed (\w+)", err)

    gate = place / "good"
    script = f"test -e {gate}"
    code, _, err = hostler("run", "--all", "*", "--", "sh", "-c", script)
    assert (code, err.count("failed: exit status 1")) == (1, 3)
    gate.touch()
    code, _, err = hostler("run", "--retry-failed", "last")
    assert (code, "3 of 3 succeeded" in err) == (0, True)
    code, _, err = hostler("run", "--retry-failed", "last")
    assert (code, "all 3 jobs" in err) == (0, True)
    code, _, err = hostler("run", "--retry-failed", name)
    assert (code, "0 of 2 succeeded" in err) == (1, True)


def test_the_answer_in_json_is_the_last_line_of_standard_error(hostler: Hostler) -> None:
    """With every job as it ended."""
    code, _, err = hostler("--json", "run", "--all", "zone=east", "--", "false")

    said = json.loads(err.splitlines()[-1])
    assert code == 1
    assert [job["outcome"] for job in said["jobs"]] == ["failed", "failed"]
    assert {job["tags"]["fan-out"] for job in said["jobs"]} == {said["fan_out"]}


def test_interrupted_it_ends_every_job(hostler: Hostler, place: Path) -> None:
    """The first Ctrl-C is a SIGINT for each; those that do not heed it are stopped by the second."""
    script = "trap 'echo heard' INT; echo up; while :; do sleep 0.1; done"
    begun = subprocess.Popen(
        [*CALL, "--data-dir", str(place), "run", "--name", "deaf", "--all", "*", "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert begun.stdout is not None
    for said in (b"| up\n", b"| heard\n"):
        for _ in WORKERS:
            assert begun.stdout.readline().endswith(said)
        begun.send_signal(signal.SIGINT)
    begun.communicate(timeout=WITHIN_S)

    assert begun.returncode == 130
    jobs = _jobs(hostler, "--name", "deaf")
    assert [job["outcome"] for job in jobs] == ["stopped"] * 3
    assert processes_of({job["id"] for job in jobs}) == []


def test_when_the_reader_has_gone_the_jobs_are_stopped(hostler: Hostler, place: Path) -> None:
    """As with `run`: the status is 141, nothing is said of a fault, and nothing runs on."""
    command = [
        *CALL,
        "--data-dir",
        str(place),
        "run",
        "--name",
        "unread",
        "--output-max",
        "4M",
        "--all",
        "*",
        "--",
        "yes",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as begun:
        assert begun.stdout is not None and begun.stderr is not None
        assert begun.stdout.readline().endswith(b"| y\n")
        begun.stdout.close()
        said = begun.stderr.read()

    assert (begun.wait(WITHIN_S), b"Traceback" in said) == (141, False), said
    jobs = _jobs(hostler, "--name", "unread")
    assert [job["outcome"] for job in jobs] == ["stopped"] * 3
    assert processes_of({job["id"] for job in jobs}) == []


def test_nothing_is_submitted_when_it_cannot_be_meant(hostler: Hostler) -> None:
    """No worker that matches, an expression that is none, options that do not go together."""
    before = len(_jobs(hostler))
    for code, arguments in (
        (3, ["--all", "zone=west", "--", "true"]),
        (2, ["--all", "zone=(", "--", "true"]),
        (2, ["--all", "*"]),
        (2, ["--all", "*", "--worker", "a", "--", "true"]),
        (2, ["--all", "*", "--tty", "--", "true"]),
        (2, ["--retry-failed", "last", "--", "true"]),
        (2, ["--group", "--", "true"]),
        (3, ["--retry-failed", "0000"]),
    ):
        answer = hostler("run", *arguments)
        assert (answer.code, answer.out) == (code, ""), arguments
    assert len(_jobs(hostler)) == before


def test_a_worker_that_is_drained_is_left_out_and_said_to_be(hostler: Hostler) -> None:
    """It would only wait."""
    assert hostler("workers", "drain", "b", "--wait").code == 0
    code, out, err = hostler("run", "--all", "zone=east", "--", "echo", "x")
    assert hostler("workers", "resume", "b").code == 0

    assert (code, out) == (0, "a | x\n")
    assert "b is drained: it is left out" in err


def test_whoever_waits_is_told_why(hostler: Hostler, place: Path) -> None:
    """`run --all` names the worker that has no room, and `stop` a job that takes its grace, after some seconds."""
    room = next(one["slots"] for one in _workers(place) if one["name"] == "a")
    deaf = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    filling = [
        hostler("submit", "--name", "filling", "--grace", "5s", "--worker", "a", "--", *deaf).out.strip()
        for _ in range(room)
    ]
    everywhere = [*CALL, "--data-dir", str(place), "run", "--all", "*", "--", "true"]
    with subprocess.Popen(everywhere, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as begun:
        assert begun.stderr is not None
        assert begun.stderr.readline().startswith(b"hostler: a waits: ")
        stopped = hostler("stop", *filling)
        assert stopped.code == 0
        assert f"hostler: {filling[0]} is not over yet: it has its grace to end by itself" in stopped.err
        assert b"3 of 3 succeeded" in begun.stderr.read()
