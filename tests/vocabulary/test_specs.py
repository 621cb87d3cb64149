"""What a job may be: each limit says which field is to blame, and what passes can be executed."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.errors import HostlerError, InvalidRequest, TooLarge
from hostler.job_checks import check_spec
from hostler.jobs import (
    ARGV_BYTES_MAX,
    DURATION_S_MAX,
    LABEL_CHARACTERS_MAX,
    LABELS_MAX,
    VARIABLES_MAX,
    WORDS_MAX,
    WORK_BYTES_MAX,
    JobSpec,
    Work,
)
from tests.support.builders import a_spec

NAN, INF = float("nan"), float("inf")
MANY_VARIABLES = {f"NAME_{number}": "x" * 100_000 for number in range(WORK_BYTES_MAX // 100_000 + 1)}
MANY_LABELS = {f"name-{number}": "value" for number in range(LABELS_MAX)}

GOOD = [
    a_spec(),
    a_spec("true", name="n" * 200, owner="o" * 200, key="k" * 200, family="f" * 50),
    a_spec(priority=1000),
    a_spec(priority=-1000),
    a_spec(slots=0),
    a_spec(slots=1024),
    a_spec(labels=MANY_LABELS),
    a_spec(labels={"l" * LABEL_CHARACTERS_MAX: ""}),
    a_spec("true", "", "ünïcödé \n\t"),
    a_spec("true", "x" * ARGV_BYTES_MAX),
    JobSpec(work=Work(argv=("true",), env={"A": "", "ä": "=="}, cwd="/tmp")),
    JobSpec(work=Work(argv=("true",), env={"A": "x" * (ARGV_BYTES_MAX - 2)})),
    JobSpec(work=Work(argv=("true",), timeout_s=DURATION_S_MAX, grace_s=0.0, output_bytes_max=(1 << 62) - 1)),
]

BAD: list[tuple[JobSpec, type[HostlerError], str]] = [
    (JobSpec(work=Work(argv=())), InvalidRequest, "argv"),
    (JobSpec(work=Work(argv=("", "x"))), InvalidRequest, "argv"),
    (a_spec("true", "a\0b"), InvalidRequest, "argv"),
    (a_spec("true", "\udcff"), InvalidRequest, "argv"),
    (a_spec("true", "x" * (ARGV_BYTES_MAX + 1)), TooLarge, "argv"),
    (a_spec("true", "ä" * (ARGV_BYTES_MAX // 2 + 1)), TooLarge, "argv"),
    (a_spec("true", *["x" * 100_000] * 11), TooLarge, "argv"),
    (JobSpec(work=Work(argv=("true",), env=MANY_VARIABLES)), TooLarge, "argv"),
    (JobSpec(work=Work(argv=("",) * (WORDS_MAX + 1))), InvalidRequest, "argv"),
    (JobSpec(work=Work(argv=("true",) * (WORDS_MAX + 1))), TooLarge, "argv"),
    (JobSpec(work=Work(argv=("true",), env={str(n): "" for n in range(VARIABLES_MAX + 1)})), TooLarge, "env"),
    (JobSpec(work=Work(argv=("true",), env={"A": "x" * (ARGV_BYTES_MAX - 1)})), TooLarge, "env"),
    (JobSpec(work=Work(argv=("true",), env={"": "x"})), InvalidRequest, "env"),
    (JobSpec(work=Work(argv=("true",), env={"A=B": "x"})), InvalidRequest, "env"),
    (JobSpec(work=Work(argv=("true",), env={"A\0": "x"})), InvalidRequest, "env"),
    (JobSpec(work=Work(argv=("true",), env={"A": "\0"})), InvalidRequest, "env"),
    (JobSpec(work=Work(argv=("true",), cwd="/\0")), InvalidRequest, "cwd"),
    (JobSpec(work=Work(argv=("true",), output_bytes_max=-1)), InvalidRequest, "output_bytes_max"),
    (JobSpec(work=Work(argv=("true",), output_bytes_max=1 << 62)), InvalidRequest, "output_bytes_max"),
    (a_spec(name="n" * 201), InvalidRequest, "name"),
    (a_spec(owner="o" * 201), InvalidRequest, "owner"),
    (a_spec(key="k" * 201), InvalidRequest, "key"),
    (a_spec(family="f" * 51), InvalidRequest, "family"),
    (a_spec(labels=MANY_LABELS | {"one": "more"}), InvalidRequest, "labels"),
    (a_spec(labels={"": "x"}), InvalidRequest, "labels"),
    (a_spec(labels={"l": "v" * (LABEL_CHARACTERS_MAX + 1)}), InvalidRequest, "labels"),
    (a_spec(priority=1001), InvalidRequest, "priority"),
    (a_spec(priority=-1001), InvalidRequest, "priority"),
    (a_spec(slots=1025), InvalidRequest, "slots"),
    (a_spec(slots=-1), InvalidRequest, "slots"),
]


@pytest.mark.parametrize("spec", GOOD)
def test_what_is_within_the_limits_is_accepted(spec: JobSpec) -> None:
    """Up to the very limit."""
    assert check_spec(spec) is None


@pytest.mark.parametrize(("spec", "kind", "field"), BAD)
def test_what_is_beyond_a_limit_is_refused(spec: JobSpec, kind: type[HostlerError], field: str) -> None:
    """And the error names the field."""
    error = check_spec(spec)

    assert type(error) is kind
    assert error.field == field
    assert error.message


@pytest.mark.parametrize("seconds", [-1.0, NAN, INF, -INF, DURATION_S_MAX + 1])
@pytest.mark.parametrize("field", ["timeout", "grace"])
def test_a_duration_is_a_number_of_seconds(field: str, seconds: float) -> None:
    """What is no number compares with nothing, and must not slip through."""
    work = Work(argv=("true",), timeout_s=seconds) if field == "timeout" else Work(argv=("true",), grace_s=seconds)

    error = check_spec(JobSpec(work=work))
    assert isinstance(error, InvalidRequest)
    assert error.field == field


def test_the_longest_argument_can_be_executed() -> None:
    """The limit is the kernel's, with its final NUL counted."""
    assert subprocess.run(["/bin/true", "x" * ARGV_BYTES_MAX], check=False).returncode == 0
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/bin/true", "x" * (ARGV_BYTES_MAX + 1)], check=False)


@given(st.lists(st.text(st.characters(codec=None)), max_size=4), st.dictionaries(st.text(), st.text(), max_size=3))
def test_any_text_is_accepted_or_refused_and_never_a_crash(argv: list[str], env: dict[str, str]) -> None:
    """What passes can be encoded: it goes to the wire and to execve."""
    spec = JobSpec(work=Work(argv=tuple(argv), env=env))

    if check_spec(spec) is None:
        for text in (*argv, *env, *env.values()):
            assert b"\0" not in text.encode()
