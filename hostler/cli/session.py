"""One job in the place of one command: its streams, its signals, its exit status.

The first Ctrl-C sends SIGINT to the job, the second stops it, the third leaves at once. SIGTERM and SIGHUP
stop it. A coordinator that goes away and comes back within a minute is not noticed.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hostler.cli.beside import beside
from hostler.cli.failures import BROKEN_PIPE, RUN_FAILED, Failure
from hostler.cli.follow import RETRY_S_MAX, RETRY_S_MIN, copy_log
from hostler.cli.interrupts import Interrupts
from hostler.cli.render import print_json, say
from hostler.cli.stdin import pieces
from hostler.cli.submission import place_on_worker
from hostler.client import Client
from hostler.errors import DeadlineExceeded, HostlerError, NotRunning, Unavailable
from hostler.jobs import Job, JobSpec
from hostler.lifecycle import Outcome, State
from hostler.shape import job_shape

SUBMIT_PATIENCE_S = 5.0
END_PATIENCE_S = 60.0
QUIET_S = 3.0  # then the reasons why a job still waits are shown
TIMED_OUT = 124
NOT_EXECUTABLE = 126
PROGRAM_NOT_FOUND = 127

T = TypeVar("T")


class Session:
    """Runs one job for the person at the terminal."""

    def __init__(self, client: Client, interrupts: Interrupts, *, as_json: bool) -> None:
        """Prepare; with *as_json* the finished job is printed to standard error as one line of JSON."""
        self._client = client
        self._interrupts = interrupts
        self._as_json = as_json
        self._input_lost = False

    async def run(self, spec: JobSpec) -> int:
        """Submit the job, be it, and return the exit status of this command."""
        spec = await patiently(lambda: place_on_worker(self._client, spec), SUBMIT_PATIENCE_S)
        # The key makes it the same job when an answer was lost and we ask again.
        job = await patiently(lambda: self._client.submit_one(spec), SUBMIT_PATIENCE_S)
        unwritten: OSError | None = None
        async with beside(self._heed(job)), beside(self._say_why_it_waits(job)), beside(self._feed(job, spec)):
            try:
                await copy_log(self._client, job, follow=True)
            except OSError as error:
                unwritten = error
                await self._stop(job)
            ended = await patiently(lambda: self._client.wait_one(job), END_PATIENCE_S)
        if ended is None:
            raise Failure(f"the end of job {job} is not known", hint=f"look with: hostler show {job}")
        if self._as_json:
            print_json(job_shape(ended), to_stderr=True)
        if isinstance(unwritten, BrokenPipeError):
            return BROKEN_PIPE
        if unwritten is not None:
            raise Failure(f"the job's output cannot be written: {unwritten.strerror}; the job was stopped")
        if self._input_lost:
            return RUN_FAILED
        status, message = exit_status(ended, interrupted=self._interrupts.status)
        if message and not self._as_json:
            say(message)
        return status

    async def _heed(self, job: str) -> None:
        interrupts = self._interrupts
        while True:
            await interrupts.heard.wait()
            interrupts.heard.clear()
            try:
                only_once = interrupts.presses == 1 and not interrupts.stop_signal
                if only_once and await self._interrupt(job):
                    continue
                await self._stop(job)
                return
            except HostlerError as error:
                say(error.message)

    async def _feed(self, job: str, spec: JobSpec) -> None:
        if not spec.work.stdin:
            return
        try:
            await self._client.feed(job, pieces())
        except NotRunning:
            # It ended without reading all of it, as it may.
            return
        except HostlerError as error:
            # What was sent and not taken is gone with the connection. A job that waited for it would wait for
            # ever, and one that read on without it would work on half its input.
            self._input_lost = True
            say(f"the job's standard input was cut off: {error.message}; the job is stopped")
            await self._stop(job)

    async def _interrupt(self, job: str) -> bool:
        try:
            await self._client.signal(job, signal.SIGINT)
        except NotRunning:
            # It still waits, so there is nobody to hear the signal.
            return False
        return True

    async def _stop(self, job: str) -> None:
        await patiently(lambda: self._client.stop(job), END_PATIENCE_S)

    async def _say_why_it_waits(self, job: str) -> None:
        await asyncio.sleep(QUIET_S)
        try:
            found = await self._client.get(job)
        except HostlerError:
            # Only a courtesy: whoever copies the log says what is wrong.
            return
        if found.state is State.QUEUED:
            say(f"job {job} waits: {'; '.join(found.pending_reasons) or 'no worker is free'}")


async def describes(client: Client, timeout_s: float) -> bool:
    """Say whether the coordinator answers within *timeout_s*."""
    try:
        await client.describe(timeout_s=timeout_s)
    except HostlerError:
        return False
    return True


async def patiently(call: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """Call again while the coordinator is away, for *patience_s* at most; for calls that may be repeated."""
    deadline = asyncio.get_running_loop().time() + patience_s
    pause_s = RETRY_S_MIN
    while True:
        try:
            return await call()
        except (Unavailable, DeadlineExceeded):
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(RETRY_S_MAX, pause_s * 2)


def exit_status(job: Job, *, interrupted: int) -> tuple[int, str]:
    """The exit status of a command that stands for *job*, and a line to say if the job cannot say it itself.

    Args:
        job: finished.
        interrupted: the status of a command that was interrupted, for a job that was stopped before it ran.
    """
    end, timeout_s = job.end, job.spec.work.timeout_s
    if job.outcome in (Outcome.LOST, Outcome.REJECTED) or end is None:
        why = (end.evidence or end.error) if end is not None else "; ".join(job.pending_reasons)
        return RUN_FAILED, f"the job was {job.outcome.word or 'not run'}: {why or 'the reason is not known'}"
    if job.outcome is Outcome.TIMED_OUT and not end.started_at_us:
        return TIMED_OUT, f"the job did not start within {job.spec.start_within_s:g} s, and will not"
    if job.outcome is Outcome.TIMED_OUT:
        return TIMED_OUT, f"the job was ended at its timeout of {timeout_s:g} s"
    if end.error:
        return _start_status(end.error), end.error
    if end.signal:
        return 128 + _signal_number(end.signal), ""
    if end.exit_code is not None:
        return end.exit_code, ""
    if job.outcome is Outcome.STOPPED:
        return interrupted, "the job was stopped before it started"
    return RUN_FAILED, end.evidence or "how the job ended is not known"


def _start_status(error: str) -> int:
    # The texts are those of exec, see worker_agent; a directory that is missing is no fault of the program's.
    if error.startswith("chdir"):
        return RUN_FAILED
    if "permission denied" in error or "exec format error" in error:
        return NOT_EXECUTABLE
    return PROGRAM_NOT_FOUND if "not found" in error or "no such file" in error else RUN_FAILED


def _signal_number(name: str) -> int:
    try:
        return signal.Signals[name].value
    except KeyError:
        digits = "".join(c for c in name if c.isdecimal())
        return int(digits) if digits else 0
