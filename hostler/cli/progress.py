"""What a person at a terminal sees meanwhile, on standard error: bars for files that move, a line for a job's progress.

Where standard error is no terminal nothing of it is written. The line of progress and a job's output may share the
terminal: the line is taken away before output is written, and comes back once the output has ended its own line.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hostler.cli.render import printable
from hostler.client import Client
from hostler.errors import HostlerError
from hostler.jobs import Advance, Job
from hostler.lifecycle import State
from hostler.stages import stage_text

LOOK_S = 0.5  # between two looks at a job's progress
CLEAR = "\r\x1b[K"
COLUMNS_DEFAULT = 80

Advanced = Callable[[int], None]  # so many bytes more


class Transfers:
    """Bars for files, one for each that moves; none without a terminal."""

    def __init__(self, shown: bool) -> None:
        """Prepare; with *shown* false everything here does nothing."""
        self._shown = shown

    @contextmanager
    def file(self, name: str, size_bytes: int) -> Iterator[Advanced]:
        """Show a bar as long as the body runs; *size_bytes* 0: not known. Yields what takes each piece's size."""
        if not self._shown:
            yield lambda _: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task(printable(name), total=size_bytes or None)
            yield lambda size: bars.advance(bar, size)


def transfers(*, as_json: bool) -> Transfers:
    """Bars on standard error, when it is a terminal and answers are for people."""
    return Transfers(not as_json and sys.stderr.isatty())


class StatusLine:
    """One line at the bottom of the terminal that is replaced again and again. Safe to call from several threads."""

    def __init__(self, shown: bool) -> None:
        """Prepare; with *shown* false everything here does nothing."""
        self._shown = shown
        self._lock = threading.Lock()
        self._text = ""
        self._drawn = False
        self._line_open = False  # the job's output has begun a line and not ended it

    def show(self, text: str) -> None:
        """Replace the line, or let whoever is writing meanwhile do it: never waits."""
        self._text = printable(text)
        if self._lock.acquire(blocking=False):
            try:
                self._draw()
            finally:
                self._lock.release()

    @contextmanager
    def aside(self, last: bytes = b"\n") -> Iterator[None]:
        """Take the line away while the body writes; *last* is the last byte that it writes."""
        if not self._shown:
            yield
            return
        with self._lock:
            self._clear()
            yield
            self._line_open = last != b"\n"
            self._draw()

    def close(self) -> None:
        """Take the line away for good."""
        with self._lock:
            self._clear()
            self._shown = False

    def _draw(self) -> None:
        if not self._shown or self._line_open or not self._text:
            return
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS_DEFAULT
        except OSError:
            columns = COLUMNS_DEFAULT
        self._write(CLEAR + self._text[: columns - 1])
        self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            self._write(CLEAR)
            self._drawn = False

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def status_line() -> StatusLine:
    """A status line on standard error, when that is a terminal."""
    return StatusLine(sys.stderr.isatty())


async def watch_progress(client: Client, job: str, line: StatusLine) -> None:
    """Show a job's progress on *line* again and again; ends with the job."""
    while True:
        try:
            found = await client.get(job)
        except HostlerError:
            # Only a courtesy: whoever copies the log says what is wrong.
            await asyncio.sleep(LOOK_S)
            continue
        if found.state is State.FINISHED:
            return
        text = progress_text(found)
        if text:
            line.show(text)
        await asyncio.sleep(LOOK_S)


def progress_text(job: Job) -> str:
    """Where a job that is not over stands, in one line; empty when it has said nothing."""
    where = stage_text(job)
    if job.state is State.QUEUED:
        said = f"waits for attempt {job.retried + 1}" if job.retried else "waits"
    else:
        said = advance_text(job.advance)
    return ", ".join(part for part in (where, said) if part)


def advance_text(advance: Advance) -> str:
    """How far a program has come: ``40 %, step 2: mesh``."""
    parts = [] if advance.percent is None else [f"{advance.percent} %"]
    if advance.steps:
        parts.append(f"step {len(advance.steps)}: {advance.steps[-1].text}")
    return ", ".join(parts)
