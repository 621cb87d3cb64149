"""The commands about one job, and lists: submit, jobs, show, logs, signal.

Each function is one command: it prints its answer and returns the exit code. Failures are raised.
"""

import asyncio
import base64
import json
import signal as signals
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hostler.cli.connect import PAGE_JOBS, cluster, pages, resolve_job
from hostler.cli.failures import JOB_FAILED, NOT_FOUND, OK, Failure, usage_failure
from hostler.cli.follow import copy_log, follow_job, log_chunks, wait_for_attempt
from hostler.cli.options import Place, SubmitOptions
from hostler.cli.outputs import say_outputs
from hostler.cli.progress import transfers
from hostler.cli.render import print_job, print_jobs, print_json, print_line, say
from hostler.cli.submission import place_on_worker, submission_of
from hostler.cli.transfer import check_source, send_file
from hostler.client import Client
from hostler.errors import ErrorCode
from hostler.frames import ERR, GAP, OUT, iter_frames, parse_gap
from hostler.job_filters import parse_filter
from hostler.jobs import File, Job, JobQuery, JobSpec, LogStatus
from hostler.lifecycle import Outcome, State
from hostler.shape import job_shape, time_shape
from hostler.stages import attempts_of, stage_text
from hostler.state_text import state_text
from hostler.wording import listed

NAMES = {OUT: "out", ERR: "err", GAP: "gap"}


def submit(place: Place, options: SubmitOptions, argv: Sequence[str], *, follow: bool) -> int:
    """Submit a job and print its id; with *follow* be with it until it has ended and return 0 or 1 as it did."""
    spec, files = submission_of(options, argv)
    if follow and place.as_json:
        raise usage_failure("--follow and --json exclude each other")
    for source in files.values():
        check_source(source)

    async def act() -> int:
        async with cluster(place) as client:
            placed = await place_on_worker(client, spec)
            job = await client.submit_one(await _with_files(client, placed, files, as_json=place.as_json))
            if not follow:
                print_json({"id": job}) if place.as_json else print_line(job)
                return OK
            say(f"job {job}")
            ended = await follow_job(client, job)
            if ended.end is not None and (ended.end.outputs or ended.end.outputs_missing):
                say_outputs(job, await client.files.outputs(job))
            if ended.outcome is not Outcome.SUCCEEDED:
                where = f" in {stage_text(ended)}" if ended.spec.stages else ""
                say(f"job {job} {state_text(ended)}{where}")
                return JOB_FAILED
            return OK

    return asyncio.run(act())


async def _with_files(client: Client, spec: JobSpec, sources: Mapping[str, Path], *, as_json: bool) -> JobSpec:
    shown = transfers(as_json=as_json)
    files: list[File] = []
    for path, source in sources.items():
        stored = await send_file(client, source, shown)
        files.append(File(path=path, digest=stored.digest, size_bytes=stored.size_bytes))
    return replace(spec, work=replace(spec.work, files=tuple(files)))


def list_jobs(
    place: Place,
    *,
    states: Sequence[str],
    name: str,
    limit: int,
    every: bool,
    chosen: str,
    watch: bool,
    after: int | None,
) -> int:
    """Print the newest *limit* jobs that fit, oldest first, or with *every* all of them; with *watch* what happens."""
    if chosen:
        parse_filter(chosen, field="--filter")
    if after is not None and not watch:
        raise usage_failure("--after goes with --watch")
    size = PAGE_JOBS if every else min(limit + 1, PAGE_JOBS)  # one more, to know whether there is one
    query = JobQuery(
        states=tuple(_state(text) for text in states), name=name, limit=size, newest_first=not every, filter=chosen
    )
    if watch:
        from hostler.cli.watching import watch_jobs

        return watch_jobs(place, query, after=after)

    async def act() -> int:
        kept: list[Job] = []
        older = False
        async with cluster(place) as client:
            async for jobs in pages(client, query):
                kept.extend(jobs)
                if not every and len(kept) > limit:
                    break
        if not every:
            older = len(kept) > limit
            kept = kept[:limit][::-1]
        if place.as_json:
            print_json({"jobs": [job_shape(job) for job in kept]})
            return OK
        if kept:
            print_jobs(kept, now_us=time.time_ns() // 1000)
        if older:
            say("older jobs are not shown; --all shows them")
        elif not kept:
            say("no jobs")
        return OK

    return asyncio.run(act())


def show(place: Place, text: str) -> int:
    """Print everything known about a job."""

    async def act() -> int:
        async with cluster(place) as client:
            job = await resolve_job(client, text)
            found = await client.get(job)
        print_json(job_shape(found)) if place.as_json else print_job(found)
        return OK

    return asyncio.run(act())


def logs(
    place: Place, text: str, *, follow: bool, out: bool, err: bool, start: int, stage: int | None, attempt: int | None
) -> int:
    """Copy a job's output to our own streams; with neither *out* nor *err* both.

    Of a chain it is the stage that is under way, or was the last, or *stage*; the newest attempt, or *attempt*.
    """
    kinds = frozenset(kind for kind, wanted in ((OUT, out), (ERR, err)) if wanted) or frozenset((OUT, ERR))

    async def act() -> int:
        async with cluster(place) as client:
            job = await resolve_job(client, text)
            found = await client.get(job)
            if follow and found.spec.stages:
                found = await wait_for_attempt(client, job, stage=stage)
            # The log of a finished job may still be on its way: it is waited for, so that it is whole.
            wait = follow or (found.state is State.FINISHED and found.log_status is LogStatus.ARRIVING)
            at = _place_of_log(found, stage, attempt)
            if not place.as_json and attempt is None:
                _say_attempts_before(found, *at)
            if place.as_json:
                await _print_frames(client, job, start=start, follow=wait, at=at, kinds=kinds | {GAP})
            else:
                await copy_log(client, job, start=start, follow=wait, stage=at[0], attempt=at[1], kinds=kinds)
        return OK

    return asyncio.run(act())


def signal(place: Place, text: str, name: str) -> int:
    """Send a signal to the main process of a running job."""
    number = signal_number(name)

    async def act() -> int:
        async with cluster(place) as client:
            job = await resolve_job(client, text)
            await client.signal(job, number)
        if place.as_json:
            print_json({"id": job, "signal": signals.Signals(number).name})
        return OK

    return asyncio.run(act())


def signal_number(text: str) -> int:
    """Read ``INT``, ``SIGINT`` or ``2``.

    Raises:
        Failure: there is no such signal.
    """
    try:
        if text.isdecimal():
            return signals.Signals(int(text)).value
        return signals.Signals["SIG" + text.upper().removeprefix("SIG")].value
    except (ValueError, KeyError):
        raise usage_failure(f"{text!r} is no signal", hint="give a name or a number, for example INT or 2") from None


def _place_of_log(job: Job, stage: int | None, attempt: int | None) -> tuple[int | None, int]:
    """The stage and attempt whose log is meant; attempt 0 is the current one, and those that follow on it.

    The stage is None when the job is no chain.
    """
    if not job.spec.stages and not stage and attempt is None:
        return None, 0
    found = [one for one in attempts_of(job) if stage in (None, one[0])]
    if attempt is not None:
        stage = found[-1][0] if stage is None and found else stage
        found = [one for one in found if one == (stage, attempt)]
    if not found and (stage is not None or attempt is not None):
        which = f"stage {stage}" if attempt is None else f"attempt {attempt}{f' of stage {stage}' if stage else ''}"
        raise Failure(
            f"{which} of job {job.id} has no log: it has not run",
            hint=f"hostler show ID lists its {'stages' if attempt is None else 'attempts'}",
            exit_code=NOT_FOUND,
            code=ErrorCode.JOB_NOT_FOUND.value,
        )
    place = found[-1] if found else (job.stage, job.attempt)
    return place if job.spec.stages else (None, place[1])


def _say_attempts_before(job: Job, stage: int | None, attempt: int) -> None:
    """Say that there are other logs: what was printed of a job that was tried again is not all."""
    shown = (job.stage if stage is None else stage, attempt or job.attempt)
    before = [str(number) for at, number in attempts_of(job) if at == shown[0] and number < shown[1]]
    if before:
        at_stage = f"--stage {stage} " if stage is not None else ""
        which = "the one" if len(before) == 1 else f"one of those ({listed(before)})"
        number = before[0] if len(before) == 1 else "N"
        say(f"attempt {shown[1]}; hostler logs {at_stage}--attempt {number} {job.id} shows {which} before it")


async def _print_frames(
    client: Client, job: str, *, start: int, follow: bool, at: tuple[int | None, int], kinds: frozenset[int]
) -> None:
    async for chunk in log_chunks(client, job, start=start, follow=follow, stage=at[0], attempt=at[1]):
        offset = 0
        for frame in iter_frames(chunk.frames):
            position, offset = chunk.position + offset, frame.end
            if frame.kind in kinds:
                line: dict[str, Any] = {"position": position, "event": NAMES[frame.kind], "at": time_shape(frame.at_us)}
                sys.stdout.write(json.dumps(line | _payload(frame.kind, frame.payload)) + "\n")
        if chunk.end:
            end = {"position": chunk.position + len(chunk.frames), "event": "end", "status": chunk.status.word}
            sys.stdout.write(json.dumps(end | {"lost_bytes": chunk.lost_bytes}) + "\n")
        sys.stdout.flush()


def _payload(kind: int, payload: bytes) -> dict[str, Any]:
    if kind == GAP:
        out_bytes, err_bytes = parse_gap(payload)
        return {"out_bytes": out_bytes, "err_bytes": err_bytes}
    try:
        return {"text": payload.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(payload).decode("ascii")}


def _state(text: str) -> State:
    try:
        return State[text.upper()]
    except KeyError:
        words = ", ".join(state.word for state in State)
        raise usage_failure(f"{text!r} is no state", hint=f"the states are {words}") from None
