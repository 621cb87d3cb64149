"""explain, against a fake cluster: the sentences, and the same as JSON."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hostler.causes import CAUSES, meaning_of
from hostler.explanation import Explained, explain, explanation_shape
from hostler.jobs import End, Failure, Job, JobEvent, JobSpec, Limits, LogStatus, PastAttempt, Stage, Work
from hostler.lifecycle import Outcome, State
from hostler.pending import Code, Nearest, Pending, Reason
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import NOON_US, WORKER, FakeCluster, exited, killed

Hostler = Callable[..., Answer]
WORK = Work(argv=("sleep", "100"), timeout_s=5, output_bytes_max=1000, limits=Limits(memory_bytes=1 << 26, pids=9))
A_SPEC = JobSpec(work=WORK, retries=1, retry_on=("exit", "signal"), start_within_s=60)


def event(job: str, number: int, kind: str, **more: object) -> JobEvent:
    """An event, some seconds after noon."""
    given = {"stage": 0, "attempt": 1, "worker": "", "detail": "", **more}
    return JobEvent(number=number, job=job, kind=kind, at_us=NOON_US + number * 1_000_000, **given)  # type: ignore[arg-type]


def test_explain_tells_the_whole_story(hostler: Hostler, fake: FakeCluster) -> None:
    """What was asked, where it ran and why it waited, both attempts with their ends, and that it is over."""
    job = fake.add(killed("SIGKILL"), spec=A_SPEC)
    past = PastAttempt(stage=0, attempt=1, worker=WORKER.id, outcome=Outcome.FAILED, end=exited(3))
    fake.jobs[job] = replace(fake.jobs[job], past=(past,), attempt=2, retried=1, log_status=LogStatus.COMPLETE)
    fake.events = [
        event(job, 1, "assigned", worker=WORKER.id),
        event(job, 2, "requeued", detail="no room for its files"),
        event(job, 3, "stop_requested", detail="by me"),
    ]

    answer = hostler("explain", job)

    assert answer.code == 0
    assert answer.err == ""
    told = answer.out.splitlines()
    assert told[0] == f"job {job} is failed: SIGKILL"
    assert "  To run sleep 100" in told
    assert "  It may run for 5 s; then it is ended, with 10 s between SIGTERM and SIGKILL." in told
    assert "  All its processes together may use 67,108,864 bytes of memory, 9 processes and threads." in told
    assert "  It may write 1,000 bytes; then the rest is dropped." in told
    assert "  After exit, signal it may be tried again, once." in told
    assert "  Worker stable got attempt 1 1.000 s later." in told
    assert "  It was given back, as it never ran: no room for its files." in told
    assert any(line.endswith("by me.") and line.startswith("  A stop was asked for at ") for line in told)
    first, second = told.index("Attempt 1 on worker stable: failed"), told.index("Attempt 2 on worker stable: failed")
    assert told[first + 2 :][:3] == [
        "  It ended by exit: the program ended by itself, with an exit code.",
        "  Evidence: exit status 3.",
        "  The program's exit code was 3.",
    ]
    assert "  It was tried again." in told[first:second]
    assert "  The program was ended by SIGKILL." in told[second:]
    assert any("Receipt: SIGKILL to 2 processes" in line for line in told[second:])
    assert "  It was not tried again: it had been, once." in told[second:]
    assert told[-2:] == ["What happens next", "  Nothing: it is over, and its outcome never changes."]

    shape = json.loads(hostler("explain", job, "--json").out)
    assert [each["cause"] for each in shape["attempts"]] == ["exit", "signal"]
    assert [each["exit_code"] for each in shape["attempts"]] == [3, None]
    assert shape["attempts"][1]["receipt"]["verified_by"] == "wait"
    assert (shape["state"], shape["outcome"], shape["next"]) == ("finished", "failed", [told[-1].strip()])


def test_explain_of_no_job_is_an_error(hostler: Hostler) -> None:
    """As of every command."""
    assert hostler("explain", "aaaabbbb-1111-4111-8111-111111111111").code == 3


A_JOB = Job(id="x", spec=JobSpec(work=Work(argv=("true",))), state=State.FINISHED, attempt=1, worker="w", end=End())


def known(job: Job, *events: JobEvent, **more: Any) -> Explained:
    """What a coordinator would say of a job."""
    reasons = tuple(Reason(code="label", text=text, workers=1) for text in job.pending_reasons)
    given: dict[str, Any] = {"pending": Pending(reasons=reasons), "names": {"w": "one"}, **more}
    return Explained(job=job, events=events, **given)


def test_a_job_that_was_sent_ahead_says_what_it_waits_for_and_what_comes_next() -> None:
    """As sentences and as JSON, though a worker has it."""
    text = "it was sent ahead to one, where 2 of 2 slots are taken"
    job = replace(A_JOB, state=State.ASSIGNED, end=None, pending_reasons=(text,))
    ahead = Pending(reasons=(Reason(code=Code.AHEAD, text=text, workers=1),))
    found = known(job, event("x", 1, "assigned", worker="w"), pending=ahead)

    told = explain(found)

    assert f"It waits: {text}." in told.waited
    assert told.next == (
        "It starts there when enough slots are free, or elsewhere when another worker has room first.",
    )
    assert explanation_shape(found)["pending"]["reasons"] == [{"code": "ahead", "text": text, "workers": 1}]


@pytest.mark.parametrize(("after_s", "said"), [(9.003, True), (0.9, False)])
def test_an_attempt_that_began_long_after_its_worker_got_it_says_so(after_s: float, said: bool) -> None:
    """What was between is not known for sure, and so both are named; less than a second is no wait."""
    given = event("x", 1, "assigned", worker="w")
    end = replace(exited(0), started_at_us=given.at_us + int(after_s * 1e6))

    (attempt,) = explain(known(replace(A_JOB, end=end), given)).attempts

    text = "It began 9.003 s after its worker had got it: until then it waited there for a free slot, or what it needs"
    assert [line.startswith(text) for line in attempt.sentences].count(True) == said


def told_of(job: Job, *events: JobEvent) -> str:
    """All sentences about a job."""
    told = explain(known(job, *events))
    attempts = [sentence for each in told.attempts for sentence in (*each.sentences, each.again)]
    return "\n".join([*told.asked, *told.waited, *attempts, *told.next])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"state": State.QUEUED, "end": None, "pending_reasons": ("2 workers are full",)},
            "It waits: 2 workers are full.",
        ),
        ({"state": State.QUEUED, "end": None, "due_at_us": NOON_US}, "It is tried again at 2025-11-25T"),
        ({"state": State.ASSIGNED, "end": None, "phase": "preparing"}, "It is assigned: preparing."),
        ({"state": State.RUNNING, "end": None, "started_at_us": NOON_US}, "It runs until it ends or is stopped."),
        ({"state": State.STOPPING, "end": None, "phase": "unkillable"}, "It is stopping: unkillable."),
        ({"outcome": Outcome.SUCCEEDED, "end": exited(0)}, "exit code was 0"),
        ({"outcome": Outcome.FAILED, "end": exited(1)}, "no retries were asked for"),
        ({"outcome": Outcome.STOPPED, "end": killed("SIGTERM", "stop")}, "what was stopped or refused is not"),
        ({"outcome": Outcome.LOST, "end": End(cause="worker_lost", started_at_us=1)}, "its on_lost is fail"),
        ({"outcome": Outcome.LOST, "end": End(cause="worker_lost")}, "Whether processes of it still run"),
        ({"outcome": Outcome.LOST, "end": End(cause="later")}, "It ended by later: its cause is later."),
        ({"log_status": LogStatus.LOST, "log_lost_bytes": 1234}, "1,234 bytes of the log were not kept: its worker"),
        ({"log_status": LogStatus.LOST, "log_lost_bytes": 1}, "1 byte of the log was not kept: its worker"),
        ({"log_status": LogStatus.LOST}, "What may have followed of the log was not kept: the attempt was given up"),
        ({"end": End(failure=Failure(type="KeyError", module="", message="a"))}, "Its script raised KeyError: a."),
        ({"end": End(outputs_missing=("result.json: bad",))}, "Of what it left this was not kept: result.json: bad."),
        ({"end": End(outputs_missing=tuple("abcde"))}, "Of what it left this was not kept: a; b; c; and 2 more."),
        ({"end": End(core_dumped=True, signal="SIGSEGV")}, "ended by SIGSEGV, and left a core file"),
    ],
)
def test_every_state_and_end_has_its_sentence(changes: dict[str, object], says: str) -> None:
    """Also those that a later version may add."""
    assert says in told_of(replace(A_JOB, **changes))  # type: ignore[arg-type]


def test_where_it_may_run_is_told() -> None:
    """Its worker, its labels and its expression: whatever a worker has to be."""
    spec = replace(A_JOB.spec, labels={"zone": "a"}, where="gpu and not spare")
    told = explain(known(replace(A_JOB, spec=spec))).asked
    assert "It runs with zone=a and where gpu and not spare, and takes 1 slot." in told
    assert "It runs on any worker, and takes 1 slot." in explain(known(A_JOB)).asked


@pytest.mark.parametrize(
    ("spec", "cause", "says"),
    [
        ({"retries": 2}, "exit", "it had been, 2 times"),
        ({"retries": 2, "retry_on": ("timeout",)}, "exit", "exit is none of the ends that its retry_on names"),
        ({"on_lost": "retry"}, "supervisor_died", "whether its program still runs is not known"),
        ({"on_lost": "retry"}, "lease", "as often as its crash limit allows"),
    ],
)
def test_why_it_was_not_tried_again_is_told(spec: dict[str, object], cause: str, says: str) -> None:
    """By what was asked for, and how it ended."""
    outcome = CAUSES[cause].outcome or Outcome.FAILED
    end = End(cause=cause, exit_code=1 if cause == "exit" else None, started_at_us=1)
    given = replace(A_JOB.spec, **spec)  # type: ignore[arg-type]
    assert says in told_of(replace(A_JOB, spec=given, retried=2, outcome=outcome, end=end))


REFUSED = End(cause="refused", evidence="it asks for pn", error="refused by the worker's policy")


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (replace(A_JOB, attempt=0, worker="", outcome=Outcome.REJECTED, end=REFUSED), [0]),
        (
            replace(
                A_JOB,
                past=(PastAttempt(stage=0, attempt=1, worker="w", outcome=Outcome.FAILED, end=exited(1)),),
                outcome=Outcome.STOPPED,
                end=replace(REFUSED, cause="stop"),
            ),
            [1, 0],
        ),
    ],
    ids=["it never had one", "between two"],
)
def test_an_end_without_an_attempt_is_told_with_its_cause(job: Job, told: list[int]) -> None:
    """It was refused, stopped or too late while it waited: with its cause, its evidence and its error."""
    attempts = explain(known(job)).attempts

    assert [each.attempt for each in attempts] == told
    assert "Its program never ran." in attempts[-1].sentences
    assert [each.again for each in attempts[:-1]] == ["It was to be tried again."] * (len(told) - 1)
    assert attempts[-1].again == "It was not tried again: what was stopped or refused is not."
    assert "Evidence: it asks for pn." in attempts[-1].sentences
    shape = explanation_shape(known(job))["attempts"][-1]
    assert (shape["attempt"], shape["worker"], shape["cause"]) == (None, None, job.end and job.end.cause)
    assert shape["error"] == REFUSED.error


def test_an_end_without_an_attempt_is_printed_under_its_own_heading(hostler: Hostler, fake: FakeCluster) -> None:
    """No attempt is named where there was none."""
    job = fake.add(REFUSED, spec=A_SPEC)
    fake.jobs[job] = replace(fake.jobs[job], attempt=0, worker="", outcome=Outcome.REJECTED)

    lines = hostler("explain", job).out.splitlines()

    assert "  Evidence: it asks for pn." in lines[lines.index("While it waited: rejected") :]


def test_limits_of_one_are_told_in_the_singular() -> None:
    """Of processors, processes and bytes."""
    work = replace(A_JOB.spec.work, output_bytes_max=1, limits=Limits(memory_bytes=1, cpus=1, pids=1))
    told = explain(known(replace(A_JOB, spec=replace(A_JOB.spec, work=work)))).asked
    assert "All its processes together may use 1 byte of memory, 1 processor, 1 process." in told
    assert "It may write 1 byte; then the rest is dropped." in told


def test_the_worker_that_is_asked_for_is_named() -> None:
    """As in every other sentence."""
    told = explain(known(replace(A_JOB, spec=replace(A_JOB.spec, worker="w")))).asked
    assert "It runs on worker one, and takes 1 slot." in told


ROOM = "It starts when a worker that may run it has room."


@pytest.mark.parametrize(
    ("codes", "missing", "pin", "says"),
    [
        ([Code.NO_FREE_SLOT, Code.LABEL], "has 0 of 1 slots free", "", ROOM),
        (
            [Code.DRAINING, Code.NO_FREE_SLOT],
            "is draining",
            "",
            "It starts when a worker that may run it takes new work again or has room.",
        ),
        (
            [Code.UNREACHABLE],
            "is unreachable",
            "",
            "No worker takes it as things are: it starts when b can be reached again, "
            "or when another one joins that may run it.",
        ),
        (
            [Code.WHERE, Code.UNREACHABLE],
            "is unreachable",
            "",
            "No worker takes it as things are: it starts when b can be reached again, "
            "or when one joins that matches its expression.",
        ),
        (
            [Code.UNREACHABLE],
            "is unreachable",
            "w",
            "Its worker does not take it as it is: it starts when b can be reached again.",
        ),
        ([Code.NO_WORKER], "", "", "It starts when a worker that may run it has joined."),
        (
            [Code.LABEL, Code.FEW_SLOTS],
            "has 2 slots, and 5 are needed",
            "",
            "No worker takes it as things are: it starts when one joins that has its labels "
            "and has as many slots as it takes.",
        ),
        (
            [Code.WORKLOAD, Code.DRAINED],
            "is drained on request",
            "",
            "No worker takes it as things are: it starts when b is given work again (hostler workers resume b), "
            "or when one joins that takes its workload.",
        ),
        (
            [Code.LEFT],
            "has left, and was last heard at noon",
            "w",
            "Its worker does not take it as it is: it starts when b is started again.",
        ),
        (
            [Code.FEW_SLOTS],
            "has 2 slots, and 5 are needed",
            "w",
            "Its worker does not take it as it is: it starts when the worker that it asks for joins again and "
            "has as many slots as it takes.",
        ),
    ],
)
def test_what_must_happen_before_it_starts_is_told(codes: list[Code], missing: str, pin: str, says: str) -> None:
    """Where no worker may run it, nobody is told to wait for room."""
    reasons = tuple(Reason(code=code, text="why", workers=int(code is not Code.NO_WORKER)) for code in codes)
    nearest = Nearest(worker="w", name="b", missing=(missing,), codes=(codes[-1],)) if missing else None
    job = replace(A_JOB, spec=replace(A_JOB.spec, worker=pin), state=State.QUEUED, attempt=0, end=None)
    assert explain(known(job, pending=Pending(reasons=reasons, nearest=nearest))).next == (says,)


def test_from_when_a_time_counts_is_told() -> None:
    """Another attempt waits from the end of the one before, through its backoff, and not from the acceptance."""
    told = explain(
        known(
            replace(A_JOB, attempt=3, retried=1),
            event("x", 1, "assigned", worker="w"),
            event("x", 2, "retried", detail="exit"),
            event("x", 5, "assigned", worker="w", attempt=2, detail="no other could take it"),
            event("x", 6, "requeued", detail="full", attempt=2),
            event("x", 8, "assigned", worker="w", attempt=3),
        )
    ).waited
    assert told[2:] == (
        "Worker one got attempt 2 3.000 s after attempt 1 had ended, with its backoff before it: "
        "no other could take it.",
        "It was given back, as it never ran: full.",
        "Worker one got attempt 3 2.000 s later.",
    )


def test_from_when_the_time_of_a_stage_counts_is_told() -> None:
    """From the end of the one before; and where that is left out, from the acceptance."""
    spec = JobSpec(work=Work(), stages=(Stage(workload="a"), Stage(workload="b")))
    events = [event("x", 3, "stage_ended"), event("x", 4, "assigned", worker="w", stage=1)]
    job = replace(A_JOB, spec=spec, queued_at_us=NOON_US)
    assert "Worker one got attempt 1 of stage 1 1.000 s after stage 0 had ended." in told_of(job, *events)
    late = explain(known(job, events[1], older=True)).waited[-1]
    assert late == "Worker one got attempt 1 of stage 1 4.000 s after it was accepted."


def test_stages_of_a_chain_are_named() -> None:
    """Attempts are counted in each."""
    spec = JobSpec(work=Work(), stages=(Stage(workload="a"), Stage(workload="b")))
    first = PastAttempt(stage=0, attempt=1, worker="w", outcome=Outcome.SUCCEEDED, end=exited(0))
    job = replace(A_JOB, spec=spec, past=(first,), stage=1, end=exited(0), outcome=Outcome.SUCCEEDED)
    assert "Worker one got attempt 1 of stage 1" in told_of(job, event("x", 1, "assigned", worker="w", stage=1))
    assert [each.stage for each in explain(known(job)).attempts] == [0, 1]


def test_every_cause_has_a_meaning() -> None:
    """A sentence part for each, without a full stop."""
    assert all(not meaning.meaning.endswith(".") for meaning in CAUSES.values())
    assert meaning_of("") == "why is not known"


# What only the coordinator's memory knows


@pytest.mark.parametrize(
    ("changes", "facts", "says"),
    [
        ({"state": State.RUNNING}, {"drain_by_us": NOON_US}, "Its worker is drained, and ends at 2025-11-25T12:00:00"),
        (
            {"state": State.ASSIGNED},
            {"start_by_us": NOON_US, "now_us": NOON_US - 1_500_000},
            "Z (in 1.500 s), it never",
        ),
        ({"state": State.RUNNING}, {"away_since_us": NOON_US}, "It is waited for without end, as its lost_after says."),
        (
            {"state": State.RUNNING},
            {"away_since_us": 1, "lost_at_us": NOON_US},
            "it is lost, and its program may still",
        ),
        ({"state": State.FINISHED, "log_status": LogStatus.EXPIRED}, {}, "Its log is no longer kept."),
    ],
)
def test_what_comes_next_is_told_with_its_time(changes: dict[str, Any], facts: dict[str, Any], says: str) -> None:
    """Each deadline that may end it."""
    job = replace(A_JOB, end=None if changes["state"] is not State.FINISHED else End(), **changes)
    assert says in "\n".join(explain(known(job, **facts)).next)


@pytest.mark.parametrize(
    ("on_lost", "then"), [("", "has ended it for sure, and it is lost."), ("retry", "it is tried again, within its")]
)
def test_what_follows_the_lease_of_a_worker_is_told(on_lost: str, then: str) -> None:
    """With the policy stop nothing runs on there."""
    spec = replace(A_JOB.spec, work=replace(A_JOB.spec.work, loss_policy="stop"), on_lost=on_lost)
    job = replace(A_JOB, spec=spec, state=State.RUNNING, end=None)
    assert then in "\n".join(explain(known(job, away_since_us=1, lost_at_us=NOON_US)).next)


def test_what_a_job_waits_for_is_told_closely() -> None:
    """Every reason, the nearest worker with all that it misses, and how many come before."""
    nearest = Nearest(worker="w", name="one", missing=("has 3 of 4 slots free, and 4 are needed", "is draining: disk"))
    reasons = (Reason(code=Code.NO_FREE_SLOT, text="2 workers have fewer than 4 free slots", workers=2),)
    waits = Pending(reasons=reasons, nearest=nearest, before=1000, before_more=True)
    job = replace(A_JOB, state=State.QUEUED, attempt=0, end=None)

    assert explain(known(job, pending=waits)).waited[1:] == (
        "It waits: 2 workers have fewer than 4 free slots.",
        "Nearest to taking it is worker one, which has 3 of 4 slots free, and 4 are needed and is draining: disk.",
        "1,000 jobs that ask for the same come before it, and perhaps more.",
    )
    assert explanation_shape(known(job, pending=waits))["pending"] == {
        "reasons": [{"code": "no_free_slot", "text": "2 workers have fewer than 4 free slots", "workers": 2}],
        "nearest": {"worker": "w", "name": "one", "missing": list(nearest.missing)},
        "before": 1000,
        "before_more": True,
    }


def test_why_it_was_this_worker_is_told(hostler: Hostler, fake: FakeCluster) -> None:
    """With its assignment, and beside its attempt."""
    job = fake.add(exited(0), spec=A_SPEC)
    fake.events = [event(job, 1, "assigned", worker=WORKER.id, detail="no other could take it")]

    assert "  Worker stable got attempt 1 1.000 s later: no other could take it." in hostler("explain", job).out
    shape = json.loads(hostler("explain", job, "--json").out)
    assert [each["chosen"] for each in shape["attempts"]] == ["no other could take it"]
    assert shape["pending"] is None
    assert set(shape["times"]) == {"now", "due", "start_by", "away_since", "lost_at", "drain_by"}


def test_of_many_attempts_the_newest_are_shown(hostler: Hostler, fake: FakeCluster) -> None:
    """Fifty retries make no screen of five hundred lines; JSON has all of them."""
    job = fake.add(exited(7), spec=replace(A_SPEC, retries=50))
    past = tuple(
        PastAttempt(stage=0, attempt=number, worker=WORKER.id, outcome=Outcome.FAILED, end=exited(number))
        for number in range(1, 51)
    )
    fake.jobs[job] = replace(fake.jobs[job], past=past, attempt=51, retried=50)
    fake.events = [event(job, number, "assigned", worker=WORKER.id, attempt=number) for number in range(1, 52)]
    fake.events += [event(job, number, "requeued", detail="full", attempt=number) for number in range(52, 80)]

    told = hostler("explain", job).out.splitlines()

    assert "31 attempts before these are left out; --json tells all" in told
    assert next(line for line in told if line.startswith("Attempt ")) == "Attempt 32 on worker stable: failed"
    assert sum("got attempt" in line or "given back" in line for line in told) == 58
    assert "  (21 sentences are left out; --json tells all)" in told
    shape = json.loads(hostler("explain", job, "--json").out)
    assert len(shape["attempts"]) == 51 and len(shape["waited"]) == 80


def test_what_follows_in_a_chain_is_told() -> None:
    """The result of a stage goes to the next one; the last has none after it."""
    spec = JobSpec(work=Work(), stages=(Stage(workload="a"), Stage(workload="b")))
    job = replace(A_JOB, spec=spec, state=State.RUNNING, end=None)
    follows = "When stage 0 has succeeded, its result goes to stage 1 (b)."
    assert follows in explain(known(job)).next
    assert len(explain(known(replace(job, stage=1))).next) == 1
