"""One job in the place of one command: its streams, its terminal, its signals, its exit status.

The first Ctrl-C sends SIGINT to the job, the second stops it, the third leaves at once; the same holds for SIGTERM and
SIGHUP but for the third. Other signals are passed on, once the job runs. A coordinator that goes away and comes back
within a minute is not noticed.
"""

import asyncio
import functools
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TypeVar

from hostler.cli.away import say_while_away
from hostler.cli.beside import QUIET_S, beside
from hostler.cli.failures import BROKEN_PIPE, OK, RUN_FAILED, Failure
from hostler.cli.follow import copy_log
from hostler.cli.held_signals import HeldSignals
from hostler.cli.interrupts import STOP_SIGNALS, Interrupts, briefly, suspend
from hostler.cli.keyboard import Keyboard, terminal_size
from hostler.cli.render import print_json, say
from hostler.cli.stdin import give_up, is_forwarded, is_open, pieces
from hostler.cli.submission import place_on_worker
from hostler.client import Client
from hostler.errors import HostlerError, NotRunning, PermissionDenied, Unauthenticated
from hostler.feeding import Feeding
from hostler.jobs import Job, JobSpec
from hostler.lifecycle import Outcome, State
from hostler.patience import patiently
from hostler.shape import job_shape
from hostler.state_text import state_text

SUBMIT_PATIENCE_S = 5.0
END_PATIENCE_S = 60.0
ATTEMPT_LOOK_S = 2.0  # between two looks whether a job that was fed begins anew
BEGUN_ANEW = "the job has begun anew, and the input that it had read is gone"
TIMED_OUT = 124
NOT_EXECUTABLE = 126
PROGRAM_NOT_FOUND = 127

OF_KEYS = (signal.SIGINT, signal.SIGQUIT, signal.SIGSTOP, signal.SIGCONT)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a job is to be fed with."""

    pieces: AsyncIterator[bytes]
    ends: bool  # the job is told when they are over
    fed: bool = True  # False: it takes none; they are only looked at


class Session:
    """Is one job for the person at the terminal."""

    def __init__(
        self,
        client: Client,
        interrupts: Interrupts,
        *,
        as_json: bool,
        keyboard: Keyboard | None = None,
        private: bool = False,
    ) -> None:
        """Prepare; with *as_json* the finished job is printed to standard error as one line of JSON.

        *keyboard*: our terminal is to be the job's. It is in raw mode meanwhile, and its keys may detach.
        *private*: the cluster ends with us, and the job with it.
        """
        self._client = client
        self._interrupts = interrupts
        self._as_json = as_json
        self._keyboard = keyboard
        self._private = private
        self._input_lost = False
        self._fed = 0  # the attempt that has got something of our input; 0: none
        self._detached = asyncio.Event() if keyboard is None else keyboard.detached
        self._joined = False  # the job is not ours: it was there before, and goes on without us

    async def submit(self, spec: JobSpec) -> str:
        """Submit the job and return its id."""
        spec = await patiently(lambda: place_on_worker(self._client, spec), SUBMIT_PATIENCE_S)
        # The key makes it the same job when an answer was lost and we ask again.
        return await patiently(lambda: self._client.submit_one(spec), SUBMIT_PATIENCE_S)

    async def run(self, spec: JobSpec) -> int:
        """Submit the job, be it, and return the exit status of this command."""
        job = await self.submit(spec)
        return await self._be(job, self._input(spec, ends=True))

    async def attach(self, found: Job, *, all_output: bool) -> int:
        """Be a job that is there already, from now on or from the beginning of its output, and return as `run` does."""
        self._joined = True
        over = found.state is State.FINISHED
        has_terminal = found.spec.work.terminal is not None
        given = None if over else self._input(found.spec, ends=not has_terminal, joins=True)
        start = 0 if all_output else found.log_position
        attempt = found.attempt if start else 0  # a position is that of one attempt's log
        stage = found.stage if found.spec.stages else None
        if over and not self._as_json:
            self._say(_over_text(found, shown=all_output))
        if over and not all_output:
            return self._status(found)
        return await self._be(found.id, given, start=start, stage=stage, attempt=attempt)

    async def _be(
        self, job: str, given: Input | None, *, start: int = 0, stage: int | None = None, attempt: int = 0
    ) -> int:
        unwritten: OSError | None = None
        self._interrupts.before_leaving = functools.partial(self._leave, job)
        async with (
            beside(self._heed(job)),
            beside(self._say_why_it_waits(job)),
            beside(say_while_away(self._client, job, self._say, leaving=self._leaving())),
            beside(self._feed(job, given)),
            beside(self._detached.wait()) as detached,
            beside(
                copy_log(self._client, job, start=start, follow=True, stage=stage, attempt=attempt, go_on=True)
            ) as copying,
        ):
            await asyncio.wait({copying, detached}, return_when=asyncio.FIRST_COMPLETED)
            if not copying.done():
                self._say(f"detached from job {job}, which goes on; attach again with: hostler attach {job}")
                return self._interrupts.status if self._interrupts.stop_signal else OK
            try:
                copying.result()
            except OSError as error:
                unwritten = error
                await self._stop(job)
            ended = await patiently(lambda: self._client.wait_one(job), END_PATIENCE_S)
        if ended is None:
            raise Failure(f"the end of job {job} is not known", hint=f"look with: hostler show {job}")
        if isinstance(unwritten, BrokenPipeError):
            return BROKEN_PIPE
        if unwritten is not None:
            raise Failure(f"the job's output cannot be written: {unwritten.strerror}; the job was stopped")
        if self._fed not in (0, ended.attempt) and not self._input_lost:
            self._input_lost = True  # its last attempt was over before it could be stopped
            self._say(f"the job's standard input was cut off: {BEGUN_ANEW}")
        return self._status(ended)

    def _status(self, ended: Job) -> int:
        if self._as_json:
            print_json(job_shape(ended), to_stderr=True)
        if self._input_lost:
            return RUN_FAILED
        status, message = exit_status(ended, interrupted=self._interrupts.status)
        if message and not self._as_json:
            self._say(message)
        return status

    def _say(self, message: str) -> None:
        """As `say`, also while our terminal is the job's: on lines of its own."""
        if self._keyboard is None:
            say(message)
            return
        with self._keyboard.lines():
            print(file=sys.stderr)  # the job has perhaps left an open line, as a prompt is
            say(message)

    def _leave(self, job: str) -> None:
        """We end at once, whatever becomes of the job."""
        if self._keyboard is not None:
            self._keyboard.give_back()
        if not self._private:
            briefly(
                self._say, f"left job {job}, which was not over yet; see what becomes of it with: hostler show {job}"
            )

    # -- signals

    async def _heed(self, job: str) -> None:
        interrupts = self._interrupts
        async with HeldSignals.open(self._client) as held:
            while True:
                await interrupts.heard.wait()
                interrupts.heard.clear()
                while interrupts.waiting:
                    number = interrupts.waiting.popleft()
                    try:
                        await self._pass_on(job, number, held)
                    except HostlerError as error:
                        self._say(error.message)

    async def _pass_on(self, job: str, number: int, held: HeldSignals) -> None:
        interrupts, ends = self._interrupts, number in (signal.SIGINT, *STOP_SIGNALS)
        if number == signal.SIGTSTP:
            await self._suspend(job)
        elif number in STOP_SIGNALS and self._joined:
            self._detached.set()
        elif number in STOP_SIGNALS and self._keyboard is not None:
            # The terminal goes away, and a shell that hears nothing else ends by that.
            await self._signal(job, signal.SIGHUP)
            await self._stop(job)
        elif ends and interrupts.presses + interrupts.stops > 1:
            await self._stop(job)
        else:
            heard = await self._signal(job, number)
            if ends and not heard:
                await self._stop(job)
            elif not heard:
                held.hold(job, number, self._say, alone=number not in OF_KEYS)

    async def _signal(self, job: str, number: int) -> bool:
        try:
            # What the keys of a terminal send goes to all in its foreground, anything else to one process.
            await self._client.signal(job, number, alone=number not in OF_KEYS)
        except NotRunning:
            # It still waits, or is being started, so there is nobody to hear the signal.
            return False
        return True

    async def _suspend(self, job: str) -> None:
        """Stop the job and then ourselves; continued, we hear SIGCONT, and so does the job."""
        try:
            # Not SIGTSTP: the job leads a session of its own, and there the kernel lets that one be.
            await self._signal(job, signal.SIGSTOP)
        finally:
            if self._keyboard is None:
                suspend()
            else:
                with self._keyboard.aside():
                    suspend()
                self._interrupts.resized.set()

    async def _stop(self, job: str) -> None:
        await patiently(lambda: self._client.stop(job), END_PATIENCE_S)

    # -- input

    def _input(self, spec: JobSpec, *, ends: bool, joins: bool = False) -> Input | None:
        """What there is to be fed to a job; None: nothing, or it takes nothing."""
        if self._keyboard is not None:
            return Input(pieces=self._keyboard.typed(), ends=False, fed=spec.work.stdin)
        if not spec.work.stdin or not (is_open() if joins else is_forwarded()):
            return None
        return Input(pieces=pieces(), ends=ends)

    async def _feed(self, job: str, given: Input | None) -> None:
        if given is None:
            return
        if not given.fed:
            await self._drop()
            return
        while await self._feed_attempt(job, given):
            given = replace(given, pieces=self._keyboard.typed() if self._keyboard is not None else pieces())

    async def _feed_attempt(self, job: str, given: Input) -> bool:
        """Feed one attempt of the job; whether there is a next one, which begins with no input, and can have all."""
        feeding = self._client.feeding(job, patience_s=END_PATIENCE_S)
        try:
            async with beside(self._size(feeding)):
                await feeding.run(given.pieces, ends=given.ends)
        except NotRunning:
            return False  # it ended without reading any of it, as it may
        except HostlerError as error:
            if self._joined:
                self._say(f"the job's standard input cannot be reached: {error.message}{self._ways(job)}")
                await self._drop()
                return False
            await self._cut_off(job, error.message)
            return False
        if feeding.taken_over:
            self._say(
                "somebody else has attached to the job and has its standard input now; "
                f"this only shows its output{self._ways(job)}"
            )
            await self._drop()
            return False
        if self._joined:
            return False
        if self._keyboard is None and feeding.read:
            self._fed = feeding.attempt
            if feeding.closed:
                give_up()
        await self._next_attempt(job, feeding)
        if self._fed:
            await self._cut_off(job, BEGUN_ANEW)
        return not self._fed

    async def _next_attempt(self, job: str, feeding: Feeding) -> None:
        """Wait until the attempt that was fed is over and the job is not."""
        while True:
            await asyncio.sleep(ATTEMPT_LOOK_S)
            try:
                found = await self._client.get(job)
            except HostlerError:
                continue  # whoever copies the log says what is wrong
            if found.state is State.QUEUED or found.attempt not in (0, feeding.attempt):
                return
            if found.state is State.RUNNING and self._keyboard is None and feeding.closed:
                give_up()  # it has closed its input, and had read nothing of it

    async def _cut_off(self, job: str, why: str) -> None:
        # What was sent and not taken, or taken by an attempt that failed, is gone. A job that waited for it would wait
        # for ever, and one that read on without it would work on half its input.
        self._input_lost = True
        self._say(f"the job's standard input was cut off: {why}; the job is stopped")
        await self._stop(job)

    async def _drop(self) -> None:
        """Take keys that nobody gets, for those that leave."""
        if self._keyboard is not None:
            await self._keyboard.dropped()

    def _ways(self, job: str) -> str:
        """What can be done by who has lost the job's input."""
        leaving = "" if self._keyboard is None else f"{self._keyboard.leaving} leaves it, and "
        return f" ({leaving}hostler attach {job} takes the input back)"

    def _leaving(self) -> str:
        """What leaves while the job goes on, for who waits for a worker that is away."""
        keys = "the third Ctrl-C" if self._keyboard is None else self._keyboard.detaching
        return f" ({keys} leaves)" if keys else ""

    async def _size(self, feeding: Feeding) -> None:
        """Keep the job's terminal as large as ours."""
        if self._keyboard is None:
            return
        rows, columns = terminal_size()
        if self._joined:
            feeding.resize(rows, columns + 1)  # a program that was there before draws everything anew
        while True:
            feeding.resize(*terminal_size())
            await self._interrupts.resized.wait()
            self._interrupts.resized.clear()

    async def _say_why_it_waits(self, job: str) -> None:
        await asyncio.sleep(QUIET_S)
        try:
            found = await self._client.get(job)
        except HostlerError:
            # Only a courtesy: whoever copies the log says what is wrong.
            return
        if found.state is State.QUEUED or found.pending_reasons:
            self._say(f"job {job} waits: {'; '.join(found.pending_reasons) or 'no worker is free'}")


def _over_text(job: Job, *, shown: bool) -> str:
    """What to say to who attaches to a finished job; *shown*: its output comes out here all the same."""
    text = f"job {job.id} is over ({state_text(job)})"
    if is_forwarded():
        text += "; nothing takes the standard input any more"
    return text if shown else f"{text}; hostler logs {job.id} shows its output"


async def describes(client: Client, timeout_s: float) -> bool:
    """Say whether the coordinator answers within *timeout_s*; one that refuses our key does."""
    try:
        await client.describe(timeout_s=timeout_s)
    except (Unauthenticated, PermissionDenied):
        return True
    except HostlerError:
        return False
    return True


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
    ours = ""  # what the job itself cannot say of its end
    if end.cause == "output_limit":
        ours = f"the job was ended at its --output-max of {job.spec.work.output_bytes_max:,} bytes"
    if end.signal:
        return 128 + _signal_number(end.signal), ours
    if end.exit_code is not None:
        return end.exit_code, ours
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
