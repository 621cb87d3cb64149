"""Makes the pictures of the screens in docs/pictures: runs a small cluster, and the commands in a pseudo-terminal.

    .venv/bin/python scripts/make_pictures.py

What is drawn is what the commands have written, as a terminal of this size shows it (pyte). Ids and times differ from
run to run, so no test compares the pictures; one looks that those of the README exist and load nothing from elsewhere.
"""

import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fcntl import ioctl
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
HOSTLER = (sys.executable, "-m", "hostler.cli.main")
COLUMNS = 100
WITHIN_S = 60.0
PICTURE_BYTES_MAX = 60_000
FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
# A program that says how far it is, and works for it a little.
STEPS = """
i=0
while [ $i -le 100 ]; do
    echo "{\\"percent\\": $i}" >> "$HOSTLER_PROGRESS_FILE"; i=$((i + STEP))
    n=0; while [ $n -lt 60000 ]; do n=$((n + 1)); done; sleep 0.4
done
"""


class Site:
    """A cluster, and a terminal at which its commands are typed."""

    def __init__(self, directory: Path) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        own = {"HOSTLER_DATA_DIR": str(directory), "HOSTLER_HTTP": "127.0.0.1:0", "HOSTLER_GRPC": "127.0.0.1:0"}
        self.directory = directory
        self.env: Mapping[str, str] = {
            **kept,
            **own,
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
        }

    def call(self, *arguments: str) -> str:
        """Run a command without a terminal and return what it prints."""
        command = [*HOSTLER, *arguments]
        ran = subprocess.run(
            command, env=dict(self.env), cwd=self.directory, capture_output=True, text=True, timeout=WITHIN_S
        )
        return ran.stdout.strip()

    def screen(
        self,
        arguments: Sequence[str],
        *,
        rows: int,
        until: Callable[[str], bool] | None = None,
        for_s: float = WITHIN_S,
    ) -> pyte.Screen:
        """What a terminal shows when a command has ended, or as soon as *until* likes what is on it, or in the end."""
        screen = pyte.Screen(COLUMNS, rows)
        stream = pyte.ByteStream(screen)
        with _terminal([*HOSTLER, *arguments], self.env, self.directory, rows) as descriptor:
            end = time.monotonic() + for_s
            while time.monotonic() < end and not (until is not None and until("\n".join(screen.display))):
                if not select.select([descriptor], [], [], 0.1)[0]:
                    continue
                try:
                    piece = os.read(descriptor, 65536)
                except OSError:
                    break  # it has ended
                stream.feed(piece)
        return screen


@contextmanager
def _terminal(argv: Sequence[str], env: Mapping[str, str], cwd: Path, rows: int) -> Iterator[int]:
    """Run a program on a terminal of its own."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
    process = subprocess.Popen(
        argv, env=dict(env), cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield ours
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        os.close(ours)
        process.wait(WITHIN_S)


@contextmanager
def _site() -> Iterator[Site]:
    """Start a cluster of three workers; afterwards nothing of it is left."""
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    site = Site(directory)
    command = [*HOSTLER, "up", "--workers", "3", "--slots", "2"]
    with (directory / "up.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=dict(site.env), cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready.startswith(b"ready: "):
            raise SystemExit((directory / "up.log").read_text())
        yield site
    finally:
        process.terminate()
        process.communicate(timeout=WITHIN_S)
        shutil.rmtree(directory)


def _lines(screen: pyte.Screen) -> list[Text]:
    """What is on a screen, without the empty lines at its end."""
    lines = []
    for row in range(screen.lines):
        line = Text()
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        for style, alike in groupby(cells, _style):
            line.append("".join(cell.data for cell in alike), style)
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def _style(cell: pyte.screens.Char) -> Style:
    def colour(name: str) -> str | None:
        name = {"brown": "yellow"}.get(name, name)
        if name == "default":
            return None
        return f"#{name}" if re.fullmatch(r"[0-9a-f]{6}", name) else re.sub("^bright", "bright_", name)

    return Style(color=colour(cell.fg), bgcolor=colour(cell.bg), bold=cell.bold, underline=cell.underscore)


def _write(name: str, typed: str, screen: pyte.Screen) -> None:
    """Write a picture: what was typed, and what is on the screen."""
    prompt = Text.assemble(("$ ", "bold green"), (f"hostler {typed}", "bold"))
    lines = [prompt, *_lines(screen)]
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        for line in lines:
            console.print(line, no_wrap=True, crop=True)
        text = console.export_svg(title="", unique_id=f"hostler-{name}")
    text = re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)  # fonts of other servers
    text = text.replace("Fira Code, monospace", FONT).replace(
        "<!-- Generated with Rich https://www.textualize.io -->", ""
    )
    text = re.sub(r"[ \t]+\n", "\n", text)
    if len(text.encode()) > PICTURE_BYTES_MAX:
        raise SystemExit(f"{name}: {len(text.encode())} bytes are too many")
    (PICTURES / f"{name}.svg").write_text(text)
    print(f"{name}.svg: {len(lines)} lines, {len(text.encode()):,} bytes")


def _submit(site: Site, name: str, step: int, *more: str) -> str:
    arguments = ("--name", name, "--file", "sweep.sh", "--env", f"STEP={step}", *more)
    return site.call("submit", *arguments, "--", "sh", "inputs/sweep.sh", str(step))


def main() -> int:
    """Make all of them."""
    PICTURES.mkdir(exist_ok=True)
    with _site() as site:
        typed = ["run", "--all", "*", "--", "sh", "-c", 'echo "$(nproc) processors"']
        _write("run-all", "run --all '*' -- sh -c 'echo \"$(nproc) processors\"'", site.screen(typed, rows=20))
        site.call("submit", "--name", "broken", "--retries", "1", "--", "sh", "-c", "echo no licence >&2; exit 3")
        site.call("submit", "--name", "unlucky", "--timeout", "1s", "--", "sleep", "100")
        (site.directory / "sweep.sh").write_text(STEPS)
        sweep = [_submit(site, f"sweep-{number}", 7 - number, "--tag", "batch=7") for number in range(1, 7)]
        site.call("submit", "--name", "elsewhere", "--label", "gpu=yes", "--", "./train")
        _write("workers", "workers", site.screen(["workers"], rows=20))
        full = site.screen(["top"], rows=18, for_s=11.0)
        _write("top", "top", full)
        _write("jobs", "jobs", site.screen(["jobs"], rows=30))
        _write("explain", "explain elsewhere", site.screen(["explain", "elsewhere"], rows=30))
        filtered = ["wait", "--filter", "batch = 7"]
        _write("wait", "wait --filter 'batch = 7'", site.screen(filtered, rows=20, for_s=6.0))
        site.call("stop", *sweep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
