"""workloads apply, list, show and remove, and submitting jobs of workloads, against a fake cluster."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hostler.jobs import Advance, Failure, File, JobSpec, OutputFile, Outputs, Step, Work
from hostler.shape import workload_shape
from hostler.wire.workloads import workload_from_proto, workload_to_proto
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import FakeCluster, exited, out

Hostler = Callable[..., Answer]
SCRIPT = 'def main(ctx, params):\n    """Say hello."""\n'


def write(folder: Path, **files: str) -> Path:
    """Put files into a folder; ``a_toml`` is ``a.toml``."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_apply_stores_scripts_and_says_each_version(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """A directory is one set of workloads; what is as it was keeps its version."""
    write(tmp_path, b_toml='runtime = "python"\nscript = "b.py"', b_py=SCRIPT, a_toml='argv = ["true"]')

    assert hostler("workloads", "apply", str(tmp_path)) == Answer(0, "a version 1\nb version 1\n", "")
    assert list(fake.kept.stored.values()) == [SCRIPT.encode()]
    script = fake.kept.versions["b"][0].script
    assert script is not None and script.digest == hashlib.sha256(SCRIPT.encode()).hexdigest()
    write(tmp_path, a_toml='argv = ["false"]')
    assert hostler("workloads", "apply", str(tmp_path)).out == "a version 2\nb version 1 unchanged\n"
    answer = hostler("workloads", "apply", str(tmp_path / "a.toml"), "--json")
    assert json.loads(answer.out) == {"workloads": [{"name": "a", "version": 2, "changed": False}]}


def test_nothing_is_sent_when_one_file_is_wrong(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """The sentence names the file and the key."""
    write(tmp_path, a_toml='argv = ["true"]', b_toml='argv = ["true"]\nargs = 1')

    answer = hostler("workloads", "apply", str(tmp_path))

    assert answer.code == 2 and "b.toml: args:" in answer.err
    assert (fake.kept.stored, fake.kept.versions) == ({}, {})
    assert hostler("workloads", "apply", str(tmp_path / "none.toml")).code == 3
    assert hostler("workloads", "apply", str(write(tmp_path / ".."))).code == 2  # there is no TOML file


def test_list_show_and_remove(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """Old versions stay to be looked at; what is not there is code 3."""
    assert "no workloads" in hostler("workloads", "list").err
    for word in ("true", "false"):
        write(tmp_path, a_toml=f'documentation = "Does\\nit."\nargv = ["{word}"]\n[params_schema]\ntype = "object"')
        hostler("workloads", "apply", str(tmp_path))
    shape = workload_shape(workload_from_proto(workload_to_proto(fake.kept.versions["a"][1])))

    assert hostler("workloads", "list").out.splitlines()[1].split() == ["a", "2", "command", "Does"]
    assert json.loads(hostler("workloads", "list", "--json").out) == {"workloads": [shape]}
    assert json.loads(hostler("--json", "workloads", "show", "a").out) == shape
    assert "false" in hostler("workloads", "show", "a").out
    assert "true" in hostler("workloads", "show", "a", "--version", "1").out
    assert hostler("workloads", "show", "a", "--version", "3").code == 3
    assert hostler("workloads", "remove", "a") == Answer(0, "a removed\n", "")
    assert hostler("workloads", "remove", "a").code == 3


def test_submitting_a_workload_sends_files_and_parameters(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """The job holds only what differs from the workload; the files' bytes are stored first."""
    write(tmp_path, a_step="scene", all_json='{"speed": 1, "z": [1]}')

    answer = hostler(
        *("submit", "--workload", "mesh", "--workload-version", "2", "--retries", "3", "--name", "n"),
        *("--retry-on", "signal", "--retry-on", "timeout"),
        *("--file", str(tmp_path / "a.step"), "--file", f"in/b.step={tmp_path / 'a.step'}"),
        *("--params", f"@{tmp_path / 'all.json'}", "--param", "speed=2.5", "--param", "on=true"),
        *("--param", "who=007", "--param", 'list:=[1, "x"]', "--param", 'text:="5"', "--param", "empty="),
    )

    (job,) = fake.jobs.values()
    assert answer == Answer(0, f"{job.id}\n", "")
    digest = hashlib.sha256(b"scene").hexdigest()
    files = tuple(File(path=f"inputs/{name}", digest=digest, size_bytes=5) for name in ("a.step", "in/b.step"))
    assert job.spec.work == Work(files=files)
    assert (job.spec.workload, job.spec.workload_version, job.spec.retries, job.spec.name) == ("mesh", 2, 3, "n")
    assert job.spec.retry_on == ("signal", "timeout")
    expected = {"speed": 2.5, "z": [1], "on": True, "who": "007", "list": [1, "x"], "text": "5", "empty": ""}
    assert json.loads(job.spec.params) == expected


def test_a_plain_command_may_have_files_and_a_workspace(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """Then it runs in its workspace; without them it runs where the person is, as ever."""
    write(tmp_path, a_txt="x")
    hostler("submit", "--file", str(tmp_path / "a.txt"), "--", "wc", "inputs/a.txt")
    hostler("submit", "--workspace", "--cwd", "/", "--", "make")
    hostler("submit", "--", "make")

    first, second, third = (job.spec.work for job in fake.jobs.values())
    assert (first.workspace, first.cwd, [file.path for file in first.files]) == (True, "", ["inputs/a.txt"])
    assert (second.workspace, second.cwd) == (True, "/")
    assert (third.workspace, third.cwd) == (False, str(Path.cwd()))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (("--workload", "a", "--", "x"), 2),
        (("--param", "novalue", "--workload", "a"), 2),
        (("--param", "=1", "--workload", "a"), 2),
        (("--param", "a:=[", "--workload", "a"), 2),
        (("--params", "[1]", "--param", "a=1", "--workload", "a"), 2),
        (("--params", "{", "--param", "a=1", "--workload", "a"), 2),
        (("--params", "@/nowhere/x", "--workload", "a"), 3),
        (("--file", "/nowhere/x", "--workload", "a"), 3),
        (("--file", "/", "--workload", "a"), 2),
        (("--file", "a=/usr", "--workload", "a"), 2),
        (("--file", "../a=/etc/hostname", "--workload", "a"), 2),
        (("--file", "a=/etc/hostname", "--file", "a=/etc/passwd", "--workload", "a"), 2),
        (("--retries", "101", "--workload", "a"), 2),
        (("--retries", "1", "--retry-on", "bad luck", "--workload", "a"), 2),
        (("--workload-version", "1", "--", "x"), 2),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(
    wrong: tuple[str, ...], code: int, hostler: Hostler, fake: FakeCluster
) -> None:
    """A sentence, the code, and nothing stored."""
    answer = hostler("submit", *wrong)

    assert (answer.code, answer.out, fake.jobs, fake.kept.stored) == (code, "", {}, {})
    assert answer.err.startswith("hostler: ")


def test_a_file_that_arrives_otherwise_is_not_used(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """The digest that the cluster answers is compared."""
    write(tmp_path, a_txt="x")
    fake.kept.spoils = True

    answer = hostler("submit", "--file", str(tmp_path / "a.txt"), "--", "x")

    assert answer.code == 1 and "did not arrive" in answer.err and fake.jobs == {}


def test_follow_goes_on_with_the_next_attempt_and_ends_with_the_outputs(hostler: Hostler, fake: FakeCluster) -> None:
    """What a failed attempt wrote stays; what the job has put out is named."""
    fake.begin = lambda _: (None, out(b"first\n"))

    def again() -> None:
        (job,) = fake.jobs.values()
        fake.jobs[job.id] = replace(job, attempt=2, retried=1)
        fake.ledgers[job.id] = out(b"second\n")
        fake.outputs[job.id] = Outputs(
            files=(OutputFile(path="a.txt", size_bytes=5, modified_at_us=1),), missing=("b: unreadable",)
        )
        fake.after_log = [lambda: fake.end(job.id, replace(exited(0), outputs=1))]

    fake.after_log = [again]

    answer = hostler("submit", "--follow", "--retries", "1", "--workspace", "--", "x")

    assert (answer.code, answer.out) == (0, "first\nsecond\n")
    for text in ("tried again", "a.txt (5 bytes)", "b: unreadable", "hostler outputs get"):
        assert text in answer.err


def test_show_tells_progress_result_failure_and_retries(hostler: Hostler, fake: FakeCluster) -> None:
    """All that a script says of itself."""
    end = replace(
        exited(1),
        advance=Advance(percent=40, steps=(Step(text="mesh", duration_s=2.0), Step(text="solve\x1b[2J"))),
        result=b'{"cells": 4}',
        failure=Failure(type="ValueError", module="builtins", message="no", traceback="Traceback\n  line"),
        outputs=3,
        outputs_missing=("big.bin: too large",),
    )
    job = fake.add(end, spec=JobSpec(work=Work(), workload="mesh", workload_version=2, params='{"a":1}', retries=2))
    fake.jobs[job] = replace(fake.jobs[job], retried=1)

    shown = hostler("show", job).out

    assert "\x1b" not in shown
    for text in ("mesh version 2", '{"a":1}', "40 %", "1: mesh (2.0 s)", "2: solve", '{"cells": 4}', "1 of 2 times"):
        assert text in shown
    for text in ("ValueError: no", "  line", "3 files", "big.bin: too large"):
        assert text in shown
    said = json.loads(hostler("show", job, "--json").out)
    assert said["progress"]["steps"][1] == {"text": "solve\x1b[2J", "duration_s": None}
    assert (said["result"], said["outputs"]["files"], said["retried"], said["retries"]) == ({"cells": 4}, 3, 1, 2)
    assert (said["workload"], said["workload_version"], said["failure"]["type"]) == ("mesh", 2, "ValueError")
