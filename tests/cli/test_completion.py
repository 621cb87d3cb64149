"""Completion: what the shells offer when somebody presses Tab, asked of the shells themselves."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from hostler.cli.completion import offers
from hostler.cli.completion_scripts import SCRIPTS
from hostler.cli.known_words import words_of_cluster
from hostler.cli.main import app
from hostler.cli.options import Place
from hostler.jobs import JobSpec, Work
from hostler.workloads import Workload
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import WORKER, FakeCluster, exited

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0
A_SPEC = JobSpec(work=Work(argv=("sleep", "100"), cwd="/"))


def offered(*words: str) -> list[str]:
    """What could stand in place of the last of these words."""
    return [one.text for one in offers(typer.main.get_command(app), words)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["expl"], ["explain"]),
        (["workers", "re"], ["resume", "release", "revoke"]),
        (["jobs", "--sta"], ["--state"]),
        (["jobs", "--state", "fin"], ["finished"]),
        (["jobs", "--state=fin"], ["--state=finished"]),
        (["jobs", "--state", "=", "fin"], ["finished"]),  # as bash has it
        (["jobs", "--state", "="], ["queued", "assigned", "running", "stopping", "finished"]),
        (["--json", "--data-dir", "/tmp", "completion", ""], ["bash", "zsh", "fish"]),
        (["signal", "x", "TE"], ["TERM"]),
        (["top", "--sort", "m"], ["memory"]),
        (["run", ""], [":programs"]),
        (["run", "--tag", "a=b", "--", ""], [":programs"]),
        (["run", "ls", "--a"], [":files"]),  # what follows the program is the program's
        (["workloads", "apply", ""], [":files"]),
        (["submit", "--file", ""], [":files"]),
        (["jobs", "--name", ""], []),
        (["show", "--nothing", "'unfinished"], []),
        (["no-such-command", "x"], []),
        ([], [name for name, one in typer.main.get_command(app).commands.items() if not one.hidden]),  # type: ignore
    ],
)
def test_commands_options_and_fixed_words_are_offered(words: list[str], found: list[str]) -> None:
    """Those that begin as what was typed; of files and programs the shell knows more."""
    assert offered(*words) == found


def test_every_argument_of_a_command_is_completed_by_somebody() -> None:
    """A new command cannot be forgotten: each argument has a kind, is a file, or is known to be free text."""
    from hostler.cli.completion import KINDS, WANT_FILES

    free = {"argv", "keys create name", "words"}

    def walk(command: object, path: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*path, name))
        for one in getattr(command, "params", ()):
            if one.param_type_name == "argument":
                full = " ".join((*path, one.name))
                known = {full, one.name} & (KINDS.keys() | WANT_FILES | free)
                assert known, f"{full} is not in hostler.cli.completion.KINDS"

    walk(typer.main.get_command(app), ())


def test_names_and_ids_of_the_running_cluster_are_offered(fake: FakeCluster) -> None:
    """Of the kind that the command takes: open jobs to stop, finished ones to retry."""
    runs = fake.add(spec=replace(A_SPEC, name="two words"))
    over = fake.add(exited(0), spec=replace(A_SPEC, name="over\n"))
    place = Place(coordinator=fake.address)

    def words(kind: str, begun: str = "") -> set[str]:
        end = time.monotonic() + WITHIN_S
        while not (found := words_of_cluster(place, kind, begun)):  # on a busy machine half a second may be too short
            assert time.monotonic() < end
        return {word for word, _ in found}

    assert words("jobs") == {"last", "two words", runs, over}  # a name that is no line cannot be completed
    assert words("open jobs") == {"last", "two words", runs}
    assert words("finished jobs") == {"last", over}
    assert words("workers") == {WORKER.name}


def test_names_that_begin_as_typed_are_offered_however_old_their_jobs_are(fake: FakeCluster) -> None:
    """With blanks and whatever else a name may have; of an id only jobs of the kind that is wanted."""
    names = [f"part {number}" for number in range(100)] + ["it's (a, b) = *!", "and", 'quo"ted']
    for name in names:
        fake.add(exited(0), spec=replace(A_SPEC, name=name))
    over = fake.add(exited(0), spec=A_SPEC, job="abcd0000-0000-4000-8000-00000000000b")
    runs = fake.add(spec=A_SPEC, job="abcd0000-0000-4000-8000-00000000000a")
    for number in range(100):
        fake.add(exited(0), spec=replace(A_SPEC, name=f"other {number}"))

    def words(begun: str, kind: str = "finished jobs") -> set[str]:
        end = time.monotonic() + WITHIN_S
        while not (found := words_of_cluster(Place(coordinator=fake.address), kind, begun)):
            assert time.monotonic() < end
        return {word for word, _ in found if word.startswith(begun)}

    assert words("part") == words("part ") == set(names[:100])
    assert words("part 9") == {f"part {number}" for number in (9, *range(90, 100))}
    assert [words(begun) for begun in ("it's (", "and", 'quo"')] == [{name} for name in names[100:]]
    assert words("abcd") == {over} and words("abcd", "open jobs") == {runs}


def test_of_a_workloads_documentation_the_first_line_is_offered(fake: FakeCluster) -> None:
    """A list has a line for each word."""
    fake.kept.versions["tell"] = [Workload(name="tell", documentation="Tell it.\n\nAll of it.", version=1)]
    end = time.monotonic() + WITHIN_S
    while not (found := words_of_cluster(Place(coordinator=fake.address), "workloads", "")):
        assert time.monotonic() < end
    assert found == [("tell", "Tell it.")]


def test_a_cluster_that_is_silent_costs_half_a_second_and_no_word(place: Path) -> None:
    """Somebody is in the middle of a line."""
    path = str(place / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        words_of_cluster(Place(coordinator=f"unix:{path}"), "jobs", "")  # modules are loaded once
        began = time.monotonic()
        assert words_of_cluster(Place(coordinator=f"unix:{path}"), "jobs", "") == []
        assert time.monotonic() - began < WITHIN_S / 10
    assert words_of_cluster(Place(coordinator=f"unix:{path}"), "jobs", "") == []
    assert words_of_cluster(Place(coordinator="nonsense"), "jobs", "") == []


def test_commands_are_completed_without_loading_what_talks_to_a_cluster() -> None:
    """So that they are there at once."""
    program = """
import sys
from hostler.cli.main import call
call(["complete", "--", "jobs", "--sta"])
call(["complete", "--", "wo"])
heavy = {"grpc", "google.protobuf", "asyncio", "rich.console", "hostler.client"} & sys.modules.keys()
assert not heavy, heavy
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split("\t")[0] for line in ran.stdout.splitlines()] == ["--state", "worker", "workers", "workloads"]


@pytest.fixture
def environment(place: Path, fake: FakeCluster) -> Mapping[str, str]:
    """One in which `hostler` is this checkout's, and its cluster the fake one."""
    command = place / "hostler"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m hostler.cli.main "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    given = {"PATH": f"{place}:{os.environ['PATH']}", "HOME": str(place), "PYTHONPATH": str(ROOT)}
    return given | {"HOSTLER_COORDINATOR": fake.address, "LANG": "C.UTF-8"}


def in_shell(shell: str, program: str, environment: Mapping[str, str]) -> list[str]:
    """The lines that a shell prints."""
    ran = subprocess.run([shell, "-c", program], env=environment, capture_output=True, text=True, timeout=WITHIN_S)
    assert ran.stderr == ""
    return ran.stdout.splitlines()


BASH_TAB = """
source <(hostler completion bash)
complete -p hostler >/dev/null || echo "hostler is not completed"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p hostler | sed 's/.*-F \\([^ ]*\\).*/\\1/') hostler
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def test_bash_offers_them(environment: Mapping[str, str], fake: FakeCluster) -> None:
    """By the script as it is printed; names that need quotes get them."""
    fake.add(spec=replace(A_SPEC, name="it's $one"))

    def tab(words: str) -> list[str]:
        return in_shell("bash", BASH_TAB.format(words=words), environment)

    assert tab("hostler wo") == ["worker", "workers", "workloads"]
    assert tab("hostler jobs --state = f") == ["finished"]
    assert "ls" in tab("hostler run l")
    end = time.monotonic() + WITHIN_S
    while (found := tab("hostler attach it\\'")) != ["it\\'s\\ \\$one"]:
        assert time.monotonic() < end, found
    # In quotes that are open it is what belongs there: readline closes them.
    assert tab("hostler attach \\'it") == ["it'\\''s $one"]
    assert tab('hostler attach \\"it') == ["it's \\$one"]


def test_fish_and_zsh_take_their_scripts(environment: Mapping[str, str]) -> None:
    """Where they are installed they run them: fish is asked for offers, zsh whether it has the function."""
    if shutil.which("fish"):
        asked = "hostler completion fish | source; complete -C 'hostler wo'"
        assert [line.split("\t")[0] for line in in_shell("fish", asked, environment)] == [
            "worker",
            "workers",
            "workloads",
        ]
    if shutil.which("zsh"):
        asked = "autoload -Uz compinit; compinit -u -D; source <(hostler completion zsh); print $_comps[hostler]"
        assert in_shell("zsh", asked, environment) == ["_hostler"]
    assert in_shell("bash", "hostler completion zsh", environment) == SCRIPTS["zsh"].strip().splitlines()


def test_another_shell_is_refused_with_those_that_there_are(hostler: Callable[..., Answer]) -> None:
    """In a line, as every error."""
    answer = hostler("completion", "tcsh")
    assert answer.code == 2
    assert answer.err == "hostler: there is no completion for 'tcsh'\n  next: the shells are bash, zsh and fish\n"
