"""submit, jobs, show, logs, stop, wait, signal and workers, against a fake cluster."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from hostler.cli import session
from hostler.errors import Unavailable
from hostler.frames import GAP, encode, gap_payload
from hostler.jobs import End, JobSpec, LogStatus, PastAttempt, Work
from hostler.lifecycle import Outcome, State
from hostler.shape import job_shape, worker_shape
from hostler.wire.jobs import job_from_proto, job_to_proto
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import NOON_US, WORKER, FakeCluster, err, exited, killed, out

Hostler = Callable[..., Answer]
A_SPEC = JobSpec(work=Work(argv=("sleep", "100"), cwd="/"), name="nap")
SOME_ID = "aaaabbbb-1111-4111-8111-111111111111"
ANOTHER_ID = "aaaabbbb-2222-4222-8222-222222222222"


def test_submit_prints_the_id_and_nothing_else(hostler: Hostler, fake: FakeCluster) -> None:
    """So that `ID=$(hostler submit -- ...)` works."""
    answer = hostler("submit", "--name", "x", "--env", "A=b=c", "--priority", "-3", "--", "echo", "--json", "-n")

    (job,) = fake.jobs.values()
    assert answer == Answer(0, f"{job.id}\n", "")
    assert job.spec.work.argv == ("echo", "--json", "-n")
    assert (job.spec.name, job.spec.priority, job.spec.work.env) == ("x", -3, {"A": "b=c"})


def test_a_command_needs_no_dashes_and_keeps_its_own_options(hostler: Hostler, fake: FakeCluster) -> None:
    """The first word that is no option of ours ends our options."""
    assert hostler("submit", "grep", "--name", "x", "--", "y").code == 0

    (job,) = fake.jobs.values()
    assert job.spec.work.argv == ("grep", "--name", "x", "--", "y")


def test_submit_follow_copies_the_output_and_tells_by_its_code_how_the_job_ended(
    hostler: Hostler, fake: FakeCluster
) -> None:
    """1 for any failure, because the exit status of the job is for `run`."""
    fake.begin = lambda _: (exited(7), out(b"hello\n") + err(b"oh\n"))

    answer = hostler("submit", "--follow", "--", "x")

    assert (answer.code, answer.out) == (1, "hello\n")
    assert "oh\n" in answer.err and "failed: exit status 7" in answer.err


def test_a_worker_can_be_named_by_its_name_or_the_start_of_its_id(hostler: Hostler, fake: FakeCluster) -> None:
    """People know names; ids are for programs."""
    hostler("submit", "--worker", "stable", "--", "x")
    hostler("submit", "--worker", "11111", "--", "x")

    assert [job.spec.worker for job in fake.jobs.values()] == [WORKER.id, WORKER.id]
    assert hostler("submit", "--worker", "other", "--", "x").code == 3


@pytest.mark.parametrize(
    "wrong",
    [
        ("--env", "novalue", "--", "x"),
        ("--label", "=v", "--", "x"),
        ("--timeout", "-1", "--", "x"),
        ("--timeout", "nan", "--", "x"),
        ("--grace", "soon", "--", "x"),
        ("--priority", "2000", "--", "x"),
        ("--", "a\udc80b"),
        ("--nosuch", "--", "x"),
        (),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence_and_code_2(
    wrong: tuple[str, ...], hostler: Hostler, fake: FakeCluster
) -> None:
    """Nothing is submitted, and there is no traceback."""
    answer = hostler("submit", *wrong)

    assert (answer.code, answer.out, fake.jobs) == (2, "", {})
    assert answer.err.startswith("hostler: ") and len(answer.err.splitlines()) <= 2


def test_jobs_shows_the_newest_and_says_that_there_are_older_ones(hostler: Hostler, fake: FakeCluster) -> None:
    """The list ends with what was just submitted."""
    ids = [fake.add(exited(0), spec=A_SPEC) for _ in range(4)]

    answer = hostler("jobs", "--limit", "2")

    assert [line.split()[0] for line in answer.out.splitlines()] == ["ID", *ids[2:]]
    assert "older jobs are not shown" in answer.err and fake.pages == [3]
    assert len(hostler("jobs", "--all").out.splitlines()) == 5
    assert hostler("jobs", "--limit", "4").err == ""
    assert hostler("show", "last").code == 0 and fake.pages[-1] == 1


def test_jobs_filters_by_state_and_name(hostler: Hostler, fake: FakeCluster) -> None:
    """Filters are the cluster's."""
    fake.add(exited(0), spec=A_SPEC)
    running = fake.add(spec=A_SPEC)
    fake.add(spec=replace(A_SPEC, name="other"))

    listed = json.loads(hostler("jobs", "--state", "running", "--name", "nap", "--json").out)

    assert [job["id"] for job in listed["jobs"]] == [running]
    assert hostler("jobs", "--state", "sleepy").code == 2


def test_no_name_can_move_the_cursor(hostler: Hostler, fake: FakeCluster) -> None:
    """Control characters of other people's jobs are shown escaped."""
    job = fake.add(exited(0), spec=JobSpec(work=Work(argv=("a\x1b[2J",)), name="b\x1b[1mc\nd"))

    for command in (["jobs"], ["show", job], ["wait", job]):
        assert "\x1b" not in hostler(*command).out


def test_show_tells_everything_about_an_end(hostler: Hostler, fake: FakeCluster) -> None:
    """Cause, evidence, receipt, times and log are there."""
    job = fake.add(killed("SIGKILL", "stop"), spec=A_SPEC)

    shown = hostler("show", job).out

    for text in (job, "sleep 100", "stopped: SIGKILL", "SIGKILL to 2 processes", "sh 41", "no survivors", "wait"):
        assert text in shown


def test_show_names_no_worker_of_a_job_that_waits_to_be_tried_again(hostler: Hostler, fake: FakeCluster) -> None:
    """It has an attempt behind it, and no worker now."""
    job = fake.add(spec=A_SPEC)
    fake.jobs[job] = replace(fake.jobs[job], state=State.QUEUED, worker="", attempt=2, retried=1)

    shown = hostler("show", job).out

    assert "worker" not in shown and "retried" in shown


def test_show_tells_why_a_job_waits(hostler: Hostler, fake: FakeCluster) -> None:
    """Every reason has its line."""
    job = fake.add(spec=A_SPEC)
    reasons = ("2 workers have no free slot", "1 worker lacks the label gpu=1")
    fake.jobs[job] = replace(fake.jobs[job], state=State.QUEUED, pending_reasons=reasons)

    shown = hostler("show", job).out

    assert all(reason in shown for reason in reasons)


def test_json_is_the_shape_of_v1(hostler: Hostler, fake: FakeCluster) -> None:
    """The command line and HTTP answer with the same objects."""
    job = fake.add(killed("SIGTERM"), spec=A_SPEC)
    expected = json.loads(json.dumps(job_shape(job_from_proto(job_to_proto(fake.jobs[job])))))

    assert json.loads(hostler("show", job, "--json").out) == expected
    assert json.loads(hostler("--json", "jobs").out) == {"jobs": [expected]}
    assert json.loads(hostler("wait", job, "--json").out) == {"jobs": [expected], "open": []}
    assert json.loads(hostler("stop", job, "--json").out) == {"jobs": [expected]}
    assert json.loads(hostler("workers", "--json").out) == {"workers": [worker_shape(WORKER)]}


def test_ids_may_be_shortened_as_long_as_they_are_unique(hostler: Hostler, fake: FakeCluster) -> None:
    """Four characters or more; several that fit are listed."""
    fake.add(exited(0), spec=A_SPEC, job=SOME_ID)
    fake.add(exited(0), spec=A_SPEC, job=ANOTHER_ID)

    assert SOME_ID in hostler("show", "aaaabbbb-1").out
    assert ANOTHER_ID in hostler("show", "last").out
    ambiguous = hostler("show", "aaaa")
    assert ambiguous.code == 2 and SOME_ID in ambiguous.err and ANOTHER_ID in ambiguous.err
    assert hostler("show", "aaa").code == 2
    assert hostler("show", "ffffffff").code == 3


def test_an_unknown_job_is_code_3(hostler: Hostler) -> None:
    """With a hint what to do next."""
    answer = hostler("logs", SOME_ID)

    assert (answer.code, answer.out) == (3, "")
    assert answer.err.startswith("hostler: ") and "hostler jobs" in answer.err
    assert hostler("show", "last").code == 3


def test_logs_keeps_the_streams_apart_and_exact(hostler: Hostler, fake: FakeCluster) -> None:
    """Each of our streams is the job's, or only the one that was asked for."""
    job = fake.add(exited(0), out(b"a\n") + err(b"b\n") + out(b"c"), spec=A_SPEC)

    assert hostler("logs", job) == Answer(0, "a\nc", "b\n")
    assert hostler("logs", job, "--stdout") == Answer(0, "a\nc", "")
    assert hostler("logs", job, "--stderr") == Answer(0, "", "b\n")
    assert hostler("logs", job, "--from", str(len(out(b"a\n")))) == Answer(0, "c", "b\n")


def test_logs_from_beyond_the_end_say_where_that_is(hostler: Hostler, fake: FakeCluster) -> None:
    """A position that was mistyped is no empty log."""
    job = fake.add(exited(0), out(b"1"), spec=A_SPEC)
    end = len(out(b"1"))

    answer = hostler("logs", "--from", "999", job)
    at_the_end = hostler("logs", "--from", str(end), job)

    assert (answer.code, answer.out) == (2, "")
    text = f"there is nothing from position 999 on: the log of attempt 1 ends at {end}"
    assert answer.err.startswith(f"hostler: {text}\n")
    assert hostler("logs", "-f", "--from", "999", job) == answer
    assert text in hostler("logs", "--json", "--from", "999", job).err
    assert (at_the_end.code, at_the_end.out, at_the_end.err) == (0, "", "")


def test_logs_of_a_job_that_was_tried_again_say_that_there_are_others(hostler: Hostler, fake: FakeCluster) -> None:
    """What is printed is the newest attempt; the others are named, and can be had."""
    job = fake.add(exited(0), out(b"now\n"), spec=A_SPEC)
    past = [
        PastAttempt(stage=0, attempt=number, worker=WORKER.id, outcome=Outcome.FAILED, end=exited(1))
        for number in (1, 2)
    ]
    fake.jobs[job] = replace(fake.jobs[job], attempt=2, past=tuple(past[:1]))
    one = f"hostler: attempt 2; hostler logs --attempt 1 {job} shows the one before it\n"
    assert hostler("logs", job) == Answer(0, "now\n", one)
    fake.jobs[job] = replace(fake.jobs[job], attempt=3, past=tuple(past))

    two = f"hostler: attempt 3; hostler logs --attempt N {job} shows one of those (1, 2) before it\n"
    assert hostler("logs", job) == hostler("logs", "-f", job) == Answer(0, "now\n", two)
    assert hostler("logs", "--json", job).err == ""
    fake.read.clear()
    for attempt in ("1", "2", "3"):
        assert hostler("logs", "--attempt", attempt, job).err == ""
    assert fake.read == [(0, 1), (0, 2), (0, 3)]
    missing = hostler("logs", "--attempt", "4", job)
    assert missing.code == 3 and "attempt 4 of job" in missing.err and "hostler show ID" in missing.err


def test_loss_in_a_log_is_never_silent(hostler: Hostler, fake: FakeCluster) -> None:
    """A gap has a line on standard error."""
    job = fake.add(exited(0), out(b"a") + encode(GAP, gap_payload(5000, 7), NOON_US), spec=A_SPEC)

    answer = hostler("logs", job)

    assert answer.out == "a"
    assert "5,000 bytes of standard output and 7 of standard error" in answer.err


def test_a_log_that_expired_is_code_3_and_says_so(hostler: Hostler, fake: FakeCluster) -> None:
    """It is not an empty one: that would be nothing at all and code 0."""
    job = fake.add(exited(0), spec=A_SPEC)
    fake.jobs[job] = replace(fake.jobs[job], log_status=LogStatus.EXPIRED, log_bytes=1234, log_position=1300)

    for options in ((), ("-f",), ("--json",)):
        answer = hostler("logs", job, *options)
        assert (answer.code, answer.out) == (3, "" if "--json" not in options else answer.out)
        assert "was removed when its time was over" in answer.err + answer.out
    assert "1,234 bytes, expired" in hostler("show", job).out


def test_logs_as_json_has_one_line_per_frame(hostler: Hostler, fake: FakeCluster) -> None:
    """Bytes that are no text are base64."""
    job = fake.add(exited(0), out(b"a\n") + err(b"\xff"), spec=A_SPEC)

    first, second, end = [json.loads(line) for line in hostler("logs", job, "--json").out.splitlines()]

    assert (first["position"], first["event"], first["text"]) == (0, "out", "a\n")
    assert (second["position"], second["event"], second["base64"]) == (len(out(b"a\n")), "err", "/w==")
    assert (end["event"], end["status"]) == ("end", "complete")


def test_a_log_goes_on_where_it_was_after_the_coordinator_was_away(hostler: Hostler, fake: FakeCluster) -> None:
    """Nothing twice, nothing missing."""
    first = out(b"one ")
    job = fake.add(exited(0), first + out(b"two ") + out(b"three"), spec=A_SPEC)
    fake.log_breaks_after = [len(first), len(first)]

    assert hostler("logs", "-f", job) == Answer(0, "one two three", "")


def test_stop_says_what_was_done(hostler: Hostler, fake: FakeCluster) -> None:
    """The receipt in words; stopping twice is fine."""
    job = fake.add(spec=A_SPEC)

    answer = hostler("stop", job)

    assert answer.code == 0
    for text in (job, "stopped: SIGTERM", "SIGTERM to 2 processes", "2 processes ended", "no survivors"):
        assert text in answer.out
    again = hostler("stop", job)
    assert again.code == 0 and "had ended before" in again.out


def test_stop_goes_on_with_the_others_when_one_is_unknown(hostler: Hostler, fake: FakeCluster) -> None:
    """What can be stopped is stopped, and the code tells."""
    job = fake.add(spec=A_SPEC)

    answer = hostler("stop", SOME_ID, job)

    assert answer.code == 3 and SOME_ID in answer.err
    assert fake.jobs[job].state is State.FINISHED


def test_wait_is_0_only_when_all_succeeded(hostler: Hostler, fake: FakeCluster) -> None:
    """Each job has its line."""
    good, bad = fake.add(exited(0), spec=A_SPEC), fake.add(exited(3), spec=A_SPEC)

    assert hostler("wait", good) == Answer(0, f"{good} succeeded\n", "")
    answer = hostler("wait", good, bad)
    assert answer.code == 1
    assert set(answer.out.splitlines()) == {f"{good} succeeded", f"{bad} failed: exit status 3"}


def test_wait_that_runs_out_of_time_is_1_and_says_so(hostler: Hostler, fake: FakeCluster) -> None:
    """A script cannot take it for success."""
    job = fake.add(spec=A_SPEC)

    answer = hostler("wait", "--timeout", "0.2", job)

    assert answer.code == 1 and "1 of 1 jobs had not ended" in answer.err


@pytest.mark.parametrize("name", ["INT", "int", "SIGINT", "2"])
def test_signals_have_names_and_numbers(name: str, hostler: Hostler, fake: FakeCluster) -> None:
    """As for kill(1)."""
    job = fake.add(spec=A_SPEC)

    assert hostler("signal", job, name) == Answer(0, "", "")
    assert fake.heard == ["signal 2"]


def test_a_job_that_does_not_run_takes_no_signal(hostler: Hostler, fake: FakeCluster) -> None:
    """And an unknown signal is a usage error."""
    job = fake.add(exited(0), spec=A_SPEC)

    assert hostler("signal", job, "INT").code == 1
    assert hostler("signal", job, "LOUD").code == 2


def test_a_worker_that_does_not_answer_is_not_taken_for_a_missing_cluster(hostler: Hostler, fake: FakeCluster) -> None:
    """The coordinator has answered, and a signal that has perhaps arrived is not to be sent again unseen."""
    job = fake.add(spec=A_SPEC)
    fake.signal_fails = Unavailable("whether the signal has arrived is not known", field="worker")

    answer = hostler("signal", job, "USR1")

    assert (answer.code, answer.out) == (1, "")
    assert answer.err.splitlines() == [
        "hostler: whether the signal has arrived is not known",
        "  next: hostler workers shows which are connected",
    ]


def test_workers_shows_whole_ids(hostler: Hostler) -> None:
    """`/start` asks for them."""
    answer = hostler("workers")

    assert answer.code == 0
    assert answer.out.splitlines()[1].split() == [WORKER.id, "stable", "connected", "0", "of", "4"]


def test_an_end_without_a_start_says_so(hostler: Hostler, fake: FakeCluster) -> None:
    """A missing program is no exit status."""
    end = End(cause="not_started", error='exec: "x": executable file not found in $PATH')
    job = fake.add(end, spec=A_SPEC)

    assert 'exec: "x"' in hostler("show", job).out
    assert hostler("wait", job).out == f"{job} failed: not started\n"


def test_who_attaches_to_a_finished_job_is_told_that_it_is_over(
    hostler: Hostler, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And, who gives input, that nothing takes it; the code is the job's, and with --all-output its output comes."""
    job = fake.add(exited(3), out(b"said before"), spec=A_SPEC)
    over = f"hostler: job {job} is over (failed: exit status 3)"

    monkeypatch.setattr(session, "is_forwarded", lambda: False)
    assert hostler("attach", job) == Answer(3, "", f"{over}; hostler logs {job} shows its output\n")
    assert hostler("attach", "--all-output", job) == Answer(3, "said before", f"{over}\n")
    monkeypatch.setattr(session, "is_forwarded", lambda: True)
    answer = hostler("attach", "--all-output", job)
    assert answer == Answer(3, "said before", f"{over}; nothing takes the standard input any more\n")
    assert json.loads(hostler("attach", "--json", job).err)["outcome"] == "failed"


def test_who_attaches_reads_on_in_the_attempt_that_it_found(hostler: Hostler, fake: FakeCluster) -> None:
    """How far the log has come is a position of that attempt's, and of none that may begin meanwhile."""
    job = fake.add(None, out(b"before"), spec=A_SPEC)
    fake.jobs[job] = replace(fake.jobs[job], attempt=2, log_position=len(out(b"before")))
    fake.after_log = [lambda: fake.end(job, exited(0))]

    assert hostler("attach", job).out == ""
    assert fake.read == [(0, 2)]
