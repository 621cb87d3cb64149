"""Why a job is as it is, in plain sentences: what was asked, where it ran, how each attempt ended, what comes next.

Pure. Everything is taken from what its coordinator knows of it (`Explained`); what that does not say is not said.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from hostler.asked import asked_sentences
from hostler.awaited import awaited
from hostler.causes import meaning_of
from hostler.jobs import (
    LOSS_POLICIES,
    RETRY_CAUSES,
    End,
    Job,
    JobEvent,
    JobSpec,
    LogStatus,
)
from hostler.lifecycle import Outcome, State
from hostler.log_losses import bytes_text, log_lost_text
from hostler.pending import NOT_PENDING, Pending
from hostler.receipts import receipt_text
from hostler.shape import receipt_shape, time_shape
from hostler.wording import times


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What a coordinator knows of why a job is as it is. Times are its own clock's; 0: there is none."""

    job: Job
    events: tuple[JobEvent, ...] = ()  # its newest transitions, oldest first
    older: bool = False  # there are older ones
    pending: Pending = NOT_PENDING  # while it waits, or was sent ahead
    names: Mapping[str, str] = field(default_factory=dict)  # of the workers it had or asks for, by their ids
    start_by_us: int = 0  # its program must have started by then, and has not
    away_since_us: int = 0  # its worker cannot be reached since then
    lost_at_us: int = 0  # its attempt is over then, if its worker stays away
    drain_by_us: int = 0  # its worker is drained, and ends then what still runs
    now_us: int = 0


class Attempt(NamedTuple):
    """One attempt, told."""

    stage: int
    attempt: int
    worker: str  # its name where that is known, else its id; empty: it had none
    outcome: Outcome  # NONE: it is not over
    end: End | None
    chosen: str  # why it was this worker; empty: not known
    sentences: tuple[str, ...]
    again: str  # why it was or was not tried again; empty: it succeeded, or is not over


class Explanation(NamedTuple):
    """A job, told."""

    asked: tuple[str, ...]
    waited: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    next: tuple[str, ...]


def explain(known: Explained) -> Explanation:
    """Tell of a job."""
    job = known.job
    given = {(each.stage, each.attempt): each for each in known.events if each.kind == "assigned"}
    told = [_attempt(known, past.stage, past.attempt, past.worker, past.outcome, past.end, given) for past in job.past]
    if job.attempt and job.state is not State.QUEUED and not _ended_waiting(job):
        end = job.end if job.state is State.FINISHED else None
        told.append(_attempt(known, job.stage, job.attempt, job.worker, job.outcome, end, given))
    if job.end is not None and _ended_waiting(job):
        told.append(_attempt(known, job.stage, 0, "", job.outcome, job.end, {}))
    return Explanation(
        tuple(asked_sentences(job.spec, known.names)), tuple(_waited(known)), tuple(told), tuple(_next(known))
    )


def _ended_waiting(job: Job) -> bool:
    """Whether it ended while it waited: no attempt was under way then."""
    if job.state is not State.FINISHED:
        return False
    return not job.attempt or any((past.stage, past.attempt) == (job.stage, job.attempt) for past in job.past)


def explanation_shape(known: Explained) -> dict[str, Any]:
    """The same as JSON; every key is always there, and null where it does not apply."""
    job, told = known.job, explain(known)
    return {
        "id": job.id,
        "state": job.state.word,
        "outcome": job.outcome.word or None,
        "asked": list(told.asked),
        "waited": list(told.waited),
        "pending": _pending_shape(known.pending) if known.pending.reasons else None,
        "attempts": [
            {
                "stage": each.stage,
                "attempt": each.attempt or None,
                "worker": each.worker or None,
                "chosen": each.chosen or None,
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
        "times": {
            "now": time_shape(known.now_us),
            "due": time_shape(job.due_at_us),
            "start_by": time_shape(known.start_by_us),
            "away_since": time_shape(known.away_since_us),
            "lost_at": time_shape(known.lost_at_us),
            "drain_by": time_shape(known.drain_by_us),
        },
    }


def _pending_shape(pending: Pending) -> dict[str, Any]:
    nearest = pending.nearest
    return {
        "reasons": [{"code": why.code, "text": why.text, "workers": why.workers} for why in pending.reasons],
        "nearest": None
        if nearest is None
        else {"worker": nearest.worker, "name": nearest.name, "missing": list(nearest.missing)},
        "before": pending.before,
        "before_more": pending.before_more,
    }


MISSING_TOLD: Final = 3  # a result that is none comes first; all are in the job
LONG_BEGIN_US: Final = 1_000_000  # between two clocks, less says nothing

# -- where it ran and why it waited

# After these it waits anew, and what comes next is told with the time from then on.
SINCE: Final[Mapping[str, str]] = {
    "requeued": "later",  # behind a sentence of its own
    "retried": "after attempt {event.attempt} had ended, with its backoff before it",
    "stage_ended": "after stage {event.stage} had ended",
}


def _waited(known: Explained) -> Iterable[str]:
    job = known.job
    yield f"It was accepted at {time_shape(job.queued_at_us)}."
    if known.older:
        yield f"What happened first is left out: these are its newest {len(known.events):,} transitions."
    since_us, since = job.queued_at_us, "after it was accepted" if known.older else "later"
    for event in known.events:
        if event.kind in SINCE:
            since_us, since = event.at_us, SINCE[event.kind].format(event=event)
        if event.kind == "assigned":
            where = known.names.get(event.worker, event.worker)
            which = _which(job.spec, event.stage, event.attempt)
            why = f": {event.detail}" if event.detail else ""
            yield f"Worker {where} got {which} {_span(event.at_us - since_us)} {since}{why}."
        elif event.kind == "requeued":
            yield f"It was given back, as it never ran: {event.detail or 'no reason is known'}."
        elif event.kind == "stop_requested":
            yield f"A stop was asked for at {time_shape(event.at_us)} {event.detail}."
        elif event.kind == "unkillable":
            yield f"At {time_shape(event.at_us)} these processes could not be killed: {event.detail}."
    yield from _waits(known.pending)


def _waits(pending: Pending) -> Iterable[str]:
    for reason in pending.reasons:
        yield f"It waits: {reason.text}."
    if pending.nearest is not None and pending.nearest.missing:
        yield f"Nearest to taking it is worker {pending.nearest.name}, which {' and '.join(pending.nearest.missing)}."
    if pending.before:
        jobs = "1 job that asks" if pending.before == 1 else f"{pending.before:,} jobs that ask"
        yield f"{jobs} for the same {'comes' if pending.before == 1 else 'come'} before it{_more(pending)}."


def _more(pending: Pending) -> str:
    return ", and perhaps more" if pending.before_more else ""


def _which(spec: JobSpec, stage: int, attempt: int) -> str:
    return f"attempt {attempt} of stage {stage}" if spec.stages else f"attempt {attempt}"


# -- how it ended


def _attempt(
    known: Explained,
    stage: int,
    attempt: int,
    worker: str,
    outcome: Outcome,
    end: End | None,
    given: Mapping[tuple[int, int], JobEvent],
) -> Attempt:
    event = given.get((stage, attempt))
    started_at_us = end.started_at_us if end is not None else known.job.started_at_us
    sentences = (
        *_begin_sentences(event, started_at_us),
        *(_end_sentences(end) if end is not None else _open_sentences(known.job)),
    )
    again = "" if end is None else _again(known.job, stage, attempt, outcome, end)
    name, why = known.names.get(worker, worker), event.detail if event is not None else ""
    return Attempt(stage, attempt, name, outcome, end, why, sentences, again)


def _begin_sentences(given: JobEvent | None, started_at_us: int) -> Iterable[str]:
    """What a worker did with an attempt before it began, where that took long; what exactly, it does not say."""
    if given is not None and started_at_us - given.at_us > LONG_BEGIN_US:
        yield (
            f"It began {_span(started_at_us - given.at_us)} after its worker had got it: until then it waited there"
            " for a free slot, or what it needs was made ready."
        )


def _open_sentences(job: Job) -> Iterable[str]:
    if job.started_at_us:
        yield f"It started at {time_shape(job.started_at_us)}."
    if job.phase:
        yield f"It is {job.state.word}: {job.phase}."


def _end_sentences(end: End) -> Iterable[str]:
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
        yield f"{bytes_text(end.dropped_bytes)} of its output {'was' if end.dropped_bytes == 1 else 'were'} not kept."
    if end.outputs_missing:
        left_out = len(end.outputs_missing) - MISSING_TOLD
        more = f"; and {left_out:,} more" if left_out > 0 else ""
        yield f"Of what it left this was not kept: {'; '.join(end.outputs_missing[:MISSING_TOLD])}{more}."
    verified = f", verified by {end.receipt.verified_by}" if end.receipt.verified_by else ""
    yield f"Receipt: {receipt_text(end)}{verified}."


def _again(job: Job, stage: int, attempt: int, outcome: Outcome, end: End) -> str:
    """Why an attempt that failed was or was not followed by another."""
    if outcome is Outcome.SUCCEEDED:
        return ""
    spec = job.spec
    if attempt and _ended_waiting(job) and (stage, attempt) == (job.stage, job.attempt):
        return "It was to be tried again."
    if attempt and ((stage, attempt) != (job.stage, job.attempt) or job.state is not State.FINISHED):
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
    return f"It was not tried again: it had been, {times(job.retried)}."


# -- what comes next


def _next(known: Explained) -> Iterable[str]:
    job = known.job
    if job.state is State.FINISHED:
        yield from _next_of_finished(known)
        return
    if job.state is State.QUEUED:
        if job.due_at_us:
            yield f"It is tried again at {_moment(known, job.due_at_us)} or later."
        yield awaited(known.pending, pinned=bool(job.spec.worker))
    elif job.state is State.ASSIGNED:
        if known.pending.reasons:
            yield awaited(known.pending, pinned=bool(job.spec.worker))
        else:
            yield "Its worker starts it, or gives it back."
    elif job.state is State.RUNNING:
        limit_s = job.spec.work.timeout_s
        if limit_s and job.started_at_us:
            yield f"It is ended at {_moment(known, job.started_at_us + int(limit_s * 1e6))} if it runs until then."
        else:
            yield "It runs until it ends or is stopped."
    else:
        yield "It is over once its worker has proved that none of its processes is left."
    if known.start_by_us:
        yield f"If its program has not started by {_moment(known, known.start_by_us)}, it never does: it is timed out."
    if known.drain_by_us:
        yield f"Its worker is drained, and ends at {_moment(known, known.drain_by_us)} what still runs there."
    if known.away_since_us:
        yield from _next_of_cut_off(known)
    if job.stage + 1 < len(job.spec.stages):
        following = job.spec.stages[job.stage + 1].workload
        yield f"When stage {job.stage} has succeeded, its result goes to stage {job.stage + 1} ({following})."


def _next_of_cut_off(known: Explained) -> Iterable[str]:
    spec = known.job.spec
    yield f"Its worker cannot be reached since {time_shape(known.away_since_us)}: it may run on, or be over."
    if not known.lost_at_us:
        yield "It is waited for without end, as its lost_after says."
        return
    until = f"If its worker stays away until {_moment(known, known.lost_at_us)},"
    if (spec.work.loss_policy or LOSS_POLICIES[0]) == "stop":
        then = "it is tried again, within its crash limit" if spec.on_lost == "retry" else "it is lost"
        yield f"{until} its supervisor has ended it for sure, and {then}."
    else:
        yield f"{until} it is lost, and its program may still run there."


def _next_of_finished(known: Explained) -> Iterable[str]:
    job = known.job
    yield "Nothing: it is over, and its outcome never changes."
    if job.end is not None and not job.end.nothing_left:
        yield "Whether processes of it still run on its worker is not known until that is reached."
    if job.log_status is LogStatus.ARRIVING:
        yield "The rest of its log is still on its way."
    elif job.log_status is LogStatus.LOST:
        text = log_lost_text(job.log_lost_bytes)
        yield f"{text[0].upper()}{text[1:]}."
    elif job.log_status is LogStatus.EXPIRED:
        yield "Its log is no longer kept."
    for event in known.events:
        if event.kind == "files_expired":
            yield f"Its files are no longer kept: their time was over at {time_shape(event.at_us)}."


def _moment(known: Explained, at_us: int) -> str:
    """A time to come, and how long it is until then."""
    left_us = at_us - known.now_us
    return f"{time_shape(at_us)}{f' (in {_span(left_us)})' if known.now_us and left_us > 0 else ''}"


def _span(span_us: int) -> str:
    return f"{max(0, span_us) / 1e6:.3f} s"
