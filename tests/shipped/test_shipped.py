"""The workloads that ship with hostler, run as a worker runs them: a script in a process of its own, with its files."""

import json
import os
import struct
import subprocess
import sys
import xml.etree.ElementTree
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hostler.expansion import expand
from hostler.jobs import JobSpec, Work
from hostler.workload_files import Definition, read_directory, read_file, with_script
from hostler.workloads import Runtime, Workload
from tests.architecture.sources import ROOT

SHIPPED = ROOT / "hostler" / "shipped"
START = "import sys; from hostler.script import run; sys.exit(run(sys.argv[1:]))"
MESSAGES = [{"sender": "ada", "text": "hello there", "image": None}, {"sender": "bob", "text": "hi", "image": "A"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a program left."""

    code: int
    out: str
    err: str
    result: Any
    progress: list[dict[str, Any]]
    outputs: Path


class Workspace:
    """A directory as an attempt gets it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("inputs", "outputs"):
            (path / name).mkdir(parents=True)

    def put(self, name: str, content: bytes) -> None:
        """Put an input file there."""
        (self.path / "inputs" / name).write_bytes(content)

    def run(self, command: list[str], params: Any = None, stdin: bytes = b"") -> Ended:
        """Run a program to its end."""
        names = {"PROGRESS": "progress", "RESULT": "result.json", "FAILURE": "failure.json", "PARAMS": "params.json"}
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HOSTLER_WORKSPACE": str(self.path),
            "HOSTLER_INPUT_DIR": str(self.path / "inputs"),
            "HOSTLER_OUTPUT_DIR": str(self.path / "outputs"),
            **{f"HOSTLER_{name}_FILE": str(self.path / file) for name, file in names.items()},
        }
        (self.path / "params.json").write_text(json.dumps({} if params is None else params))
        done = subprocess.run(
            command, cwd=self.path, env=environment, input=stdin, capture_output=True, timeout=110, check=False
        )
        result, progress = self.path / "result.json", self.path / "progress"
        return Ended(
            code=done.returncode,
            out=done.stdout.decode(),
            err=done.stderr.decode(),
            result=json.loads(result.read_text()) if result.exists() else None,
            progress=[json.loads(line) for line in progress.read_text().splitlines()] if progress.exists() else [],
            outputs=self.path / "outputs",
        )

    def script(self, script: Path, params: Any = None, stdin: bytes = b"") -> Ended:
        """Run a script's main."""
        return self.run([sys.executable, "-c", START, str(script)], params, stdin)

    def shipped(self, name: str, params: Any = None, stdin: bytes = b"") -> Ended:
        """Run a shipped workload."""
        return self.script(SHIPPED / f"{name}.py", params, stdin)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty one."""
    return Workspace(tmp_path / "workspace")


def shipped() -> dict[str, Definition]:
    """Every shipped definition by its name."""
    return {definition.workload.name: definition for definition in read_directory(SHIPPED)}


# Definitions


def test_every_shipped_workload_is_a_python_script_with_a_documentation() -> None:
    """Seven of them; those of an API family are shown there."""
    found = {name: definition.workload for name, definition in shipped().items()}

    assert set(found) == {
        "api_test", "sleep", "report", "altron_job", "altron_reply", "text-clean", "text-stats",
    }  # fmt: skip
    assert all(workload.runtime is Runtime.PYTHON and workload.documentation for workload in found.values())
    assert {name for name, workload in found.items() if workload.shown_to("pixyz")} == {"api_test", "sleep", "report"}
    assert {name for name, workload in found.items() if workload.shown_to("altron")} == {"altron_job", "altron_reply"}
    assert {name for name, workload in found.items() if workload.shown_to("infernet")} == {"text-clean", "text-stats"}


def expanded(name: str, params: Any) -> Any:
    """What a job of a shipped workload becomes, or what is wrong with it."""
    workload = with_script(shipped()[name], "0" * 64)
    return expand(workload, JobSpec(work=Work(), workload=name, params=json.dumps(params)), "job")


@pytest.mark.parametrize(
    ("name", "params", "accepted"),
    [
        ("api_test", {}, True),
        ("api_test", [1], True),
        ("sleep", {}, True),
        ("sleep", {"duration": 2}, True),
        ("sleep", {"duration": "2"}, False),
        ("sleep", {"duration": -1}, False),
        ("report", {"column": "size", "bins": 5}, True),
        ("report", {"bins": 0}, False),
        ("altron_job", {"title": "", "description": "", "priority": 7}, True),
        ("altron_job", {"title": "a"}, False),
        ("altron_reply", MESSAGES, True),
        ("altron_reply", {}, False),
        ("text-clean", {"text": "a"}, True),
        ("text-stats", ["any", {"json": None}], True),
    ],
)
def test_parameters_are_checked_before_anything_runs(name: str, params: Any, accepted: bool) -> None:
    """By the schemas in the definitions."""
    assert isinstance(expanded(name, params), JobSpec) is accepted


# api_test, sleep


def test_api_test_says_hello_and_its_parameters_in_one_step(workspace: Workspace) -> None:
    """As the server that PiXYZ's clients know."""
    ended = workspace.shipped("api_test", {"a": [1, None]})

    assert (ended.code, ended.result) == (0, {"output": "Hello World!", "params": {"a": [1, None]}})
    assert [next(iter(line)) for line in ended.progress] == ["total", "step", "stop"]


@pytest.mark.parametrize(("params", "slept_s"), [({}, 0.1), ({"duration": 0}, 0), ({"duration": 0.02}, 0.02)])
def test_sleep_says_how_long_it_slept(workspace: Workspace, params: Any, slept_s: float) -> None:
    """A tenth of a second unless told otherwise."""
    ended = workspace.shipped("sleep", params)

    assert (ended.code, ended.result) == (0, {"sleep": slept_s})


# altron_job


def test_an_altron_job_is_acknowledged_with_a_checklist(workspace: Workspace) -> None:
    """It does not pretend to have done the work."""
    description = "- Build the parser\n2) Test the parser with bad input\n\n* [ ] Ship it"
    ended = workspace.shipped("altron_job", {"title": "Parser", "description": description, "priority": 4})

    assert ended.code == 0, ended.err
    assert ended.result["keywords"][0] == "parser"
    assert ended.result["checklist"] == ["Build the parser", "Test the parser with bad input", "Ship it"]
    assert "[ ] 3. Ship it" in ended.result["text"]
    assert "done nothing else" in ended.result["text"]
    assert ended.out == ended.result["text"] + "\n"


@pytest.mark.parametrize("description", ["", "\n \n", "One thing. Another thing!", "日本語 🐎", "- \n-"])
def test_any_description_is_acknowledged(workspace: Workspace, description: str) -> None:
    """Empty ones and those of other scripts too."""
    ended = workspace.shipped("altron_job", {"title": "", "description": description, "priority": 0})

    assert (ended.code, ended.result["text"][:10]) == (0, "Job: (no t")


# altron_reply


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("ping", "pong"),
        ("@Altron, PING!", "pong"),
        ("2 * (3 + 4)", "2 * (3 + 4) = 14"),
        ("what is 2^10?", "2^10 = 1024"),
        ("1/8 =", "1/8 = 0.125"),
    ],
)
def test_the_default_reply_knows_a_little(workspace: Workspace, text: str, reply: str) -> None:
    """It answers the last message."""
    ended = workspace.shipped("altron_reply", [*MESSAGES, {"sender": "ada", "text": text, "image": None}])

    assert (ended.code, ended.result) == (0, {"text": reply})


@pytest.mark.parametrize(
    "text", ["1/0", "9**9**9", "9" * 300, "(" * 150, "1 +", "555 1234", "3.5", "(-8)**0.5", "1e5", "", "."]
)
def test_what_is_no_arithmetic_is_summed_up(workspace: Workspace, text: str) -> None:
    """Quickly, whatever somebody writes."""
    ended = workspace.shipped("altron_reply", [*MESSAGES, {"sender": "ada", "text": text, "image": None}])

    assert ended.code == 0, ended.err
    assert ended.result["text"].startswith("I have read 3 messages.")
    assert 'bob (1, 1 with a picture): "hi"' in ended.result["text"]
    assert "default reply program" in ended.result["text"]


# report


def read_png(content: bytes) -> tuple[int, int, set[bytes]]:
    """Decode a PNG as it is written here; returns its size and the colours in it."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", content, place + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height = struct.unpack_from(">II", chunks[b"IHDR"])
    pixels = zlib.decompress(chunks[b"IDAT"])
    assert len(pixels) == height * (1 + 3 * width)
    row = 1 + 3 * width
    body = b"".join(pixels[start + 1 : start + row] for start in range(0, len(pixels), row))
    return width, height, {body[start : start + 3] for start in range(0, len(body), 3)}


def check_report(ended: Ended) -> dict[str, Any]:
    """What holds for every report; returns its summary."""
    assert ended.code == 0, ended.err
    assert {file.name for file in ended.outputs.iterdir()} == {
        "report.html", "histogram.svg", "histogram.png", "summary.json",
    }  # fmt: skip
    summary: dict[str, Any] = json.loads((ended.outputs / "summary.json").read_text())
    told = {name: one for name, one in summary["histogram"].items() if name not in ("counts", "edges")}
    assert ended.result == {**summary, "histogram": told}
    drawn = xml.etree.ElementTree.parse(ended.outputs / "histogram.svg").getroot()
    assert drawn.tag.endswith("svg")
    width, height, colours = read_png((ended.outputs / "histogram.png").read_bytes())
    assert (width, height) == (960, 480)
    assert len(colours) >= 4
    page = (ended.outputs / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "<svg" in page and "<script" not in page
    steps = [line for line in ended.progress if "step" in line]
    assert ended.progress[0]["total"] == len(steps)
    assert "stop" in ended.progress[-1]
    return summary


@pytest.mark.parametrize(
    ("content", "kind", "lines"),
    [
        (b"", "empty", 0),
        (b"one\ntwo", "text", 2),
        ("zwölf\n".encode(), "text", 1),
        (bytes(range(256)), "binary", None),
        (b"\xff\xfe", "binary", None),
    ],
)
def test_a_report_tells_what_is_in_a_file(workspace: Workspace, content: bytes, kind: str, lines: int | None) -> None:
    """Every byte is counted; an empty file is a file."""
    workspace.put('a <b> & "c".txt', content)

    summary = check_report(workspace.shipped("report"))

    assert (summary["bytes"], summary["kind"], summary["lines"]) == (len(content), kind, lines)
    assert sum(summary["histogram"]["counts"]) == len(content)


@pytest.mark.parametrize("column", ["size", 2, "2"])
def test_a_report_draws_the_numbers_of_a_column(workspace: Workspace, column: str | int) -> None:
    """Found by its name or its number; cells that hold none are counted apart."""
    rows = [f"n{number};{number / 2}" for number in range(100)]
    workspace.put("sizes.csv", "\n".join(["name;size", *rows, "x;", "y;nan", "z", ""]).encode())

    histogram = check_report(workspace.shipped("report", {"column": column, "bins": 10}))["histogram"]

    assert (histogram["column"], histogram["counts"]) == ("size", [10] * 10)
    assert (histogram["numbers"], histogram["not_numbers"]) == (100, 3)
    assert (histogram["least"], histogram["most"], histogram["mean"]) == (0.0, 49.5, pytest.approx(24.75))


@pytest.mark.parametrize("content", [b"7\n", b"7,1\n7,2\n", b"1e17\n1e17\n", b"-1e150\n1e150\n"])
def test_any_range_of_numbers_can_be_drawn(workspace: Workspace, content: bytes) -> None:
    """Also one number, without a header."""
    workspace.put("x.csv", content)

    histogram = check_report(workspace.shipped("report", {"column": 1}))["histogram"]

    assert sum(histogram["counts"]) == content.count(b"\n")


@pytest.mark.parametrize(
    ("content", "column", "said"),
    [
        (b"a,b\n1,2\n", "c", "there is no column 'c'; there are 'a', 'b'"),
        (b"a\nx\n", "a", "there are no numbers in a"),
        (b"", "a", "the file has no rows"),
        (b"a\n" + b"1" * 1_100_000, "a", "this is no CSV file"),
        (b'a\n"' + b"1\n" * 100_000, "a", "this is no CSV file"),
    ],
)
def test_what_cannot_be_drawn_is_said(workspace: Workspace, content: bytes, column: str, said: str) -> None:
    """As the script's exception."""
    workspace.put("x.csv", content)

    ended = workspace.shipped("report", {"column": column})

    assert (ended.code, ended.result) == (1, None)
    assert said in json.loads((workspace.path / "failure.json").read_text())["message"]


def test_without_a_file_there_is_nothing_to_report(workspace: Workspace) -> None:
    """It says what to give."""
    ended = workspace.shipped("report")

    assert ended.code == 1
    assert "give the job a file" in ended.err


LARGE_BYTES = 130 * 1024 * 1024
LIMITED = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (100 << 20,) * 2); " + START


@pytest.mark.ci
def test_a_large_file_takes_no_more_memory(workspace: Workspace) -> None:
    """130 MiB in an address space of 100, and the progress tells how far the reading is."""
    with (workspace.path / "inputs" / "large.bin").open("wb") as file:
        file.truncate(LARGE_BYTES)

    ended = workspace.run([sys.executable, "-c", LIMITED, str(SHIPPED / "report.py")])

    assert check_report(ended)["bytes"] == LARGE_BYTES
    assert ended.progress[0]["total"] == 4


# The programs that docs/apis/altron.md shows


def documented(name: str) -> str:
    """The code block that follows the first mention of a file."""
    text = (ROOT / "docs" / "apis" / "altron.md").read_text()
    language = name.rpartition(".")[2].replace("py", "python")
    return text.split(f"`{name}`", 1)[1].split(f"```{language}\n", 1)[1].split("```", 1)[0]


def read_documented(folder: Path, *names: str) -> Workload:
    """Read a definition as somebody does who copies it from the page."""
    for name in names:
        (folder / name).write_text(documented(name))
    return read_file(folder / names[0]).workload


def test_the_job_program_of_the_documentation_works(workspace: Workspace, tmp_path: Path) -> None:
    """Text, progress and an output."""
    workload = read_documented(tmp_path, "planner.toml", "planner.py")
    ended = workspace.script(tmp_path / "planner.py", {"title": "T", "description": "a\n\nb", "priority": 1})

    assert (workload.name, workload.shown_to("altron")) == ("planner", True)
    assert (ended.code, ended.result) == (0, {"text": "T: 2 steps", "images": []})
    assert xml.etree.ElementTree.parse(ended.outputs / "plan.svg").getroot().tag.endswith("svg")


def test_the_bot_of_the_documentation_works(workspace: Workspace, tmp_path: Path) -> None:
    """It reads standard input and leaves a result."""
    workload = read_documented(tmp_path, "bot.toml")
    ended = workspace.run(list(workload.argv), stdin=json.dumps(MESSAGES).encode())

    assert (workload.name, workload.stdin, workload.shown_to("altron")) == ("bot", "params", True)
    assert (ended.code, ended.result) == (0, {"sender": "Bot", "text": "HI", "image": "A"})
