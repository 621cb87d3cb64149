"""`hostler run` against a fake cluster: streams, exit status, signals, and a coordinator that goes away."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hostler.cli.main import call
from hostler.cli.render import moment_text
from hostler.cli.session import exit_status
from hostler.jobs import End, Job, JobSpec, Work
from hostler.lifecycle import Outcome, State
from hostler.workers import WorkerState
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import NOON_US, WORKER, FakeCluster, err, exited, killed, out

Hostler = Callable[..., Answer]
COMMAND = [sys.executable, "-m", "hostler.cli.main"]
SPEC = JobSpec(work=Work(argv=("x",), timeout_s=5.0, output_bytes_max=10), start_within_s=2.0)
AT_MOST_S = 30.0


def test_run_is_the_command_itself(hostler: Hostler, fake: FakeCluster) -> None:
    """Each stream on its own, nothing of ours, the job's exit status, the caller's directory."""
    fake.begin = lambda _: (exited(7), out(b"out\n") + err(b"err\n"))

    assert hostler("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7") == Answer(7, "out\n", "err\n")

    (job,) = fake.jobs.values()
    assert job.spec.work.argv == ("sh", "-c", "echo out; echo err >&2; exit 7")
    assert job.spec.work.cwd == str(Path.cwd())
    assert job.spec.key


def test_every_byte_comes_out(fake: FakeCluster, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """No decoding, no line ends."""
    everything = bytes(range(256)) * 100
    fake.begin = lambda _: (exited(0), out(everything[:1000]) + out(everything[1000:]))

    assert call(["--coordinator", fake.address, "run", "--", "x"]) == 0
    assert capfdbinary.readouterr().out == everything


@pytest.mark.parametrize(
    ("end", "outcome", "status", "said"),
    [
        (exited(0), Outcome.SUCCEEDED, 0, ""),
        (exited(3), Outcome.FAILED, 3, ""),
        (killed("SIGTERM"), Outcome.FAILED, 143, ""),
        (killed("SIGKILL", "stop"), Outcome.STOPPED, 137, ""),
        (replace(exited(5), cause="stop"), Outcome.STOPPED, 5, ""),
        (killed("SIGTERM", "timeout"), Outcome.TIMED_OUT, 124, "timeout of 5 s"),
        (killed("SIGTERM", "output_limit"), Outcome.FAILED, 143, "--output-max of 10 bytes"),
        (replace(exited(2), cause="output_limit"), Outcome.FAILED, 2, "--output-max of 10 bytes"),
        (End(cause="start_deadline", evidence="it had not started"), Outcome.TIMED_OUT, 124, "not start within 2 s"),
        (End(cause="not_started", error='exec: "x": executable file not found in $PATH'), Outcome.FAILED, 127, "exec:"),
        (End(cause="not_started", error="fork/exec ./x: no such file or directory"), Outcome.FAILED, 127, "./x"),
        (End(cause="not_started", error="fork/exec ./x: permission denied"), Outcome.FAILED, 126, "permission"),
        (End(cause="not_started", error="fork/exec ./x: exec format error"), Outcome.FAILED, 126, "format"),
        (End(cause="not_started", error="chdir /gone: no such file or directory"), Outcome.FAILED, 125, "chdir"),
        (End(cause="worker_lost", evidence="may still run on HOST"), Outcome.LOST, 125, "may still run"),
        (End(cause="not_started", evidence="no"), Outcome.REJECTED, 125, "rejected: no"),
        (End(cause="stop"), Outcome.STOPPED, 130, "before it started"),
    ],
)
def test_the_exit_status_says_how_the_job_ended(end: End, outcome: Outcome, status: int, said: str) -> None:
    """As a shell would say it; 125 is hostler's own."""
    job = Job(id="j", spec=SPEC, state=State.FINISHED, outcome=outcome, end=end)

    code, message = exit_status(job, interrupted=130)

    assert code == status
    assert said in message and bool(said) == bool(message)


def test_run_with_json_gives_the_job_on_standard_error(hostler: Hostler, fake: FakeCluster) -> None:
    """Standard output stays the job's."""
    fake.begin = lambda _: (exited(1), out(b"x"))

    answer = hostler("run", "--json", "--", "x")

    assert (answer.code, answer.out) == (1, "x")
    assert json.loads(answer.err)["exit_code"] == 1


def test_run_resumes_where_the_stream_broke(hostler: Hostler, fake: FakeCluster) -> None:
    """A coordinator that was killed and came back is not noticed."""
    fake.begin = lambda _: (exited(0), out(b"one ") + out(b"two"))
    fake.log_breaks_after = [len(out(b"one "))]

    assert hostler("run", "--", "x") == Answer(0, "one two", "")


def test_failures_of_ours_are_125_and_of_the_caller_2(hostler: Hostler, fake: FakeCluster, place: Path) -> None:
    """A script can tell them from the job's own status."""
    nowhere = f"unix:{place / 'nobody.sock'}"

    unreachable = hostler("run", "--coordinator", nowhere, "--", "x")
    assert unreachable.code == 125 and "no cluster answers" in unreachable.err
    assert hostler("run", "--worker", "99999999-9999-4999-8999-999999999999", "--", "x").code == 125
    assert hostler("run", "--env", "x", "--", "x").code == 2
    assert hostler("run").code == 2
    assert fake.jobs == {}


@pytest.mark.parametrize("chosen", [("--worker", "a"), ("--label", "gpu=1"), ("--where", "not gpu"), ("--detach",)])
def test_placement_options_and_detach_need_a_cluster(
    chosen: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A private worker is no worker one could have meant, whether it fits or not, and it ends with the command."""
    assert call(["run", "--data-dir", str(tmp_path), *chosen, "--", "x"]) == 125
    assert "hostler up" in capfd.readouterr().err


@pytest.mark.parametrize("given", ["", " "])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        *(("run", option) for option in ("--all", "--retry-failed", "--where", "--worker", "--label", "--key")),
        *(("submit", option) for option in ("--where", "--worker", "--label", "--key", "--workload")),
    ],
)
def test_an_empty_choice_is_refused(command: str, option: str, given: str, hostler: Hostler, fake: FakeCluster) -> None:
    """A variable that was not set must not turn many machines into one, one into any, or one job into many."""
    answer = hostler(command, option, given, "--", "x")

    assert (answer.code, answer.out) == (2, "") and option in answer.err
    assert fake.jobs == {}


def test_a_tag_or_label_has_one_value(hostler: Hostler, fake: FakeCluster) -> None:
    """Of two that differ none is taken silently; the same one twice, and a variable set anew, are no harm."""
    for option in ("--tag", "--label"):
        answer = hostler("run", option, "a=b", option, "a=c", "--", "x")
        assert answer.code == 2 and "a has two values, 'b' and 'c'" in answer.err
    assert fake.jobs == {}

    twice = (*("--tag", "a=b"), *("--tag", "a=b"), *("--env", "V=1"), *("--env", "V=2"))
    assert hostler("submit", *twice, "--", "x").code == 0
    (job,) = fake.jobs.values()
    assert (job.spec.tags, job.spec.work.env) == ({"a": "b"}, {"V": "2"})


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (End(cause="refused", evidence="rule programs: no id"), "the job was rejected: rule programs: no id"),
        (End(cause="not_started", error="chdir /gone: no such file or directory"), "chdir /gone: no such"),
    ],
)
def test_on_many_workers_it_is_said_why_nothing_ran(end: End, said: str, hostler: Hostler, fake: FakeCluster) -> None:
    """As of one job: what can be done about it depends on the rule, or on what was not there."""
    fake.begin = lambda _: (end, b"")

    answer = hostler("run", "--all", "*", "--", "id")

    assert answer.code == 1 and f"hostler: stable: {said}" in answer.err


def start(fake: FakeCluster, *options: str) -> subprocess.Popen[bytes]:
    """Start ``hostler run`` with these options on a job that does not end by itself, and return once it runs."""
    fake.begin = lambda _: (None, out(b"begun\n"))
    command = [*COMMAND, "--coordinator", fake.address, "run", *options, "--", "x"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline().endswith(b"begun\n")
    return run


def end(run: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Wait for the command and return its status and what else it printed."""
    try:
        rest, said = run.communicate(timeout=AT_MOST_S)
    finally:
        with suppress(ProcessLookupError):
            run.kill()
        run.wait()
    return run.returncode, rest, said


def test_the_first_ctrl_c_is_the_jobs(fake: FakeCluster) -> None:
    """It may do with it what it likes; here it ends by it."""
    fake.on_signal = lambda _: killed("SIGINT")
    run = start(fake)

    run.send_signal(signal.SIGINT)

    assert end(run) == (130, b"", b"")
    assert fake.heard == ["signal 2"]


def test_the_second_ctrl_c_stops_the_job(fake: FakeCluster) -> None:
    """A job that ignores the first one is stopped with all its processes."""
    run = start(fake)

    run.send_signal(signal.SIGINT)
    fake.wait_until_heard("signal 2")
    run.send_signal(signal.SIGINT)

    assert end(run)[:2] == (143, b"")
    assert fake.heard == ["signal 2", "stop"]


def test_who_leaves_a_job_that_does_not_stop_is_told_which_it_is(fake: FakeCluster) -> None:
    """It goes on being stopped, or not, and nobody would know where to look."""
    fake.deaf = True
    run = start(fake)
    (job,) = fake.jobs

    run.send_signal(signal.SIGINT)
    fake.wait_until_heard("signal 2")
    run.send_signal(signal.SIGINT)
    fake.wait_until_heard("stop")
    run.send_signal(signal.SIGINT)

    said = f"hostler: left job {job}, which was not over yet; see what becomes of it with: hostler show {job}\n"
    assert end(run) == (130, b"", said.encode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_the_jobs(number: int, fake: FakeCluster) -> None:
    """It may do with it what it likes; here it ends by it."""
    fake.on_signal = lambda one: killed(signal.Signals(one).name)
    run = start(fake)

    run.send_signal(number)

    assert end(run)[:2] == (128 + number, b"")
    assert fake.heard == [f"signal {int(number)}"]


@pytest.mark.parametrize("where", [(), ("--all", "*")], ids=["one", "all"])
def test_a_signal_that_comes_before_the_start_reaches_the_job_once_it_runs(
    where: tuple[str, ...], fake: FakeCluster
) -> None:
    """As one that is sent to a process that has not begun its program yet; and it does not become a second one."""
    fake.on_signal = lambda one: killed(signal.Signals(one).name)
    run = start(fake, *where)
    (job,) = fake.jobs
    fake.stand(job, State.ASSIGNED)

    run.send_signal(signal.SIGUSR1)
    fake.wait_until_heard("early signal 10")
    fake.stand(job, State.RUNNING)

    status, _, said = end(run)
    assert status == (1 if where else 138), said
    assert fake.heard == ["early signal 10", "signal 10"]
    assert fake.jobs[job].end == killed("SIGUSR1")


@pytest.mark.parametrize("where", [(), ("--all", "*")], ids=["one", "all"])
def test_of_a_signal_that_has_to_wait_this_is_said(where: tuple[str, ...], fake: FakeCluster) -> None:
    """After some seconds; a Ctrl-C behind it is not kept waiting."""
    run = start(fake, *where)
    (job,) = fake.jobs
    fake.stand(job, State.ASSIGNED)
    assert run.stderr is not None

    run.send_signal(signal.SIGUSR2)
    fake.wait_until_heard("early signal 12")
    said = run.stderr.readline().decode()
    assert said.endswith(f"job {job} does not run yet; it gets SIGUSR2 once it does\n")
    run.send_signal(signal.SIGINT)

    assert end(run)[0] == (130 if where else 143)
    assert fake.heard == ["early signal 12", "early signal 2", "stop"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_second_sigterm_or_sighup_stops_the_job(number: int, fake: FakeCluster) -> None:
    """One that goes on all the same is stopped with all its processes."""
    run = start(fake)

    run.send_signal(number)
    fake.wait_until_heard(f"signal {int(number)}")
    run.send_signal(number)

    assert end(run)[:2] == (143, b"")
    assert fake.heard == [f"signal {int(number)}", "stop"]


def test_a_signal_that_we_are_to_ignore_is_ignored(fake: FakeCluster) -> None:
    """As under nohup: SIGHUP ends neither us nor the job."""
    fake.on_signal = lambda one: killed(signal.Signals(one).name)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = start(fake)
    finally:
        signal.signal(signal.SIGHUP, before)

    run.send_signal(signal.SIGHUP)
    run.send_signal(signal.SIGUSR1)

    assert end(run)[:2] == (138, b"")
    assert fake.heard == ["signal 10"]


def test_ctrl_z_suspends_the_job_and_then_us(fake: FakeCluster) -> None:
    """And who continues us continues it."""
    fake.on_signal = lambda one: exited(4) if one == signal.SIGUSR1 else None
    run = start(fake)

    run.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(run.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    run.send_signal(signal.SIGCONT)
    fake.wait_until_heard("signal 18")
    run.send_signal(signal.SIGUSR1)

    assert end(run) == (4, b"", b"")
    assert fake.heard == ["signal 19", "signal 18", "signal 10"]


def start_on_two(fake: FakeCluster, *options: str) -> subprocess.Popen[bytes]:
    """Start ``hostler run --all`` on two workers of which the second has gone away, and return once this is said."""
    lab = replace(WORKER, id="22222222-2222-4222-8222-222222222222", name="lab")
    fake.workers = [WORKER, lab]
    fake.begin = lambda spec: (exited(0) if spec.worker == WORKER.id else None, out(b"begun\n"))
    command = [*COMMAND, "--coordinator", fake.address, *options, "run", "--all", "*", "--", "x"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None and run.stderr is not None
    assert {run.stdout.readline() for _ in range(2)} == {b"lab    | begun\n", b"stable | begun\n"}
    fake.workers = [WORKER, replace(lab, state=WorkerState.UNREACHABLE, seen_at_us=NOON_US)]
    assert run.stderr.readline().startswith(f"hostler: lab cannot be reached since {moment_text(NOON_US)}; ".encode())
    return run


def test_a_worker_that_goes_away_in_mid_run_is_named_and_so_is_its_return(fake: FakeCluster) -> None:
    """Its job may take minutes to end as lost, and nobody can see from here what it does."""
    run = start_on_two(fake)
    assert run.stderr is not None

    fake.workers = [WORKER, replace(fake.workers[1], state=WorkerState.CONNECTED)]
    assert run.stderr.readline() == b"hostler: lab is back\n"
    fake.end(next(job.id for job in fake.jobs.values() if job.state is State.RUNNING), exited(0))

    status, _, said = end(run)
    assert (status, b"2 of 2 succeeded" in said) == (0, True)


@pytest.mark.parametrize("as_json", [False, True])
def test_who_leaves_many_workers_is_told_what_is_not_over(as_json: bool, fake: FakeCluster) -> None:
    """And how to find it again; before that, that a stop cannot be done yet."""
    fake.deaf = True
    run = start_on_two(fake, *(["--json"] if as_json else []))
    lab = next(job.id for job in fake.jobs.values() if job.state is State.RUNNING)
    assert run.stderr is not None

    run.send_signal(signal.SIGINT)
    fake.wait_until_heard("signal 2")
    run.send_signal(signal.SIGINT)
    assert b"it ends its job when it is back" in run.stderr.readline()
    fake.wait_until_heard("stop")
    run.send_signal(signal.SIGINT)

    status, _, left = end(run)
    said = left.decode()
    name = fake.jobs[lab].spec.tags["fan-out"]
    assert status == 130
    if as_json:
        answer = json.loads(said)
        assert (answer["fan_out"], answer["open"], len(answer["jobs"])) == (name, [lab], 1)
        return
    assert re.search(r"(?m)^lab +stopping: unreachable ", said) and re.search(r"(?m)^stable +succeeded", said), said
    assert f"1 not over yet; look again with: hostler jobs --filter 'fan-out = \"{name}\"'" in said
    assert f"hostler run --retry-failed {name}" in said


def test_a_reader_that_leaves_ends_the_job(fake: FakeCluster) -> None:
    """As SIGPIPE would end the command itself: `hostler run -- yes | head -1` must not leave `yes` running."""
    fake.begin = lambda _: (None, out(b"y\n" * 30_000) * 20)
    command = [*COMMAND, "--coordinator", fake.address, "run", "--", "yes"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"y\n"

    run.stdout.close()
    run.stdout = None

    status, _, said = end(run)
    assert (status, said) == (141, b"")
    assert fake.heard == ["stop"]


def run_with(stdin: int, fake: FakeCluster) -> subprocess.Popen[bytes]:
    """Start ``hostler run`` with this standard input."""
    command = [*COMMAND, "--coordinator", fake.address, "run", "--", "x"]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("size", [0, 5, 1_000_000])
def test_standard_input_is_the_jobs_when_it_is_no_terminal(size: int, fake: FakeCluster) -> None:
    """Every byte, and its end."""
    fake.begin = lambda _: (None, b"")
    run = run_with(subprocess.PIPE, fake)

    run.communicate(b"x" * size, timeout=AT_MOST_S)

    assert run.returncode == 0
    assert fake.fed == b"x" * size


def test_standard_input_may_be_a_file(fake: FakeCluster, tmp_path: Path) -> None:
    """epoll knows no files; they are read all the same."""
    fake.begin = lambda _: (None, b"")
    (tmp_path / "input").write_bytes(b"content")

    with (tmp_path / "input").open("rb") as file:
        assert end(run_with(file.fileno(), fake)) == (0, b"", b"")

    assert fake.fed == b"content"


def test_standard_input_is_never_waited_for(fake: FakeCluster) -> None:
    """The job has ended without reading it, and so does the command, though nobody closes the pipe."""
    fake.begin = lambda _: (exited(3), out(b"x"))
    run = run_with(subprocess.PIPE, fake)

    assert run.wait(AT_MOST_S) == 3

    for stream in (run.stdin, run.stdout, run.stderr):
        assert stream is not None
        stream.close()


def test_an_empty_standard_input_is_not_forwarded(fake: FakeCluster) -> None:
    """What comes from /dev/null needs no stream."""
    assert end(run_with(subprocess.DEVNULL, fake)) == (0, b"", b"")

    (job,) = fake.jobs.values()
    assert not job.spec.work.stdin


def test_input_goes_on_where_it_broke(fake: FakeCluster) -> None:
    """What the job has not taken is kept and sent again: nothing is lost and nothing is there twice."""
    fake.begin = lambda _: (None, b"")
    fake.feed_breaks = 3
    content = bytes(range(256)) * 8000
    run = run_with(subprocess.PIPE, fake)

    assert run.communicate(content, timeout=AT_MOST_S) == (b"", b"")

    assert (run.returncode, fake.fed, fake.feed_breaks) == (0, content, 0)


def test_a_job_never_works_on_half_its_input(fake: FakeCluster) -> None:
    """One that begins anew while input is under way is stopped, since what it had read is gone; that is 125."""
    fake.begin = lambda _: (None, b"")
    run = run_with(subprocess.PIPE, fake)
    assert run.stdin is not None
    run.stdin.write(b"one half")
    run.stdin.flush()
    until = time.monotonic() + AT_MOST_S
    while fake.fed != b"one half":
        assert time.monotonic() < until
        time.sleep(0.01)
    fake.feed_breaks, fake.forgets_input = 1, True
    run.stdin.write(b"the other half")
    run.stdin.flush()

    fake.wait_until_heard("stop")
    out_bytes, said = run.communicate(b"", timeout=AT_MOST_S)

    assert (run.returncode, out_bytes) == (125, b"")
    assert b"standard input was cut off" in said
