"""`hostler run --all EXPR`: a command on every worker that matches, one job each, as if it were one command.

The jobs are ordinary ones that name their worker and carry a common tag (`FAN_OUT`), by which `--retry-failed` finds
them again. Each line of output is written whole, with the worker's name before it, or with `--group` each worker's
output in one piece once its job is over. Limits: standard input is not forwarded; output without a line end is cut
into lines of 64 KiB.
"""

import asyncio
import functools
import os
import signal
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hostler.cli.beside import QUIET_S, beside
from hostler.cli.connect import cluster
from hostler.cli.failures import BROKEN_PIPE, JOB_FAILED, NOT_FOUND, OK, Failure, failure_of, usage_failure
from hostler.cli.follow import PATIENCE_S, gap_text, log_chunks, runs
from hostler.cli.held_signals import HeldSignals
from hostler.cli.interrupts import STOP_SIGNALS, Interrupts, briefly, suspend
from hostler.cli.options import FanOptions, Place, RunOptions
from hostler.cli.render import moment_text, print_json, print_table, printable, say
from hostler.cli.retrying import BATCH_JOBS
from hostler.cli.session import exit_status
from hostler.cli.stopping import jobs_named
from hostler.cli.submission import spec_of
from hostler.cli.writing import write_all
from hostler.client import Client
from hostler.errors import ErrorCode, HostlerError, InvalidRequest, NotRunning
from hostler.frames import ERR, GAP, OUT, iter_frames
from hostler.jobs import Job, JobQuery, JobSpec, LogStatus
from hostler.lifecycle import Outcome, State
from hostler.log_losses import log_lost_text
from hostler.patience import patiently
from hostler.selectors import parse_selector
from hostler.settings import has_colours
from hostler.shape import job_shape
from hostler.state_text import state_text
from hostler.workers import Worker, WorkerState, worker_facts

FAN_OUT = "fan-out"  # the tag
EVERY = "*"
LINE_BYTES_MAX = 64 * 1024
HELD_BYTES_MAX = 8 * 1024 * 1024  # of one worker's output with --group; what is more is written at once
CALLS_AT_ONCE = 32
JOBS_MAX = 10_000
WAITING_SHOWN_MAX = 10
AWAY = (WorkerState.UNREACHABLE, WorkerState.GONE, WorkerState.QUARANTINED, WorkerState.REVOKED)
LOOK_S = 1.0  # between two looks at the workers
LOOK_SHARE = 20  # ... and at least so many times as long as one took
COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")


@dataclass(slots=True)
class Part:
    """One worker's job, and its output that is not written yet."""

    worker: str
    worker_id: str
    number: int  # its place among them
    job: str = ""
    error: HostlerError | None = None
    ended: Job | None = None
    away: str = ""  # that its worker cannot be reached, and since when; empty: it can
    stopped: bool = False  # it was asked to stop
    lines: dict[int, bytes] = field(default_factory=lambda: {OUT: b"", ERR: b""})  # begun and not ended, by stream
    held: list[tuple[int, bytes]] = field(default_factory=list)
    held_bytes: int = 0


def run_on_all(place: Place, options: RunOptions, wanted: FanOptions, argv: Sequence[str]) -> int:
    """Run the command everywhere, print its output and a line for each worker; 0 when all succeeded, else 1.

    Raises:
        Failure: the options do not go together, no worker matches, or there is no such earlier fan-out.
    """
    if options.tty or options.detach:
        raise usage_failure("--tty and --detach are for one job; leave them out, or --all")
    if wanted.retry_failed is not None:
        if argv or wanted.every is not None:
            raise usage_failure("--retry-failed runs the same command again; leave --all and the command out")
        spec = None
    else:
        if not argv:
            raise usage_failure("there is no command", hint="put it behind --")
        if options.worker or options.where or options.label or options.private:
            raise usage_failure("--all chooses the workers; leave --worker, --label, --where and --private out")
        spec = spec_of(options, argv)
    return asyncio.run(_run(place, wanted, spec))


async def _run(place: Place, wanted: FanOptions, spec: JobSpec | None) -> int:
    interrupts = Interrupts()
    async with cluster(place) as client:
        interrupts.listen()
        if spec is not None:
            name = uuid.uuid4().hex[:8]
            parts = await _submit(client, wanted.every or "", spec, name)
        else:
            name, parts = await _submit_again(client, wanted.retry_failed or "")
        fan = _Fan(client, parts, interrupts, group=wanted.group)
        interrupts.before_leaving = functools.partial(briefly, fan.show, name, as_json=place.as_json)
        try:
            await fan.run()
        except BrokenPipeError:
            return BROKEN_PIPE
        except OSError as error:
            raise Failure(f"the jobs' output cannot be written: {error.strerror}; the jobs were stopped") from error
    fan.show(name, as_json=place.as_json)
    if interrupts.presses or interrupts.stop_signal:
        return interrupts.status
    return OK if all(_succeeded(part.ended) for part in parts) else JOB_FAILED


async def _submit(client: Client, every: str, spec: JobSpec, name: str) -> list[Part]:
    workers = _chosen(await client.workers(), every)
    parts = [Part(printable(worker.name), worker.id, number) for number, worker in enumerate(workers)]
    tags = dict(spec.tags) | {FAN_OUT: name}
    specs = [replace(spec, worker=worker.id, tags=tags, key=f"{name}-{worker.id}") for worker in workers]
    _note(parts, await client.submit(specs))
    return parts


def _chosen(workers: Iterable[Worker], every: str) -> list[Worker]:
    """The workers that are to run it; says which of those that match will not."""
    try:
        selector = parse_selector(every, field="--all") if every != EVERY else None
    except InvalidRequest as error:
        raise usage_failure(error.message) from None
    matching = [one for one in workers if selector is None or selector.matches(_facts(one))]
    chosen = [one for one in matching if one.state is WorkerState.CONNECTED]
    for one in matching:
        if one.state is not WorkerState.CONNECTED:
            say(f"{one.name} is {one.state.value}: it is left out")
    if not chosen:
        raise Failure(
            "no connected worker matches",
            hint="hostler workers shows them with their labels; --all '*' means every one",
            exit_code=NOT_FOUND,
            code=ErrorCode.WORKER_NOT_FOUND.value,
        )
    return sorted(chosen, key=lambda one: (one.name, one.id))


def _facts(worker: Worker) -> dict[str, str]:
    return worker_facts(worker.labels, name=worker.name, host=worker.host, worker=worker.id)


async def _submit_again(client: Client, named: str) -> tuple[str, list[Part]]:
    """Submit again what has failed of an earlier fan-out: of each worker its newest job counts."""
    name = named
    if named == "last":
        newest = await client.find(JobQuery(filter=FAN_OUT, newest_first=True, limit=1))
        name = newest.jobs[0].spec.tags[FAN_OUT] if newest.jobs else ""
    query = JobQuery(filter=f'{FAN_OUT} = "{name}"', limit=1000)
    newest_of: dict[str, Job] = {}
    while name:
        page = await client.find(query)
        newest_of |= {job.spec.worker: job for job in page.jobs}
        if not page.next or len(newest_of) > JOBS_MAX:
            break
        query = replace(query, after=page.next)
    if not newest_of:
        missing = "there was no run with --all yet" if named == "last" else f"no run with --all has the name {named}"
        hint = "hostler jobs --filter fan-out shows their jobs"
        raise Failure(missing, hint=hint, exit_code=NOT_FOUND, code=ErrorCode.JOB_NOT_FOUND.value)
    failed = [job for job in newest_of.values() if not _succeeded(job)]
    if not failed:
        say(f"all {len(newest_of)} jobs of {name} have succeeded")
    names = {worker.id: printable(worker.name) for worker in await client.workers()}
    failed.sort(key=lambda job: (names.get(job.spec.worker, ""), job.spec.worker))
    parts = [
        Part(names.get(job.spec.worker, job.spec.worker[:8]), job.spec.worker, number)
        for number, job in enumerate(failed)
    ]
    if parts:
        ids = [job.id for job in failed]
        batches = [await client.retry(ids[start : start + BATCH_JOBS]) for start in range(0, len(ids), BATCH_JOBS)]
        _note(parts, [result for batch in batches for result in batch])
    return name, parts


def _note(parts: list[Part], results: Sequence[str | HostlerError]) -> None:
    for part, result in zip(parts, results, strict=True):
        if isinstance(result, HostlerError):
            part.error = result
        else:
            part.job = result


class _Fan:
    """Follows the jobs: their output, their ends, and what the person at the terminal asks for meanwhile."""

    def __init__(self, client: Client, parts: list[Part], interrupts: Interrupts, *, group: bool) -> None:
        self._client, self._parts, self._interrupts, self._group = client, parts, interrupts, group
        self._width = max((len(part.worker) for part in parts), default=0)
        self._writing = asyncio.Lock()
        self._places = asyncio.Semaphore(CALLS_AT_ONCE)
        self._ends = asyncio.Semaphore(CALLS_AT_ONCE)
        self._coloured = {descriptor: has_colours() and os.isatty(descriptor) for descriptor in (1, 2)}

    async def run(self) -> None:
        """Return once every job is over and its output is written."""
        submitted = [part for part in self._parts if part.job]
        async with (
            beside(self._heed()),
            beside(self._say_who_waits(submitted)),
            beside(self._say_who_is_away(submitted)),
        ):
            try:
                await _all_or_none(self._copy(part) for part in submitted)
            except OSError:  # who was to read the output has gone, or it has no room: as in `run` the jobs are over
                await asyncio.gather(*(self._pass_on(part, signal.SIGTERM) for part in submitted))
                raise

    def show(self, name: str, *, as_json: bool) -> None:
        """Print how it stands everywhere, to standard error: standard output is the jobs'."""
        open_jobs = [part.job for part in self._parts if part.job and part.ended is None]
        if as_json:
            jobs = [job_shape(part.ended) for part in self._parts if part.ended is not None]
            refused = [
                {"worker": part.worker, "error": {"code": part.error.code.value, "message": part.error.message}}
                for part in self._parts
                if part.error is not None
            ]
            shown = {"fan_out": name, "jobs": jobs, "open": open_jobs, "not_submitted": refused}
            print_json(shown, to_stderr=True)
            return
        if not self._parts:
            return
        rows = [(part.worker, _end_text(part), _took_text(part.ended), part.job) for part in self._parts]
        print_table(("worker", "end", "took", "job"), rows, to_stderr=True)
        for part in self._parts:
            # By which rule, or why: that is no word, so it has no place in the table.
            if part.error is not None:
                say(f"{part.worker}: {failure_of(part.error).message}")
            elif part.ended is not None and _never_started(part.ended):
                say(f"{part.worker}: {exit_status(part.ended, interrupted=0)[1] or 'it did not start'}")
        failed = sum(not _succeeded(part.ended) for part in self._parts)
        say(f"{len(self._parts) - failed} of {len(self._parts)} succeeded")
        if open_jobs:
            say(f"{len(open_jobs)} not over yet; look again with: hostler jobs --filter '{FAN_OUT} = \"{name}\"'")
        if failed:
            say(f"once more where it failed: hostler run --retry-failed {name}")

    async def _say_who_waits(self, parts: Sequence[Part]) -> None:
        """After a while, which of them have not begun, and why."""
        await asyncio.sleep(QUIET_S)
        try:
            found = await jobs_named(self._client, [part.job for part in parts])
            queued = {job.id for job in found if job.state is State.QUEUED}
            waiting = [part for part in parts if part.job in queued]
            shown = await jobs_named(self._client, [part.job for part in waiting[:WAITING_SHOWN_MAX]])
        except HostlerError:
            return  # only a courtesy: whoever copies the output says what is wrong
        for part, job in zip(waiting, shown, strict=False):
            say(f"{part.worker} waits: {'; '.join(job.pending_reasons) or 'its worker has no room'}")
        if len(waiting) > WAITING_SHOWN_MAX:
            say(f"so do {len(waiting) - WAITING_SHOWN_MAX} more")

    async def _say_who_is_away(self, parts: Sequence[Part]) -> None:
        """Whose worker cannot be reached for some seconds while its job is not over, and who is back."""
        clock = asyncio.get_running_loop().time
        missed_s: dict[str, float] = {}  # when a worker was missed first
        while True:
            began_s = clock()
            try:
                known = {worker.id: worker for worker in await self._client.workers()}
            except HostlerError:
                known = {}  # whoever copies the output says what is wrong
            for part in parts:
                worker = known.get(part.worker_id)
                if worker is None or part.ended is not None:
                    continue
                if worker.state not in AWAY:
                    missed_s.pop(worker.id, None)
                    if part.away:
                        say(f"{part.worker} is back")
                    part.away = ""
                elif not part.away and began_s - missed_s.setdefault(worker.id, began_s) >= QUIET_S:
                    since = f" since {moment_text(worker.seen_at_us)}" if worker.seen_at_us else ""
                    part.away = f"{part.worker} cannot be reached{since}"
                    _say_what_is_waited_for(part)
            # What takes long, as with thousands of workers, is done less often.
            await asyncio.sleep(max(LOOK_S, (clock() - began_s) * LOOK_SHARE))

    async def _copy(self, part: Part) -> None:
        async for chunk in log_chunks(self._client, part.job, follow=True):
            for kind, content in runs(iter_frames(chunk.frames)):
                if kind == GAP:
                    say(f"{part.worker}: {gap_text(content)}")
                elif kind in part.lines:
                    await self._take(part, kind, content)
            if chunk.end and chunk.status is LogStatus.LOST:
                say(f"{part.worker}: {log_lost_text(chunk.lost_bytes)}")
        for kind, rest in part.lines.items():
            if rest:
                await self._take(part, kind, b"\n")
        await self._release(part)
        async with self._ends:
            part.ended = await patiently(functools.partial(self._client.wait_one, part.job), PATIENCE_S)

    async def _take(self, part: Part, kind: int, content: bytes) -> None:
        *whole, rest = (part.lines[kind] + content).split(b"\n")
        while len(rest) > LINE_BYTES_MAX:
            whole.append(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        part.lines[kind] = rest
        if not whole:
            return
        text = b"\n".join(whole) + b"\n"
        if not self._group:
            await self._write(kind, b"".join(self._prefix(part, kind) + line + b"\n" for line in whole))
            return
        part.held.append((kind, text))
        part.held_bytes += len(text)
        if part.held_bytes > HELD_BYTES_MAX:
            await self._release(part)

    async def _release(self, part: Part) -> None:
        held, part.held, part.held_bytes = part.held, [], 0
        if not held:
            return
        async with self._writing:
            await asyncio.to_thread(write_all, 1, f"== {part.worker}\n".encode())
            for kind, text in held:
                await asyncio.to_thread(write_all, _descriptor(kind), text)

    async def _write(self, kind: int, text: bytes) -> None:
        async with self._writing:
            await asyncio.to_thread(write_all, _descriptor(kind), text)

    def _prefix(self, part: Part, kind: int) -> bytes:
        name = part.worker.ljust(self._width)
        if self._coloured[_descriptor(kind)]:
            colour = COLOURS[part.number % len(COLOURS)]
            return f"\x1b[{colour}m{name}\x1b[0m | ".encode()
        return f"{name} | ".encode()

    async def _heed(self) -> None:
        """The first Ctrl-C interrupts the jobs; the second, and SIGTERM, stop them; other signals are passed on."""
        async with HeldSignals.open(self._client) as held:
            while True:
                await self._interrupts.heard.wait()
                self._interrupts.heard.clear()
                while self._interrupts.waiting:
                    number = self._interrupts.waiting.popleft()
                    if number == signal.SIGTSTP:
                        suspend()
                    elif number != signal.SIGCONT:
                        await asyncio.gather(*(self._pass_on(part, number, held) for part in self._parts if part.job))

    async def _pass_on(self, part: Part, number: int, held: HeldSignals | None = None) -> None:
        interrupts = self._interrupts
        async with self._places:
            try:
                if number in STOP_SIGNALS or interrupts.presses > 1 or not await self._hears(part, number, held):
                    await self._stop(part)
            except HostlerError as error:
                say(f"{part.worker}: {error.message}")

    async def _stop(self, part: Part) -> None:
        part.stopped = True
        if part.away:
            _say_what_is_waited_for(part)
        await self._client.stop(part.job)

    async def _hears(self, part: Part, number: int, held: HeldSignals | None) -> bool:
        try:
            await self._client.signal(part.job, number)
        except NotRunning:
            if number == signal.SIGINT or held is None:
                return False  # it waits, or is over: for an interrupt a stop is right for both
            held.hold(part.job, number, functools.partial(_say_of, part.worker), alone=False)
        return True


def _say_what_is_waited_for(part: Part) -> None:
    how = "it ends its job when it is back" if part.stopped else "its job may go on there"
    say(f"{part.away}; {how}, and is waited for (the third Ctrl-C leaves)")


def _say_of(worker: str, text: str) -> None:
    say(f"{worker}: {text}")


async def _all_or_none(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of these at once; the first failure ends the others and is raised as it is."""
    doing = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*doing)
    finally:
        for one in doing:
            one.cancel()
        await asyncio.gather(*doing, return_exceptions=True)


def _succeeded(job: Job | None) -> bool:
    return job is not None and job.outcome is Outcome.SUCCEEDED


def _never_started(job: Job) -> bool:
    """Whether the program did not run, which its output does not show."""
    return job.outcome is Outcome.REJECTED or not job.started_at_us or (job.end is not None and bool(job.end.error))


def _end_text(part: Part) -> str:
    if part.error is not None:
        return "not submitted"
    if part.ended is not None:
        return state_text(part.ended)
    return ("stopping" if part.stopped else "not over") + (": unreachable" if part.away else "")


def _took_text(job: Job | None) -> str:
    if job is None or not job.started_at_us:
        return ""
    return f"{(job.finished_at_us - job.started_at_us) / 1e6:.1f} s"


def _descriptor(kind: int) -> int:
    return 2 if kind == ERR else 1
