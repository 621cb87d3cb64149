"""Copies a job's log to descriptors, byte-exact and apart, and goes on after the coordinator was away.

Writing happens in a thread: a reader that has stopped must not keep Ctrl-C from being heard.
"""

import asyncio
import os
import select
import time
from collections.abc import AsyncIterator, Iterator

from hostler.cli.beside import beside
from hostler.cli.failures import Failure
from hostler.cli.progress import StatusLine, status_line, watch_progress
from hostler.cli.render import say
from hostler.client import Client, LogChunk
from hostler.errors import DeadlineExceeded, Unavailable
from hostler.frames import ERR, GAP, OUT, Frame, iter_frames, parse_gap
from hostler.jobs import Job, LogStatus

PATIENCE_S = 60.0  # how long the coordinator may be away
RETRY_S_MIN = 0.1
RETRY_S_MAX = 1.0
NEXT_ATTEMPT_LOOK_S = 1.0  # between two looks whether a job whose log has ended is tried again
DESCRIPTORS = {OUT: 1, ERR: 2}


async def log_chunks(
    client: Client, job: str, *, start: int = 0, follow: bool, patience_s: float = PATIENCE_S
) -> AsyncIterator[LogChunk]:
    """Yield the log of a job; after a lost connection resume at the position that was reached.

    Raises:
        Failure: the coordinator stayed away for *patience_s*.
        HostlerError: the coordinator refuses.
    """
    position, attempt, pause_s = start, 0, RETRY_S_MIN
    away_since: float | None = None
    while True:
        try:
            async for chunk in client.read_log(job, start=position, follow=follow, attempt=attempt):
                away_since, pause_s = None, RETRY_S_MIN
                position = chunk.position + len(chunk.frames)
                if chunk.frames:
                    attempt = chunk.attempt
                yield chunk
                if chunk.end:
                    return
            if not follow:
                return
            reason = "the log's stream ended early"
        except (Unavailable, DeadlineExceeded) as error:
            reason = error.message
        now = time.monotonic()
        away_since = now if away_since is None else away_since
        if now - away_since > patience_s:
            raise Failure(
                f"lost the coordinator: {reason}; the job goes on by itself",
                hint=f"read on with: hostler logs -f --from {position} {job}",
            )
        await asyncio.sleep(pause_s)
        pause_s = min(RETRY_S_MAX, pause_s * 2)


async def copy_log(
    client: Client,
    job: str,
    *,
    start: int = 0,
    follow: bool,
    kinds: frozenset[int] = frozenset((OUT, ERR)),
    line: StatusLine | None = None,
) -> int:
    """Write the output of a job's current attempt to our own standard output and standard error.

    Args:
        client: of the job's cluster.
        job: its id.
        start: position to begin at.
        follow: wait for more until the log is complete.
        kinds: `OUT`, `ERR`, or both.
        line: stands on the same terminal, and steps aside.

    Returns:
        The attempt whose output it was.

    Raises:
        BrokenPipeError: a reader of ours has gone.
    """
    line = line or StatusLine(False)
    attempt = 0
    async for chunk in log_chunks(client, job, start=start, follow=follow):
        attempt = chunk.attempt or attempt
        for kind, content in runs(iter_frames(chunk.frames)):
            if kind == GAP:
                with line.aside():
                    say(gap_text(content))
            elif kind in kinds:
                await asyncio.to_thread(_write_beside, line, DESCRIPTORS[kind], content)
        if chunk.end and chunk.status is LogStatus.LOST:
            with line.aside():
                say(f"{chunk.lost_bytes:,} bytes of the log were lost with their host")
    return attempt


async def follow_job(client: Client, job: str) -> Job:
    """Copy the output of every attempt of a job, with its progress below it on a terminal; return it once it ended.

    Raises:
        BrokenPipeError: a reader of ours has gone.
    """
    line = status_line()
    try:
        async with beside(watch_progress(client, job, line)):
            while True:
                attempt = await copy_log(client, job, follow=True, line=line)
                ended = await _end_or_next_attempt(client, job, attempt)
                if ended is not None:
                    return ended
                with line.aside():
                    say(f"job {job} is tried again")
    finally:
        line.close()


async def _end_or_next_attempt(client: Client, job: str, attempt: int) -> Job | None:
    away_since: float | None = None
    while True:
        try:
            ended = await client.wait_one(job, timeout_s=NEXT_ATTEMPT_LOOK_S)
            if ended is not None:
                return ended
            if (await client.get(job)).attempt > attempt:
                return None
            away_since = None
        except (Unavailable, DeadlineExceeded):
            # Waiting changes nothing, so it is simply asked again while the coordinator restarts.
            now = time.monotonic()
            away_since = now if away_since is None else away_since
            if now - away_since > PATIENCE_S:
                raise
            await asyncio.sleep(RETRY_S_MAX)


def _write_beside(line: StatusLine, descriptor: int, content: bytes) -> None:
    # Output that goes elsewhere leaves no open line on the terminal.
    with line.aside(content[-1:] if os.isatty(descriptor) else b"\n"):
        write_all(descriptor, content)


def runs(frames: Iterator[Frame]) -> Iterator[tuple[int, bytes]]:
    """Join neighbouring frames of one stream: fewer writes, same bytes. A gap stays by itself."""
    kind, parts = 0, list[bytes]()
    for frame in frames:
        if frame.kind != kind or kind == GAP:
            if parts:
                yield kind, b"".join(parts)
            kind, parts = frame.kind, []
        parts.append(frame.payload)
    if parts:
        yield kind, b"".join(parts)


def gap_text(payload: bytes) -> str:
    """What a gap in a log is for people."""
    out_bytes, err_bytes = parse_gap(payload)
    return f"{out_bytes:,} bytes of standard output and {err_bytes:,} of standard error were dropped here"


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, also to a descriptor that somebody has made non-blocking."""
    view = memoryview(content)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
