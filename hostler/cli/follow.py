"""Copies a job's log to descriptors, byte-exact and apart, and goes on after the coordinator was away.

Writing happens in a thread: a reader that has stopped must not keep Ctrl-C from being heard.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence

from hostler.cli.beside import beside
from hostler.cli.failures import Failure
from hostler.cli.progress import StatusLine, status_line, watch_progress
from hostler.cli.render import say
from hostler.cli.writing import write_all
from hostler.client import Client, LogChunk
from hostler.errors import FileNotFound
from hostler.frames import ERR, GAP, OUT, Frame, iter_frames, parse_gap
from hostler.jobs import Job, LogStatus
from hostler.lifecycle import State
from hostler.log_losses import log_lost_text
from hostler.patience import PASSING, Absence
from hostler.stages import attempts_of

PATIENCE_S = 60.0  # how long the coordinator may be away
NEXT_ATTEMPT_LOOK_S = 0.5  # between two looks whether something follows on a log that has ended
DESCRIPTORS = {OUT: 1, ERR: 2}


async def log_chunks(
    client: Client,
    job: str,
    *,
    start: int = 0,
    follow: bool,
    stage: int | None = None,
    attempt: int = 0,
    go_on: bool = False,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[LogChunk]:
    """Yield the log of an attempt; after a lost connection resume at the position that was reached.

    Attempt 0 is the current one; of a chain, where several stages have a first attempt, both are to be named. For
    a job that is no chain *stage* is None. With *go_on* those that follow on the attempt are followed too, as they are
    on the current one.

    Raises:
        Failure: the coordinator stayed away for *patience_s*.
        FileNotFound: the log has expired.
        HostlerError: the coordinator refuses.
    """
    position, go_on = start, go_on or not attempt
    at_stage = "" if stage is None else f" --stage {stage}"  # a position is that of one stage's log
    absence = Absence(patience_s)
    while True:
        try:
            async for chunk in client.read_log(
                job, start=position, follow=follow, stage=stage or 0, attempt=attempt, go_on=go_on
            ):
                absence.heard()
                position = chunk.position + len(chunk.frames)
                if chunk.frames:
                    stage, attempt = None if stage is None else chunk.stage, chunk.attempt
                if chunk.end and chunk.status is LogStatus.EXPIRED:
                    raise FileNotFound(f"the log of job {job} was removed when its time was over")
                yield chunk
                if chunk.end:
                    return
            if not follow:
                return
            reason = "the log's stream ended early"
        except PASSING as error:
            reason = error.message
        if not await absence.bears():
            raise Failure(
                f"lost the coordinator: {reason}; the job goes on by itself",
                hint=f"read on with: hostler logs -f --from {position}{at_stage} {job}",
            )


async def copy_log(
    client: Client,
    job: str,
    *,
    start: int = 0,
    follow: bool,
    stage: int | None = None,
    attempt: int = 0,
    go_on: bool = False,
    kinds: frozenset[int] = frozenset((OUT, ERR)),
    line: StatusLine | None = None,
) -> None:
    """Write the output of an attempt of a job to our own standard output and standard error.

    Args:
        client: of the job's cluster.
        job: its id.
        start: position to begin at.
        follow: wait for more until the log is complete.
        stage: which one it is of a chain; None: the job is none.
        attempt: which one; 0: the current one, and those that follow on it.
        go_on: those that follow on a named one, too.
        kinds: `OUT`, `ERR`, or both.
        line: stands on the same terminal, and steps aside.

    Raises:
        BrokenPipeError: a reader of ours has gone.
    """
    line = line or StatusLine(False)
    reading = log_chunks(client, job, start=start, follow=follow, stage=stage, attempt=attempt, go_on=go_on)
    async for chunk in reading:
        for kind, content in runs(iter_frames(chunk.frames)):
            if kind == GAP:
                with line.aside():
                    say(gap_text(content))
            elif kind in kinds:
                await asyncio.to_thread(_write_beside, line, DESCRIPTORS[kind], content)
        if chunk.end and chunk.status is LogStatus.LOST:
            with line.aside():
                say(log_lost_text(chunk.lost_bytes))


async def follow_job(client: Client, job: str) -> Job:
    """Copy the output of every attempt of a job, stage by stage; return it once it ended.

    On a terminal its progress is below; a line says when a stage begins, and when something is tried again.

    Raises:
        BrokenPipeError: a reader of ours has gone.
    """
    line = status_line()
    copied: list[tuple[int, int]] = []
    try:
        async with beside(watch_progress(client, job, line)):
            while True:
                found = await wait_for_attempt(client, job, besides=copied)
                begun = [one for one in attempts_of(found) if one not in copied]
                if not begun:
                    return found
                stage, attempt = begun[0]
                with line.aside():
                    _say_begun(found, stage, attempt, copied)
                named = stage if found.spec.stages else None
                await copy_log(client, job, follow=True, stage=named, attempt=attempt, line=line)
                copied.append(begun[0])
    finally:
        line.close()


def _say_begun(job: Job, stage: int, attempt: int, copied: list[tuple[int, int]]) -> None:
    stages = job.spec.stages
    if stages and stage not in [one for one, _ in copied]:
        named = stages[stage]
        say(f"stage {stage}: {named.workload} version {named.workload_version} ({stage + 1} of {len(stages)})")
    elif copied:
        say(f"job {job.id} is tried again")


async def wait_for_attempt(
    client: Client, job: str, *, stage: int | None = None, besides: Sequence[tuple[int, int]] = ()
) -> Job:
    """Wait until an attempt of a job, or of one *stage*, has begun that is none of *besides*, or the job is over."""
    absence = Absence(PATIENCE_S)
    while True:
        try:
            found = await client.get(job)
            begun = [one for one in attempts_of(found) if one not in besides and stage in (None, one[0])]
            if begun or found.state is State.FINISHED:
                return found
            absence.heard()
            until = State.RUNNING if found.state in (State.QUEUED, State.ASSIGNED) else State.FINISHED
            await client.wait_one(job, until=until, timeout_s=NEXT_ATTEMPT_LOOK_S)
        except PASSING as error:
            # Waiting changes nothing, so it is simply asked again while the coordinator restarts.
            await absence.bear(error)


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
