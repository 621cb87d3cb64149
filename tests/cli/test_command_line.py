"""What holds for every command: help, errors, exit codes, and what is loaded for them."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hostler import __version__
from hostler.cli.main import call
from tests.cli.fake_cluster import FakeCluster

AT_MOST_S = 60.0
ROOT = Path(__file__).parents[2]
COMMANDS = (
    *("up", "coordinator", "worker", "gateway", "workers"),
    *("run", "submit", "jobs", "show", "explain", "logs", "result", "stop", "wait", "signal"),
    *("workloads", "outputs", "keys", "audit"),
)


def hostler(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "hostler.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=AT_MOST_S, check=False)


def test_help_names_every_command() -> None:
    """On standard output, with code 0."""
    answer = hostler("--help")

    assert answer.returncode == 0
    assert [name for name in COMMANDS if f" {name} " not in answer.stdout] == []


def test_help_of_run_names_no_option_that_it_has_not() -> None:
    """Also where the words of a command's help are shared."""
    shown = hostler("run", "--help").stdout

    assert "unless --retry-failed" in " ".join(shown.replace("│", " ").split())
    assert "--workload" not in shown and "--stage" not in shown


def test_the_version_is_said() -> None:
    """On one line."""
    assert hostler("--version").stdout == f"hostler {__version__}\n"


@pytest.mark.parametrize("arguments", [("--json", "--version"), ("--version", "--json")])
def test_the_version_can_be_read_by_programs(arguments: tuple[str, ...]) -> None:
    """As every answer with --json, wherever that stands."""
    assert json.loads(hostler(*arguments).stdout) == {"version": __version__}


def test_where_no_cluster_answers_every_command_says_how_to_start_one(tmp_path: Path) -> None:
    """Exit code 4, one line, no traceback."""
    answer = hostler("--data-dir", str(tmp_path), "jobs")

    assert answer.returncode == 4
    socket = tmp_path / "run" / "coordinator.sock"
    assert answer.stderr == f"hostler: no cluster answers at unix:{socket}\n  next: start one with: hostler up\n"


@pytest.mark.parametrize("wrong", [("frob",), ("jobs", "--frob"), ("show",), (), ("--coordinator", "x", "jobs")])
def test_usage_errors_are_code_2_with_a_hint(wrong: tuple[str, ...]) -> None:
    """At most two lines: what is wrong, and what to do next."""
    answer = hostler(*wrong)

    assert (answer.returncode, answer.stdout) == (2, "")
    first, *hints = answer.stderr.splitlines()
    assert first.startswith("hostler: ")
    assert len(hints) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        ("show", "\udcffabcd"),
        ("workers", "revoke", "\udcff"),
        ("workers", "drain", "stable", "--reason", "\udcff"),
        ("keys", "create", "\udcff"),
        ("workers", "invite", "--uses", "5000000000"),
        ("audit", "--limit", "5000000000"),
        ("audit", "--after", "9" * 20),
        ("logs", "last", "--from", "9" * 20),
        ("workloads", "show", "count", "--version", "5000000000"),
    ],
    ids=lambda words: ascii(" ".join(words)),
)
def test_what_no_message_can_carry_is_usage(
    wrong: tuple[str, ...], fake: FakeCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """Text that is no UTF-8, numbers beyond every range; no traceback."""
    code = call(["--coordinator", fake.address, *wrong])

    assert (code, capfd.readouterr().out) == (2, "")


def test_errors_can_be_read_by_programs(tmp_path: Path) -> None:
    """With --json, one object on standard error."""
    answer = hostler("jobs", "--data-dir", str(tmp_path), "--json")

    assert answer.stderr.startswith('{"error": {"code": "unavailable", "message": "no cluster answers')


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    """It would silently do nothing."""
    (tmp_path / "hostler.toml").write_text("wrokers = 3\n")

    answer = hostler("up", "--config", str(tmp_path / "hostler.toml"))

    assert answer.returncode == 2 and "wrokers" in answer.stderr


def test_help_and_errors_load_no_grpc(tmp_path: Path) -> None:
    """It takes longer to load than all the rest."""
    code = (
        "import sys; from hostler.cli.main import call; "
        "call(['--data-dir', sys.argv[1], 'workers']); call(['run', '--help']); "
        "sys.exit('grpc' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=AT_MOST_S)

    assert answer.returncode == 0, answer.stderr


def test_ctrl_c_while_the_command_is_loaded_ends_it_without_a_word(tmp_path: Path) -> None:
    """As later on: a traceback tells people nothing. Entered as the installed command enters it."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["hostler"].split(":")
    # The first module of others that is loaded, and it takes its time.
    (tmp_path / "typer.py").write_text(f"import time\nprint('loading', flush=True)\ntime.sleep({AT_MOST_S})\n")
    command = [sys.executable, "-c", f"from {module} import {function}; {function}()", "jobs"]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join((str(tmp_path), str(ROOT))))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as begun:
        try:
            assert begun.stdout is not None and begun.stdout.readline() == b"loading\n"
            begun.send_signal(signal.SIGINT)
            _, said = begun.communicate(timeout=AT_MOST_S / 2)
        finally:
            begun.kill()

    assert (begun.returncode, said) == (130, b"")
