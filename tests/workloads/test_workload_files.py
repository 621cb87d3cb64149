"""Workloads are read from TOML files; what is wrong is said with file, key and what to do."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hostler.errors import FileNotFound, InvalidRequest
from hostler.expansion import check_workload
from hostler.jobs import Container, File, Service
from hostler.workload_files import KINDS, NOT_STORED, SCRIPT_BYTES_MAX, read_directory, read_file, with_script
from hostler.workloads import ResultFrom, Runtime, Stdin, Workload

SCRIPT = 'def main(ctx, params):\n    """Say hello.\n\n    Twice.\n    """\n'


def toml(folder: Path, text: str, name: str = "mesh.toml") -> Path:
    """A file of this text."""
    path = folder / name
    path.write_text(text)
    return path


def test_a_command_needs_nothing_but_argv(tmp_path: Path) -> None:
    """Its name is the file's."""
    definition = read_file(toml(tmp_path, 'argv = ["mesher", "-q"]'))

    assert definition.workload == Workload(name="mesh", argv=("mesher", "-q"))
    assert (definition.script_source, with_script(definition, "")) == (None, definition.workload)


def test_every_key_is_a_field(tmp_path: Path) -> None:
    """And every field that somebody may set is a key."""
    given = {"version", "applied_at_us", "origin"}
    assert set(KINDS) == {one.name for one in fields(Workload)} - given
    text = """
        name = "full"
        documentation = "All of it."
        argv = ["x"]
        stdin = "job"
        cwd = "/w"
        timeout_s = 60
        grace_s = 0.5
        output_bytes_max = 1000
        retries = 2
        retry_on = ["timeout"]
        slots = 3
        external = false
        families = ["pixyz"]
        allowed_networks = ["10.0.0.0/8", "::1/128"]
        proofs = true
        result = "stdout"
        env = { A = "1" }
        labels = { gpu = "1" }
        secrets = { TOKEN = "token" }
        [params_schema]
        type = "object"
        [resources]
        compute = ["cpu"]
    """

    assert read_file(toml(tmp_path, text)).workload == Workload(
        name="full",
        documentation="All of it.",
        argv=("x",),
        stdin=Stdin.JOB,
        cwd="/w",
        timeout_s=60.0,
        grace_s=0.5,
        output_bytes_max=1000,
        retries=2,
        retry_on=("timeout",),
        slots=3,
        external=False,
        families=("pixyz",),
        env={"A": "1"},
        labels={"gpu": "1"},
        secrets={"TOKEN": "token"},
        params_schema=json.dumps({"type": "object"}),
        allowed_networks=("10.0.0.0/8", "::1/128"),
        proofs=True,
        result=ResultFrom.STDOUT,
        resources=json.dumps({"compute": ["cpu"]}),
    )


def test_a_container_speaks_json_unless_it_says_else(tmp_path: Path) -> None:
    """It reads its parameters and prints its result; sizes can have a unit."""
    text = """
        runtime = "container"
        argv = ["serve", "-v"]
        [container]
        image = "localhost/app:1"
        pull = "missing"
        memory = "64M"
        cpus = 1
        pids = 20
        network = "bridge"
        user = "1000:1000"
        writable = true
        volumes = ["/srv/models:/models:ro", "/tmp/x:/x"]
        capabilities = ["NET_BIND_SERVICE"]
    """
    container = Container(
        image="localhost/app:1",
        pull="missing",
        memory_bytes=64 << 20,
        cpus=1.0,
        pids=20,
        network="bridge",
        user="1000:1000",
        writable=True,
        volumes=("/srv/models:/models:ro", "/tmp/x:/x"),
        capabilities=("NET_BIND_SERVICE",),
    )
    assert read_file(toml(tmp_path, text)).workload == Workload(
        name="mesh",
        runtime=Runtime.CONTAINER,
        argv=("serve", "-v"),
        stdin=Stdin.PARAMS,
        result=ResultFrom.STDOUT,
        container=container,
    )
    own = toml(tmp_path, 'runtime = "container"\nstdin = ""\nresult = ""\n[container]\nimage = "a"\nmemory = 67108864')
    plain = read_file(own).workload
    assert (plain.stdin, plain.result) == (Stdin.NOTHING, ResultFrom.FILE)
    assert plain.container == Container(image="a", memory_bytes=64 << 20)


def test_a_service_is_a_container_or_an_address(tmp_path: Path) -> None:
    """What the workload says of its container's program stays with the workload."""
    text = 'runtime = "service"\nenv = {A = "1"}\n[container]\nimage = "a"\nport = 80\n[service]\nstart_s = 5'
    own = read_file(toml(tmp_path, text)).workload
    assert (own.container, own.service) == (Container(image="a", port=80), Service(start_s=5.0))
    assert (own.stdin, own.result, own.env) == (Stdin.NOTHING, ResultFrom.FILE, {"A": "1"})
    text = """
        runtime = "service"
        secrets = { TOKEN = "t" }
        [service]
        url = "https://there/v1"
        token_variable = "TOKEN"
        health_path = "/ok"
        check_status = true
    """
    service = Service(url="https://there/v1", token_variable="TOKEN", health_path="/ok", check_status=True)
    assert read_file(toml(tmp_path, text)).workload.service == service


def test_a_script_lies_beside_and_documents_itself(tmp_path: Path) -> None:
    """Its bytes come along; it is acceptable once they have a digest."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/a.py").write_text(SCRIPT)

    definition = read_file(toml(tmp_path, 'runtime = "python"\nscript = "scripts/a.py"\ninterpreter = "/v/python"'))

    workload = definition.workload
    assert (workload.runtime, workload.interpreter) == (Runtime.PYTHON, "/v/python")
    assert workload.script == File(path="a.py", size_bytes=len(SCRIPT))
    assert workload.documentation == "Say hello.\n\nTwice."
    assert definition.script_source == SCRIPT.encode()
    assert check_workload(with_script(definition, NOT_STORED)) is None
    own = toml(tmp_path, 'documentation = "Own."\nruntime = "python"\nscript = "scripts/a.py"')
    assert read_file(own).workload.documentation == "Own."


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('argv = ["x"]\nargs = ["y"]', "args"),
        ('argv = "x"', "argv"),
        ("argv = [1]", "argv"),
        ('argv = ["x"]\ntimeout_s = "60"', "timeout_s"),
        ('argv = ["x"]\ntimeout_s = true', "timeout_s"),
        ('argv = ["x"]\ntimeout_s = -1', "timeout_s"),
        ('argv = ["x"]\nretries = 1.5', "retries"),
        ('argv = ["x"]\nretries = -1', "retries"),
        ('argv = ["x"]\nexternal = "no"', "external"),
        ('argv = ["x"]\nenv = { A = 1 }', "env"),
        ('argv = ["x"]\nruntime = "java"', "runtime"),
        ('argv = ["x"]\nruntime = ["command"]', "runtime"),
        ('argv = ["x"]\nstdin = "file"', "stdin"),
        ('argv = ["x"]\nparams_schema = "{}"', "params_schema"),
        ('argv = ["x"]\nparams_schema = { const = 1979-05-27 }', "params_schema"),
        ('argv = ["x"]\nparams_schema = { type = "nmber" }', "params_schema"),
        ('argv = ["x"]\nname = "a b"', "name"),
        ('argv = ["x"]\nversion = 2', "version"),
        ("", "argv"),
        ('script = "a.py"', "script"),
        ('runtime = "python"', "script"),
        ('runtime = "python"\nscript = "none.py"', "script"),
        ('runtime = "python"\nscript = "."', "script"),
        ('runtime = "python"\nscript = "../outside.py"', "script"),
        ('runtime = "python"\nscript = "/etc/hostname"', "script"),
        ('runtime = "python"\nscript = "link.py"', "script"),
        ('runtime = "python"\nscript = "circle.py"', "script"),
        ('runtime = "python"\nscript = "large.py"', "script"),
        ('runtime = "python"\nscript = "a.py"\nentrypoint = "other"', "script"),
        ('runtime = "python"\nscript = "broken.py"', "script"),
        ('runtime = "python"\nscript = "a.py"\nargv = ["x"]', "argv"),
        ('argv = ["x"]\nresult = "stderr"', "result"),
        ('argv = ["x"]\nproofs = 1', "proofs"),
        ('argv = ["x"]\nallowed_networks = ["10.0.0.1/8"]', "allowed_networks"),
        ('argv = ["x"]\nresources = "{}"', "resources"),
        ('argv = ["x"]\nresources = { at = 1979-05-27 }', "resources"),
        ('argv = ["x"]\ncontainer = { image = "a" }', "container"),
        ('argv = ["x"]\nservice = { url = "http://a" }', "service"),
        ('runtime = "container"', "container"),
        ('runtime = "container"\ncontainer = "a"', "container"),
        ('runtime = "container"\ncontainer = { pull = "never" }', "container"),
        ('runtime = "container"\ncontainer = { image = "a", images = "b" }', "container"),
        ('runtime = "container"\ncontainer = { image = "a", memory = "64 M" }', "container"),
        ('runtime = "container"\ncontainer = { image = "a", memory = 1.5 }', "container"),
        ('runtime = "container"\ncontainer = { image = "a", cpus = true }', "container"),
        ('runtime = "container"\ncontainer = { image = "a", port = 80 }', "container"),
        ('runtime = "service"', "service"),
        ('runtime = "service"\nservice = { url = "http://a", name = "b" }', "service"),
        ('runtime = "service"\nservice = { url = "http://a" }\ncontainer = { image = "a" }', "service"),
    ],
)
def test_what_is_wrong_is_named(text: str, key: str, tmp_path: Path) -> None:
    """One sentence with the file and the key."""
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "outside.py").write_text(SCRIPT)
    (folder / "a.py").write_text(SCRIPT)
    (folder / "broken.py").write_text("def main(:")
    (folder / "large.py").write_bytes(b"#" * (SCRIPT_BYTES_MAX + 1))
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    (folder / "circle.py").symlink_to("circle.py")

    with pytest.raises(InvalidRequest) as caught:
        read_file(toml(folder, text))

    assert caught.value.message.startswith(f"{folder / 'mesh.toml'}: {key}: ")
    assert caught.value.field == key


@pytest.mark.parametrize("content", [b"argv = [", b"\xff", b"#" * (1024 * 1024 + 1), b"a = " + b"[" * 100_000])
def test_a_file_that_is_no_toml_is_an_answer(content: bytes, tmp_path: Path) -> None:
    """It names the file."""
    (tmp_path / "a.toml").write_bytes(content)

    with pytest.raises(InvalidRequest, match=r"a\.toml"):
        read_file(tmp_path / "a.toml")


def test_a_directory_is_read_in_order(tmp_path: Path) -> None:
    """Other files and folders in it do not matter; a file stands for itself."""
    for name in ("b.toml", "a.toml"):
        toml(tmp_path, 'argv = ["x"]', name)
    (tmp_path / "c.toml").mkdir()
    toml(tmp_path, "not = TOML", "notes.txt")

    assert [one.workload.name for one in read_directory(tmp_path)] == ["a", "b"]
    assert [one.workload.name for one in read_directory(tmp_path / "b.toml")] == ["b"]
    toml(tmp_path, 'name = "a"\nargv = ["x"]', "z.toml")
    with pytest.raises(InvalidRequest, match="name: a is the name in"):
        read_directory(tmp_path)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    """And not a fault of the request's form."""
    for read in (read_directory, read_file):
        with pytest.raises(FileNotFound):
            read(tmp_path / "none.toml")


def test_what_ships_with_the_package_can_be_used() -> None:
    """Every definition in hostler/shipped is right."""
    shipped = Path(__file__).parents[2] / "hostler/shipped"

    for definition in read_directory(shipped) if shipped.is_dir() else []:
        assert check_workload(with_script(definition, NOT_STORED)) is None


def test_a_start_reads_what_ships_without_loading_the_library_of_schemas() -> None:
    """It is a tenth of a coordinator's memory, and nobody may ever ask for it; the test above has checked them."""
    program = """
import sys
from pathlib import Path
from hostler.workload_files import read_directory
from hostler.workloads import Origin
read = read_directory(Path(sys.argv[1]), Origin.SHIPPED)
assert any(each.workload.params_schema for each in read)
assert all(each.workload.origin is Origin.SHIPPED for each in read)
assert "jsonschema" not in sys.modules
"""
    shipped = Path(__file__).parents[2] / "hostler/shipped"

    subprocess.run([sys.executable, "-c", program, shipped], check=True, cwd=shipped.parents[1], timeout=60)
