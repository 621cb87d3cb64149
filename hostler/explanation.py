"""Why a job is as it is, in plain sentences: what was asked, where it ran, how each attempt ended, what comes next.

Pure. Everything is taken from the job as it stands and from its events; what those do not say is not said.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hostler.causes import meaning_of
from hostler.jobs import (
    LOSS_POLICIES,
    NO_LIMITS,
    RETRY_CAUSES,
    End,
    Job,
    JobEvent,
    JobSpec,
    LogStatus,
    PastAttempt,
)
from hostler.lifecycle import Outcome, State
from hostler.shape import receipt_shape, time_shape


class Attempt(NamedTuple):
    """One attempt, told."""

    stage: int
    attempt: int
    worker: str  # its name where that is known, else its id; empty: it had none
    outcome: Outcome  # NONE: it is not over
    end: End | None
    sentences: tuple[str, ...]
    again: str  # why it was or was not tried again; empty: it succeeded, or is not over


class Explanation(NamedTuple):
    """A job, told."""

    asked: tuple[str, ...]
    waited: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    next: tuple[str, ...]


def explain(job: Job, events: Sequence[JobEvent], names: Mapping[str, str], receipts: Mapping[int, str]) -> Explanation:
    """Tell of a job.

    *events* are its own, oldest first; *names* are those of workers by id; *receipts* are the receipts of its
    attempts as sentences, by their place among all attempts, the current one last.
    """
    told = [
        _attempt(job, past.stage, past.attempt, past.worker, past.outcome, past.end, names, receipts.get(number, ""))
        for number, past in enumerate(job.past)
    ]
    if job.attempt and job.state is not State.QUEUED:
        end = job.end if job.state is State.FINISHED else None
        receipt = receipts.get(len(job.past), "")
        told.append(_attempt(job, job.stage, job.attempt, job.worker, job.outcome, end, names, receipt))
    return Explanation(tuple(_asked(job.spec)), tuple(_waited(job, events, names)), tuple(told), tuple(_next(job)))


def explanation_shape(job: Job, told: Explanation) -> dict[str, Any]:
    """The same as JSON; every key is always there, and null where it does not apply."""
    return {
        "id": job.id,
        "state": job.state.word,
        "outcome": job.outcome.word or None,
        "asked": list(told.asked),
        "waited": list(told.waited),
        "attempts": [
            {
                "stage": each.stage,
                "attempt": each.attempt or None,
                "worker": each.worker or None,
                "outcome": each.outcome.word or None,
                "cause": None if each.end is None else each.end.cause or None,
                "evidence": None if each.end is None else each.end.evidence or None,
                "error": None if each.end is None else each.end.error or None,
                "exit_code": None if each.end is None else each.end.exit_code,
                "signal": None if each.end is None else each.end.signal or None,
                "receipt": None if each.end is None else receipt_shape(each.end.receipt),
                "sentences": list(each.sentences),
                "again": each.again or None,
            }
            for each in told.attempts
        ],
        "next": list(told.next),
    }


# -- what was asked


def _asked(spec: JobSpec) -> Iterable[str]:
    work, limits = spec.work, spec.work.limits
    if work.timeout_s:
        grace = f"with {work.grace_s:g} s between SIGTERM and SIGKILL"
        yield f"It may run for {work.timeout_s:g} s; then it is ended, {grace}."
    if limits != NO_LIMITS:
        parts = [f"{limits.memory_bytes:,} bytes of memory"] if limits.memory_bytes else []
        parts += [f"{limits.cpus:g} processors"] if limits.cpus else []
        parts += [f"{limits.pids} processes and threads"] if limits.pids else []
        yield f"All its processes together may use {', '.join(parts)}."
    if work.output_bytes_max:
        more = "it is ended" if work.output_stop else "the rest is dropped"
        yield f"It may write {work.output_bytes_max:,} bytes; then {more}."
    if spec.start_within_s:
        yield f"It was to start within {spec.start_within_s:g} s of its submission."
    if spec.retries:
        causes = ", ".join(spec.retry_on) or "any failure"
        yield f"After {causes} it may be tried again, {_times(spec.retries)}."
    wanted = [f"on worker {spec.worker}"] if spec.worker else []
    wanted += [f"with {name}={value}" for name, value in sorted(spec.labels.items())]
    slots = f"takes {spec.slots} {'slot' if spec.slots == 1 else 'slots'}" if spec.slots else "takes no slot"
    yield f"It runs {' and '.join(wanted) or 'on any worker'}, and {slots}."
    policy = work.loss_policy or LOSS_POLICIES[0]
    if policy == "stop":
        again = "it is tried again" if spec.on_lost == "retry" else "it is lost"
        yield f"When its worker is cut off, its supervisor ends it, and {again}."


# -- where it ran and why it waited


def _waited(job: Job, events: Sequence[JobEvent], names: Mapping[str, str]) -> Iterable[str]:
    yield f"It was accepted at {time_shape(job.queued_at_us)}."
    since_us = job.queued_at_us
    for event in events:
        if event.kind == "assigned":
            where = names.get(event.worker, event.worker)
            which = _which(job.spec, event.stage, event.attempt)
            yield f"Worker {where} got {which} {_span(event.at_us - since_us)} later."
            since_us = event.at_us
        elif event.kind == "requeued":
            yield f"It was given back, as it never ran: {event.detail or 'no reason is known'}."
        elif event.kind == "stop_requested":
            yield f"A stop was asked for at {time_shape(event.at_us)} {event.detail}."
        elif event.kind == "unkillable":
            yield f"At {time_shape(event.at_us)} these processes could not be killed: {event.detail}."
    if job.state is State.QUEUED:
        for reason in job.pending_reasons:
            yield f"It waits: {reason}."


def _which(spec: JobSpec, stage: int, attempt: int) -> str:
    return f"attempt {attempt} of stage {stage}" if spec.stages else f"attempt {attempt}"


# -- how it ended


def _attempt(
    job: Job,
    stage: int,
    attempt: int,
    worker: str,
    outcome: Outcome,
    end: End | None,
    names: Mapping[str, str],
    receipt: str,
) -> Attempt:
    sentences = tuple(_end_sentences(end, receipt) if end is not None else _open_sentences(job))
    again = "" if end is None else _again(job, stage, attempt, outcome, end)
    return Attempt(stage, attempt, names.get(worker, worker), outcome, end, sentences, again)


def _open_sentences(job: Job) -> Iterable[str]:
    if job.started_at_us:
        yield f"It started at {time_shape(job.started_at_us)}."
    if job.phase:
        yield f"It is {job.state.word}: {job.phase}."


def _end_sentences(end: End, receipt: str) -> Iterable[str]:
    if end.started_at_us and end.ended_at_us:
        took = _span(end.ended_at_us - end.started_at_us)
        yield f"It started at {time_shape(end.started_at_us)} and was over {took} later."
    elif not end.started_at_us:
        yield "Its program never ran."
    yield f"It ended by {end.cause or 'an unknown cause'}: {meaning_of(end.cause)}."
    if end.evidence:
        yield f"Evidence: {end.evidence}."
    if end.error:
        yield f"Error: {end.error}."
    if end.signal:
        yield f"The program was ended by {end.signal}{', and left a core file' if end.core_dumped else ''}."
    elif end.exit_code is not None:
        yield f"The program's exit code was {end.exit_code}."
    if end.failure is not None:
        yield f"Its script raised {end.failure.type}: {end.failure.message}."
    if end.dropped_bytes:
        yield f"{end.dropped_bytes:,} bytes of its output were not kept."
    if receipt:
        verified = f", verified by {end.receipt.verified_by}" if end.receipt.verified_by else ""
        yield f"Receipt: {receipt}{verified}."


def _again(job: Job, stage: int, attempt: int, outcome: Outcome, end: End) -> str:
    """Why an attempt that failed was or was not followed by another."""
    if outcome is Outcome.SUCCEEDED:
        return ""
    spec = job.spec
    if (stage, attempt) != (job.stage, job.attempt) or job.state is not State.FINISHED:
        return "It was tried again."
    if outcome in (Outcome.STOPPED, Outcome.REJECTED) and end.cause != "drain":
        return "It was not tried again: what was stopped or refused is not."
    if end.cause == "start_deadline":
        return "It was not tried again: its time to start was over."
    if outcome is Outcome.LOST:
        if spec.on_lost == "retry" and (end.nothing_left or end.cause == "lease"):
            return "It was not tried again: it was lost as often as its crash limit allows."
        if spec.on_lost == "retry":
            return "It was not tried again: whether its program still runs is not known."
        return "It was not tried again: its on_lost is fail."
    if end.failure is not None:
        return "It was not tried again: the exception of a script is final."
    if not spec.retries:
        return "It was not tried again: no retries were asked for."
    if end.cause not in (spec.retry_on or RETRY_CAUSES):
        return f"It was not tried again: {end.cause} is none of the ends that its retry_on names."
    return f"It was not tried again: it had been, {_times(job.retried)}."


# -- what comes next


def _next(job: Job) -> Iterable[str]:
    if job.state is State.QUEUED:
        if job.due_at_us:
            yield f"It is tried again at {time_shape(job.due_at_us)} or later."
        yield "It starts when a worker that may run it has room."
    elif job.state is State.ASSIGNED:
        yield "Its worker starts it, or gives it back."
    elif job.state is State.RUNNING:
        limit_s = job.spec.work.timeout_s
        if limit_s and job.started_at_us:
            yield f"It is ended at {time_shape(job.started_at_us + int(limit_s * 1e6))} if it runs until then."
        else:
            yield "It runs until it ends or is stopped."
    elif job.state is State.STOPPING:
        yield "It is over once its worker has proved that none of its processes is left."
    else:
        yield "Nothing: it is over, and its outcome never changes."
        if job.end is not None and not job.end.nothing_left:
            yield "Whether processes of it still run on its worker is not known until that is reached."
        if job.log_status is LogStatus.ARRIVING:
            yield "The rest of its log is still on its way."
        elif job.log_status is LogStatus.LOST:
            lost = f"{job.log_lost_bytes:,} bytes" if job.log_lost_bytes else "What may have followed"
            yield f"{lost} of its log {'are' if job.log_lost_bytes else 'is'} lost."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _span(span_us: int) -> str:
    return f"{max(0, span_us) / 1e6:.3f} s"


def ends_of(job: Job) -> list[End | None]:
    """The ends of all attempts, oldest first and the current one last; None: it is not over."""
    past: list[PastAttempt] = list(job.past)
    return [*(each.end for each in past), job.end if job.state is State.FINISHED else None]
