"""Lives for tests, in processes of their own: with a fixed hash seed a seed's life is the same everywhere."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 2


def begin(*arguments: str) -> "subprocess.Popen[str]":
    """Start ``python -m tests.simulation.run``, behind whatever else wants the processor."""
    return subprocess.Popen(
        ["nice", sys.executable, "-m", "tests.simulation.run", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def objects(*processes: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    """The JSON objects that they print; fails with what they say when they fall over."""
    with ThreadPoolExecutor(len(processes)) as readers:  # all at once: none may wait for room in its pipe
        outputs = list(readers.map(lambda process: process.communicate(), processes))
    for process, (said, complaint) in zip(processes, outputs, strict=True):
        assert process.returncode in (0, 1) and not complaint, complaint
        for line in said.splitlines():
            yield json.loads(line)


def live(first: int, count: int) -> list[dict[str, Any]]:
    """The lives of *count* seeds from *first* on."""
    parts = [begin("--json", "--seeds", f"{first + place}:{first + count}:{PROCESSES}") for place in range(PROCESSES)]
    return list(objects(*parts))


def told(lives: list[dict[str, Any]]) -> str:
    """What is wrong, with the seed and the last events, for whoever reads a failed test."""
    bad = [life for life in lives if life["violation"]]
    return "\n".join("\n    ".join((f"seed {life['seed']}: {life['violation']}", *life["trace"])) for life in bad)
