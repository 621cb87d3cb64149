"""A workload and what a job gives for it become the work that a worker executes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.errors import HostlerError, InvalidRequest, TooLarge
from hostler.expansion import check_workload, complete, expand, runtime_needed
from hostler.job_checks import check_spec
from hostler.jobs import INLINE_BYTES_MAX, Container, File, JobSpec, PythonScript, Service, Work
from hostler.workloads import ResultFrom, Runtime, Stdin, Workload

JOB = "aaaabbbb-1111-4111-8111-111111111111"
DIGEST = "ab" * 32
COMMAND = Workload(name="mesh", version=3, argv=("mesher", "-q"))
PYTHON = Workload(
    name="report",
    version=1,
    runtime=Runtime.PYTHON,
    script=File(path="report.py", digest=DIGEST, size_bytes=9),
    interpreter="/opt/venv/bin/python",
)


def a_spec(**work: Any) -> JobSpec:
    """A job that names a workload and says no more than *work*."""
    return JobSpec(work=Work(**work), workload="mesh")


def made(workload: Workload, spec: JobSpec) -> JobSpec:
    """The expansion of what is right."""
    result = expand(workload, spec, JOB)
    assert isinstance(result, JobSpec), result
    return result


def refused(workload: Workload, spec: JobSpec) -> HostlerError:
    """What is wrong."""
    result = expand(workload, spec, JOB)
    assert isinstance(result, HostlerError)
    return result


def contents(spec: JobSpec) -> dict[str, bytes]:
    """The files of a job that carry their content."""
    return {file.path: file.content for file in spec.work.files if not file.digest}


def test_a_command_runs_in_a_workspace() -> None:
    """The program is the workload's, the rest of the job stays."""
    spec = replace(a_spec(), priority=7, name="n", key="k", owner="o", worker="w", family="pixyz")

    result = made(COMMAND, spec)

    assert result == replace(spec, work=Work(argv=("mesher", "-q"), workspace=True), workload_version=3, retries=0)


def test_a_script_gets_its_parameters_as_a_file() -> None:
    """Also when none were given."""
    result = made(PYTHON, a_spec())

    assert result.work.argv == ()
    assert result.work.python == PythonScript(
        path="script/report.py", entrypoint="main", interpreter="/opt/venv/bin/python"
    )
    script, params = result.work.files
    assert script == File(path="script/report.py", digest=DIGEST, size_bytes=9)
    assert params == File(path="params.json", content=b"{}")


def test_a_command_gets_parameters_when_there_are_some() -> None:
    """As the text that came."""
    assert contents(made(COMMAND, a_spec())) == {}
    assert contents(made(COMMAND, replace(a_spec(), params='{ "a":1.10 }'))) == {"params.json": b'{ "a":1.10 }'}


@pytest.mark.parametrize("params", ['{"a": 1}', "[1]", '"x"'])
def test_standard_input_can_be_the_parameters(params: str) -> None:
    """Any JSON, as it came; the caller's own file goes before."""
    reader = replace(COMMAND, stdin=Stdin.PARAMS)

    result = made(reader, replace(a_spec(), params=params))
    assert result.work.stdin_path == "params.json"
    assert contents(result) == {"params.json": params.encode()}
    own = made(reader, a_spec(files=(File(path="inputs/x", content=b"x"),), stdin_path="inputs/x"))
    assert (own.work.stdin_path, contents(own)) == ("inputs/x", {"inputs/x": b"x"})


def test_standard_input_can_be_the_job() -> None:
    """The id is the job's, whatever the parameters say."""
    reader = replace(COMMAND, stdin=Stdin.JOB)

    result = made(reader, replace(a_spec(), params='{"a": 1, "id": "forged"}'))

    assert json.loads(contents(result)["stdin.json"]) == {"a": 1, "id": JOB}
    assert refused(reader, replace(a_spec(), params="[1]")).field == "params"


def test_scalar_parameters_are_variables_too() -> None:
    """For programs that read no JSON; what cannot be one is left to the file."""
    params = {
        "speed": 1.5,
        "Count": 3,
        "on": True,
        "text": "a b\n",
        "nothing": None,
        "list": [1],
        "with-dash": 1,
        "twice": 1,
        "TWICE": 2,
        "long": "x" * 8193,
        "nul": "a\0b",
        "half": "\ud800",
        "ok": "x" * 8192,
    }

    env = made(COMMAND, replace(a_spec(env={"A": "caller"}), params=json.dumps(params))).work.env

    assert env == {
        "A": "caller",
        "HOSTLER_PARAM_SPEED": "1.5",
        "HOSTLER_PARAM_COUNT": "3",
        "HOSTLER_PARAM_ON": "true",
        "HOSTLER_PARAM_TEXT": "a b\n",
        "HOSTLER_PARAM_OK": "x" * 8192,
    }


def test_what_the_caller_says_goes_before_what_the_workload_says() -> None:
    """And what he does not say is the workload's."""
    workload = replace(
        COMMAND,
        env={"A": "1", "B": "1"},
        cwd="/w",
        timeout_s=10.0,
        grace_s=1.0,
        output_bytes_max=100,
        retries=2,
        retry_on=("timeout",),
        labels={"gpu": "1"},
        slots=4,
    )

    plain = made(workload, a_spec())
    assert plain.work == Work(
        argv=COMMAND.argv,
        env={"A": "1", "B": "1"},
        cwd="/w",
        timeout_s=10.0,
        grace_s=1.0,
        output_bytes_max=100,
        workspace=True,
    )
    assert (plain.retries, plain.retry_on, plain.labels, plain.slots) == (2, ("timeout",), {"gpu": "1"}, 4)
    own = replace(
        a_spec(env={"B": "2"}, cwd="/c", timeout_s=99.0, grace_s=2.0, output_bytes_max=5),
        retries=0,
        retry_on=("exit",),
        labels={"gpu": "1", "site": "x"},
        slots=0,
    )
    said = made(workload, own)
    assert said.work.env == {"A": "1", "B": "2"}
    assert (said.work.cwd, said.work.timeout_s, said.work.grace_s, said.work.output_bytes_max) == ("/c", 99.0, 2.0, 5)
    assert (said.retries, said.retry_on, said.labels, said.slots) == (0, ("exit",), {"gpu": "1", "site": "x"}, 0)


@pytest.mark.parametrize(
    ("workload", "spec", "field"),
    [
        (COMMAND, a_spec(argv=("sh",)), "argv"),
        (COMMAND, a_spec(python=PythonScript(path="x.py"), files=(File(path="x.py"),)), "python"),
        (replace(COMMAND, stdin=Stdin.PARAMS), a_spec(stdin=True), "stdin"),
        (replace(COMMAND, labels={"gpu": "1"}), replace(a_spec(), labels={"gpu": "0"}), "labels"),
        (replace(COMMAND, secrets={"TOKEN": "t"}), a_spec(env={"TOKEN": "mine"}), "env"),
        (COMMAND, a_spec(env={"HOSTLER_PARAM_A": "unchecked"}), "env"),
        (COMMAND, replace(a_spec(), params="{"), "params"),
        (replace(COMMAND, params_schema='{"type": "array"}'), a_spec(), "params"),
        (PYTHON, a_spec(files=(File(path="params.json"),)), "files"),
        (PYTHON, a_spec(files=(File(path="script/report.py"),)), "files"),
        (PYTHON, a_spec(files=(File(path="script/report.py/x"),)), "files"),
        (COMMAND, a_spec(files=(File(path="progress"),)), "files"),
        (COMMAND, a_spec(files=(File(path="result.json/x"),)), "files"),
        (COMMAND, a_spec(files=(File(path="outputs"),)), "files"),
        (COMMAND, a_spec(files=(File(path="inputs/a"), File(path="inputs/a/b"))), "files"),
        (COMMAND, a_spec(files=(File(path="../x"),)), "files"),
        (COMMAND, a_spec(files=(File(path="inputs/a"), File(path="inputs/a"))), "files"),
        (COMMAND, a_spec(stdin_path="inputs/none"), "stdin_path"),
        (COMMAND, replace(a_spec(), retries=101), "retries"),
        (replace(PYTHON, script=None), a_spec(), "script"),
    ],
)
def test_what_cannot_be_is_an_answer(workload: Workload, spec: JobSpec, field: str) -> None:
    """Never an exception; the field says where."""
    error = refused(workload, spec)

    assert isinstance(error, InvalidRequest) and error.field == field


def test_parameters_that_do_not_fit_are_too_large() -> None:
    """The sentence speaks of what the caller gave."""
    reader = replace(COMMAND, stdin=Stdin.PARAMS)

    with_id = replace(COMMAND, stdin=Stdin.JOB)  # which has them twice

    for workload, size in ((reader, INLINE_BYTES_MAX - 7), (with_id, INLINE_BYTES_MAX // 2)):
        error = refused(workload, replace(a_spec(), params=json.dumps({"a": "x" * size})))
        assert isinstance(error, TooLarge) and error.field == "params"
    made(reader, replace(a_spec(), params=json.dumps({"a": "x" * (INLINE_BYTES_MAX - 20)})))


def test_a_job_of_its_own_gets_the_same() -> None:
    """A custom script or command with parameters and files."""
    plain = JobSpec(work=Work(argv=("x",)))
    assert complete(plain) is plain

    script = Work(python=PythonScript(path="script/a.py"), files=(File(path="script/a.py", digest=DIGEST),))
    given = complete(JobSpec(work=script, params='{"a": 1}'))
    assert isinstance(given, JobSpec)
    assert given.work.workspace and contents(given) == {"params.json": b'{"a": 1}'}
    assert given.work.env == {"HOSTLER_PARAM_A": "1"}
    bare = complete(JobSpec(work=script))
    assert isinstance(bare, JobSpec) and contents(bare) == {"params.json": b"{}"}
    files = complete(JobSpec(work=Work(argv=("x",), files=(File(path="inputs/a", content=b"a"),))))
    assert isinstance(files, JobSpec) and files.work.workspace and contents(files) == {"inputs/a": b"a"}
    assert isinstance(complete(replace(plain, params="{")), InvalidRequest)
    clash = replace(plain, params="{}", work=Work(argv=("x",), files=(File(path="params.json"),)))
    assert isinstance(complete(clash), InvalidRequest)


@pytest.mark.parametrize("workload", [COMMAND, PYTHON], ids=["command", "python"])
@pytest.mark.parametrize(
    "path",
    [
        *("script/html.py", "script/html/__init__.py", "script/__pycache__/html.cpython-311.pyc", "script"),
        *("html.py", ".hostler", ".local/lib/python3.11/site-packages/x.pth", "outputs/a", "inputs", "inputsx/a"),
        *("params.json/x", "stdin.json", "progress", "result.json", "failure.json"),
    ],
)
def test_a_job_of_a_workload_brings_nothing_that_its_program_could_execute(workload: Workload, path: str) -> None:
    """Beside its script, in its current directory and its home a file could take the place of a module."""
    error = refused(workload, a_spec(files=(File(path="inputs/a"), File(path=path, content=b"x"))))

    assert isinstance(error, InvalidRequest) and error.field == "files"
    made(workload, a_spec(files=(File(path="inputs/script/html.py", content=b"x"),)))


def test_a_script_of_ones_own_brings_modules_beside_it() -> None:
    """Who may bring a script may bring what it imports."""
    files = (File(path="script/a.py", digest=DIGEST), File(path="script/html.py", content=b"x = 1"))
    given = complete(JobSpec(work=Work(python=PythonScript(path="script/a.py"), files=files)))

    assert isinstance(given, JobSpec) and set(files) < set(given.work.files)


NAMES = st.sampled_from(["a", "inputs/a", "inputs/b", "params.json", "script/report.py", "script", "progress", "x/y"])
SPECS = st.builds(
    lambda paths, params, retries, env, stdin: JobSpec(
        work=Work(files=tuple(File(path=path, content=b"c") for path in paths), env=env, stdin=stdin),
        params=params,
        retries=retries,
        workload="w",
    ),
    st.lists(NAMES, max_size=3),
    st.sampled_from(["", "{}", '{"a": 1, "A": 2, "b": [null]}', "[]", "{", '"\\ud800"', '{"x": "\\u0000"}']),
    st.sampled_from([None, 0, 3, 1000]),
    st.dictionaries(st.sampled_from(["A", "B=", "HOSTLER_PARAM_X", ""]), st.text(max_size=3), max_size=2),
    st.booleans(),
)
WORKLOADS = st.sampled_from([COMMAND, PYTHON]).flatmap(
    lambda one: st.builds(replace, st.just(one), stdin=st.sampled_from(Stdin), retries=st.sampled_from([0, 3]))
)


@given(workload=WORKLOADS, spec=SPECS)
@settings(max_examples=300, deadline=None)
def test_an_expansion_is_acceptable_and_always_the_same(workload: Workload, spec: JobSpec) -> None:
    """What comes out is right by the rules of jobs, equal for equal input, and nothing else ever comes out."""
    first, second = expand(workload, spec, JOB), expand(workload, spec, JOB)

    if isinstance(first, HostlerError):
        assert isinstance(second, HostlerError) and second.message == first.message
        return
    assert first == second
    assert check_spec(first) is None and first.work.workspace
    given = {file.path for file in spec.work.files}
    assert given <= {file.path for file in first.work.files}
    other = expand(workload, spec, "another")
    assert isinstance(other, JobSpec)
    without = [file for file in first.work.files if file.path != "stdin.json"]
    assert [file for file in other.work.files if file.path != "stdin.json"] == without


CONTAINER = Workload(
    name="app",
    version=2,
    runtime=Runtime.CONTAINER,
    stdin=Stdin.PARAMS,
    result=ResultFrom.STDOUT,
    container=Container(image="localhost/app:1"),
)
SERVICE = replace(CONTAINER, runtime=Runtime.SERVICE, stdin=Stdin.NOTHING, result=ResultFrom.FILE)
URL = replace(SERVICE, container=None, service=Service(url="https://there:8443/v1"))


def test_a_container_is_the_program() -> None:
    """JSON on standard input, JSON on standard output."""
    work = made(replace(CONTAINER, argv=("serve",), env={"A": "1"}), replace(a_spec(), params='{"n": 1}')).work

    assert (work.container, work.service, work.argv) == (CONTAINER.container, None, ("serve",))
    assert (work.stdin_path, work.result_stdout, work.env["A"]) == ("params.json", True, "1")
    assert runtime_needed(work) is Runtime.CONTAINER


def test_a_service_is_called_with_the_parameters() -> None:
    """Its container's program is that of the workload, and its attempts share it by name and version."""
    service = Service(health_path="/ok")
    workload = replace(SERVICE, argv=("serve",), env={"A": "1"}, service=service)
    work = made(workload, a_spec(env={"B": "1"})).work

    assert work.service == replace(
        service, name="app", version=2, container=CONTAINER.container, argv=("serve",), env={"A": "1"}
    )
    assert (work.argv, work.container, work.env, work.stdin_path) == ((), None, {"B": "1"}, "")
    assert contents(made(workload, a_spec())) == {"params.json": b"{}"}
    assert runtime_needed(work) is Runtime.CONTAINER
    assert runtime_needed(made(URL, a_spec()).work) is Runtime.COMMAND


def test_stored_parameters_are_not_looked_at() -> None:
    """They are the program's file, and its standard input when it reads them there."""
    stored = File(path="params.json", digest=DIGEST, size_bytes=1 << 20)
    process = replace(COMMAND, stdin=Stdin.PARAMS, params_schema='{"type": "array"}')

    work = made(process, a_spec(files=(stored,))).work
    assert (work.files, work.stdin_path) == ((stored,), "params.json")
    given = expand(process, a_spec(), JOB, stored=replace(stored, path="result"))
    assert isinstance(given, JobSpec) and given.work == work
    assert isinstance(refused(replace(COMMAND, stdin=Stdin.JOB), a_spec(files=(stored,))), TooLarge)


@pytest.mark.parametrize(
    "workload",
    [
        COMMAND,
        PYTHON,
        replace(COMMAND, secrets={"TOKEN": "t"}, families=("pixyz",)),
        replace(COMMAND, result=ResultFrom.STDOUT, allowed_networks=("10.0.0.0/8", "::1"), resources='{"a": [1]}'),
        CONTAINER,
        replace(CONTAINER, stdin=Stdin.NOTHING, result=ResultFrom.FILE, argv=("x",), env={"A": "1"}),
        SERVICE,
        URL,
        replace(SERVICE, service=Service(health_path="/a?b=%20", start_s=1.5), argv=("x",), env={"A": "1"}),
        replace(URL, secrets={"T": "t"}, service=Service(url="http://[::1]:80", token_variable="T", check_status=True)),
    ],
)
def test_a_right_workload_is_accepted(workload: Workload) -> None:
    """Nothing is said."""
    assert check_workload(workload) is None


@pytest.mark.parametrize(
    ("workload", "field"),
    [
        (replace(COMMAND, name=""), "name"),
        (replace(COMMAND, name="a/b"), "name"),
        (replace(COMMAND, name=".a"), "name"),
        (replace(COMMAND, documentation="x" * 70_000), "documentation"),
        (replace(COMMAND, documentation="\ud800"), "workload"),
        (replace(COMMAND, families=("nobody",)), "families"),
        (replace(COMMAND, argv=()), "argv"),
        (replace(COMMAND, argv=("",)), "argv"),
        (replace(COMMAND, argv=("a\0",)), "argv"),
        (replace(COMMAND, script=PYTHON.script), "script"),
        (replace(COMMAND, interpreter="python"), "interpreter"),
        (replace(PYTHON, argv=("x",)), "argv"),
        (replace(PYTHON, script=None), "script"),
        (replace(PYTHON, script=File(path="a/b.py", digest=DIGEST)), "script"),
        (replace(PYTHON, script=File(path="..", digest=DIGEST)), "script"),
        (replace(PYTHON, script=File(path="b.py")), "script"),
        (replace(PYTHON, entrypoint="a.b"), "entrypoint"),
        (replace(PYTHON, entrypoint="class"), "entrypoint"),
        (replace(COMMAND, params_schema="{"), "params_schema"),
        (replace(COMMAND, retries=101), "retries"),
        (replace(COMMAND, retry_on=("weather",)), "retry_on"),
        (replace(COMMAND, timeout_s=float("nan")), "timeout_s"),
        (replace(COMMAND, grace_s=-1.0), "grace_s"),
        (replace(COMMAND, labels={"": "x"}), "labels"),
        (replace(COMMAND, slots=0), "slots"),
        (replace(COMMAND, env={"A=": "x"}), "env"),
        (replace(COMMAND, secrets={"1A": "x"}), "secrets"),
        (replace(COMMAND, secrets={"A": "../x"}), "secrets"),
        (replace(COMMAND, secrets={"A": "x"}, env={"A": "y"}), "secrets"),
        (replace(COMMAND, secrets={"HOSTLER_JOB": "x"}), "secrets"),
        (replace(COMMAND, container=CONTAINER.container), "container"),
        (replace(PYTHON, container=CONTAINER.container), "container"),
        (replace(COMMAND, service=URL.service), "service"),
        (replace(CONTAINER, service=URL.service), "service"),
        (replace(CONTAINER, container=None), "container"),
        (replace(CONTAINER, script=PYTHON.script), "script"),
        (replace(CONTAINER, interpreter="python"), "interpreter"),
        (replace(CONTAINER, argv=("", "x")), "argv"),
        (replace(SERVICE, argv=("",)), "argv"),
        (replace(SERVICE, stdin=Stdin.PARAMS), "stdin"),
        (replace(SERVICE, result=ResultFrom.STDOUT), "result"),
        (replace(PYTHON, result=ResultFrom.STDOUT), "result"),
        (replace(SERVICE, container=None), "service"),
        (replace(URL, container=CONTAINER.container), "service"),
        (replace(URL, argv=("x",)), "argv"),
        (replace(URL, env={"A": "1"}), "env"),
        (replace(SERVICE, service=Service(token_variable="TOKEN")), "service"),
        (replace(COMMAND, allowed_networks=("here",)), "allowed_networks"),
        (replace(COMMAND, allowed_networks=("10.0.0.0/33",)), "allowed_networks"),
        (replace(COMMAND, allowed_networks=("::1",) * 101), "allowed_networks"),
        (replace(COMMAND, resources="[]"), "resources"),
        (replace(COMMAND, resources='{"a": NaN}'), "resources"),
        (replace(COMMAND, resources='{"a": "' + "x" * 70_000 + '"}'), "resources"),
    ],
)
def test_a_wrong_workload_is_refused_by_name(workload: Workload, field: str) -> None:
    """The text names the workload, the field the part."""
    error = check_workload(workload)

    assert error is not None and error.field == field
    assert repr(workload.name) in error.message
