"""A workspace as a worker makes it, and a way to run a script in it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hostler.jobs import PythonScript
from worker_agent.runtimes.python import command_of, install


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One attempt's workspace and the folder that scripts need."""

    workspace: Path
    folder: Path

    def put(self, path: str, content: str | bytes) -> Path:
        """Write a file below the workspace."""
        file = self.workspace / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def environment(self) -> dict[str, str]:
        """What a worker sets for a job with a workspace."""
        return {
            "HOSTLER_JOB": "0d9f",
            "HOSTLER_WORKSPACE": str(self.workspace),
            "HOSTLER_INPUT_DIR": str(self.workspace / "inputs"),
            "HOSTLER_OUTPUT_DIR": str(self.workspace / "outputs"),
            "HOSTLER_PROGRESS_FILE": str(self.workspace / "progress"),
            "HOSTLER_RESULT_FILE": str(self.workspace / "result.json"),
            "HOSTLER_FAILURE_FILE": str(self.workspace / "failure.json"),
            "HOSTLER_PARAMS_FILE": str(self.workspace / "params.json"),
        }

    def run(
        self,
        source: str | bytes,
        params: Any = None,
        *,
        name: str = "job.py",
        entrypoint: str = "main",
        interpreter: str = "",
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run *source* as a job's script in an environment that holds nothing else than what a worker sets."""
        self.put(f"script/{name}", source)
        if params is not None:
            self.put("params.json", json.dumps(params))
        script = PythonScript(path=f"script/{name}", entrypoint=entrypoint, interpreter=interpreter)
        argv, added = command_of(script, self.workspace, self.folder)
        return subprocess.run(
            [argv[0], *options, *argv[1:]],
            cwd=self.workspace,
            env={"PATH": os.defpath} | self.environment() | added | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def result(self) -> Any:
        """What the script left as its result."""
        return json.loads((self.workspace / "result.json").read_bytes())

    def failure(self) -> dict[str, str]:
        """What the script left as its failure."""
        failure: dict[str, str] = json.loads((self.workspace / "failure.json").read_bytes())
        return failure

    def left(self) -> set[str]:
        """The names of what is in the workspace besides what was put there."""
        return {path.name for path in self.workspace.iterdir()} - {"inputs", "outputs", "script", "params.json"}

    def progress(self) -> list[dict[str, Any]]:
        """The lines of the progress file."""
        return [json.loads(line) for line in (self.workspace / "progress").read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty workspace, and the folder as a worker installs it."""
    workspace = tmp_path / "work" / "0d9f.0.1"
    for name in ("inputs", "outputs", "script"):
        (workspace / name).mkdir(parents=True)
    return Place(workspace=workspace, folder=install(tmp_path / "script_path"))


def other_interpreters() -> list[str]:
    """Python programs on this machine that are not the one that runs the tests, oldest first; at most three."""
    found: dict[tuple[int, ...], str] = {}
    places = [*os.get_exec_path(), *map(str, Path.home().glob(".pyenv/versions/3.*/bin"))]
    ask = "import sys; print(*sys.version_info[:2])"
    mine = os.path.realpath(sys.executable)
    for minor in range(8, 20):
        for folder in places:
            path = os.path.join(folder, f"python3.{minor}")
            if (3, minor) in found or not os.access(path, os.X_OK) or os.path.realpath(path) == mine:
                continue
            said = subprocess.run([path, "-I", "-c", ask], capture_output=True, text=True, timeout=30, check=False)
            if said.returncode == 0 and said.stdout.split() == ["3", str(minor)]:
                found[3, minor] = path
    paths = list(found.values())
    return paths[:1] + paths[-2:] if len(paths) > 3 else paths
