"""Jobs by name, number and filter, and the commands that take many at once: stop, wait, retry, jobs."""

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from hostler.cli import connect, waiting
from hostler.jobs import JobSpec, Progress, Work
from hostler.lifecycle import Outcome, State
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import WORKER, FakeCluster, exited, killed

Hostler = Callable[..., Answer]
A_SPEC = JobSpec(work=Work(argv=("sleep", "100"), cwd="/"), name="nap")
UNKNOWN = "aaaabbbb-1111-4111-8111-111111111111"


def tagged(**tags: str) -> JobSpec:
    """A job with tags and without a name."""
    return replace(A_SPEC, name="", tags=tags)


# Which jobs


def test_a_job_can_be_named_by_its_exact_name(hostler: Hostler, fake: FakeCluster) -> None:
    """Several of the same name are listed, and none of them is taken."""
    one = fake.add(exited(0), spec=A_SPEC)
    other = fake.add(exited(0), spec=replace(A_SPEC, name="x"))

    assert one in hostler("show", "nap").out
    assert other in hostler("show", "x").out
    again = fake.add(exited(0), spec=A_SPEC)
    for command in (["show", "nap"], ["stop", "nap"], ["wait", other, "nap"]):
        answer = hostler(*command)
        assert (answer.code, answer.out) == (2, "")
        assert one in answer.err and again in answer.err
    assert hostler("show", "na").code == 2
    assert hostler("show", "napp").code == 3


def test_the_newest_jobs_can_be_counted(hostler: Hostler, fake: FakeCluster) -> None:
    """`last:N`, oldest first; a command about one job takes one."""
    jobs = [fake.add(exited(0), spec=A_SPEC) for _ in range(4)]

    assert hostler("wait", "last:3").out == "".join(f"{job} succeeded\n" for job in jobs[1:])
    assert hostler("wait", "last:9", jobs[0]).out.count("\n") == 4
    assert jobs[3] in hostler("show", "last:1").out
    answer = hostler("show", "last:2")
    assert answer.code == 2 and jobs[2] in answer.err and jobs[3] in answer.err
    for wrong in ("last:", "last:0", "last:x", "last:-1", "last:99999"):
        assert hostler("wait", wrong).code == (0 if wrong == "last:" else 2)


@pytest.mark.parametrize("command", ["stop", "wait", "retry"])
def test_jobs_are_named_or_found_by_a_filter(hostler: Hostler, fake: FakeCluster, command: str) -> None:
    """One of both; a filter that is none names the place."""
    for arguments in ([], ["last", "--filter", "a = b"]):
        answer = hostler(command, *arguments)
        assert (answer.code, answer.out) == (2, "") and "--filter" in answer.err
    answer = hostler(command, "--filter", "a = ")
    assert answer.code == 2 and "--filter, character 5: a value was expected" in answer.err
    answer = hostler(command, "--filter", "a = b")
    assert (answer.code, answer.out) == (0, "") and "no job" in answer.err


def test_a_list_takes_a_filter(hostler: Hostler, fake: FakeCluster) -> None:
    """Besides its other conditions."""
    one = fake.add(exited(0), spec=tagged(batch="7"))
    other = fake.add(spec=tagged(batch="7"))
    fake.add(exited(0), spec=tagged(batch="8"))

    listed = json.loads(hostler("jobs", "--filter", "batch = 7", "--json").out)["jobs"]
    finished = json.loads(hostler("jobs", "--filter", "batch = 7", "--state", "finished", "--json").out)["jobs"]

    assert [job["id"] for job in listed] == [one, other]
    assert ([job["id"] for job in finished], finished[0]["tags"]) == ([one], {"batch": "7"})
    assert hostler("jobs", "--filter", "state = runing").code == 2
    assert hostler("jobs", "--after", "3").code == 2


def test_a_submission_has_tags_and_an_expression_for_its_worker(hostler: Hostler, fake: FakeCluster) -> None:
    """Tags may have any value; an expression that is none is refused before anything is sent."""
    assert hostler("submit", "--tag", "batch=7", "--tag", "k=a=b", "--where", "zone in (a)", "--", "x").code == 0
    (job,) = fake.jobs.values()
    assert (job.spec.tags, job.spec.where, job.spec.labels) == ({"batch": "7", "k": "a=b"}, "zone in (a)", {})
    shown = hostler("show", "last").out
    assert "batch=7 k=a=b" in shown and "zone in (a)" in shown

    answer = hostler("submit", "--where", "zone in a", "--", "x")
    assert answer.code == 2 and "where, character 9" in answer.err
    assert hostler("submit", "--tag", "state=x", "--", "x").code == 2
    assert len(fake.jobs) == 1


# stop


def test_stop_by_filter_leaves_alone_what_is_over(hostler: Hostler, fake: FakeCluster) -> None:
    """Each that it stops has its line, and the last one counts."""
    over = fake.add(exited(0), spec=tagged(batch="7"))
    running = [fake.add(spec=tagged(batch="7")) for _ in range(60)]
    other = fake.add(spec=tagged(batch="8"))

    listed = hostler("stop", "--filter", "batch = 7", "--dry-run")
    assert all(job in listed.out for job in running) and over not in listed.out
    assert "stop" not in fake.heard
    answer = hostler("stop", "--filter", "batch = 7")

    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()] == running
    assert "60 of 60 jobs are over" in answer.err
    assert fake.heard.count("stop") == 60
    assert other not in answer.out


def test_stop_tells_what_could_not_be_stopped(hostler: Hostler, fake: FakeCluster) -> None:
    """The others are stopped all the same."""
    job = fake.add(spec=A_SPEC)

    answer = hostler("stop", UNKNOWN, job)

    assert answer.code == 3 and UNKNOWN in answer.err
    assert answer.out.startswith(f"{job} stopped")
    assert "1 of 2 jobs are over; 1 are not" in answer.err


@pytest.mark.parametrize("unknown", ["nosuch", "ab", "last:0"])
def test_a_name_that_means_no_job_keeps_nothing_from_the_others(
    unknown: str, hostler: Hostler, fake: FakeCluster
) -> None:
    """What became of each is said, and the code tells; where all is wrong it is one error."""
    running, over = fake.add(spec=A_SPEC), fake.add(exited(1), spec=A_SPEC)

    stopped = hostler("stop", unknown, running)
    again = hostler("retry", over, unknown, "--json")

    assert stopped.code in (2, 3) and unknown in stopped.err and "1 of 2 jobs are over; 1 are not" in stopped.err
    assert stopped.out.startswith(f"{running} stopped")
    made, refused = json.loads(again.out)["jobs"]
    assert again.code == 1 and made["retried_as"] in fake.jobs and made["id"] == over
    assert refused["id"] == unknown and unknown in refused["error"]["message"] and refused["retried_as"] is None
    assert hostler("stop", unknown, running, "--dry-run").code == hostler("retry", unknown).code == stopped.code
    assert "1 of 2 jobs were not submitted again" in hostler("retry", unknown, over).err


# retry


def test_retry_prints_the_old_and_the_new_id(hostler: Hostler, fake: FakeCluster) -> None:
    """One line each; one that cannot be makes the code 1, and the others are submitted."""
    good = fake.add(exited(1), spec=tagged(batch="7"))
    running = fake.add(spec=tagged(batch="7"))

    answer = hostler("retry", good, running)

    old, new = answer.out.split()
    assert (old, fake.jobs[new].spec.tags) == (good, {"batch": "7"})
    assert answer.code == 1 and f"{running}: job {running} is running" in answer.err
    assert "1 of 2 jobs were not submitted again" in answer.err


def test_retry_by_filter_takes_what_is_over(hostler: Hostler, fake: FakeCluster) -> None:
    """In calls of many; with --dry-run it only lists them."""
    failed = [fake.add(exited(1), spec=tagged(batch="7")) for _ in range(3)]
    fake.add(spec=tagged(batch="7"))

    assert all(job in hostler("retry", "--filter", "batch = 7", "--dry-run").out for job in failed)
    assert fake.heard == []
    answer = hostler("retry", "--filter", "batch = 7 and outcome = failed", "--json")

    assert answer.code == 0 and fake.heard == ["retry 3"]
    found = json.loads(answer.out)["jobs"]
    assert [job["id"] for job in found] == failed
    assert all(job["error"] is None and job["retried_as"] in fake.jobs for job in found)
    assert json.loads(hostler("retry", UNKNOWN, "--json").out)["jobs"][0]["error"]["code"] == "job_not_found"


# wait


def test_wait_for_thousands_asks_in_batches(
    hostler: Hostler, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its line, once; in a pipe there is nothing else."""
    monkeypatch.setattr(waiting, "BATCH_JOBS", 50)
    jobs = [fake.add(exited(number % 2), spec=tagged(batch="7")) for number in range(130)]

    answer = hostler("wait", "--filter", "batch = 7")

    assert (answer.code, answer.err) == (1, "")
    lines = answer.out.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(jobs)
    assert sum("failed: exit status 1" in line for line in lines) == 65


def test_wait_any_returns_with_the_first_end(hostler: Hostler, fake: FakeCluster) -> None:
    """Its outcome is the exit code."""
    fake.add(spec=A_SPEC)
    bad = fake.add(spec=A_SPEC)
    threading.Timer(0.2, lambda: fake.end(bad, killed("SIGKILL"))).start()

    answer = hostler("wait", "last:2", "--any")

    assert (answer.code, answer.out, answer.err) == (1, f"{bad} failed: SIGKILL\n", "")


def test_on_a_terminal_only_what_did_not_succeed_has_a_line(
    hostler: Hostler, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When there are many; the last line counts."""
    jobs = [fake.add(exited(int(number == 7)), spec=tagged(batch="7")) for number in range(30)]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)

    answer = hostler("wait", "--filter", "batch = 7")

    assert answer.out == f"{jobs[7]} failed: exit status 1\n"
    assert "30 of 30 jobs have ended: 29 succeeded, 1 failed" in answer.err


def test_jobs_that_had_not_ended_in_time_are_named(hostler: Hostler, fake: FakeCluster) -> None:
    """With --json beside those that had, and what went wrong is said as JSON too; else one is an example."""
    over = fake.add(exited(0), spec=A_SPEC)
    left = [fake.add(spec=A_SPEC) for _ in range(2)]

    plain = hostler("wait", over, *left, "--timeout", "0.2")
    answer = hostler("--json", "wait", over, *left, "--timeout", "0.2")

    assert (plain.code, answer.code) == (1, 1)
    assert "2 of 3 jobs had not ended after 0.2 s" in plain.err and f"hostler explain {left[0]}" in plain.err
    found = json.loads(answer.out)
    assert ([job["id"] for job in found["jobs"]], found["open"]) == ([over], left)
    assert json.loads(answer.err)["error"]["code"] == "not_finished"
    assert json.loads(hostler("--json", "wait", over).out)["open"] == []


def test_the_bar_below_a_line_has_counted_what_the_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not some tenths of a second later."""
    monkeypatch.setattr("rich.progress.Progress.start", lambda _: None)  # nothing but what is asked for redraws it
    drawn = list[str]()
    with waiting.Bar(400, shown=True) as bar:
        monkeypatch.setattr(
            "rich.progress.Progress.refresh", lambda bars: drawn.append(f"{bars.tasks[0].completed:g} of 400")
        )
        for number, outcome in enumerate([Outcome.SUCCEEDED, Outcome.FAILED]):
            bar.note(Progress(id=str(number), state=State.FINISHED, outcome=outcome), at_once=outcome is Outcome.FAILED)
        monkeypatch.undo()
    assert drawn == ["2 of 400"]


def test_why_a_job_is_not_run_again_is_a_line_below_the_table(hostler: Hostler, fake: FakeCluster) -> None:
    """A table is as wide as its longest cell."""
    job = fake.add(spec=replace(A_SPEC, worker=WORKER.id, tags={"fan-out": "abcd1234"}))

    answer = hostler("run", "--retry-failed", "last")
    said = json.loads(hostler("--json", "run", "--retry-failed", "last").err)

    assert answer.code == 1
    table = answer.err.splitlines()[:2]
    assert table[1].split() == ["stable", "not", "submitted"] and max(map(len, table)) < 40
    assert f"hostler: stable: job {job} is running" in answer.err
    (refused,) = said["not_submitted"]
    assert (refused["worker"], refused["error"]["code"]) == ("stable", "not_finished")


def test_a_list_of_thousands_is_asked_for_page_by_page(
    hostler: Hostler, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter's page may have no job and still not be the last one."""
    monkeypatch.setattr(connect, "PAGE_JOBS", 10)
    for number in range(35):
        fake.add(exited(0), spec=tagged(batch=str(number % 3)))

    found = json.loads(hostler("jobs", "--filter", "batch = 1", "--all", "--json").out)["jobs"]

    assert len(found) == 12
