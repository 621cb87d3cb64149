"""What was asked of a job is told in full: by `show`, as JSON, and by `explain`."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import pytest

from hostler.asked import asked_sentences
from hostler.cli.render import job_lines, work_text
from hostler.jobs import OWN_KEY, Container, File, Job, JobSpec, Limits, PythonScript, Service, Stage, Terminal, Work
from hostler.lifecycle import State
from hostler.shape import job_shape

SECRET = "s3cr3t-value"
# A value of each field that is not its default; and what must be asked for besides, or it means nothing.
OF_A_JOB: dict[str, Any] = {
    "name": "n",
    "owner": "somebody",
    "family": "pixyz",
    "key": "k",
    "worker": "w",
    "labels": {"zone": "a"},
    "priority": 3,
    "slots": 2,
    "workload": "render",
    "workload_version": 4,
    "params": '{"a": 1}',
    "retries": 2,
    "retry_on": ("exit",),
    "on_lost": "retry",
    "lost_after_s": -1.0,
    "crash_limit": 2,
    "start_within_s": 30.0,
    "secrets": {"TOKEN": "render-token"},
    "stages": (Stage(workload="a"),),
    "tags": {"batch": "7"},
    "where": "gpu",
}
OF_ITS_WORK: dict[str, Any] = {
    "argv": ("other",),
    "env": {"PASSWORD": SECRET},
    "cwd": "/srv",
    "timeout_s": 5.0,
    "grace_s": 3.0,
    "output_bytes_max": 1000,
    "leftovers_wait": True,
    "stdin": True,
    "files": (File(path="inputs/a"),),
    "workspace": True,
    "stdin_path": "inputs/a",
    "python": PythonScript(path="script/a.py"),
    "container": Container(image="busybox"),
    "service": Service(name="summarize"),
    "result_stdout": True,
    "merge": True,
    "limits": Limits(pids=50),
    "output_stop": True,
    "loss_policy": "stop",
    "start_path": "hardened",
    "terminal": Terminal(rows=30),
}
NEEDS: dict[str, Any] = {
    "workload_version": {"workload": "render"},
    "retry_on": {"retries": 2},
    "on_lost": {"work": Work(argv=("true",), loss_policy="stop")},
    "output_stop": {"work": Work(argv=("true",), output_bytes_max=1000)},
    "python": {"work": Work()},
}
UNTOLD_IN_JSON = {
    "params",  # a file of its own, of which `inputs` tells
    "container",  # the workload's own, which /v1/workloads tells
    "service",
    "result_stdout",
}
UNTOLD_BY_EXPLAIN = {"owner", "family", "params"}


def with_and_without(name: str) -> tuple[JobSpec, JobSpec]:
    """A job that asks for it, and one that does not."""
    plain = replace(JobSpec(work=Work(argv=("true",))), **NEEDS.get(name, {}))
    if name in OF_A_JOB:
        return replace(plain, **{name: OF_A_JOB[name]}), plain
    return replace(plain, work=replace(plain.work, **{name: OF_ITS_WORK[name]})), plain


def shown(spec: JobSpec) -> list[tuple[str, str]]:
    """What `show` prints."""
    return list(job_lines(Job(id="x", spec=spec, state=State.QUEUED)))


def explained(spec: JobSpec) -> list[str]:
    """What `explain` prints as what was asked."""
    return [work_text(spec), *asked_sentences(spec, {})]


def as_json(spec: JobSpec) -> dict[str, Any]:
    """What /v1 answers."""
    return job_shape(Job(id="x", spec=spec, state=State.QUEUED))


def names_of(kind: type, *besides: str) -> Iterable[str]:
    """The fields of a value."""
    return [field.name for field in fields(kind) if field.name not in besides]


def test_every_field_of_a_job_has_a_value_here() -> None:
    """Whoever adds one says how it is told, or this fails."""
    assert set(OF_A_JOB) == set(names_of(JobSpec, "work", "principal"))
    assert set(OF_ITS_WORK) == set(names_of(Work))


@pytest.mark.parametrize("name", [*OF_A_JOB, *OF_ITS_WORK])
def test_what_differs_from_its_default_is_told(name: str) -> None:
    """In every way that a job is told, and what is the default makes no line."""
    asked, plain = with_and_without(name)

    assert shown(asked) != shown(plain)
    assert (as_json(asked) != as_json(plain)) == (name not in UNTOLD_IN_JSON)
    assert (explained(asked) != explained(plain)) == (name not in UNTOLD_BY_EXPLAIN)


def test_a_plain_job_has_no_line_of_what_was_not_asked() -> None:
    """Only what it runs, how it stands, its log and its owner."""
    assert [label for label, _ in shown(JobSpec(work=Work(argv=("true",))))] == [
        *("job", "command", "state", "log", "owner")
    ]


def test_limits_and_the_start_path_are_shown() -> None:
    """In the words of the documentation."""
    work = Work(argv=("true",), limits=Limits(memory_bytes=1 << 26, cpus=1.5, pids=50), start_path="hardened")
    spec = JobSpec(work=replace(work, output_bytes_max=1000, output_stop=True))

    lines = dict(shown(spec))

    limits = "67,108,864 bytes of memory, 1.5 processors, 50 processes and threads"
    assert lines["limits"] == f"{limits}, 1,000 bytes of output, and it is ended there"
    assert lines["program"] == "start path hardened"
    told = explained(spec)
    assert "It starts on the hardened path: in a PID namespace of its own, without new privileges." in told
    assert as_json(spec)["start_path"] == "hardened"


def test_values_of_variables_are_told_nowhere() -> None:
    """People put passwords into them; and of a secret of the cluster's it is told which one it is."""
    spec = JobSpec(work=Work(argv=("true",), env={"PASSWORD": SECRET}), secrets={"TOKEN": "render-token"})

    for told in (shown(spec), explained(spec), as_json(spec)):
        assert SECRET not in str(told)
        assert "PASSWORD" in str(told) and "render-token" in str(told)


def test_a_key_that_a_client_made_itself_is_not_told() -> None:
    """Nobody has asked for it."""
    plain = JobSpec(work=Work(argv=("true",)))
    own = replace(plain, key=f"{OWN_KEY}1")
    assert (shown(own), explained(own), as_json(own)) == (shown(plain), explained(plain), as_json(plain))
