"""`hostler up` for a module of tests, and its command line called as a shell calls it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0
HOSTLER = (sys.executable, "-m", "hostler.cli.main")


class Ran(NamedTuple):
    """How a command ended, as a shell sees it."""

    code: int
    out: bytes
    err: bytes


class Up:
    """A cluster that is up; its worker has the environment that the commands get."""

    def __init__(self, directory: Path) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        kept |= {"LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), "MARK": "of the environment"}
        given = {"HOSTLER_DATA_DIR": str(directory), "HOSTLER_HTTP": "127.0.0.1:0", "HOSTLER_GRPC": "127.0.0.1:0"}
        self.directory = directory
        self.env: Mapping[str, str] = {**kept, **given}

    def start(self, argv: Sequence[str], *, cwd: Path, stdin: int | None = None) -> "subprocess.Popen[bytes]":
        """Start a command with both outputs as pipes."""
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(self.env),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )


def finish(process: "subprocess.Popen[bytes]", content: bytes | None = None) -> Ran:
    """Give a command its input, wait for its end, and return how that was."""
    try:
        out, err = process.communicate(content, timeout=WITHIN_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    code = process.returncode
    return Ran(128 - code if code < 0 else code, out, err)


@contextmanager
def cluster_up() -> Iterator[Up]:
    """Start a cluster with one worker; afterwards nothing of it is left."""
    directory = Path(tempfile.mkdtemp(prefix="hu-"))
    made = Up(directory)
    command = [*HOSTLER, "up", "--workers", "1", "--slots", "16"]
    with (directory / "up.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=dict(made.env), cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready.startswith(b"ready: "), (directory / "up.log").read_text()
        yield made
    finally:
        process.terminate()
        process.communicate(timeout=WITHIN_S)
        shutil.rmtree(directory)
