"""A script as a job: real processes, started as a worker starts them."""

import ast
import json
import sys
from pathlib import Path

import pytest

from hostler.jobs import PythonScript
from tests.script.conftest import Place, other_interpreters
from worker_agent.runtimes import python
from worker_agent.runtimes.python import command_of, install

SLEEP = '''
import time
from pixyz_worker.script import *

def main(pc: ProgramContext, params):
    """Sleep for a moment."""
    time.sleep(0.01)
'''
PROGRESS = """
from pixyz_worker.script import ProgramContext

def main(pc: ProgramContext, params: dict):
    pc.progress_set_total(3)
    pc.progress_next("first")
    pc.progress_next("second")
    pc.progress_stop()
    return 1
"""
API_TEST = """
from pixyz_worker.script import *

def main(pc: ProgramContext, params):
    pc.progress_set_total(1)
    pc.progress_next("say hello")
    pc.progress_stop()
    return {"output": "Hello World!", "params": params}
"""
DECORATED = """
from pixyz_worker import script
from pixyz_worker.script import pixyz_schedule

@pixyz_schedule
def bare(pc, params):
    return "bare"

@script.pixyz_schedule(queue="gpu", wait=True, timeout=30)
def main(pc, params):
    return [bare(pc, params), pc.is_local(), pc.is_compute_only()]
"""
DOCUMENTED = '''
def main(pc, params):
    """Does nothing, and says so."""
'''
# What a job may do, in one script that every interpreter from 3.8 on must run.
EVERYTHING = """
import dataclasses, multiprocessing, pickle, sys
from hostler.script import Context

@dataclasses.dataclass
class Size:
    width: "int" = 3

def square(n):
    return n * n

async def main(ctx: Context, params):
    ctx.total(2)
    ctx.step("one")
    ctx.step("two")
    ctx.done()
    (ctx.output_dir / "made.txt").write_text("made")
    same = pickle.loads(pickle.dumps(Size()))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        nine = pool.map(square, [3])[0]
    return {"params": params, "same": same == Size(), "nine": nine, "inputs": [p.name for p in ctx.input_files],
            "job": ctx.job_id, "first": ctx.input_file.name, "argv": len(sys.argv), "version": sys.version_info[:2]}
"""


@pytest.mark.parametrize(
    ("name", "source", "result"),
    [
        ("00_sleep.py", SLEEP, None),
        ("00_progress.py", PROGRESS, 1),
        ("api_test.py", API_TEST, {"output": "Hello World!", "params": {"a": [1]}}),
        ("decorated.py", DECORATED, ["bare", False, False]),
        ("documented.py", DOCUMENTED, None),
    ],
)
def test_scripts_for_the_pixyz_scheduler_run_unchanged(name: str, source: str, result: object, place: Place) -> None:
    """Exit code 0, the result as it was returned, and nothing else left behind."""
    done = place.run(source, {"a": [1]}, name=name)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert place.result() == result
    assert place.left() <= {"result.json", "progress"}
    assert [path.name for path in (place.workspace / "script").iterdir()] == [name]


def test_progress_is_appended_line_by_line_with_the_time(place: Place) -> None:
    """In the format that docs/scripts.md gives."""
    place.run(PROGRESS)

    lines = place.progress()
    assert [{key: value for key, value in line.items() if key != "at"} for line in lines] == [
        {"total": 3},
        {"step": "first"},
        {"step": "second"},
        {"stop": True},
    ]
    times = [line["at"] for line in lines]
    assert times == sorted(times)


def check_everything(place: Place, interpreter: str, options: tuple[str, ...], env: dict[str, str]) -> list[int]:
    """Run EVERYTHING; return the version of the Python that ran it."""
    place.put("inputs/b.step", "b")
    place.put("inputs/a.step", "a")

    done = place.run(EVERYTHING, {"x": "é"}, interpreter=interpreter, options=options, env=env, name="00_all.py")

    assert (done.returncode, done.stderr) == (0, "")
    result = place.result()
    version: list[int] = result.pop("version")
    assert result == {
        "params": {"x": "é"},
        "same": True,
        "nine": 9,
        "inputs": ["a.step", "b.step"],
        "job": "0d9f",
        "first": "a.step",
        "argv": 1,
    }
    assert (place.workspace / "outputs" / "made.txt").read_text() == "made"
    return version


def test_nothing_but_the_folder_is_needed(place: Place) -> None:
    """Without site-packages, without PYTHONPATH, without the checkout in the current directory."""
    version = check_everything(place, "", ("-I", "-S"), {"PYTHONPATH": "/nowhere"})

    assert version == list(sys.version_info[:2])


def test_other_interpreters_of_this_machine_run_it(place: Place, tmp_path: Path) -> None:
    """The oldest and the newest that there are; and all files are Python 3.8 for those that are not here."""
    for number, interpreter in enumerate(other_interpreters()):
        workspace = tmp_path / str(number)
        (workspace / "outputs").mkdir(parents=True)
        check_everything(Place(workspace=workspace, folder=place.folder), interpreter, (), {"HOME": str(tmp_path)})

    files = list(place.folder.rglob("*.py"))
    assert len(files) == 5
    for file in files:
        ast.parse(file.read_text(), feature_version=(3, 8))


def test_an_installed_hostler_stays_importable(place: Place) -> None:
    """Its modules and its version are found behind the folder."""
    root = Path(python.__file__).parents[2]
    source = """
import hostler, hostler.ids, hostler.script
def main(ctx, params):
    return [hostler.__version__, hostler.script.__file__]
"""
    done = place.run(source, env={"PYTHONPATH": f"{place.folder}:{root}"})

    assert done.returncode == 0, done.stderr
    assert place.result()[0][0].isdigit()
    assert place.result()[1] == str(place.folder / "hostler" / "script.py")


def test_an_exception_is_a_failure_and_its_traceback_begins_in_the_script(place: Place) -> None:
    """In the log and in the file alike; exit code 1; the output before it is there; no result."""
    source = "def main(ctx, params):\n    print('before')\n    deeper()\n\ndef deeper():\n    raise KeyError('é')\n"

    done = place.run(source)

    assert (done.returncode, done.stdout) == (1, "before\n")
    failure = place.failure()
    assert (failure["type"], failure["module"], failure["message"]) == ("KeyError", "builtins", "'é'")
    assert failure["traceback"] == done.stderr
    lines = done.stderr.splitlines()
    assert lines[1] == f'  File "{place.workspace}/script/job.py", line 3, in main'
    assert "hostler/script.py" not in done.stderr
    assert place.left() == {"failure.json"}


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("def main(c, p):\n  return 'x' * (1 << 26)", "ValueError", "the result is 67108866 bytes; at most 67108864"),
        ("class E(Exception):\n  pass\ndef main(c, p):\n  raise E('own')", "E", "own"),
        ("class E(Exception):\n  def __str__(s): 1 / 0\ndef main(c, p):\n  raise E", "E", "without a text"),
        ("def main(ctx):\n  pass", "TypeError", "positional argument"),
        ("def main(ctx, params)\n  pass", "SyntaxError", ""),
        ("import nothing_of_this_name\ndef main(c, p): pass", "ModuleNotFoundError", "nothing_of_this_name"),
        ("def other(c, p): pass", "AttributeError", "The script file does not have the function main"),
        ("main = 3", "AttributeError", "The script file does not have the function main"),
        ("def main(c, p):\n  return main(c, p)", "RecursionError", ""),
        ("def main(c, p):\n  x = []\n  x.append(x)\n  return x", "RecursionError", ""),
        ("async def main(c, p):\n  raise OSError('late')", "OSError", "late"),
        ("def main(c, p):\n  raise GeneratorExit('odd')", "GeneratorExit", "odd"),
        ("def main(c, p):\n  raise ValueError('\\ud800')", "ValueError", "?"),
        ("def main(c, p):\n  raise ValueError('\\0' * 10**6)", "ValueError", "\0" * 1000),
        ("def main(c, p):\n  c.get_output_dir('../x')", "ValueError", "leads out of the directory"),
    ],
)
def test_whatever_a_script_raises_is_one_failure(source: str, kind: str, message: str, place: Place) -> None:
    """It has type, message and traceback, fits what a worker reads, and nothing of ours is in the traceback."""
    done = place.run(source)

    failure = place.failure()
    assert (done.returncode, failure["type"]) == (1, kind)
    assert message in failure["message"]
    assert kind in failure["traceback"]
    assert "hostler/script.py" not in failure["traceback"] or "leads out" in message
    assert (place.workspace / "failure.json").stat().st_size <= 256 * 1024
    assert place.left() == {"failure.json"}


def test_out_of_memory_leaves_no_failure(place: Place) -> None:
    """So that another attempt may follow, as with a script that the kernel ended for its memory."""
    done = place.run("def main(ctx, params):\n    raise MemoryError")

    assert done.returncode == 1
    assert "MemoryError" in done.stderr
    assert place.left() == set()


@pytest.mark.parametrize(
    ("call", "code", "said"), [("sys.exit(7)", 7, ""), ("sys.exit()", 0, ""), ("sys.exit('no')", 1, "no\n")]
)
def test_sys_exit_is_an_ordinary_exit(call: str, code: int, said: str, place: Place) -> None:
    """No failure, no result, and what was printed is not lost."""
    done = place.run(f"import sys\ndef main(ctx, params):\n    print('x', end='')\n    {call}")

    assert (done.returncode, done.stdout, done.stderr) == (code, "x", said)
    assert place.left() == set()


def test_an_interrupt_ends_it_as_it_ends_python(place: Place) -> None:
    """SIGINT is the signal that it died of."""
    done = place.run("import os, signal\ndef main(ctx, params):\n    os.kill(os.getpid(), signal.SIGINT)\n    input()")

    assert done.returncode == -2
    assert place.left() == set()


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("float('nan')", "nan"),
        ("[float('-inf'), 1.5, True, None]", ["-inf", 1.5, True, None]),
        ("{(1, 2): {3}, 4: b'x', None: 1}", {"(1, 2)": "{3}", "4": "b'x'", "null": 1}),
        ("(ctx.output_dir.name, 'a\\ud800')", ["outputs", "a?"]),
        ("__import__('pathlib').PurePosixPath('/x')", "/x"),
        ("__import__('enum').IntEnum('N', 'ONE')(1)", 1),
        ("'é' * 131071", "é" * 131071),
    ],
)
def test_what_json_cannot_hold_becomes_its_text(value: str, result: object, place: Place) -> None:
    """The result file is strict JSON in UTF-8, up to 262,144 bytes."""
    done = place.run(f"def main(ctx, params):\n    return {value}")

    assert done.returncode == 0, done.stderr
    assert place.result() == result
    strict = (place.workspace / "result.json").read_bytes().decode()
    json.loads(strict, parse_constant=lambda constant: pytest.fail(constant))


def test_output_is_there_when_it_was_printed(place: Place) -> None:
    """A script that dies at once has said what it said, also without the end of a line."""
    done = place.run("import os\ndef main(ctx, params):\n    print('half', end='')\n    os._exit(3)")

    assert (done.returncode, done.stdout) == (3, "half")


@pytest.mark.parametrize("name", ["json.py", "hostler.py", "traceback.py", "script.py"])
def test_a_script_may_have_the_name_of_a_module(name: str, place: Place) -> None:
    """The module of that name is not replaced by it."""
    done = place.run("from hostler.script import Context\ndef main(ctx, params):\n    return __name__", name=name)

    assert done.returncode == 0, done.stderr
    assert place.result() in (Path(name).stem, f"script_{Path(name).stem}")


def test_progress_that_cannot_be_written_does_not_end_the_work(place: Place) -> None:
    """It is said in the log."""
    done = place.run("def main(ctx, params):\n    ctx.percent(3)", env={"HOSTLER_PROGRESS_FILE": "/nowhere/progress"})

    assert done.returncode == 0
    assert "progress was not noted" in done.stderr


def test_the_folder_is_written_once_and_mended_when_it_differs(tmp_path: Path) -> None:
    """A file that is right is left alone: jobs may be using it."""
    folder = install(tmp_path / "new" / "folder")
    starter, script = folder / "start.py", folder / "hostler" / "script.py"
    before = starter.stat().st_ino
    script.write_text("broken")

    assert install(tmp_path / "new" / "folder") == folder
    assert starter.stat().st_ino == before
    assert script.read_bytes() == (Path(python.__file__).parents[2] / "hostler" / "script.py").read_bytes()
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(python.SOURCES)


def test_every_file_of_the_source_folder_is_installed() -> None:
    """None is forgotten, and pkgutil finds nothing of it as a part of worker_agent."""
    source = Path(python.__file__).parents[1] / "script_path"
    there = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}

    assert there | {"hostler/script.py"} == set(python.SOURCES)
    assert not (source / "__init__.py").exists()


def test_the_command_is_absolute_and_names_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the workspace is given relatively."""
    monkeypatch.chdir(tmp_path)
    script = PythonScript(path="script/a.py", entrypoint="go", interpreter="/opt/python")

    argv, env = command_of(script, Path("work"), Path("folder"))

    assert argv == ("/opt/python", f"{tmp_path}/folder/start.py", f"{tmp_path}/work/script/a.py", "go")
    assert env == {"PYTHONPATH": f"{tmp_path}/folder", "PYTHONUNBUFFERED": "1"}
