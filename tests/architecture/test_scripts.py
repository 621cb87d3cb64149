"""scripts/hostler: the first thing that a newcomer runs."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, ROOT

ECHO = '#!/bin/sh\nprintf "%s|" "$@"\nenv >"$0.env"\nexit 7\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a blank in its path that has the scripts and nothing installed."""
    place = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", place / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def pretend_installed(checkout: Path) -> None:
    """Put a command that echoes its arguments where the installation would have put the real one."""
    commands = checkout / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name in ("python", "hostler"):
        (commands / name).write_text(ECHO)
        (commands / name).chmod(0o755)
    content = (checkout / "pyproject.toml").read_bytes()
    checksum = subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout.decode().strip()
    (checkout / ".venv" / "hostler-run").write_text(f"{checksum} {checkout}\n")


def run(command: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *command* from another directory, with *environment* laid over ours."""
    return subprocess.run(
        [command, *arguments],
        cwd="/",
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_once_installed_it_is_the_command_with_its_arguments_output_and_status(checkout: Path) -> None:
    """Through a symbolic link and from another directory too; blanks and empty arguments arrive as they are."""
    pretend_installed(checkout)
    link = checkout.parent / "link"
    link.symlink_to(checkout / "scripts" / "hostler")

    done = run(link, "run", "--", "a b", "", "*")

    assert (done.returncode, done.stdout, done.stderr) == (7, "run|--|a b||*|", "")


def test_it_changes_nothing_in_the_environment_that_the_command_gets(checkout: Path) -> None:
    """The environment becomes that of jobs: a name that the caller exported must not be used by the script."""
    pretend_installed(checkout)
    mine = {name: "mine" for name in ("root", "venv", "log", "python", "name", "level", "have", "seen", "PYTHONPATH")}

    run(checkout / "scripts" / "hostler", **mine)

    seen = (checkout / ".venv" / "bin" / "hostler.env").read_text().splitlines()
    assert {f"{name}=mine" for name in mine} <= set(seen)


def test_without_a_usable_python_it_says_so_and_what_to_do(checkout: Path) -> None:
    """Nothing on stdout, nothing made, and the interpreter that was found is named with its version."""
    programs = checkout.parent / "programs"
    programs.mkdir()
    for name in ("sh", "readlink", "cksum", "flock"):
        found = shutil.which(name)
        assert found is not None, name
        (programs / name).symlink_to(found)
    (programs / "python3").write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\n')
    (programs / "python3").chmod(0o755)

    done = run(checkout / "scripts" / "hostler", "jobs", PATH=str(programs), PYTHON="")

    assert (done.returncode, done.stdout) == (1, "")
    assert "python3 is Python 3.9.2" in done.stderr
    assert "next: install one" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.ci
@pytest.mark.timeout(400)
def test_two_first_uses_at_once_install_once_and_both_are_the_command(checkout: Path, tmp_path: Path) -> None:
    """With a fresh home and nothing installed; stdout holds only what the command says."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    environment = os.environ | {"HOME": str(tmp_path), "COLUMNS": "100"}
    both = [
        subprocess.Popen(
            [checkout / "scripts" / "hostler", "--help"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for _ in range(2)
    ]
    try:
        said = [process.communicate(timeout=150) for process in both]
    finally:
        for process in both:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the installers it started
                process.wait()
    alone = run(checkout / "scripts" / "hostler", "--help", HOME=str(tmp_path), COLUMNS="100")

    assert [process.returncode for process in both] == [0, 0], said
    assert (alone.returncode, alone.stderr) == (0, "")
    assert [out for out, _ in said] == [alone.stdout, alone.stdout]
    assert "".join(err for _, err in said).count("installing into .venv") == 1
